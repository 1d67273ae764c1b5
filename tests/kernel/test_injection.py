"""Applying and withdrawing: once, in order, bounded, and to the end whatever comes in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim import clock, injection, undo
from sim.clock import LoopClock, VirtualLoop, run_virtual
from sim.injection import Injection, Injections, finished
from sim.injector import InjectionError, Injector, Prepared, Probe, Site
from sim.log import Log, read
from sim.plan import Fault
from sim.run import Run
from sim.secret import Secrets
from sim.undo import Journal
from tests.kernel import scripted
from tests.kernel.scripted import Dose, World, bent, play

Step = Callable[[Site, Any], Awaitable[Any]]


@dataclass
class Bench:
    """Faults with scripted injectors, their journal and their record, in virtual time."""

    folder: Path
    calls: list[str] = field(default_factory=list)
    there: set[str] = field(default_factory=set)
    odd: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: Secrets = field(default_factory=lambda: Secrets({}))

    def injector(self, name: str) -> Injector:
        """Return a well-behaved injector, with the steps bent that `odd` names."""

        async def prepare(site: Site, _: Any) -> Prepared:
            self.calls.append(f"prepare {name}")
            return Prepared({"fault": name}, (f"thing of {name}",))

        async def apply(site: Site, _: Any) -> None:
            self.calls.append(f"apply {name}")
            self.there.add(name)

        async def effective(site: Site, _: Any) -> Probe:
            return Probe(name in self.there, {"there": name in self.there})

        async def withdraw(site: Site, _: Any) -> None:
            self.calls.append(f"withdraw {name}")
            self.there.discard(name)

        async def gone(site: Site, _: Any) -> Probe:
            self.calls.append(f"gone? {name}")
            return Probe(name not in self.there, {"there": name in self.there})

        made = Injector(
            summary=name, params=Dose, doors=(), lease="target", prepare=prepare, apply=apply, effective=effective,
            withdraw=withdraw, gone=gone, signal=lambda _: (),
        )  # fmt: skip
        return replace(made, **self.odd.get(name, {}))

    def play(self, story: Callable[[Injections], Awaitable[Any]], *names: str) -> Any:
        """Run `story` over the faults of these names; journal and record are closed afterwards."""

        async def whole() -> Any:
            log = Log(self.folder / "log.jsonl", LoopClock())
            journal = Journal(self.folder)
            made = [
                Injection(
                    Fault(injector=name, text=f"{name}()", params={}, lease="target", doors=()),
                    self.injector(name),
                    Site(id=f"id-{name}", run_id="run", doors={}, secrets=self.secrets, ttl_s=3.0),
                )
                for name in names or ("a",)
            ]
            try:
                return await story(Injections(made, journal, log))
            finally:
                journal.close()
                log.close()

        return run_virtual(whole())

    def records(self) -> list[str]:
        """Return the records of the journal."""
        return [json.loads(line)["record"] for line in (self.folder / undo.FILE).read_text().splitlines()]

    def told(self, kind: str) -> list[dict[str, Any]]:
        """Return the data of the events of one kind."""
        return [dict(event.data) for event in read(self.folder / "log.jsonl") if event.kind == kind]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a fresh bench."""
    return Bench(tmp_path)


async def all_of_it(injections: Injections) -> bool:
    """Prepare, intend, apply, prove, withdraw."""
    await injections.prepare()
    injections.intend(0.0)
    await injections.apply()
    await injections.prove()
    return await injections.withdraw()


def now() -> float:
    """Return the loop's seconds."""
    return asyncio.get_running_loop().time()


def test_faults_are_applied_in_order_and_withdrawn_in_reverse(bench: Bench) -> None:
    """Three faults: all prepared before any is applied, the last withdrawn first, each read back before the next."""
    assert bench.play(all_of_it, "a", "b", "c") is True
    assert bench.calls == [
        "prepare a", "prepare b", "prepare c", "apply a", "apply b", "apply c",
        "withdraw c", "gone? c", "gone? c", "gone? c", "withdraw b", "gone? b", "withdraw a", "gone? a",
    ]  # fmt: skip
    assert bench.records() == ["intent"] * 3 + ["applied"] * 3 + ["withdrawn"] * 3
    assert undo.read(bench.folder / undo.FILE).unfinished is False


def test_every_intent_is_on_the_disk_before_the_first_apply(bench: Bench) -> None:
    """Also that of a fault whose turn is later."""
    seen: list[list[str]] = []

    async def apply(site: Site, _: Any) -> None:
        seen.append(bench.records())

    bench.odd = {"a": {"apply": apply}, "b": {"apply": apply}}

    async def story(injections: Injections) -> None:
        await injections.prepare()
        injections.intend(0.0)
        await injections.apply()
        await injections.withdraw()

    bench.play(story, "a", "b")
    assert seen == [["intent", "intent"], ["intent", "intent", "applied"]]


def raising(error: BaseException) -> Step:
    """Return a step that raises."""

    async def step(site: Site, _: Any) -> Any:
        raise error

    return step


def hanging(seconds: float = 1e9) -> Step:
    """Return a step that does not answer."""

    async def step(site: Site, _: Any) -> Any:
        await asyncio.sleep(seconds)

    return step


async def deaf(site: Site, _: Any) -> Any:
    """A step that does not answer and will not be cancelled."""
    while now() < 1e6:
        try:
            await asyncio.sleep(1e6)
        except asyncio.CancelledError:
            continue


ODD_APPLY = [
    ("refused", raising(InjectionError("500"))),
    ("times out by itself", raising(TimeoutError())),
    ("hangs", hanging()),
    ("hangs and will not be cancelled", deaf),
    ("is cancelled from within", raising(asyncio.CancelledError())),
]


@pytest.mark.parametrize("apply", [row[1] for row in ODD_APPLY], ids=[row[0] for row in ODD_APPLY])
def test_apply_is_never_repeated_and_always_withdrawn(bench: Bench, apply: Step) -> None:
    """An apply that fails in any way may have worked: once tried, then withdrawn and read back; bounded in time."""

    async def counted(site: Site, receipt: Any) -> None:
        bench.calls.append("apply a")
        bench.there.add("a")
        await apply(site, receipt)

    bench.odd = {"a": {"apply": counted}}

    async def story(injections: Injections) -> float:
        await injections.prepare()
        injections.intend(0.0)
        with pytest.raises(InjectionError):
            await injections.apply()
        assert await injections.withdraw()
        return now()

    assert bench.play(story) < 60.0
    assert bench.calls.count("apply a") == 1
    assert bench.there == set()
    assert "applied" not in bench.records()


def test_an_apply_that_lands_after_its_error_is_withdrawn_too(bench: Bench) -> None:
    """The request timed out and the target applies it 2 s later: the withdrawal waits for it, and reads back twice."""

    async def late(site: Site, _: Any) -> None:
        asyncio.get_running_loop().call_later(2.0, bench.there.add, "a")
        raise InjectionError("no answer in time")

    bench.odd = {"a": {"apply": late}}

    async def story(injections: Injections) -> bool:
        await injections.prepare()
        injections.intend(0.0)
        with pytest.raises(InjectionError):
            await injections.apply()
        gone = await injections.withdraw()
        await asyncio.sleep(30.0)
        return gone

    assert bench.play(story) is True
    assert bench.there == set()


ODD_WITHDRAW = [
    ("raises", raising(InjectionError("503"))),
    ("falls over", raising(KeyError("x"))),
    ("ends the process", raising(SystemExit(0))),
    ("is cancelled from within", raising(asyncio.CancelledError())),
    ("hangs", hanging()),
    ("hangs and will not be cancelled", deaf),
]


@pytest.mark.parametrize("step", ["withdraw", "gone"])
@pytest.mark.parametrize("odd", [row[1] for row in ODD_WITHDRAW], ids=[row[0] for row in ODD_WITHDRAW])
def test_all_faults_are_tried_whatever_one_does(bench: Bench, step: str, odd: Step) -> None:
    """The one that cannot be withdrawn is told as stuck, after its attempts; those before it in the list are gone."""
    bench.odd = {"b": {step: odd}}

    async def story(injections: Injections) -> tuple[bool, float]:
        gone = await all_of_it(injections)
        return gone, now()

    gone, took = bench.play(story, "a", "b", "c")
    assert (gone, took < 150.0) == (False, True)
    assert [each["fault"] for each in bench.told("fault.gone")] == ["id-c", "id-a"]
    assert [each["fault"] for each in bench.told("fault.stuck")] == ["id-b"]
    assert list(undo.read(bench.folder / undo.FILE).faults) == ["id-b"]


def test_an_acknowledged_withdrawal_is_not_gone_before_it_is_read_back(bench: Bench) -> None:
    """The target says yes and goes on biting: withdrawn again, with back-off, until the read-back holds for good."""
    answers: Iterator[bool] = iter([False, False, False, True, True, True])
    asked: list[float] = []

    async def gone(site: Site, _: Any) -> Probe:
        asked.append(now())
        return Probe(next(answers), {"left": 1})

    bench.odd = {"a": {"gone": gone}}
    assert bench.play(all_of_it) is True
    assert asked == [0.0, 0.1, 0.4, 1.4, 4.0, 4.2]
    assert bench.calls.count("withdraw a") == 4
    assert bench.records().count("withdrawn") == 1


def test_evidence_that_json_cannot_hold_does_not_keep_a_fault(bench: Bench) -> None:
    """The fault is gone; that its evidence is NaN changes nothing."""

    async def gone(site: Site, _: Any) -> Probe:
        return Probe(True, {"left": float("nan"), "text": "\ud800"})

    bench.odd = {"a": {"gone": gone}}
    assert bench.play(all_of_it) is True
    assert bench.calls.count("withdraw a") == 1
    assert undo.read(bench.folder / undo.FILE).unfinished is False


def test_a_record_that_cannot_be_written_does_not_keep_a_fault(bench: Bench, monkeypatch: Any) -> None:
    """The log's disk is full at withdrawal: every fault is withdrawn, and only then the error is raised."""

    async def story(injections: Injections) -> None:
        await injections.prepare()
        injections.intend(0.0)
        await injections.apply()

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(Log, "append", full)
            with pytest.raises(OSError, match="No space left"):
                await injections.withdraw()

    bench.play(story, "a", "b")
    assert bench.there == set()
    assert bench.records()[-2:] == ["withdrawn", "withdrawn"]


def test_a_receipt_that_is_no_json_is_refused_before_anything_is_applied(bench: Bench) -> None:
    """What cannot be written down cannot be undone by anybody else."""

    async def prepare(site: Site, _: Any) -> Prepared:
        return Prepared({"at": float("nan")}, ("x",))

    bench.odd = {"a": {"prepare": prepare}}

    async def story(injections: Injections) -> None:
        await injections.prepare()
        injections.intend(0.0)

    with pytest.raises(InjectionError, match="the receipt of a is not plain JSON"):
        bench.play(story)
    assert bench.records() == []


def test_nothing_to_hit_is_no_success(bench: Bench) -> None:
    """Zero targets is refused before anything is intended."""

    async def prepare(site: Site, _: Any) -> Prepared:
        return Prepared({}, ())

    bench.odd = {"b": {"prepare": prepare}}
    with pytest.raises(InjectionError, match="b found nothing to hit"):
        bench.play(all_of_it, "a", "b")
    assert bench.calls == ["prepare a"]


# -- beside the fault --------------------------------------------------------------------------------------------


def test_the_lease_is_renewed_at_a_third_of_it_until_withdrawal(bench: Bench) -> None:
    """TTL 3 s: renewed every second; never once the withdrawal has begun; a failed renewal is noted and tried again."""
    renewed: list[float] = []

    async def renew(site: Site, _: Any) -> None:
        renewed.append(now())
        if len(renewed) == 2:
            raise InjectionError("503")

    bench.odd = {"a": {"renew": renew}}

    async def story(injections: Injections) -> None:
        await injections.prepare()
        injections.intend(0.0)
        await injections.apply()
        await asyncio.sleep(4.5)
        await injections.withdraw()
        await asyncio.sleep(20.0)

    bench.play(story)
    assert renewed == [1.0, 2.0, 3.0, 4.0]
    assert [each["text"] for each in bench.told("note")] == ["the lease of id-a was not renewed: 503"]


@pytest.mark.parametrize(
    ("drive", "at_most_s"), [(hanging(), 4.5), (deaf, 6.0)], ids=["running", "will not be cancelled"]
)
def test_traffic_of_our_own_ends_with_the_fault(bench: Bench, drive: Step, at_most_s: float) -> None:
    """`drive` is cancelled before the withdrawal; one that will not end holds it up only as long as a request lives."""
    bench.odd = {"a": {"drive": drive}}

    async def story(injections: Injections) -> tuple[bool, float]:
        gone = await all_of_it(injections)
        return gone, now()

    gone, took = bench.play(story)
    assert (gone, took < at_most_s, bench.there) == (True, True, set())


@pytest.mark.parametrize("error", [KeyError("boom"), SystemExit(0)], ids=["exception", "exit"])
@pytest.mark.parametrize("step", ["drive", "renew", "effective"])
def test_a_plugin_that_falls_over_beside_the_fault_is_an_error_on_the_record(
    bench: Bench, step: str, error: BaseException
) -> None:
    """Its bug is not lost with its task: it stands in the record, and the fault is withdrawn all the same."""
    bench.odd = {"a": {step: raising(error)}}

    async def story(injections: Injections) -> bool:
        await injections.prepare()
        injections.intend(0.0)
        await injections.apply()
        proof = asyncio.create_task(injections.prove())
        await asyncio.sleep(1.5)
        proof.cancel()
        await asyncio.gather(proof, return_exceptions=True)
        return await injections.withdraw()

    assert bench.play(story) is True
    assert "of a fell over" in bench.told("run.error")[0]["error"] or "a: effect probe" in str(bench.told("run.error"))


def test_an_effect_probe_that_fails_is_asked_again(bench: Bench) -> None:
    """One refused look at the effect proves nothing either way; the last reason is kept."""
    answers: Iterator[Any] = iter([InjectionError("503"), Probe(False, {"n": 1}), Probe(True, {"n": 2})])

    async def effective(site: Site, _: Any) -> Probe:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    bench.odd = {"a": {"effective": effective}}
    assert bench.play(all_of_it) is True
    assert bench.told("fault.effective") == [{"fault": "id-a", "evidence": {"n": 2}}]


# -- cancellation ------------------------------------------------------------------------------------------------


def test_finished_ends_its_work_and_then_lets_the_cancellation_go_on() -> None:
    """Cancelled again and again: the work is done to its end, and an error in it is not lost."""

    async def story(fails: bool) -> tuple[list[str], type[BaseException]]:
        done: list[str] = []

        async def work() -> None:
            await asyncio.sleep(5.0)
            done.append("done")
            if fails:
                raise ValueError("in the work")

        task = asyncio.create_task(finished(work()))
        for _ in range(3):
            await asyncio.sleep(1.0)
            task.cancel()
        await asyncio.wait({task})
        with pytest.raises((asyncio.CancelledError, ValueError)) as raised:
            task.result()
        return done, raised.type

    assert run_virtual(story(False)) == (["done"], asyncio.CancelledError)
    assert run_virtual(story(True)) == (["done"], ValueError)


class Harassed(VirtualLoop):
    """Cancels the story at chosen turns of the loop."""

    at: tuple[int, ...] = ()
    story: asyncio.Task[Any] | None = None
    turns = 0

    def _run_once(self) -> None:
        type(self).turns += 1
        if type(self).turns in self.at and self.story is not None:
            self.story.cancel()
        super()._run_once()  # type: ignore[misc]


def harassed(folder: Path, monkeypatch: Any, at: tuple[int, ...], script: Any) -> World:
    """Play a whole run whose story is cancelled at these turns of the loop."""

    async def story(plan: Any, into: Path, around: Any) -> Any:
        told = Run(plan, into, around)
        Harassed.story = asyncio.ensure_future(told.story())
        try:
            return (await asyncio.gather(Harassed.story, return_exceptions=True))[0]
        finally:
            if Harassed.story.cancelled():
                await told.guard.end()
            told.log.close()

    Harassed.at, Harassed.turns = at, 0
    monkeypatch.setattr(clock, "VirtualLoop", Harassed)
    monkeypatch.setattr(scripted, "run", story)
    _, world = play(folder, monkeypatch, script, inject=["break()", "crack()"])
    Harassed.story = None
    return world


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Return how many turns of the loop an undisturbed run takes."""
    with pytest.MonkeyPatch.context() as patched:
        world = harassed(tmp_path_factory.mktemp("calm"), patched, (), bent())
    assert world.calls.count("withdraw") == 1
    return Harassed.turns


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_withdrawn_exactly_once_per_apply_under_any_cancellation(
    tmp_path_factory: pytest.TempPathFactory, turns: int, data: st.DataObject
) -> None:
    """Cancelled at any await, once or several times: what was applied was withdrawn once, in reverse, and is closed."""
    at = data.draw(st.lists(st.integers(1, turns), min_size=1, max_size=3).map(tuple))
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patched:
        world = harassed(folder, patched, at, bent())
    steps = [call for call in world.calls if not call.startswith(("prepare", "restore"))]
    assert steps.count("apply") <= 1 and steps.count("apply crack") <= 1
    if "apply" in steps:
        assert (world.off is not None, world.cracked) == (True, False)
        assert steps[-2:] == ["withdraw crack", "withdraw"]
        assert steps.count("withdraw") == steps.count("withdraw crack") == 1
    if (folder / undo.FILE).exists():
        assert undo.read(folder / undo.FILE).unfinished is False
        assert [each for each in world.calls if each.startswith("restore")] in ([], ["restore {'gate': 'open'}"])


def test_the_waits_of_a_withdrawal_are_bounded() -> None:
    """What a withdrawal of one fault may take at the very most, from its own constants: well under three minutes."""
    calls = (len(injection.BACK_OFF_S) + 1) * 2 * (injection.CALL_S + injection.LET_GO_S)
    assert calls + sum(injection.BACK_OFF_S) < 180.0


def test_a_fault_that_cannot_look_back_is_not_asked(bench: Bench) -> None:
    """Most kinds of fault either are there or are not: nothing is written about holding."""
    assert bench.play(all_of_it) is True
    assert bench.told("fault.held") + bench.told("fault.unheld") == []


async def _fell_over(_site: Site, _receipt: Any) -> Probe:
    raise InjectionError("no samples")


async def _looked(site: Site, receipt: Any) -> Probe:
    return Probe(receipt["fault"] == "a", {"fault": receipt["fault"]})


def test_looking_back_comes_after_gone_and_no_answer_is_a_no(bench: Bench) -> None:
    """One held, one did not, one cannot say: each is on the record with its reason, and all are withdrawn."""
    bench.odd = {"a": {"held": _looked}, "b": {"held": _looked}, "c": {"held": _fell_over}}
    assert bench.play(all_of_it, "a", "b", "c") is True
    assert bench.told("fault.held") == [{"fault": "id-a", "evidence": {"fault": "a"}}]
    assert bench.told("fault.unheld") == [
        {"fault": "id-c", "evidence": {"reason": "no samples"}, "reason": "reason no samples"},
        {"fault": "id-b", "evidence": {"fault": "b"}, "reason": "fault b"},
    ]
    kinds = [event.kind for event in read(bench.folder / "log.jsonl")]
    assert kinds[-3:] == ["fault.withdrawing", "fault.gone", "fault.held"]
