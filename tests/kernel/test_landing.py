"""What was sent may still land: behind the withdrawal it would be the fault again, so nothing counts as gone before."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sim import recover, undo
from sim.clock import run_virtual
from sim.injection import Injections
from sim.injector import InjectionError, Probe, Site
from sim.secret import Secrets
from tests.kernel.test_injection import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a fresh bench."""
    return Bench(tmp_path)


def lands(bench: Bench, after_s: float) -> None:
    """Put the fault in (again) so much later."""
    asyncio.get_running_loop().call_later(after_s, bench.there.add, "a")


async def early(injections: Injections) -> bool:
    """Apply, and withdraw at once."""
    await injections.prepare()
    injections.intend(0.0)
    await injections.apply()
    return await injections.withdraw()


@pytest.mark.parametrize("after_s", [0.0, 0.05, 1.0, 3.9])
def test_a_second_copy_of_an_acknowledged_apply_is_withdrawn_too(bench: Bench, after_s: float) -> None:
    """A proxy sent it twice: the fault that comes back behind the read-back is withdrawn again before it is gone."""

    async def apply(site: Site, _: Any) -> None:
        bench.there.add("a")
        lands(bench, after_s)

    async def story(injections: Injections) -> bool:
        gone = await early(injections)
        assert bench.there == set()
        await asyncio.sleep(10.0)
        return gone

    bench.odd = {"a": {"apply": apply}}
    assert bench.play(story) is True
    assert bench.there == set()
    assert bench.records() == ["intent", "applied", "withdrawn"]


def test_a_withdrawal_that_failed_and_is_read_back_is_one(bench: Bench) -> None:
    """The target does it and answers too late, each time: gone is gone."""

    async def withdraw(site: Site, _: Any) -> None:
        bench.calls.append("withdraw a")
        bench.there.discard("a")
        raise InjectionError("no answer within 2 s")

    bench.odd = {"a": {"withdraw": withdraw}}
    assert bench.play(early) is True
    assert bench.calls.count("withdraw a") == 1
    assert bench.told("fault.stuck") == []


def test_a_withdrawal_that_failed_and_is_not_read_back_is_none(bench: Bench) -> None:
    """Both reasons are told: what the withdrawal said, and that the read-back failed."""

    async def refused(site: Site, _: Any) -> Any:
        raise InjectionError("refused")

    async def silent(site: Site, _: Any) -> Any:
        raise InjectionError("silent")

    bench.odd = {"a": {"withdraw": refused, "gone": silent}}
    assert bench.play(early) is False
    assert [each["reason"] for each in bench.told("fault.stuck")] == ["refused; silent"]


@pytest.mark.parametrize("after_s", [0.0, 1.0, 3.9])
def test_who_did_not_answer_for_a_while_may_work_off_what_it_was_sent(bench: Bench, after_s: float) -> None:
    """It hung with the apply in its queue: when it answers again the apply comes behind the first read-back."""
    asked: list[str] = []

    async def apply(site: Site, _: Any) -> None:
        raise InjectionError("no answer within 8 s")

    async def withdraw(site: Site, _: Any) -> None:
        asked.append("withdraw")
        if len(asked) < 4:
            raise InjectionError("no answer")
        if len(asked) == 4:
            lands(bench, after_s)
        bench.there.discard("a")

    async def gone(site: Site, _: Any) -> Probe:
        if len(asked) < 4:
            raise InjectionError("no answer")
        return Probe("a" not in bench.there, {})

    async def story(injections: Injections) -> bool:
        await injections.prepare()
        injections.intend(0.0)
        with pytest.raises(InjectionError):
            await injections.apply()
        found = await injections.withdraw()
        await asyncio.sleep(10.0)
        return found

    bench.odd = {"a": {"apply": apply, "withdraw": withdraw, "gone": gone}}
    assert bench.play(story) is True
    assert (len(asked) > 4, bench.there) == (True, set())


def test_a_renewal_cut_by_the_withdrawal_is_waited_for(bench: Bench) -> None:
    """Long after the apply, a renewal is under way as the withdrawal begins, and lands behind it."""

    async def renew(site: Site, _: Any) -> None:
        try:
            await asyncio.sleep(5.0)
        except asyncio.CancelledError:
            lands(bench, 2.0)
            raise

    async def story(injections: Injections) -> bool:
        await injections.prepare()
        injections.intend(0.0)
        await injections.apply()
        await asyncio.sleep(7.5)  # the lease is 3 s: renewals begin at 1 s and, each cut after its 5 s, at 7 s
        gone = await injections.withdraw()
        await asyncio.sleep(5.0)
        return gone

    bench.odd = {"a": {"renew": renew}}
    assert bench.play(story) is True
    assert bench.there == set()


@pytest.mark.parametrize("cut", [True, False])
def test_a_change_of_the_drive_that_found_no_answer_is_waited_for(bench: Bench, cut: bool) -> None:
    """Long after the apply: the drive was just told that nobody answered, or is cut with its request under way."""

    async def drive(site: Site, _: Any) -> None:
        try:
            await asyncio.sleep(9.0 if cut else 7.4)
        finally:
            lands(bench, 2.0)
            raise InjectionError("no answer within 0.8 s")

    async def story(injections: Injections) -> bool:
        await injections.prepare()
        injections.intend(0.0)
        await injections.apply()
        await asyncio.sleep(7.5)
        gone = await injections.withdraw()
        await asyncio.sleep(5.0)
        return gone

    bench.odd = {"a": {"drive": drive}}
    assert bench.play(story) is True
    assert bench.there == set()


def test_a_drive_that_does_not_let_go_is_waited_for(bench: Bench) -> None:
    """It was cut, goes on all the same, and what it sends lands behind the withdrawal."""

    async def drive(site: Site, _: Any) -> None:
        try:
            await asyncio.sleep(60.0)
        except asyncio.CancelledError:
            lands(bench, 3.0)
            await asyncio.sleep(2.5)

    async def story(injections: Injections) -> bool:
        await injections.prepare()
        injections.intend(0.0)
        await injections.apply()
        await asyncio.sleep(7.5)
        gone = await injections.withdraw()
        await asyncio.sleep(5.0)
        return gone

    bench.odd = {"a": {"drive": drive}}
    assert bench.play(story) is True
    assert bench.there == set()


def test_recovery_waits_for_what_the_dead_runner_had_sent(bench: Bench) -> None:
    """Killed with its apply under way, recovered at once: the fault lands 2 s later and is withdrawn all the same."""

    async def killed(injections: Injections) -> None:
        await injections.prepare()
        injections.intend(0.0)

    bench.play(killed)
    names: Any = SimpleNamespace(injector=bench.injector)

    async def again() -> recover.Left:
        lands(bench, 2.0)
        return await recover.recover(bench.folder, names, Secrets({}), lambda *_: None)

    assert run_virtual(again()).reasons == ()
    assert bench.there == set()
    assert undo.read(bench.folder / undo.FILE).closed is True
