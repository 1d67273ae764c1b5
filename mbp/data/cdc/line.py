"""The delay line: commits wait here, in order, until they are due; without a fault they are due at once.

The fault holds each commit until its own commit time plus the delay. That is not a stall: the connection is read and
feedback goes out all the time; it only tells the truth, that nothing newer was applied. Bounded by bytes: when so much
waits that the bound is passed, the consumer stops reading (and goes on giving feedback) until there is room again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice, takewhile
from threading import Lock

from mbp.data.cdc.pgoutput import Transaction

AT_ONCE = 100  # commits that are applied together when they wait already
LIMIT_BYTES = 64 * 1024 * 1024


class Line:
    """Set by the fault door's thread, used by the consumer's."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """Begin empty and without delay."""
        self._limit = limit_bytes
        self._waiting: deque[Transaction] = deque()
        self._lock = Lock()
        self.size = 0  # bytes that wait
        self.delay_s = 0.0
        self.held = 0  # commits that came while there was a delay
        self.on_held: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        """Return how many commits wait."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Say whether nothing more is to be read for now."""
        return self.size >= self._limit

    def put(self, transaction: Transaction) -> None:
        """Take a commit in; they come in the order of their positions."""
        with self._lock:
            self._waiting.append(transaction)
            self.size += transaction.size
            holds = self.delay_s > 0
            self.held += holds
        if holds:
            self.on_held()

    def due(self, wall: float) -> list[Transaction]:
        """Return the commits that are due now, oldest first and not too many at once, without taking them out."""
        with self._lock:
            ready = takewhile(lambda each: each.commit_at + self.delay_s <= wall, self._waiting)
            return list(islice(ready, AT_ONCE))

    def done(self, count: int) -> None:
        """Take the oldest commits out: they were applied."""
        with self._lock:
            for _ in range(count):
                self.size -= self._waiting.popleft().size

    def wait_s(self, wall: float) -> float | None:
        """Return how long until the oldest commit is due, None when nothing waits."""
        with self._lock:
            return max(0.0, self._waiting[0].commit_at + self.delay_s - wall) if self._waiting else None

    def clear(self) -> None:
        """Forget all that waits: it was not confirmed, so a new connection brings it again."""
        with self._lock:
            self._waiting.clear()
            self.size = 0
