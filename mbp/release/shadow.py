"""Shadowing: a share of three named journeys goes to the candidate too, as a rehearsal whose answer nobody gets.

What the stable release serves is sent to the candidate at the same time, marked `X-MBP-Shadow: 1`: the engine computes
and keeps nothing, so no row, event or notification comes of it. The two answers are compared and counted. The pool may
move between the two, so prices and amounts count as equal within 1 %; numbers and times that name *this* request (seq,
at, request_id, trace_id) are compared by their form.
"""

from __future__ import annotations

import asyncio
import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from mbp.release.proxy import NoAnswer, Passed, Upstream
from mbp.release.switches import Switches

# Marks between the controller and the releases; what a client says in them counts for nothing.
MODE, SHADOW = "x-mbp-mode", "x-mbp-shadow"
JOURNEYS = {
    "quote": re.compile(r"/v1/quotes"),
    "swap": re.compile(r"/v1/swaps"),
    "resolve": re.compile(r"/v1/markets/[^/?]+/resolution/finish"),
}
OUTCOMES = ("equal", "different", "failed", "skipped")
AT_ONCE = 16  # shadows in flight; the candidate's own limits stand beside it
NEAR = Decimal("0.01")
_OWN = frozenset({"seq", "at", "request_id", "trace_id", "swaps", "delta_k_ratio", "delta_k_float"})


def journey_of(method: str, target: str) -> str | None:
    """Return the journey that a request belongs to, None for any other."""
    path = target.split("?")[0]
    return next((name for name, form in JOURNEYS.items() if method == "POST" and form.fullmatch(path)), None)


def alike(one: Any, other: Any, key: str = "") -> bool:
    """Tell whether two answers say the same, but for what names the request and for a pool that moved a little."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name], name) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(alike(*pair, key) for pair in zip(one, other, strict=True))
    if type(one) is not type(other):
        return False
    if one == other or key in _OWN or key.endswith("_at"):
        return True
    return isinstance(one, str) and _near(one, other)


def _near(one: str, other: str) -> bool:
    try:
        first, second = Decimal(one), Decimal(other)
    except InvalidOperation:
        return False
    if not (first.is_finite() and second.is_finite()):
        return False
    return abs(first - second) <= NEAR * max(abs(first), abs(second))


def same(one: Passed, other: Passed) -> bool:
    """Tell whether a shadow's answer is what the one that was returned is."""
    if one.status != other.status:
        return False
    try:
        return alike(json.loads(one.body), json.loads(other.body))
    except (ValueError, RecursionError):
        return one.body == other.body


class Shadow:
    """One shadow under way: it is compared when the answer that was returned is known too."""

    def __init__(self, name: str, shadows: Shadows) -> None:
        """Belong to ``shadows``."""
        self.name, self._shadows = name, shadows
        self._answers: list[Passed] = []

    def answered(self, answer: Passed) -> None:
        """Take one of the two answers; with the second, compare."""
        self._answers.append(answer)
        if len(self._answers) == 2:
            self._shadows.count(self.name, "equal" if same(*self._answers) else "different")


class Shadows:
    """The shadows of one controller."""

    def __init__(self, switches: Switches, upstream: Upstream, registry: CollectorRegistry) -> None:
        """Send what ``switches`` say through ``upstream``."""
        self._switches, self._upstream = switches, upstream
        self._flying: set[asyncio.Task[None]] = set()
        self._due: dict[str, float] = {}
        self._counts = {name: dict.fromkeys(OUTCOMES, 0) for name in JOURNEYS}
        self._counter = Counter(
            "release_shadows", "Journeys shadowed to the candidate.", ["journey", "outcome"], registry=registry
        )
        for name in JOURNEYS:
            for outcome in OUTCOMES:
                self._counter.labels(name, outcome)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return what came of the shadows since the start, by journey and outcome."""
        return {name: dict(of_it) for name, of_it in self._counts.items()}

    def count(self, name: str, outcome: str) -> None:
        """Count one shadow."""
        self._counts[name][outcome] += 1
        self._counter.labels(name, outcome).inc()

    def begin(self, release: str, method: str, target: str, headers: dict[str, str], body: bytes) -> Shadow | None:
        """Send the shadow of a request if it is to have one; never waits, never fails the request."""
        name = journey_of(method, target)
        wanted = self._switches.shadow
        if release == "candidate" or name is None or name not in wanted["journeys"]:
            return None
        self._due[name] = self._due.get(name, 0.0) + float(wanted["share"])
        if self._due[name] < 1.0:
            return None
        self._due[name] -= 1.0
        if len(self._flying) >= AT_ONCE:
            self.count(name, "skipped")
            return None
        shadow = Shadow(name, self)
        task = asyncio.create_task(self._send(shadow, method, target, {**headers, SHADOW: "1"}, body))
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)
        return shadow

    async def _send(self, shadow: Shadow, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        try:
            shadow.answered(await self._upstream.send("candidate", method, target, headers, body))
        except NoAnswer:
            self.count(shadow.name, "failed")

    async def close(self) -> None:
        """Let go of what is in flight."""
        for task in list(self._flying):
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)
