"""Real and virtual time.

Durations come from `Clock.now` (monotonic seconds); `Clock.wall` (epoch seconds) is a label. In virtual time the event
loop itself jumps to the next timer whenever nothing is ready, so code under it sleeps as usual and hours pass in
milliseconds. Work handed to threads is counted, and time stands still while any is out: a thread lives in real time.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Where a run reads the time."""

    def now(self) -> float:
        """Return monotonic seconds."""
        ...

    def wall(self) -> float:
        """Return epoch seconds."""
        ...


class RealClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wall(self) -> float:
        """Return epoch seconds."""
        return time.time()


class LoopClock:
    """The running loop's clock: virtual under `run_virtual`. Wall time is `epoch` plus the loop's seconds."""

    def __init__(self, epoch: float = 1_700_000_000.0) -> None:
        self._epoch = epoch

    def now(self) -> float:
        """Return the running loop's seconds."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Return the label that belongs to `now`."""
        return self._epoch + self.now()


class _JumpingSelector(selectors.SelectSelector):
    """Never waits for a timer: tells the loop to jump there instead."""

    def __init__(self) -> None:
        super().__init__()
        self.jump: Callable[[float], bool] = lambda _: False

    def select(self, timeout: float | None = None) -> Any:
        """Look for ready files; with none ready and a timer ahead, jump to it rather than wait."""
        ready = super().select(0)
        if ready or timeout is None or timeout <= 0:
            return ready if ready or timeout is not None else super().select(None)
        return [] if self.jump(timeout) else super().select(0.001)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing is ready."""

    def __init__(self) -> None:
        self._virtual = 0.0
        self._out = 0
        selector = _JumpingSelector()
        super().__init__(selector)
        selector.jump = self._jump

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._virtual

    def _jump(self, by: float) -> bool:
        if self._out:
            return False
        self._virtual += by
        return True

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Hand `func` to a thread; virtual time stands still until it is back."""
        future = super().run_in_executor(executor, func, *args)
        self._out += 1
        future.add_done_callback(lambda _: setattr(self, "_out", self._out - 1))
        return future


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end in virtual time and return its result."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
