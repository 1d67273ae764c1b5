"""Pushes the healthy past once. Seeding twice into one series ruins it, so each step guards against a second time.

Before the first byte is sent, OUT.pending records the end of the past; a push that was cut short is taken up with that
same end, and Prometheus takes a sample that it already has as the same sample. OUT itself is written last, at once.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cramjam

from mbp._service import wall_text
from mbp.past.remote_write import HEADERS, write_requests
from mbp.past.shape import healthy, windows

SAMPLES_EACH = 5_000
PATIENCE_S = 30.0  # how long one request is tried while Prometheus is not there or answers 5xx
REQUEST_S = 10.0
STALE_S = 300  # a push that was cut short longer ago than this is not taken up: its end is no longer the push time

Send = Callable[[bytes], int]


class PushFailed(Exception):
    """The past could not be pushed; the text names the cause and the cure."""


def push(url: str, out: Path, *, wall: Callable[[], float] = time.time, send: Send | None = None) -> dict[str, Any]:
    """Push the past that ends now, write ``out`` and return its content; raises :class:`PushFailed`.

    ``send`` sends one compressed request and returns the status that it got.
    """
    pending = out.with_name(out.name + ".pending")
    until_s = _end(pending, int(wall()))
    deliver = send or Sender(url).send
    series = list(healthy(until_s))
    digest = hashlib.sha256()
    for number, message in enumerate(write_requests(series, SAMPLES_EACH), 1):
        digest.update(message)
        status = deliver(bytes(cramjam.snappy.compress_raw(message)))
        if status not in (200, 204):
            raise PushFailed(f"{url} answered {status} to request {number}")
    starts = min(one.samples[0][0] for one in series)
    result = {
        "sha256": digest.hexdigest(),
        "pushed_at": wall_text(wall()),
        "from": wall_text(starts / 1000),
        "until": wall_text(until_s),
        "series": len(series),
        "samples": sum(len(one.samples) for one in series),
        "windows": windows(),
    }
    _write(out, json.dumps(result, indent=2, sort_keys=True) + "\n")
    pending.unlink()
    return result


def _end(pending: Path, now_s: int) -> int:
    """Return the end of the past: that of a push that was cut short, else now, written down before anything is sent."""
    if pending.exists():
        try:
            until_s = int(json.loads(pending.read_text(encoding="ascii"))["until_s"])
        except (ValueError, KeyError, TypeError) as error:
            raise PushFailed(f"{pending} is damaged ({error}): remove the stack's data and bring it up anew") from None
        if not 0 <= now_s - until_s <= STALE_S:
            raise PushFailed(
                f"{pending}: an earlier push was cut short {now_s - until_s} s ago; a second one would ruin the "
                "series: remove the stack's data and bring it up anew"
            )
        return until_s
    pending.parent.mkdir(parents=True, exist_ok=True)
    _write(pending, json.dumps({"until_s": now_s}) + "\n")
    return now_s


def _write(path: Path, text: str) -> None:
    """Write a file at once: whole, or not there."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="ascii") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)


class Sender:
    """Sends requests to one receiver over plain HTTP, patient with one that is still starting."""

    def __init__(
        self,
        url: str,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Remember the receiver; raises :class:`PushFailed` for what is not an http URL."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise PushFailed(f"{url!r} is not a URL such as http://127.0.0.1:9090/api/v1/write")
        self._host, self._port, self._path = parts.hostname, parts.port or 80, parts.path or "/api/v1/write"
        self._patience_s, self._clock, self._sleep = patience_s, clock, sleep

    def send(self, body: bytes) -> int:
        """POST one request and return the status; a refused connection or a 5xx is tried again, within patience.

        Raises :class:`PushFailed` when patience ends, and for a 4xx, with what the receiver said.
        """
        give_up, pause = self._clock() + self._patience_s, 0.1
        while True:
            status, said = self._once(body)
            if 200 <= status < 300:
                return status
            if 400 <= status < 500:
                raise PushFailed(f"the receiver refused the past ({status}): {said}")
            if self._clock() + pause > give_up:
                raise PushFailed(f"no luck for {self._patience_s:g} s: {said or status}")
            self._sleep(pause)
            pause = min(pause * 2, 2.0)

    def _once(self, body: bytes) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=REQUEST_S)
        try:
            connection.request("POST", self._path, body, HEADERS)
            answer = connection.getresponse()
            return answer.status, answer.read(2000).decode("utf-8", "replace").strip()
        except (OSError, http.client.HTTPException) as error:
            return 0, f"{type(error).__name__}: {error}"
        finally:
            connection.close()
