"""Time as the proxy needs it; an event loop is one, and a test brings its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Handle(Protocol):
    """Something that was asked to happen later."""

    def cancel(self) -> None:
        """Let it not happen."""


class Clock(Protocol):
    """Monotonic seconds, and calls at a moment of them."""

    def time(self) -> float:
        """Return now, in seconds of a clock that only goes forward."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Handle:
        """Call `callback` once, at `when` or soon after it, never from within this call."""
