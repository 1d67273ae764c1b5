"""What must hold before anything is touched, each check bent by itself; a refusal touches nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim import log
from sim.observation import CannotLook, Observation
from tests.kernel import scripted
from tests.kernel.scripted import EPOCH, PROFILE, Script, World, bent, play

More = Callable[[World, str], list[Observation]]


def refused(folder: Path, monkeypatch: Any, script: Script | None = None, **more: Any) -> tuple[str, str]:
    """Play a run that must be refused; return the check and the reason."""
    judgement, world = play(folder, monkeypatch, script, **more)
    assert (str(judgement.outcome), judgement.exit_code, world.calls) == ("inconclusive", 4, [])
    assert not (folder / "undo.jsonl").exists()
    check, _, reason = judgement.reasons[0].partition(": ")
    assert judgement.link == check
    return check, reason


def passed(folder: Path, monkeypatch: Any, script: Script | None = None, **more: Any) -> dict[str, str]:
    """Play a run that must pass; return what each check said."""
    judgement, _ = play(folder, monkeypatch, script, **more)
    assert (str(judgement.outcome), judgement.reasons) == ("passed", ())
    marks = [event.data for event in log.read(folder / "log.jsonl") if event.kind == "preflight"]
    return {str(data["check"]): str(data["detail"]) for data in marks if data["ok"]}


def notes(folder: Path) -> list[str]:
    """Return the notes of a run."""
    return [str(event.data["text"]) for event in log.read(folder / "log.jsonl") if event.kind == "note"]


def t0(folder: Path) -> float:
    """Return when the fault was applied."""
    return next(event.seen_at for event in log.read(folder / "log.jsonl") if event.kind == "fault.t0")


def seen_once(observer: str, what: str, /, at_s: float = 0.0, **data: Any) -> More:
    """Return an observer's extra observation, made once."""
    told: list[bool] = []

    def more(world: World, who: str) -> list[Observation]:
        if who != observer or told or world.now() < at_s:
            return []
        told.append(True)
        return [Observation(what, data)]

    return more


def both(*parts: More) -> More:
    """Return all of several."""
    return lambda world, who: [each for part in parts for each in part(world, who)]


def test_every_check_says_what_it_found(tmp_path: Path, monkeypatch: Any) -> None:
    """A run that passes has each check in its record."""
    assert passed(tmp_path, monkeypatch) == {
        "environment": "sim-test, instance one",
        "observers": "4 see: prom, hooks, slack, release",
        "quiet": "nothing of the chain is firing, acting or silenced",
        "ready": "block: gate=='open'",
    }


# -- eyes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blind", ["prom", "hooks", "inbox", "state"])
def test_an_observer_that_sees_nothing_refuses(tmp_path: Path, monkeypatch: Any, blind: str) -> None:
    """Each observer of the plan must see; the reason is its own error."""

    def trouble(world: World, name: str) -> None:
        if name == blind:
            raise CannotLook("connection refused")

    named = {"inbox": "slack", "state": "release"}.get(blind, blind)
    assert refused(tmp_path, monkeypatch, bent(trouble=trouble)) == (
        f"observer {named}",
        "it sees nothing: connection refused",
    )


def test_an_observer_that_sees_late_is_waited_for(tmp_path: Path, monkeypatch: Any) -> None:
    """Blind for its first 5 s, and the run goes on once it sees."""

    def trouble(world: World, name: str) -> None:
        if name == "hooks" and world.now() < 5.0:
            raise CannotLook("starting")

    passed(tmp_path, monkeypatch, bent(trouble=trouble))
    assert t0(tmp_path) > 5.0


@pytest.mark.parametrize("name", ["prom", "hooks", "inbox", "state"])
@pytest.mark.parametrize("after_s", [0.0, 3.0, 6.0], ids=["at once", "under way", "in recovery"])
@pytest.mark.parametrize("error", [KeyError("boom"), SystemExit(0)], ids=["exception", "exit"])
def test_an_observer_that_falls_over_is_our_error_and_the_fault_is_withdrawn(
    tmp_path: Path, monkeypatch: Any, name: str, after_s: float, error: BaseException
) -> None:
    """A bug in an observer at any time: error, 7, named; never a verdict on the target, and nothing stays."""

    def trouble(world: World, who: str) -> None:
        if who == name and world.now() >= after_s and "restored" not in world.calls:
            world.calls.append("restored")
            raise error

    judgement, world = play(tmp_path, monkeypatch, bent(trouble=trouble))
    assert (str(judgement.outcome), judgement.exit_code) == ("error", 7)
    named = {"inbox": "slack", "state": "release"}.get(name, name)
    assert f"observer {named} fell over: {type(error).__name__}" in judgement.reasons[0]
    assert world.on is None or world.off is not None


# -- nothing is on fire ------------------------------------------------------------------------------------------


def alert(state: str, name: str = "Broken", labels: dict[str, str] | None = None, mark: str = "b") -> dict[str, Any]:
    """Return an old alert."""
    return {
        "name": name, "labels": labels or {"alertname": name}, "fingerprint": mark * 16, "starts_at": EPOCH - 50,
        "state": state,
    }  # fmt: skip


@pytest.mark.parametrize("state", ["firing", "pending"])
def test_it_waits_for_quiet(tmp_path: Path, monkeypatch: Any, state: str) -> None:
    """The hook's alert is there from before and resolves after 12 s: the run waits for it, and passes."""
    more = both(seen_once("prom", "alert", **alert(state)), seen_once("prom", "alert", at_s=12.0, **alert("resolved")))
    passed(tmp_path, monkeypatch, bent(more=more))
    assert t0(tmp_path) > 12.0


def test_it_waits_no_longer_than_the_profile_says(tmp_path: Path, monkeypatch: Any) -> None:
    """`quiet: 30s`: refused then, with what was loud."""
    more = seen_once("prom", "alert", **alert("pending"))
    assert refused(tmp_path, monkeypatch, bent(more=more)) == (
        "already firing",
        "Broken is pending (waited 30 s for quiet)",
    )


def execution(state: str) -> dict[str, Any]:
    """Return an audit row of an execution from before."""
    return {
        "id": "old", "hook": "hook", "action": "block", "target": "app", "state": state, "fingerprint": "c" * 16,
        "starts_at": EPOCH - 50, "alert": "Broken", "audit_seq": 1, "detail": "",
    }  # fmt: skip


@pytest.mark.parametrize("state", ["accepted", "started", "retry"])
def test_an_execution_still_at_work_refuses(tmp_path: Path, monkeypatch: Any, state: str) -> None:
    """Its effect could be taken for that of this run."""
    more = seen_once("hooks", "execution", **execution(state))
    assert refused(tmp_path, monkeypatch, bent(more=more)) == (
        "already firing",
        f"block is {state} (waited 30 s for quiet)",
    )


def test_an_execution_that_ends_is_waited_for(tmp_path: Path, monkeypatch: Any) -> None:
    """It succeeds after 7 s, and the run goes on; it is none of this run's."""
    more = both(
        seen_once("hooks", "execution", **execution("started")),
        seen_once("hooks", "execution", at_s=7.0, **execution("succeeded")),
    )
    passed(tmp_path, monkeypatch, bent(more=more))
    assert t0(tmp_path) > 7.0


SILENCES = [
    ("by name", [{"name": "alertname", "value": "Broken", "is_regex": False, "is_equal": True}], True),
    ("by pattern", [{"name": "alertname", "value": "Bro.*|X", "is_regex": True, "is_equal": True}], True),
    (
        "a pattern matches whole names",
        [{"name": "alertname", "value": "Bro", "is_regex": True, "is_equal": True}],
        False,
    ),
    ("by a pattern that only Go reads", [{"name": "alertname", "value": r"\pLoken\z", "is_regex": True}], True),
    ("by another label", [{"name": "team", "value": "X", "is_regex": False, "is_equal": True}], True),
    ("all but another", [{"name": "alertname", "value": "Else", "is_regex": False, "is_equal": False}], True),
    ("all but this", [{"name": "alertname", "value": "Broken", "is_regex": False, "is_equal": False}], False),
    ("another alert", [{"name": "alertname", "value": "Else", "is_regex": False, "is_equal": True}], False),
]


@pytest.mark.parametrize(("matchers", "loud"), [row[1:] for row in SILENCES], ids=[row[0] for row in SILENCES])
def test_a_silence_on_the_hooks_alert_refuses(
    tmp_path: Path, monkeypatch: Any, matchers: list[dict[str, Any]], loud: bool
) -> None:
    """A silenced chain tells nobody; a silence on something else is none of ours."""
    data = {"id": "s1", "matchers": matchers, "ends_at": EPOCH + 9999, "state": "active"}
    script = bent(more=seen_once("prom", "silence", **data))
    if not loud:
        passed(tmp_path, monkeypatch, script)
        return
    assert refused(tmp_path, monkeypatch, script) == (
        "already firing",
        "Broken is silenced (silence s1) (waited 30 s for quiet)",
    )


def test_a_silence_that_expires_is_waited_for(tmp_path: Path, monkeypatch: Any) -> None:
    """It ends after 5 s, and the run goes on."""
    data: dict[str, Any] = {"id": "s1", "matchers": [], "ends_at": EPOCH + 5}
    more = both(
        seen_once("prom", "silence", **data, state="active"),
        seen_once("prom", "silence", at_s=5.0, **data, state="expired"),
    )
    passed(tmp_path, monkeypatch, bent(more=more))


def test_a_foreign_alert_is_found_beside_a_pending_one_of_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    """Of two series of one alert one fires and the other is pending: it is firing."""
    more = both(
        seen_once("prom", "alert", **alert("firing", "Flood", {"alertname": "Flood", "x": "1"}, "1")),
        seen_once("prom", "alert", **alert("pending", "Flood", {"alertname": "Flood", "x": "2"}, "2")),
    )
    check, why = refused(tmp_path, monkeypatch, bent(more=more))
    assert (check, why) == ("foreign alert", "Flood is firing; --allow-firing NAME=REASON goes on all the same")


def test_a_foreign_alert_refuses_without_a_hook_too(tmp_path: Path, monkeypatch: Any) -> None:
    """No hook is bound and no clause reads alerts: nobody experiments in an incident all the same."""
    hooks = {name: {**hook, "faults": []} for name, hook in PROFILE["hooks"].items()}
    check, _ = refused(tmp_path, monkeypatch, bent(foreign="Flood"), expect="gate=='blocked'", profile={"hooks": hooks})
    assert check == "foreign alert"


def test_alerts_about_the_chain_refuse_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    """`meta_alerts` are collateral."""
    passed(tmp_path, monkeypatch, bent(foreign="Gap"), profile={"meta_alerts": ["Gap"]})


# -- the rest ----------------------------------------------------------------------------------------------------


def test_an_action_whose_effect_is_there_already_refuses(tmp_path: Path, monkeypatch: Any) -> None:
    """The lane is slow before: what the action would do is done."""
    actions = [{"name": "block", "effect": "gate=='blocked'", "ready": "lane=='slow'", "reversal": "on_resolved"}]
    hooks = {"hook": {**PROFILE["hooks"]["hook"], "actions": actions}}
    assert refused(tmp_path, monkeypatch, profile={"hooks": hooks}) == (
        "ready",
        "block needs lane=='slow', which is false: 'fast'",
    )


def test_a_profile_that_needs_a_stack_which_is_not_up_refuses(tmp_path: Path, monkeypatch: Any) -> None:
    """The identity's address is the stack's to give: refused with the name that is missing, not our error."""
    profile = {"identity": {"url": "${stack.engine}/identity"}}
    check, why = refused(tmp_path, monkeypatch, profile=profile)
    assert (check, "${stack.engine} is not exported" in why) == ("environment", True)


def test_no_steady_state_refuses_after_its_time(tmp_path: Path, monkeypatch: Any) -> None:
    """Steady state never shows at baseline: inconclusive, nothing injected."""
    assert refused(tmp_path, monkeypatch, bent(errors=0.5)) == ("steady state", "errors < 0.1 is false: 0.5")


def test_a_gauge_without_samples_refuses(tmp_path: Path, monkeypatch: Any) -> None:
    """A clause that compares with the baseline needs five samples of it; a source without data gives none."""

    check, why = refused(tmp_path, monkeypatch, bent(score=None), expect="score >= baseline")
    assert (check, why) == ("baseline", "no 5 samples of score")


# -- a message gets through --------------------------------------------------------------------------------------

CANARY = {"canary": True}


def test_the_test_message_arrives(tmp_path: Path, monkeypatch: Any) -> None:
    """It is sent once, seen at the receiver, and belongs to nothing of the run."""
    told = passed(tmp_path, monkeypatch, bent(canary={"slack": 1.0}), profile=CANARY)
    assert told["canary"] == "arrived by slack"


def test_a_test_message_that_reaches_nobody_refuses(tmp_path: Path, monkeypatch: Any) -> None:
    """Then a missing message would mean nothing."""
    assert refused(tmp_path, monkeypatch, bent(canary={}), profile=CANARY) == (
        "canary",
        "no receiver got the test message: a missing message would mean nothing",
    )


def test_a_test_message_that_misses_a_channel_is_noted(tmp_path: Path, monkeypatch: Any) -> None:
    """The channel may be left out by a route: finding that is what the run is for."""
    hooks = {"hook": {**PROFILE["hooks"]["hook"], "channels": ["slack", "email"]}}
    judgement, world = play(tmp_path, monkeypatch, bent(canary={"slack": 1.0}), profile={**CANARY, "hooks": hooks})
    assert (str(judgement.outcome), judgement.link) == ("failed", "notify")
    assert "canary: nothing arrived by email" in notes(tmp_path)
    assert world.off is not None


def test_a_channel_by_which_none_can_arrive_is_not_waited_for(tmp_path: Path, monkeypatch: Any) -> None:
    """The profile lists where a test message can arrive: another channel of the hook costs no time and no note."""
    hooks = {"hook": {**PROFILE["hooks"]["hook"], "channels": ["slack", "email"]}}
    profile = {"canary": ["slack", "oncall"], "hooks": hooks}
    play(tmp_path, monkeypatch, bent(canary={"slack": 1.0}), profile=profile)
    assert [note for note in notes(tmp_path) if "canary" in note] == []
    assert t0(tmp_path) < 5.0


def test_where_none_can_arrive_none_is_waited_for(tmp_path: Path, monkeypatch: Any) -> None:
    """The hook speaks by no channel of the list: that says nothing against the path, and refuses nothing."""
    play(tmp_path, monkeypatch, bent(canary={"slack": 1.0}), profile={"canary": ["oncall"]})
    said = [note for note in notes(tmp_path) if "canary" in note]
    assert said == ["canary: none can arrive by a channel of the hook, so none is sent"]
    assert t0(tmp_path) < 5.0


def test_without_a_sender_it_is_noted(tmp_path: Path, monkeypatch: Any) -> None:
    """The profile wants a test message and no observer can send one: the run goes on and says so."""
    passed(tmp_path, monkeypatch, profile=CANARY)
    assert notes(tmp_path) == ["canary: no observer of this target can send one"]


def with_method(monkeypatch: Any, name: str, method: Any) -> None:
    """Give the scripted Prometheus one more power."""
    kinds = scripted._kinds

    def bent_kinds(world: World) -> Any:
        made = dict(kinds(world))
        opened = made["prom"].open

        @contextlib.asynccontextmanager
        async def other(given: Any) -> AsyncIterator[Any]:
            async with opened(given) as observer:
                setattr(type(observer), name, method)
                yield observer

        made["prom"] = replace(made["prom"], open=other)
        return made

    monkeypatch.setattr(scripted, "_kinds", bent_kinds)


@pytest.mark.parametrize("hangs", [False, True], ids=["refused", "hangs"])
def test_an_alert_path_that_takes_no_test_message_refuses(tmp_path: Path, monkeypatch: Any, hangs: bool) -> None:
    """Refused or without an answer: bounded, and told."""

    async def send_canary(self: Any, labels: Any, ends_in_s: float) -> None:
        await asyncio.sleep(1e6 if hangs else 0.0)
        raise CannotLook("503 from the alert path")

    with_method(monkeypatch, "send_canary", send_canary)
    check, why = refused(tmp_path, monkeypatch, profile=CANARY)
    answer = "no answer within 5 s" if hangs else "503 from the alert path"
    assert (check, why) == ("canary", f"the alert path does not take a test message: {answer}")


def test_a_source_whose_clock_does_not_answer_is_noted_and_bounded(tmp_path: Path, monkeypatch: Any) -> None:
    """A clock that hangs holds the preflight up for a look's time only, and its alerts are read on our own clock."""

    async def source_time(self: Any) -> float:
        await asyncio.sleep(1e6)
        return 0.0

    with_method(monkeypatch, "source_time", source_time)
    passed(tmp_path, monkeypatch)
    assert notes(tmp_path) == ["the clock of prom could not be read: no answer in time"]


@pytest.mark.parametrize("offset", [-7.0, 0.0, 7.0])
def test_the_offset_of_a_source_is_measured(tmp_path: Path, monkeypatch: Any, offset: float) -> None:
    """Its clock against ours, with the error of the measurement beside it."""

    async def source_time(self: Any) -> float:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(0.2)
        return EPOCH + now + 0.1 + offset

    with_method(monkeypatch, "source_time", source_time)
    play(tmp_path, monkeypatch)
    found = [dict(event.data) for event in log.read(tmp_path / "log.jsonl") if event.kind == "observer.offset"]
    assert found == [{"offset_s": offset, "error_s": 0.105}]


# -- stopped in each phase ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [0.0, 0.3, 0.9, 1.1, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 11.0])
def test_stopped_in_any_phase_nothing_stays(tmp_path: Path, monkeypatch: Any, stop_at: float) -> None:
    """SIGINT at any second: withdrawn and put back at once, aborted with 130, or the run was over already."""
    judgement, world = play(tmp_path, monkeypatch, stop_at=stop_at)
    assert (str(judgement.outcome), judgement.exit_code) in [("aborted", 130), ("passed", 0)]
    assert (world.on is None) == (world.off is None)
    marks = dict(judgement.marks)
    if "stopped" in marks and "gone" in marks and marks["stopped"] < marks["gone"]:
        assert marks["gone"] - marks["stopped"] < 0.1
