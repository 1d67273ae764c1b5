"""What ends a run early, in virtual time: each reason is told, the fault is withdrawn at once, and nothing passes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sim import guard, log, machine, undo
from sim.around import Around
from sim.clock import LoopClock
from sim.injector import Injector, Receipt, Site
from sim.judge import Judgement, judge
from sim.log import canonical
from sim.report import read_plan
from tests.kernel.scripted import EPOCH, PROFILE, Script, World, bent, planned, play


@pytest.fixture(autouse=True)
def _own_machine(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(machine.VARIABLE, str(tmp_path / "machine"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the run's folder."""
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def told(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the data of the events of one kind."""
    return [dict(event.data) for event in log.read(folder / "log.jsonl") if event.kind == kind]


def ended(judgement: Judgement) -> tuple[str, int]:
    """Return outcome and exit code."""
    return str(judgement.outcome), judgement.exit_code


def withdrawn(folder: Path, world: World) -> float:
    """Return how long the fault was in, when everything of it was undone and journalled."""
    assert world.on is not None and world.off is not None
    assert undo.read(folder / "undo.jsonl").unfinished is False
    again = judge(read_plan(folder), log.read(folder / "log.jsonl"))
    assert (folder / "verdicts.json").read_text() == canonical(again.as_json()) + "\n"
    return world.off - world.on


# -- stop conditions -------------------------------------------------------------------------------------------------


def rising(at_s: float) -> Script:
    """Return a target whose errors rise so long after the fault came in."""

    def trouble(world: World, _: str) -> None:
        if world.on is not None and world.now() - world.on >= at_s:
            world.script = replace(world.script, errors=0.5)

    return bent(trouble=trouble, fire=None)


def test_a_true_stop_condition_withdraws_at_once(folder: Path, monkeypatch: Any) -> None:
    """Aborted, 4, within a poll of it; what was not settled by then is unknown, and nobody waits for recovery."""
    judgement, world = play(folder, monkeypatch, rising(3.0), stop_when="errors > 0.2")
    assert ended(judgement) == ("aborted", 4)
    assert judgement.reasons == ("errors > 0.2 is true: 0.5",)
    assert told(folder, "stopped") == [{"by": "stop_when", "reason": judgement.reasons[0], "signal": None}]
    assert 3.0 <= withdrawn(folder, world) < 3.6
    values = {verdict.clause: verdict.value for verdict in judgement.verdicts}
    assert (values["effect"], values["detect"], values["recover"]) == ("met", "unknown", "unknown")


def test_a_stop_condition_that_holds_at_t0_applies_nothing(folder: Path, monkeypatch: Any) -> None:
    """True as the fault is about to be sent: it is not sent."""
    judgement, world = play(folder, monkeypatch, bent(errors=0.05), stop_when="errors > 0.04")
    assert ended(judgement) == ("aborted", 4)
    assert "apply" not in world.calls
    assert undo.read(folder / "undo.jsonl").unfinished is False


def test_a_lost_stop_metric_ends_the_run(folder: Path, monkeypatch: Any) -> None:
    """Inconclusive, naming who is blind; the fault is out within the polls that made it so."""
    judgement, world = play(folder, monkeypatch, bent(blind_prom=(2.0, 1e9), fire=None), stop_when="errors > 0.2")
    assert ended(judgement) == ("inconclusive", 4)
    assert judgement.reasons[0] == "the stop metric is lost: prom is blind: connection refused"
    assert 2.0 <= withdrawn(folder, world) < 3.5


def test_a_missed_clause_stays_missed_when_the_run_is_stopped(folder: Path, monkeypatch: Any) -> None:
    """What was not seen in its time has failed, whatever ends the run later."""
    judgement, world = play(folder, monkeypatch, rising(12.0), stop_when="errors > 0.2")
    assert ended(judgement) == ("failed", 1)
    assert judgement.link == "detect"
    assert 12.0 <= withdrawn(folder, world) < 12.6


# -- the lever -------------------------------------------------------------------------------------------------------


def test_a_halted_machine_refuses(folder: Path, monkeypatch: Any) -> None:
    """Nothing is touched, and the way on is told."""
    machine.halt("an incident")
    judgement, world = play(folder, monkeypatch)
    assert ended(judgement) == ("inconclusive", 4)
    assert judgement.reasons == ("halt: this machine is halted (an incident); sim halt --release lets runs go on",)
    assert world.calls == []


@pytest.mark.parametrize("at_s", [0.3, 2.5, 8.0], ids=["before t0", "under the fault", "in recovery"])
def test_the_lever_ends_a_run(folder: Path, monkeypatch: Any, at_s: float) -> None:
    """Aborted with the reason that was given; where the fault was in, it is withdrawn."""

    def pull(event: Any) -> None:
        if event.seen_at >= at_s:
            machine.halt("an incident")

    judgement, world = play(folder, monkeypatch, bent(resolve=60.0), on_event=pull)
    assert ended(judgement) == ("aborted", 4)
    assert judgement.reasons == ("sim halt: an incident",)
    assert ("apply" in world.calls) is (at_s > 1)
    if "apply" in world.calls:
        withdrawn(folder, world)
        assert told(folder, "run.closed") and max(_seen_at(folder)) < at_s + 2


def _seen_at(folder: Path) -> list[float]:
    return [event.seen_at for event in log.read(folder / "log.jsonl")]


# -- the clocks ------------------------------------------------------------------------------------------------------


class Bent(LoopClock):
    """The loop's clock, of which either hand may jump."""

    def __init__(self) -> None:
        super().__init__(EPOCH)
        self.slept = self.set = 0.0

    def now(self) -> float:
        """Return monotonic seconds, with those that the process stood still."""
        return super().now() + self.slept

    def wall(self) -> float:
        """Return epoch seconds, as the machine's clock was set."""
        return super().wall() + self.set


def jumping(after_s: float, **jump: float) -> tuple[dict[str, Any], Callable[[Around, World], None]]:
    """Return a clock, and what makes its hands jump so long after the loop began."""
    import asyncio

    clock = Bent()

    def act() -> None:
        for hand, by_s in jump.items():
            setattr(clock, hand, by_s)

    return {"clock": clock}, lambda *_: asyncio.get_running_loop().call_later(after_s, act) and None


@pytest.mark.parametrize(("by_s", "said"), [(-3600.0, "-3600 s"), (3600.0, "+3600 s"), (-2.5, "-2 s")])
def test_a_clock_that_is_set_ends_the_run(folder: Path, monkeypatch: Any, by_s: float, said: str) -> None:
    """Stamps cannot be compared with t0 any more: inconclusive, withdrawn at once, and it says what to do."""
    around, begun = jumping(2.6, set=by_s)
    judgement, world = play(folder, monkeypatch, bent(fire=4.0), around=around, begun=begun)
    assert ended(judgement) == ("inconclusive", 4)
    assert f"clock was set by {said}" in judgement.reasons[0]
    assert "run again once the clock is steady" in judgement.reasons[0]
    assert [each["by"] for each in told(folder, "stopped")] == ["clock"]
    assert withdrawn(folder, world) < 3.0


def test_a_clock_that_is_set_bit_by_bit_is_set(folder: Path, monkeypatch: Any) -> None:
    """Many small steps are a large one; a small one alone changes nothing."""
    clock = Bent()

    def creep(event: Any) -> None:
        if event.kind == "gauge":
            clock.set -= 0.1

    judgement, _ = play(folder, monkeypatch, bent(fire=4.0), around={"clock": clock}, on_event=creep)
    assert [each["by"] for each in told(folder, "stopped")] == ["clock"]
    assert ended(judgement) == ("inconclusive", 4)


def test_a_small_correction_of_the_clock_is_no_matter(folder: Path, monkeypatch: Any) -> None:
    """A second is what NTP may do."""
    around, begun = jumping(2.6, set=1.0)
    judgement, _ = play(folder, monkeypatch, around=around, begun=begun)
    assert ended(judgement) == ("passed", 0)


@pytest.mark.parametrize("lease", ["none", "target"])
def test_a_runner_that_stood_still_longer_than_the_lease_never_passes(
    folder: Path, monkeypatch: Any, lease: str
) -> None:
    """Nobody can say whether the fault was in: inconclusive, and no budget that ran out meanwhile is missed."""
    around, begun = jumping(2.6, slept=30.0)
    script = bent(fire=4.0, odd=_leased if lease == "target" else None)
    judgement, world = play(folder, monkeypatch, script, around=around, begun=begun)
    assert ended(judgement) == ("inconclusive", 4)
    assert judgement.reasons[0].startswith("the runner stood still for 30.")
    assert {verdict.value for verdict in judgement.verdicts} == {"met", "unknown"}
    stopped = told(folder, "stopped")
    assert [each["by"] for each in stopped] == ["lapsed"]
    assert 2.0 < stopped[0]["since"] < 3.0
    withdrawn(folder, world)


def test_a_short_standstill_is_no_matter(folder: Path, monkeypatch: Any) -> None:
    """Within the lease nothing has lapsed."""
    around, begun = jumping(2.6, slept=3.0)
    judgement, _ = play(folder, monkeypatch, around=around, begun=begun)
    assert ended(judgement) == ("passed", 0)


def test_a_standstill_while_recovering_is_told(folder: Path, monkeypatch: Any) -> None:
    """The fault is out, and nobody saw whether all was well again in time: inconclusive, not failed, not passed."""
    around, begun = jumping(8.0, slept=500.0)
    judgement, _ = play(folder, monkeypatch, bent(resolve=20.0), around=around, begun=begun)
    assert ended(judgement) == ("inconclusive", 4)
    assert "nobody saw whether all was well again in time" in judgement.reasons[0]


def _leased(world: World, given: Injector) -> Injector:
    async def renew(site: Site, receipt: Receipt) -> None:
        world.calls.append("renew")

    return replace(given, lease="target", renew=renew)


def test_no_renewal_is_sent_after_a_lapse(folder: Path, monkeypatch: Any) -> None:
    """Renewing what the target has dropped would inject a second time."""

    def odd(world: World, given: Injector) -> Injector:
        leased = _leased(world, given)

        async def renew(site: Site, receipt: Receipt) -> None:
            await leased.renew(site, receipt)  # type: ignore[misc]
            if world.calls.count("renew") == 3:
                loop = asyncio.get_running_loop()
                loop._virtual += 30.0  # type: ignore[attr-defined]

        return replace(leased, renew=renew)

    import asyncio

    judgement, world = play(folder, monkeypatch, bent(fire=None, odd=odd), around={"ttl_s": 2.0})
    assert ended(judgement) == ("inconclusive", 4)
    assert [each["by"] for each in told(folder, "stopped")] == ["lapsed"]
    after = world.calls[world.calls.index("withdraw") :]
    assert (world.calls.count("renew"), "renew" in after) == (3, False)


# -- the watchdog ----------------------------------------------------------------------------------------------------


@dataclass
class Dog:
    """A watchdog that dies when told to, and remembers what it was told."""

    keep: Sequence[int]
    lives: bool = True
    said: list[str] = field(default_factory=list)

    def alive(self) -> bool:
        """Whether it lives."""
        return self.lives

    def overtake_at(self, _: float) -> None:
        """Be told when."""
        self.said.append("at")

    def withdrawn(self) -> None:
        """Be told that all is gone."""
        self.said.append("withdrawn")

    def close(self) -> None:
        """End."""
        self.said.append("closed")
        self.lives = False


class Kennel:
    """Starts watchdogs; each may die as it starts, or not start at all."""

    def __init__(self, lives: bool = True, starts: int = 99) -> None:
        self.dogs: list[Dog] = []
        self.lives, self.starts = lives, starts

    def start(self, _: Path, keep: Sequence[int]) -> Dog:
        """Start one."""
        if len(self.dogs) >= self.starts:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.dogs.append(Dog(keep, self.lives))
        return self.dogs[-1]

    @property
    def told(self) -> list[list[str]]:
        """What each was told."""
        return [dog.said for dog in self.dogs]


def test_the_watchdog_is_there_before_the_fault_and_told_when_it_is_gone(folder: Path, monkeypatch: Any) -> None:
    """It holds the runner's lock and what holds up the stack."""
    kennel = Kennel()
    seen: list[int] = []

    def odd(world: World, given: Injector) -> Injector:
        async def apply(site: Site, receipt: Receipt) -> None:
            seen.append(len(kennel.dogs))
            await given.apply(site, receipt)

        return replace(given, apply=apply)

    judgement, _ = play(
        folder, monkeypatch, bent(odd=odd), around={"watchdog": kennel.start, "owner_fd": 99}, allow=None
    )
    assert ended(judgement) == ("passed", 0)
    assert (seen, kennel.told) == ([1], [["at", "withdrawn", "closed"]])
    assert len(kennel.dogs[0].keep) == 2 and 99 in kennel.dogs[0].keep
    assert machine.held() == []


def test_a_watchdog_that_dies_is_replaced(folder: Path, monkeypatch: Any) -> None:
    """The next one is told what the first was; the run goes on."""
    kennel = Kennel()

    def kill(event: Any) -> None:
        if event.kind == "fault.effective":
            kennel.dogs[0].lives = False

    judgement, _ = play(folder, monkeypatch, on_event=kill, around={"watchdog": kennel.start})
    assert ended(judgement) == ("passed", 0)
    assert kennel.told == [["at", "closed"], ["at", "withdrawn", "closed"]]
    assert {"text": "the watchdog is gone; starting another"} in told(folder, "note")


def test_a_watchdog_that_cannot_be_kept_alive_ends_the_run(folder: Path, monkeypatch: Any) -> None:
    """Without anybody to finish the run, it does not go on."""
    kennel = Kennel(lives=False)
    judgement, world = play(folder, monkeypatch, bent(fire=None), around={"watchdog": kennel.start})
    assert ended(judgement) == ("inconclusive", 4)
    assert judgement.reasons[0].startswith("no watchdog can be kept alive: 3 that were started have died")
    assert len(kennel.dogs) == 1 + guard.REPLACED
    withdrawn(folder, world)


def test_a_watchdog_that_cannot_be_replaced_ends_the_run(folder: Path, monkeypatch: Any) -> None:
    """No process can be started any more: the fault is withdrawn at once."""
    kennel = Kennel(lives=False, starts=1)
    judgement, world = play(folder, monkeypatch, bent(fire=None), around={"watchdog": kennel.start})
    assert ended(judgement) == ("inconclusive", 4)
    assert "Resource temporarily unavailable" in judgement.reasons[0]
    assert withdrawn(folder, world) < 2


def test_without_a_watchdog_nothing_is_injected(folder: Path, monkeypatch: Any) -> None:
    """It cannot be started: inconclusive before the first intent."""
    judgement, world = play(folder, monkeypatch, around={"watchdog": Kennel(starts=0).start})
    assert ended(judgement) == ("inconclusive", 4)
    assert "the watchdog cannot be started, so nothing is injected" in judgement.reasons[0]
    assert world.calls == ["prepare"]


def test_a_run_that_the_watchdog_has_overtaken_says_so(folder: Path, monkeypatch: Any) -> None:
    """Past hold time and grace it is gone because it did its work; the run cannot pass, and another stands by."""
    kennel = Kennel()
    late = [0.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: late[0])

    def overtake(event: Any) -> None:
        if event.kind == "fault.effective":
            late[0], kennel.dogs[0].lives = 1e6, False

    judgement, _ = play(folder, monkeypatch, bent(fire=4.0), on_event=overtake, around={"watchdog": kennel.start})
    assert ended(judgement) == ("inconclusive", 4)
    assert judgement.reasons[0] == "hold time and grace were over: the watchdog has withdrawn the fault"
    assert kennel.told == [["at", "closed"], ["withdrawn", "closed"]]


# -- refused ---------------------------------------------------------------------------------------------------------


def test_another_runner_on_the_target_is_refused(folder: Path, monkeypatch: Any) -> None:
    """With the run that is at work; nothing is touched; and once it is gone the next one runs."""
    first = machine.hold("scripted", "one", "run-1")
    judgement, world = play(folder, monkeypatch)
    assert (ended(judgement), judgement.link, world.calls) == (("inconclusive", 4), "another runner", [])
    assert f"run run-1 (pid {os.getpid()}) is at work on this target" in judgement.reasons[0]
    first.release()
    (folder.parent / "next").mkdir()
    assert ended(play(folder.parent / "next", monkeypatch)[0]) == ("passed", 0)


def test_a_lock_that_cannot_be_made_is_refused(folder: Path, monkeypatch: Any) -> None:
    """With the cure; nothing is touched."""
    monkeypatch.setattr(machine, "hold", _cannot)
    judgement, world = play(folder, monkeypatch)
    assert (ended(judgement), judgement.link, world.calls) == (("inconclusive", 4), "lock", [])


def _cannot(*_: str) -> machine.Hold:
    raise machine.MachineError("cannot lock it: set SIM_MACHINE_DIR")


LOOKS = [
    {"target": "shop-prod"},
    {"target": "production"},
    {"doors": {"door": {"url": "http://api.live.example.test"}}},
    {"identity": {"url": "http://prd1.example.test/identity"}},
    {"restore": [{"fact": "gate", "url": "http://prod.example.test/gate", "json": {"gate": "{prior}"}}]},
]


@pytest.mark.parametrize("profile", LOOKS)
def test_what_looks_like_production_is_refused_unless_named(
    folder: Path, monkeypatch: Any, profile: dict[str, Any]
) -> None:
    """Refused by target, door, identity or restore call; the name of another target allows nothing, its own does."""
    name = profile.get("target", "scripted")
    for allowed in ({}, {"other": "because"}):
        run = folder / f"refused{len(allowed)}"
        run.mkdir()
        judgement, world = play(run, monkeypatch, profile=profile, around={"allow_target": allowed})
        assert (ended(judgement), judgement.link, world.calls) == (("inconclusive", 4), "target", [])
        assert f"looks like production; --allow-target {name}=REASON goes on" in judgement.reasons[0]
    judgement, _ = play(folder, monkeypatch, profile=profile, around={"allow_target": {name: "ticket 7"}})
    assert ended(judgement) == ("passed", 0)
    assert f"{name} is allowed by name: ticket 7" in [each["detail"] for each in told(folder, "preflight")]


@pytest.mark.parametrize("name", ["products", "reproduce", "alive", "delivery", "scripted"])
def test_what_only_sounds_like_production_is_not_refused(folder: Path, monkeypatch: Any, name: str) -> None:
    """A word within a word is another word."""
    assert ended(play(folder, monkeypatch, profile={"target": name})[0]) == ("passed", 0)


# -- the disk --------------------------------------------------------------------------------------------------------


def full_from(kind: str, monkeypatch: Any) -> None:
    """Let the disk of the record be full from the first event of this kind on."""
    original = log.Log.append

    def append(self: log.Log, what: str, *rest: Any, **more: Any) -> Any:
        if what == kind:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(self, what, *rest, **more)

    monkeypatch.setattr(log.Log, "append", append)


@pytest.mark.parametrize("kind", ["fault.t0", "fault.applied", "fault.effective", "alert", "fault.gone", "restored"])
def test_a_record_that_cannot_be_written_costs_the_verdict_and_nothing_else(
    folder: Path, monkeypatch: Any, kind: str
) -> None:
    """The fault is withdrawn at once and journalled so; without a record nothing is proven, and it says what to do."""
    full_from(kind, monkeypatch)
    judgement, world = play(folder, monkeypatch)
    assert ended(judgement) == ("inconclusive", 4)
    assert "No space left on device" in judgement.reasons[0] and "run it again" in judgement.reasons[0]
    assert world.calls.count("apply") <= 1 and "withdraw" in world.calls
    assert undo.read(folder / "undo.jsonl").unfinished is False
    assert not (folder / "verdicts.json").exists()
    assert list(log.read(folder / "log.jsonl"))  # what was written is whole


def test_a_record_that_cannot_be_written_and_a_fault_that_stays_is_unsafe(folder: Path, monkeypatch: Any) -> None:
    """Not being able to write it down does not make it safe."""
    full_from("fault.withdrawing", monkeypatch)
    judgement, _ = play(folder, monkeypatch, bent(sticky=99))
    assert ended(judgement) == ("unsafe", 6)
    assert undo.read(folder / "undo.jsonl").unfinished is True


@pytest.mark.parametrize("record", ["open", "restore", "intent"])
def test_a_journal_that_cannot_be_written_injects_nothing(folder: Path, monkeypatch: Any, record: str) -> None:
    """Inconclusive before the effect, with the file and the reason."""
    original = undo.Journal.write

    def write(self: undo.Journal, what: str, **fields: Any) -> None:
        if what == record:
            raise undo.JournalError(f"cannot write the undo journal {self.path}: No space left on device")
        original(self, what, **fields)

    monkeypatch.setattr(undo.Journal, "write", write)
    judgement, world = play(folder, monkeypatch)
    assert ended(judgement) == ("inconclusive", 4)
    assert "No space left on device" in judgement.reasons[0]
    assert "apply" not in world.calls


def test_a_run_folder_that_is_removed_ends_without_a_verdict(folder: Path, monkeypatch: Any) -> None:
    """The runner withdraws from memory; a run without its record has proven nothing."""
    import shutil

    def remove(event: Any) -> None:
        if event.kind == "fault.effective":
            shutil.rmtree(folder)

    judgement, world = play(folder, monkeypatch, on_event=remove)
    assert ended(judgement) == ("inconclusive", 4)
    assert "the run folder cannot be written: No such file or directory" in judgement.reasons[0]
    assert world.off is not None and not folder.exists()


def test_a_terminal_that_is_gone_costs_nothing(folder: Path, monkeypatch: Any) -> None:
    """Whoever watched has hung up; the run goes on to its verdict."""

    def gone(_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert ended(play(folder, monkeypatch, on_event=gone)[0]) == ("passed", 0)


def test_a_guard_that_falls_over_ends_the_run(folder: Path, monkeypatch: Any) -> None:
    """A bug of ours in the pulse: nobody guards any more, so the fault is withdrawn, and the outcome is error."""
    calls = [0]

    def halted() -> str | None:
        calls[0] += 1
        if calls[0] > 12:
            raise RuntimeError("a bug")
        return None

    monkeypatch.setattr(machine, "halted", halted)
    judgement, world = play(folder, monkeypatch, bent(fire=None))
    assert ended(judgement) == ("error", 7)
    assert judgement.reasons == ("the run's guard fell over: RuntimeError: a bug",)
    assert withdrawn(folder, world) < 4


def test_the_plan_of_a_scripted_run_has_no_stop_condition_of_its_own() -> None:
    """So that the tests above stop by what they name."""
    assert (planned(World(Script())).stop_when, "stop_when" in PROFILE) == (None, False)
