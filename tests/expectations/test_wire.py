"""The HTTP client that observers and injectors share."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
from aiohttp import web
from fake_http import serve

from sim.secret import Secrets
from sim.target import Auth, Basic
from sim.wire import Client, check_url, tls


class Failed(Exception):
    """The caller's own error."""


def ask(routes, auth=None, environ=None, method="GET", path="/x", secrets=None, **limits):
    """Ask a fake server once and return (answer or error, fake)."""

    async def main():
        async with serve(routes) as fake:
            known = secrets or Secrets(environ or {})
            async with Client(fake.url, auth, known, Failed, **limits) as client:
                try:
                    return await client.ask(method, path), fake
                except Failed as error:
                    return str(error).replace(fake.url, "URL"), fake

    return asyncio.run(main())


def test_bearer_and_basic_authentication_are_sent_and_their_values_redacted():
    """Each way of authentication sends its header, and from then on its values are blacked out in each spelling."""
    _, fake = ask({"GET /x": {}}, Auth(bearer="env:T"), {"T": "s3cret-token"})
    assert fake.headers[0]["Authorization"] == "Bearer s3cret-token"
    secrets = Secrets({"P": "pa:ss"})
    _, fake = ask({"GET /x": {}}, Auth(basic=Basic(user="ann", password="env:P")), secrets=secrets)
    assert fake.headers[0]["Authorization"] == "Basic YW5uOnBhOnNz"
    assert secrets.redact("ann:pa:ss YW5uOnBhOnNz") == "[redacted] [redacted]"


def test_a_refused_token_is_one_clear_error_that_names_the_reference():
    """401 says which reference to check, and shows no secret even where the server echoes it."""
    found, _ = ask(
        {"GET /x": (401, {"got": "wrong-token"})}, Auth(bearer="env:PROM_TOKEN"), {"PROM_TOKEN": "wrong-token"}
    )
    assert found == 'GET URL/x: 401 {"got": "[redacted]"} (check auth: env:PROM_TOKEN)'
    found, _ = ask({"GET /x": (403, {})})
    assert found == "GET URL/x: 403 {} (no auth is configured)"


def test_a_secret_cut_by_the_length_limit_of_a_message_does_not_leak_in_part():
    """Secrets are blacked out before an answer is cut to 200 characters."""
    token = "0123456789abcdef" * 2
    found, _ = ask({"GET /x": (500, {"m": "y" * 180 + token})}, Auth(bearer="env:T"), {"T": token})
    assert "0123" not in found
    assert found.startswith("GET URL/x: 500 ")


def test_redirects_are_refused():
    """A redirect is an error with its cure, and is not followed."""

    async def elsewhere(request):
        raise web.HTTPFound("/y")

    found, fake = ask({"GET /x": elsewhere, "GET /y": {}})
    assert found == "GET URL/x: 302 302: Found (a redirect, which is not followed: give the final URL)"
    assert [line for line, _ in fake.asked] == ["GET /x"]


def test_answers_that_are_too_large_or_no_json_are_errors():
    """Size is bounded; NaN, text and bottomless nesting are no JSON; an empty body is None."""

    def raw(body, status=200):
        async def handler(request):
            return web.Response(body=body, status=status)

        return handler

    assert ask({"GET /x": raw(b"[" + b"1," * 600 + b"1]")}, max_body=1000)[0] == (
        "GET URL/x: the answer is larger than 1000 bytes"
    )
    assert ask({"GET /x": raw(b'{"a": NaN}')})[0] == (
        'GET URL/x: 200, but the body is no JSON (NaN is not JSON): {"a": NaN}'
    )
    assert "no JSON" in ask({"GET /x": raw(b"<html>hello")})[0]
    assert "nested too deep" in ask({"GET /x": raw(b"[" * 200_000)})[0]
    assert ask({"GET /x": raw(b"", 204)})[0].json is None


def test_a_request_whose_connection_breaks_is_not_sent_again():
    """An apply reaches the target once or not at all, though PUT is idempotent to HTTP."""

    async def hang_up(request):
        request.transport.close()
        return web.Response()

    found, fake = ask({"PUT /x": hang_up}, method="PUT")
    assert found == "PUT URL/x: Server disconnected"
    assert len(fake.asked) == 1


def test_a_server_that_does_not_answer_is_given_up():
    """The total time is bounded."""

    async def sleepy(request):
        await asyncio.Event().wait()

    found, _ = ask({"GET /x": sleepy}, total_s=0.05)
    assert found == "GET URL/x: no answer within 0.05 s"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("${stack.prom}", "is the stack up"),
        ("localhost:9090", "is not a URL"),
        ("ftp://h/", "is not a URL"),
        ("http://h:99999", "is not a URL"),
        ("http://ann:pw@h:1", "use auth with env:NAME"),
    ],
)
def test_an_address_that_is_none_is_refused_with_its_cure(url, says):
    """A wrong URL is refused when the client is made, and a password in it is not repeated."""
    with pytest.raises(ValueError, match=says) as caught:
        check_url(url)
    assert "pw" not in str(caught.value)


def _make_certificate(folder: Path, name: str) -> tuple[str, str]:
    key, certificate = str(folder / f"{name}.key"), str(folder / f"{name}.pem")
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(argv, check=True, capture_output=True)
    return certificate, key


def test_private_authorities_and_client_certificates_are_used(tmp_path):
    """With `ca`, `certificate` and `key` a server that asks for a certificate answers; without it, it does not."""
    server, server_key = _make_certificate(tmp_path, "server")
    client, client_key = _make_certificate(tmp_path, "client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client)
    context.load_cert_chain(server, server_key)
    context.verify_mode = ssl.CERT_REQUIRED

    async def get(auth, environ=None):
        async with (
            serve({"GET /x": {"ok": 1}}, context) as fake,
            Client(fake.url, auth, Secrets(environ or {}), Failed) as asking,
        ):
            return (await asking.ask("GET", "/x")).json

    by_file = Auth(ca=server, certificate=client, key=f"file:{client_key}")
    assert asyncio.run(get(by_file)) == {"ok": 1}
    in_variable = Auth(ca=server, certificate=client, key="env:KEY")
    assert asyncio.run(get(in_variable, {"KEY": Path(client_key).read_text()})) == {"ok": 1}
    with pytest.raises(Failed):
        asyncio.run(get(None))
    with pytest.raises(ValueError, match=r"auth.ca .*nowhere.pem: not a readable PEM file"):
        tls(Auth(ca=str(tmp_path / "nowhere.pem")), Secrets({}))
