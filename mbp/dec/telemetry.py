"""The decision API's series, and the middleware that counts every answer exactly once and names the release on it."""

from __future__ import annotations

import re
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mbp._asgi import refuse
from mbp._edges import DEC_SECONDS
from mbp.dec.capacity import Capacity, QueueFull
from mbp.dec.mode import MODE, mode_of, shadowed

disable_created_metrics()  # type: ignore[no-untyped-call]

_OF_MARKET = ("", "/liquidity", "/resolution", "/resolution/finish", "/history")
ROUTES = ("/v1/quotes", "/v1/swaps", "/v1/markets", *(f"/v1/markets/{{id}}{end}" for end in _OF_MARKET), "other")
CLASSES = ("2xx", "4xx", "429", "5xx")
_MARKET = re.compile(rf"/v1/markets/[^/]+({'|'.join(_OF_MARKET)})")


def route_of(path: str) -> str:
    """Return the route label of a path: from a fixed list, so that no client can make new series."""
    if path in ROUTES[:3]:
        return path
    found = _MARKET.fullmatch(path)
    return f"/v1/markets/{{id}}{found[1]}" if found else "other"


def class_of(status: int) -> str:
    """Return the class of a status; 429 is apart from the other 4xx, and what is no error is ``2xx``."""
    if status == 429:
        return "429"
    return "5xx" if status >= 500 else "4xx" if status >= 400 else "2xx"


class Telemetry:
    """The series of one release, each there at 0 from the start."""

    def __init__(self, release: str, capacity: Capacity) -> None:
        """Make the series."""
        self.release = release
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "dec_requests", "Answers of the decision API.", ["release", "route", "class"], registry=self.registry
        )
        self._seconds = Histogram(
            "dec_request_seconds",
            "Seconds from a request to its answer, queue included. Answers of class 5xx are not in it: they are bad "
            "whatever they took, and a fast 503 must not look like speed.",
            ["release", "route"],
            buckets=DEC_SECONDS,
            registry=self.registry,
        )
        for route in ROUTES:
            self._seconds.labels(release, route)
            for name in CLASSES:
                self._requests.labels(release, route, name)
        self._shadows = Counter(
            "dec_shadow_requests", "Answers to shadow requests; in no other series.", ["release", "class"],
            registry=self.registry,
        )  # fmt: skip
        for name in CLASSES:
            self._shadows.labels(release, name)
        queue = Gauge("dec_queue_length", "Requests that wait for a slot.", ["release"], registry=self.registry)
        queue.labels(release).set_function(lambda: capacity.queued)
        busy = Gauge("dec_slots_busy", "Slots in use.", ["release"], registry=self.registry)
        busy.labels(release).set_function(lambda: capacity.busy)

    def count(self, route: str, status: int, seconds: float, *, shadow: bool = False) -> None:
        """Count one answer; nobody waits for that of a shadow request, so it is no part of the service's quality."""
        name = class_of(status)
        if shadow:
            self._shadows.labels(self.release, name).inc()
            return
        self._requests.labels(self.release, route, name).inc()
        if name != "5xx":
            self._seconds.labels(self.release, route).observe(seconds)


class Counted:
    """Outermost middleware of `/v1/*`: puts release and mode on every answer and counts it once."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry, clock: Callable[[], float]) -> None:
        """Wrap ``app``; ``clock`` is monotonic seconds."""
        self.app, self.telemetry, self.clock = app, telemetry, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and look at the first line of its answer."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        mode = mode_of(scope)
        began, status = self.clock(), 500  # a request without an answer (a crash, a client gone) counts as 5xx

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-MBP-Release"], headers[MODE] = self.telemetry.release, mode
            await send(message)

        try:
            await self.app(scope, receive, seen)
        finally:
            self.telemetry.count(route_of(scope["path"]), status, self.clock() - began, shadow=shadowed(scope))


class Admission:
    """Middleware behind the body guard: a request takes a slot, keeps it for the service time, and then answers."""

    def __init__(self, app: ASGIApp, capacity: Capacity, clock: Callable[[], float]) -> None:
        """Wrap ``app``."""
        self.app, self.capacity, self.clock = app, capacity, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for a slot, do the work, hold the answer back until the slot is due, and send it."""
        if scope["type"] != "http" or route_of(scope["path"]) == "other":
            await self.app(scope, receive, send)
            return
        try:
            due = await self.capacity.enter()
        except QueueFull:
            text = f"{self.capacity.limits.queue} requests wait already; try again later"
            await refuse(scope, receive, send, 503, "overloaded", text, {"Retry-After": "1"})
            return
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        try:
            await self.app(scope, receive, hold)
        finally:
            await self.capacity.leave(due, overran=self.clock() > due)
        for message in held:
            await send(message)
