"""Who is alive: heartbeats that run out. Pure; the time is handed in, seconds on any clock that only goes forward."""

from __future__ import annotations

import math
import re

MIN_TTL_S, MAX_TTL_S = 0.5, 600.0
MAX_LIVE = 64
_ID = re.compile(r"[A-Za-z0-9._-]{1,80}")


class Refused(Exception):
    """A heartbeat that is none; the message says why."""


class Beats:
    """The heartbeats of one proxy server."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lapsed: dict[str, float] = {}

    def beat(self, name: str, ttl_s: object, now: float) -> float:
        """Take a heartbeat that is good for `ttl_s` from `now`; return `ttl_s`. Raises `Refused`."""
        if not _ID.fullmatch(name):
            raise Refused("an id is 1 to 80 letters, digits, . _ -")
        if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not math.isfinite(ttl_s):
            raise Refused("ttl_s must be a number of seconds")
        if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
            raise Refused(f"ttl_s must be {MIN_TTL_S:g} to {MAX_TTL_S:g}")
        if name not in self._until and len(self._until) >= MAX_LIVE:
            raise Refused(f"{MAX_LIVE} heartbeats are alive already")
        self._until[name] = now + float(ttl_s)
        return float(ttl_s)

    def end(self, name: str) -> None:
        """Forget a heartbeat that ended in order. One that ran out stays so until the server was reset."""
        self._until.pop(name, None)

    def lapsed(self, now: float) -> tuple[str, ...]:
        """Return those that have run out and not been answered with a reset yet, in order of their end."""
        for name, until in sorted(self._until.items(), key=lambda each: each[1]):
            if until <= now:
                self._lapsed[name] = self._until.pop(name)
        return tuple(self._lapsed)

    def answered(self, names: tuple[str, ...]) -> None:
        """Note that the server was reset on account of `names`."""
        for name in names:
            self._lapsed.pop(name, None)

    def next_end(self) -> float | None:
        """Return when the next heartbeat runs out, None when none is alive."""
        return min(self._until.values(), default=None)

    def shown(self, now: float) -> dict[str, object]:
        """Return what is alive and what ran out, as JSON."""
        live = [{"id": name, "expires_in_s": round(until - now, 3)} for name, until in sorted(self._until.items())]
        return {"live": live, "expired": list(self._lapsed)}
