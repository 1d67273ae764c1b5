"""The fine clock: in order, once, never early, never after a cancel; and what stands in for it."""

from __future__ import annotations

import asyncio
import sys

import pytest

from injectors._proxy import timer
from injectors._proxy.timer import FineClock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="timer descriptors are Linux's")


def within(story):
    """Run `story(clock)` with a fine clock in a loop."""

    async def main():
        clock = FineClock(asyncio.get_running_loop())
        try:
            return await asyncio.wait_for(story(clock), 30)
        finally:
            clock.close()

    return asyncio.run(main())


def test_calls_come_in_order_and_never_early():
    """Asked for in any order, also in the past; each sees a time that is not before its own."""

    async def story(clock):
        done, called, begin = asyncio.Event(), [], clock.time()
        for after in (0.004, 0.001, 0.003, -5.0, 0.002):
            clock.call_at(begin + after, lambda after=after: called.append((after, clock.time() >= begin + after)))
        clock.call_at(begin + 0.005, done.set)
        await done.wait()
        return called

    assert within(story) == [(after, True) for after in (-5.0, 0.001, 0.002, 0.003, 0.004)]


def test_what_is_cancelled_does_not_come():
    """Before its time, and in the turn in which it was due."""

    async def story(clock):
        done, called, now = asyncio.Event(), [], clock.time()
        clock.call_at(now, lambda: twin.cancel())
        twin = clock.call_at(now, lambda: called.append("twin"))
        clock.call_at(now + 0.001, lambda: called.append("early")).cancel()
        last = clock.call_at(now + 0.002, done.set)
        await done.wait()
        last.cancel()
        return called

    assert within(story) == []


def test_a_call_that_asks_for_itself_again_lets_others_have_their_turn():
    """What is due at once comes in a later turn of the loop, not in the same one."""

    async def story(clock):
        turns = 0

        def again():
            nonlocal turns
            turns += 1
            clock.call_at(clock.time() - 1, again)

        again()
        for _ in range(50):
            await asyncio.sleep(0)
        return 5 < turns <= 50

    assert within(story)


def test_an_error_in_a_call_is_the_loops_and_stops_nobody():
    """The next one still comes."""

    async def story(clock):
        errors, done = [], asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
        clock.call_at(clock.time(), lambda: 1 // 0)
        clock.call_at(clock.time(), done.set)
        await done.wait()
        return [type(error) for error in errors]

    assert within(story) == [ZeroDivisionError]


def test_cancelled_alarms_do_not_pile_up():
    """Ten thousand leases renewed leave no more than a handful."""

    async def story(clock):
        kept = clock.call_at(clock.time() + 3600, lambda: None)
        for _ in range(10_000):
            kept.cancel()
            kept = clock.call_at(clock.time() + 3600, lambda: None)
        return len(clock._alarms) < 2000

    assert within(story)


def test_without_timer_descriptors_the_loop_is_the_clock(monkeypatch):
    """On another system, or where the call fails."""

    async def main():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(timer, "_CLOCK_MONOTONIC", -1)
        failed = timer.best(loop) is loop
        monkeypatch.setattr(timer.sys, "platform", "darwin")
        return failed, timer.best(loop) is loop

    assert asyncio.run(main()) == (True, True)
