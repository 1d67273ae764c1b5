"""A recorder of webhooks: takes what is posted to it, and shows it page by page to who may read.

``POST /CHANNEL/ADDRESS`` with JSON is one message of that channel to that address. ``GET /received`` shows messages as
the `inbox` observer reads them: ``?after=SEQ&limit=N&channel=C``, or ``?tail=N`` for the last ones, answered by
``{"rows": [{"seq", "at", "channel", "address", "payload"}], "next": SEQ}``. ``GET /healthz`` says that it is up.
"""

from __future__ import annotations

import errno
import fcntl
import hmac
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sim.event import JSON
from sim.wire import strict_json

if TYPE_CHECKING:
    from aiohttp import web

#: So many messages are held for reading; who reads is told when what comes next is not among them any more.
HELD = 10_000

#: The longest message that is taken, bytes.
MAX_BODY = 1024 * 1024

_PAGE = 500
_CHANNEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")

Row = dict[str, JSON]


class Lost(Exception):
    """What is asked for is not held any more; says from which message on it is."""


class Messages:
    """The messages, numbered from 1; with a file, those of earlier starts too."""

    def __init__(self, file: Path | None, wall: Callable[[], float] = time.time) -> None:
        """Take up where the file ends. Raises `OSError`, `ValueError` for a file that is no such record."""
        self._rows: deque[Row] = deque(maxlen=HELD)
        self._wall = wall
        self._seq = 0
        self._file: IO[bytes] | None = None
        if file is not None:
            handle = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)  # messages are nobody else's business
            self._file = os.fdopen(handle, "r+b", buffering=0)
            try:
                self._take_up(file, self._file)
            except BaseException:
                self._file.close()
                raise

    def _take_up(self, name: Path, file: IO[bytes]) -> None:
        """Read what is there. A line without its end was never acknowledged, so it will be sent again: it goes."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{name}: another recorder writes there") from error
        whole = 0
        with name.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    row = json.loads(line)
                    self._seq = int(row["seq"])
                except (ValueError, TypeError, KeyError) as error:
                    raise ValueError(f"{name}:{number}: not a recorded message; move the file away") from error
                self._rows.append(row)
                whole += len(line)
        if os.fstat(file.fileno()).st_size > whole:
            file.truncate(whole)

    def take(self, channel: str, address: str, payload: JSON) -> int:
        """Record one message and return its number. Raises `OSError` when the file cannot be written."""
        row: Row = {
            "seq": self._seq + 1, "at": self._wall(), "channel": channel, "address": address, "payload": payload
        }  # fmt: skip
        if self._file is not None:
            _whole(self._file, (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
        self._seq += 1
        self._rows.append(row)
        return self._seq

    def page(self, after: int, limit: int, channel: str | None) -> tuple[list[Row], int]:
        """Return the messages after number `after`, and the number behind which the next page begins. Raises `Lost`."""
        first = self._seq - len(self._rows)
        if after < first:
            raise Lost(f"messages up to {first} are not held any more")
        found: list[Row] = []
        following = after
        for row in self._rows:
            seq = row["seq"]
            if not isinstance(seq, int) or seq <= after:
                continue
            if channel is None or row["channel"] == channel:
                if len(found) == limit:
                    return found, following
                found.append(row)
            following = seq
        return found, max(following, after)

    def tail(self, count: int, channel: str | None) -> tuple[list[Row], int]:
        """Return the last `count` messages, and the number of the last there is of any channel."""
        fitting = [row for row in self._rows if channel is None or row["channel"] == channel]
        return fitting[-count:] if count else [], self._seq

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _whole(file: IO[bytes], line: bytes) -> None:
    """Append a line whole or not at all: who is told of an error sends again. Raises `OSError`."""
    before = os.fstat(file.fileno()).st_size
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        file.truncate(before)
        raise


def application(messages: Messages, token: str | None, on_message: Callable[[str], None]) -> web.Application:
    """Return the web application; with a `token` every request but /healthz must bear it."""
    from aiohttp import web

    async def received(request: web.Request) -> web.Response:
        asked = request.query
        try:
            channel, limit = asked.get("channel"), min(int(asked.get("limit", _PAGE)), _PAGE)
            if "tail" in asked:
                rows, following = messages.tail(max(0, int(asked["tail"])), channel)
            else:
                rows, following = messages.page(int(asked.get("after", "0")), limit, channel)
        except Lost as lost:
            return web.json_response({"error": str(lost)}, status=410)
        except ValueError:
            return web.json_response({"error": "after, limit and tail are whole numbers"}, status=400)
        return web.json_response({"rows": rows, "next": following})

    async def posted(request: web.Request) -> web.Response:
        channel, address = request.match_info["channel"], request.match_info["address"]
        if not _CHANNEL.fullmatch(channel):
            return web.json_response({"error": f"not a channel: {channel!r}"}, status=400)
        try:
            payload = strict_json(await request.read())
        except ValueError as error:
            return web.json_response({"error": f"not JSON: {error}"}, status=400)
        seq = messages.take(channel, address, payload)
        on_message(f"{seq} {channel} {address}")
        return web.json_response({"seq": seq}, status=202)

    async def healthy(_: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    @web.middleware
    async def guarded(request: web.Request, handler: Callable[[web.Request], object]) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if token and request.path != "/healthz" and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            return web.json_response({"error": "a bearer token is needed"}, status=401)
        answer: web.StreamResponse = await handler(request)  # type: ignore[misc]  # a handler is awaitable
        return answer

    app = web.Application(middlewares=[guarded], client_max_size=MAX_BODY)
    app.router.add_get("/healthz", healthy)
    app.router.add_get("/received", received)
    app.router.add_post("/{channel}/{address}", posted)
    return app
