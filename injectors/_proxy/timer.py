"""A clock finer than the event loop's, where the machine has one.

Event loops sleep in ``epoll_wait``, whose time-out is in whole milliseconds: every delay comes out up to 1 ms long. A
Linux timer with a descriptor (``timerfd_create(2)``) wakes the same loop to the microsecond. Python has it from 3.13
on; until then it is called through the C library. Elsewhere the loop itself is the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import itertools
import math
import os
import sys
import time
from collections.abc import Callable

from injectors._proxy.clock import Clock

#: From <time.h> and <sys/timerfd.h> of Linux.
_CLOCK_MONOTONIC, _ABSOLUTE = 1, 1
_FLAGS = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)

#: Cancelled alarms are swept out when there are more than so many, and more than there are others.
_SWEEP = 512

#: The furthest moment that the timer is set to, seconds; it then looks again.
_FURTHEST_S = 1e9


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))


class Alarm:
    """A call that is to happen."""

    __slots__ = ("_clock", "callback")

    def __init__(self, clock: FineClock, callback: Callable[[], object]) -> None:
        self._clock = clock
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """See `clock.Handle`."""
        if self.callback is not None:
            self.callback = None
            self._clock.cancelled()

    def run(self) -> None:
        """Call, unless it was cancelled."""
        if self.callback is not None:
            callback, self.callback = self.callback, None
            callback()


class FineClock:
    """A `Clock` on a timer descriptor, in an event loop. Raises `OSError` where there is none; `close` it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._library, "timerfd_create") or ctypes.sizeof(ctypes.c_long) != 8:
            raise OSError("no timer descriptors")
        self._descriptor = int(self._library.timerfd_create(_CLOCK_MONOTONIC, _FLAGS))
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = loop
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()
        self._set_to = math.inf
        self._void = 0
        loop.add_reader(self._descriptor, self._ring)

    def time(self) -> float:
        """See `Clock.time`."""
        return time.monotonic()

    def call_at(self, when: float, callback: Callable[[], object]) -> Alarm:
        """See `Clock.call_at`."""
        alarm = Alarm(self, callback)
        heapq.heappush(self._alarms, (when, next(self._order), alarm))
        if when < self._set_to:
            self._set(when)
        return alarm

    def cancelled(self) -> None:
        """Take notice that one more alarm is void."""
        self._void += 1
        if self._void > _SWEEP and self._void > len(self._alarms) // 2:
            self._alarms = [each for each in self._alarms if each[2].callback is not None]
            heapq.heapify(self._alarms)
            self._void = 0

    def close(self) -> None:
        """Let nothing more happen."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self._set_to = -math.inf

    def _ring(self) -> None:
        """Have all that is due called in the loop's next turn; what they add comes in a later one."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)
        self._set_to = math.inf
        now = self.time()
        while self._alarms and self._alarms[0][0] <= now:
            alarm = heapq.heappop(self._alarms)[2]
            if alarm.callback is None:
                self._void -= 1
            else:
                self._loop.call_soon(alarm.run)
        if self._alarms:
            self._set(self._alarms[0][0])

    def _set(self, when: float) -> None:
        self._set_to = when
        whole = max(1, math.ceil(min(when, _FURTHEST_S) * 1e9))  # 0 would switch it off
        setting = _Setting(_Time(0, 0), _Time(*divmod(whole, 1_000_000_000)))
        if self._library.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(setting), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")


def best(loop: asyncio.AbstractEventLoop) -> Clock:
    """Return the finest clock there is for `loop`: a `FineClock`, or the loop."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return FineClock(loop)
    return loop
