"""JSON over HTTP as this project speaks it: authenticated, bounded in time and size, and clear when it fails.

One `Client` serves one system. It follows no redirect, uses no proxy of the environment, repeats nothing by itself (an
apply must reach the target once or not at all), and every failure is one exception of the caller's choosing that says
what was asked of whom and what came back, with every known secret blacked out.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp

from sim.event import JSON
from sim.secret import Secrets
from sim.target import Auth

CONNECT_S = 1.0
TOTAL_S = 2.0
MAX_BODY = 8 * 1024 * 1024

_ANY_BUT_REFUSED = tuple(status for status in range(100, 600) if status not in (401, 403))


class Failure(Exception):
    """Why a request came to nothing; stands behind (``__cause__``) the error that the caller chose.

    `kind` is ``unreachable`` (no connection, no answer in time), ``refused`` (who asks is not allowed to: 401, 403),
    ``status`` (another status than was asked for) or ``content`` (not what was asked for: too large, no JSON).
    """

    def __init__(self, kind: Literal["unreachable", "refused", "status", "content"], status: int = 0) -> None:
        super().__init__(f"{kind} {status}" if status else kind)
        self.kind, self.status = kind, status


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, the JSON of the body (None for an empty one), and the headers."""

    status: int
    json: JSON
    headers: Mapping[str, str]


def check_url(url: str) -> str:
    """Return `url` without a trailing slash. Raises `ValueError`, with the cure, when it is no plain http(s) URL."""
    if "${" in url:
        raise ValueError(f"{url!r} still holds a reference to the stack: is the stack up (sim up)?")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not a URL: write http://host:port")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"the URL of {parts.hostname} carries a user or password: use auth with env:NAME or file:PATH")
    return url.rstrip("/")


def header(auth: Auth | None, secrets: Secrets) -> dict[str, str]:
    """Return the request headers that `auth` asks for. Raises `SecretMissing`."""
    if auth is None:
        return {}
    if auth.bearer is not None:
        return {"Authorization": f"Bearer {secrets.token(auth.bearer)}"}
    if auth.basic is not None:
        password = secrets.resolve(auth.basic.password)
        both = f"{auth.basic.user}:{password}"
        secrets.know(both)
        return {"Authorization": f"Basic {base64.b64encode(both.encode()).decode()}"}
    return {}


def references(auth: Auth | None) -> str:
    """Return the references that `auth` stands on, for a message: `env:PROM_TOKEN`, never a value."""
    if auth is None:
        return "no auth is configured"
    names = [auth.bearer, auth.basic.password if auth.basic else None, auth.key]
    return f"check auth: {', '.join(name for name in names if name) or 'only certificates are configured'}"


@contextlib.contextmanager
def _key_file(reference: str | None, secrets: Secrets) -> Any:
    """The key's path: the file a reference names, the path in a variable, or a private copy of a key in a variable."""
    if reference is None:
        yield None
        return
    text = secrets.resolve(reference)
    if reference.startswith("file:"):
        yield str(Path(reference.removeprefix("file:")).expanduser())
    elif "-----BEGIN" not in text:
        yield text
    else:
        handle, path = tempfile.mkstemp(suffix=".pem")  # 0600; OpenSSL reads keys from files only
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            yield path
        finally:
            Path(path).unlink()


def tls(auth: Auth | None, secrets: Secrets) -> ssl.SSLContext:
    """Return the TLS settings that `auth` asks for. Raises `ValueError` naming the file that does not serve."""
    context = ssl.create_default_context()
    if auth is None:
        return context
    try:
        if auth.ca is not None:
            context = ssl.create_default_context(cafile=str(Path(auth.ca).expanduser()))
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"auth.ca {auth.ca}: not a readable PEM file: {error}") from error
    if auth.certificate is not None:
        with _key_file(auth.key, secrets) as key:
            try:
                context.load_cert_chain(str(Path(auth.certificate).expanduser()), key, password=_no_password)
            except (OSError, ssl.SSLError) as error:
                raise ValueError(f"auth.certificate {auth.certificate} with its key cannot be used: {error}") from error
    return context


def _no_password() -> str:
    """Answer OpenSSL's question for a pass phrase, which would otherwise be asked at the terminal."""
    raise ssl.SSLError("the key is encrypted; give an unencrypted one")


def strict_json(body: bytes) -> JSON:
    """Return the JSON in `body` (None for an empty one). Raises `ValueError`, also for NaN and too deep nesting."""
    if not body.strip():
        return None
    try:
        value: JSON = json.loads(body, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return value


def _no_constant(name: str) -> JSON:
    raise ValueError(f"{name} is not JSON")


def _behind(failure: Failure, cause: BaseException) -> Failure:
    failure.__cause__ = cause
    return failure


class Client:
    """Speaks to one system below `base_url`; use it as an async context manager, in one event loop."""

    def __init__(
        self,
        base_url: str,
        auth: Auth | None,
        secrets: Secrets,
        error: type[Exception],
        *,
        connect_s: float = CONNECT_S,
        total_s: float = TOTAL_S,
        max_body: int = MAX_BODY,
    ) -> None:
        """Take the address and what authenticates. Raises `ValueError`, `SecretMissing`."""
        self.base_url = check_url(base_url)
        self._auth = auth
        self._secrets = secrets
        self._error = error
        self._max_body = max_body
        self._headers = {**header(auth, secrets), "Accept": "application/json", "Accept-Encoding": "identity"}
        self._tls = tls(auth, secrets) if self.base_url.startswith("https:") else None
        self._timeout = aiohttp.ClientTimeout(total=total_s, connect=connect_s, sock_connect=connect_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=8, ssl=self._tls if self._tls is not None else True),
            timeout=self._timeout,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        # aiohttp sends an idempotent request again when a kept connection breaks; here nothing is sent twice unasked.
        self._session._retry_connection = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json: JSON = None,
        params: Mapping[str, str] | None = None,
        fill: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (200, 201, 202, 204),
    ) -> Answer:
        """Send one request and return the answer, if its status is one of `accept`.

        `fill` are words in the address to replace, by values that are quoted already.

        Raises the client's own error for anything else: no connection, no answer in time, another status, a body
        that is too large or no JSON.
        """
        url = self.base_url + path
        for word, value in (fill or {}).items():
            url = url.replace(word, value)
        status, body, headers = await self._exchange(method, url, json, params, accept)
        try:
            return Answer(status, strict_json(body), headers)
        except ValueError as error:
            what = f"{status}, but the body is no JSON ({error}): {self._start(body)}"
            raise self._failure(method, url, what) from _behind(Failure("content", status), error)

    async def knock(self) -> int:
        """GET the base address and return the status, whatever it is but 401 and 403: somebody is at home.

        Raises the client's own error where nobody answers, or where who asks is not allowed to.
        """
        status, _, _ = await self._exchange("GET", self.base_url, None, None, _ANY_BUT_REFUSED)
        return status

    async def text(self, path: str) -> str:
        """GET what is no JSON (metrics, a page) and return it as text. Raises the client's own error."""
        _, body, _ = await self._exchange("GET", self.base_url + path, None, None, (200,))
        return body.decode("utf-8", "replace")

    async def _exchange(
        self, method: str, url: str, json: JSON, params: Mapping[str, str] | None, accept: tuple[int, ...]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        if self._session is None:
            raise RuntimeError("this Client is not open")
        try:
            async with self._session.request(method, url, json=json, params=params, allow_redirects=False) as response:
                body = await self._read(response, method, url)
                status, headers = response.status, dict(response.headers)
        except TimeoutError as error:
            text = f"no answer within {self._timeout.total:g} s"
            raise self._failure(method, url, text) from _behind(Failure("unreachable"), error)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            what = str(error).replace(" ssl:default", "") or type(error).__name__
            raise self._failure(method, url, what) from _behind(Failure("unreachable"), error)
        if status not in accept:
            kind: Literal["refused", "status"] = "refused" if status in (401, 403) else "status"
            raise self._failure(method, url, self._refusal(status, body)) from Failure(kind, status)
        return status, body, headers

    async def _read(self, response: aiohttp.ClientResponse, method: str, url: str) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._max_body:
                response.close()
                text = f"the answer is larger than {self._max_body} bytes"
                raise self._failure(method, url, text) from Failure("content", response.status)
        return bytes(body)

    def _refusal(self, status: int, body: bytes) -> str:
        text = f"{status} {self._start(body)}".rstrip()
        if status in (401, 403):
            text += f" ({references(self._auth)})"
        elif 300 <= status < 400:
            text += " (a redirect, which is not followed: give the final URL)"
        return text

    def _failure(self, method: str, url: str, what: str) -> Exception:
        return self._error(self._secrets.redact(f"{method} {url}: {what}"))

    def _start(self, body: bytes) -> str:
        """Return the first 200 characters of a body on one line; secrets go first, lest a cut leaves half of one."""
        return self._secrets.redact(" ".join(body[:2000].decode("utf-8", "replace").split()))[:200]
