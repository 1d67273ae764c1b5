"""How much a release can serve: a fixed number of slots, a fixed time a request, a bounded FIFO queue before them.

The limit is a property of the release, not of the machine, so that the load that passes it is known beforehand. A slot
that was waited for is handed on at the instant its request was *due* to end: a late timer costs the one request that
met it some milliseconds and the rate nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Slots, seconds that a request keeps one, and how many may wait."""

    slots: int
    service_s: float
    queue: int

    @property
    def rate(self) -> float:
        """Requests a second that the slots can serve."""
        return self.slots / self.service_s if self.service_s else float("inf")


# Candidate 32 slots × 240 ms, stable 240 a second, as the design sets them.
RELEASES: dict[str, Limits] = {
    "candidate": Limits(slots=32, service_s=0.240, queue=330),
    "stable": Limits(slots=32, service_s=32 / 240, queue=330),
}


class QueueFull(Exception):
    """The queue is as long as it may be: the request is turned away at once."""


class Capacity:
    """The slots of one release. Not for threads: it belongs to one event loop."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        """Begin with all slots free; ``clock`` is monotonic seconds."""
        self.limits, self._clock = limits, clock
        self._free = limits.slots
        self._waiting: deque[asyncio.Future[float]] = deque()

    @property
    def queued(self) -> int:
        """Requests that wait for a slot."""
        return sum(not waiter.done() for waiter in self._waiting)

    @property
    def busy(self) -> int:
        """Slots in use."""
        return self.limits.slots - self._free

    async def enter(self) -> float:
        """Wait for a slot, first come first served, and return when it is due to be free again.

        Raises :class:`QueueFull` when as many wait as may.
        """
        now = self._clock()
        if self._free and not self.queued:
            self._free -= 1
            return now + self.limits.service_s
        if self.queued >= self.limits.queue:
            raise QueueFull
        waiter: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            start = await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._hand_on(waiter.result())  # the slot came in the same instant as the cancellation: pass it on
            raise
        return max(start, now) + self.limits.service_s

    async def leave(self, due: float, *, overran: bool) -> None:
        """Keep the slot until it is due, then hand it on; a request that overran hands it on as of now."""
        try:
            if not overran:
                await asyncio.sleep(due - self._clock())
        finally:
            # Cancelled before it is due: hand on now, not at an instant that is still to come.
            now = self._clock()
            self._hand_on(now if overran else min(due, now))

    def _hand_on(self, at: float) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(at)
                return
        self._free += 1
