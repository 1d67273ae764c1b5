"""What the services share: the body guard, the command line's checks, the data folder, starting and stopping."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket

import pytest
from prometheus_client import CollectorRegistry

from mbp import _service
from mbp._asgi import Guard, create_app, no_complaint, serve
from mbp.dec.__main__ import main as dec_main
from mbp.engine.__main__ import main as engine_main
from mbp.release.__main__ import main as release_main
from mbp.traffic.__main__ import main as traffic_main
from tests.ports import free_port


def through_guard(messages, headers=(), wait_s=0.05, limit=10):
    """Return what the guard answers and what reached the app, given what comes from the client."""
    sent, reached = [], []

    async def app(scope, receive, send):
        reached.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        if messages:
            return messages.pop(0)
        await asyncio.sleep(5)
        return None

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": list(headers), "path": "/", "method": "POST"}
    asyncio.run(Guard(app, limit=limit, wait_s=wait_s)(scope, receive, send))
    return [message["status"] for message in sent if "status" in message], reached


def part(body, more=True):
    """Return a piece of a body."""
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_in_pieces_arrives_as_one():
    """Pieces up to the limit are handed on together."""
    assert through_guard([part(b"12345"), part(b"67890", more=False)]) == (
        [200],
        [{"type": "http.request", "body": b"1234567890", "more_body": False}],
    )


def test_a_slow_body_is_a_408():
    """A client that stops in the middle is answered, and does not hold the service."""
    assert through_guard([part(b"1")]) == ([408], [])


def test_a_body_of_unknown_length_is_cut_at_the_limit():
    """Counted while it comes: the piece that passes the limit ends it, the rest is not read."""
    pieces = [part(b"12345"), part(b"678901"), part(b"unread")]
    assert through_guard(pieces) == ([413], [])
    assert pieces == [part(b"unread")]


def test_a_declared_length_is_refused_unread():
    """Over the limit by its own word: nothing is read."""
    pieces = [part(b"unread")]
    assert through_guard(pieces, [(b"content-length", b"11")]) == ([413], [])
    assert pieces == [part(b"unread")]


def test_a_client_that_leaves_is_not_answered():
    """Gone in the middle of its body: no answer, and the app never sees half a request."""
    assert through_guard([part(b"1"), {"type": "http.disconnect"}]) == ([], [])


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "", "80.5"])
def test_what_is_no_port(text):
    """A port is 1 to 65535."""
    with pytest.raises(argparse.ArgumentTypeError, match="is not a port"):
        _service.port_number(text)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:80", "https://x", "http://", "http://x/path", "http://x:0", "http://x:99999"]
)
def test_what_is_no_base_url(text):
    """A base URL is plain http, a host, a port, and no path."""
    with pytest.raises(argparse.ArgumentTypeError, match="is not a base URL"):
        _service.http_url(text)


def test_a_base_url_loses_its_slash():
    """With or without the last slash it is the same service."""
    assert _service.http_url("http://127.0.0.1:8080/") == "http://127.0.0.1:8080"


def test_a_data_folder_has_one_owner(tmp_path):
    """The second of two is refused with the cure; when the first lets go the folder is free. It is for us alone."""
    folder = tmp_path / "deep" / "data"
    with _service.hold_data_folder(folder, "engine"):
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(_service.StartRefused, match="give another --data"):
            _service.hold_data_folder(folder, "engine")
    _service.hold_data_folder(folder, "engine").close()


@pytest.mark.parametrize("value", [("1", True), ("true", False), ("", False), (" 1", False), ("11", False)])
def test_switches_are_strict(monkeypatch, value):
    """Only the exact text 1 is on."""
    monkeypatch.setenv("MBP_A_SWITCH", value[0])
    assert _service.switch_is_on("MBP_A_SWITCH") is value[1]
    monkeypatch.delenv("MBP_A_SWITCH")
    assert _service.switch_is_on("MBP_A_SWITCH") is False


async def get(port, path):
    """Return the first line of an answer."""
    for _ in range(200):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.split(b"\r\n")[0]


def test_a_service_starts_answers_and_stops_on_sigterm():
    """It listens on loopback, answers, and a SIGTERM ends it with code 0."""

    async def story():
        port = free_port()
        app = create_app("probe", registry=CollectorRegistry(), health=no_complaint)
        serving = asyncio.create_task(serve(app, port))
        line = await get(port, "/healthz")
        os.kill(os.getpid(), signal.SIGTERM)
        return line, await asyncio.wait_for(serving, 5)

    assert asyncio.run(story()) == (b"HTTP/1.1 200 OK", 0)


def test_a_taken_port_is_told(tmp_path, capsys, monkeypatch):
    """Each service that finds its port taken ends with code 2 and names the port; none tries another."""
    monkeypatch.delenv("SIM_FAULTS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        url = "http://127.0.0.1:1"
        codes = [
            engine_main(["--port", port, "--data", str(tmp_path / "e")]),
            dec_main(["--port", port, "--release", "stable", "--engine", url]),
            release_main(["--port", port, "--data", str(tmp_path / "r"), "--stable", url, "--candidate", url]),
            traffic_main(["--port", port, "--api", url]),
        ]
    assert codes == [2, 2, 2, 2]
    assert capsys.readouterr().err.count(port) == 4


def test_a_file_that_is_no_store_is_told(tmp_path, capsys, monkeypatch):
    """A damaged file ends the start with code 2 and is left as it is."""
    monkeypatch.delenv("SIM_FAULTS", raising=False)
    url = "http://127.0.0.1:1"
    for name, start in (
        ("engine", lambda: engine_main(["--port", "1", "--data", str(tmp_path)])),
        (
            "release",
            lambda: release_main(["--port", "1", "--data", str(tmp_path), "--stable", url, "--candidate", url]),
        ),
    ):
        damaged = tmp_path / f"{name}.sqlite3"
        damaged.write_bytes(b"not a database " * 100)
        assert start() == 2
        assert "not a database" in capsys.readouterr().err
        assert damaged.read_bytes() == b"not a database " * 100
