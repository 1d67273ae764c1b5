"""Virtual time jumps over waiting and over nothing else."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from sim.clock import LoopClock, RealClock, run_virtual


def test_hours_pass_at_once_and_exactly() -> None:
    """Three timers of hours fire in order, each at its own second, in no real time to speak of."""

    async def story() -> list[tuple[str, float]]:
        loop, seen = asyncio.get_running_loop(), []

        async def after(name: str, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            seen.append((name, loop.time()))

        await asyncio.gather(after("day", 86400.0), after("hour", 3600.0), after("now", 0.0))
        return seen

    before = time.process_time()
    assert run_virtual(story()) == [("now", 0.0), ("hour", 3600.0), ("day", 86400.0)]
    assert time.process_time() - before < 5.0


def test_a_timeout_fires_in_virtual_time() -> None:
    """What never answers is given up after its time, not after ours."""

    async def story() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(500.0):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(story()) == 500.0


def test_threads_do_not_let_time_jump() -> None:
    """A timer is ahead and a thread is out: time stands still until the thread is back."""

    async def story() -> tuple[float, float, bool]:
        loop = asyncio.get_running_loop()
        hold, alarm = threading.Event(), asyncio.Event()
        loop.call_later(1000.0, alarm.set)
        work = asyncio.create_task(asyncio.to_thread(hold.wait, 30.0))
        for _ in range(50):
            await asyncio.sleep(0)
        during, rang = loop.time(), alarm.is_set()
        hold.set()
        assert await work
        await alarm.wait()
        return during, loop.time(), rang

    assert run_virtual(story()) == (0.0, 1000.0, False)


def test_time_waits_for_each_of_several_threads() -> None:
    """The first thread that comes back does not set time free while another is out."""

    async def story() -> float:
        loop = asyncio.get_running_loop()
        first, second = threading.Event(), threading.Event()
        works = [asyncio.create_task(asyncio.to_thread(each.wait, 30.0)) for each in (first, second)]
        sleeper = asyncio.create_task(asyncio.sleep(77.0))
        await asyncio.sleep(0)
        first.set()
        await works[0]
        for _ in range(20):
            await asyncio.sleep(0)
        during = loop.time()
        second.set()
        await works[1]
        await sleeper
        assert loop.time() == 77.0
        return during

    assert run_virtual(story()) == 0.0


def test_a_thread_that_raises_sets_time_free_again() -> None:
    """Its error arrives, and the next timer fires."""

    async def story() -> float:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        await asyncio.sleep(10.0)
        return asyncio.get_running_loop().time()

    assert run_virtual(story()) == 10.0


def test_work_that_could_not_be_handed_out_does_not_stop_time() -> None:
    """A thread pool that refuses: the error arrives, and timers go on."""

    async def story() -> float:
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(1)
        pool.shutdown()
        with pytest.raises(RuntimeError):
            await asyncio.get_running_loop().run_in_executor(pool, lambda: None)
        await asyncio.sleep(5.0)
        return asyncio.get_running_loop().time()

    assert run_virtual(story()) == 5.0


def test_a_file_that_is_ready_comes_before_a_timer() -> None:
    """What another already wrote is read before time goes on."""

    async def story() -> tuple[bytes, float]:
        import socket

        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.send(b"here")
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(100.0):
                got = await loop.sock_recv(ours, 10)
            return got, loop.time()

    assert run_virtual(story()) == (b"here", 0.0)


def test_wall_time_is_a_label_on_the_loops_own() -> None:
    """`LoopClock.wall` is the epoch plus the loop's seconds."""

    async def story() -> tuple[float, float]:
        clock = LoopClock(1000.0)
        await asyncio.sleep(7.5)
        return clock.now(), clock.wall()

    assert run_virtual(story()) == (7.5, 1007.5)


def test_the_real_clock_never_goes_back() -> None:
    """Monotonic seconds, and an epoch of this century."""
    clock = RealClock()
    first, second = clock.now(), clock.now()
    assert second >= first
    assert clock.wall() > 1_600_000_000
