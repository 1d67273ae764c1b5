"""A look at a link from outside: one fresh connection through it, what it does, and when.

What shows on any TCP link is little: whether it opens, and whether it is closed or reset at once. Where the link
speaks HTTP or PostgreSQL one harmless question makes it answer (``HEAD /``; a request for TLS, which needs no login),
and the answer has a time and a size that can be held against those of before the fault.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Literal

from sim.event import JSON

Speaks = Literal["tcp", "http", "postgres"]

CONNECT_S = 1.5
#: How long a link that is asked nothing is watched for being closed.
QUIET_S = 0.2
#: The longest wait for an answer, below the kernel's limit of one call.
LONGEST_S = 6.0
#: Above this share of the dose a delay counts as the fault's: clocks of both sides round to about a millisecond.
SHARE = 0.9
_MOST_BYTES = 256 * 1024
_ASK = {
    "tcp": b"",
    "http": b"HEAD / HTTP/1.1\r\nHost: link\r\nUser-Agent: sim\r\nConnection: close\r\n\r\n",
    # SSLRequest: length 8, code 80877103; any PostgreSQL answers with one byte.
    "postgres": bytes((0, 0, 0, 8, 4, 210, 22, 47)),
}

Look = Mapping[str, JSON]


async def look(at: tuple[str, int], speaks: Speaks, wait_s: float = 2.0) -> dict[str, JSON]:
    """Open one connection and return what it did.

    `end` is ``refused``, ``unanswered`` (not even opened in time), ``reset``, ``closed`` (by the other side) or
    ``open``; `connect_ms`, `first_byte_ms` and `ended_ms` count from the start, null where it did not come to that.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()

    def since() -> float:
        return round((loop.time() - began) * 1000, 2)

    seen: dict[str, JSON] = {"end": "open", "connect_ms": None, "first_byte_ms": None, "ended_ms": None, "bytes": 0}
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(*at)
    except TimeoutError:
        return seen | {"end": "unanswered", "ended_ms": since()}
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        return seen | {"end": "refused" if refused else "unanswered", "ended_ms": since()}
    seen["connect_ms"] = since()
    limit_s = QUIET_S if speaks == "tcp" else min(wait_s, LONGEST_S)
    try:
        async with asyncio.timeout(limit_s):
            writer.write(_ASK[speaks])
            await _read(reader, speaks, seen, since)
    except TimeoutError:
        seen["waited_ms"] = since()
    except OSError:
        seen |= {"end": "reset", "ended_ms": since()}
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):  # that it ended is known; how it is closed tells nothing more
            async with asyncio.timeout(0.5):
                await writer.wait_closed()
    return seen


async def _read(reader: asyncio.StreamReader, speaks: Speaks, seen: dict[str, JSON], since: Any) -> None:
    got = 0
    while got < _MOST_BYTES:
        chunk = await reader.read(65536)
        if not chunk:
            seen |= {"end": "closed", "ended_ms": since()}
            return
        if got == 0:
            seen["first_byte_ms"] = since()
        got += len(chunk)
        seen["bytes"] = got
        if speaks == "postgres":
            return


def carries(seen: Look) -> bool:
    """Say whether a connection came through to something: it stayed open, or was answered."""
    return seen["end"] == "open" or _number(seen["bytes"]) > 0


def as_before(seen: Look, before: Look) -> bool:
    """Say whether a connection ends as it did before the fault, with as much of an answer."""
    return seen["end"] == before["end"] and (_number(seen["bytes"]) > 0) == (_number(before["bytes"]) > 0)


def bites(expect: Mapping[str, Any], seen: Look, before: Look) -> bool | None:
    """Say whether a look shows what the fault does; null where no look at this link could show it.

    `expect` is data of the receipt: `what` is late, silence, reset, refused, short, slow, late_close or nothing.
    """
    what = expect.get("what")
    if what == "refused":
        return bool(seen["end"] == "refused")
    answered = _number(before["bytes"]) > 0
    if what == "reset" and seen["end"] in ("reset", "closed") and not as_before(seen, before):
        return True
    if not answered or what is None:
        return None
    if what == "reset":
        return False  # a real server resets with the first data only: a link that is asked nothing may stay open
    if what == "silence":
        return bool(seen["first_byte_ms"] is None and seen["end"] not in ("refused", "unanswered"))
    if what == "late":
        return _late(seen, before, "first_byte_ms", float(expect["ms"]))
    if what == "slow":
        took_ms = _number(before["bytes"]) / float(expect["kb_s"])  # bytes by KB/s are milliseconds
        return _late(seen, before, "ended_ms", took_ms) if took_ms >= 50 and before["end"] == "closed" else None
    if what == "late_close":
        return _late(seen, before, "ended_ms", float(expect["ms"])) if before["end"] == "closed" else None
    if what == "short":
        return _number(seen["bytes"]) <= expect["bytes"] if expect["bytes"] < _number(before["bytes"]) else None
    raise ValueError(f"no look can show {what!r}")


def _late(seen: Look, before: Look, when: str, dose_ms: float) -> bool:
    """By at least a share of the dose; one that did not come in the time that was waited for it was that late too."""
    if seen["end"] in ("refused", "unanswered", "reset"):
        return False
    came = seen[when] if seen[when] is not None else seen.get("waited_ms")
    return came is not None and _number(came) - _number(before[when]) >= SHARE * min(dose_ms, LONGEST_S * 1000 / 2)


def wait_s(expect: Mapping[str, Any], before: Look) -> float:
    """Return how long to wait for an answer, seconds: as long as before, the dose, and a bit for a busy machine."""
    dose_ms = float(expect.get("ms", 0.0))
    if expect.get("what") == "slow":
        dose_ms = _number(before["bytes"]) / float(expect["kb_s"])
    usual_ms = _number(before["ended_ms"]) or _number(before["first_byte_ms"])
    return min(LONGEST_S, (dose_ms + 3 * usual_ms) / 1000 + 1.0)


def _number(value: JSON) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
