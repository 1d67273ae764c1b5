"""Whole runs over odd targets, in virtual time: several faults, blind observers, clocks that differ, bad plugins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim import log, undo
from sim.injector import InjectionError, Injector, Probe
from sim.judge import Judgement, judge
from sim.log import canonical
from sim.observation import CannotLook, Observation
from sim.report import read_plan
from tests.kernel.scripted import EPOCH, PROFILE, World, bent, play

TWO = ["break()", "crack()"]
HOOK = PROFILE["hooks"]["hook"]


def of(judgement: Judgement, clause: str) -> str:
    """Return the value of one verdict."""
    return next(verdict.value for verdict in judgement.verdicts if verdict.clause == clause)


def replayed(folder: Path) -> bool:
    """Return whether the record, judged again, gives the bytes of verdicts.json."""
    again = judge(read_plan(folder), log.read(folder / "log.jsonl"))
    return (folder / "verdicts.json").read_text() == canonical(again.as_json()) + "\n"


# -- several faults ----------------------------------------------------------------------------------------------


def test_two_faults_are_one_run(tmp_path: Path, monkeypatch: Any) -> None:
    """Applied in order, withdrawn in reverse; effective when both are, gone when both are."""
    judgement, world = play(tmp_path, monkeypatch, inject=TWO)
    assert (str(judgement.outcome), judgement.reasons) == ("passed", ())
    assert world.calls == ["prepare", "prepare crack", "apply", "apply crack", "withdraw crack", "withdraw"]
    ids = [str(event.data["fault"]) for event in log.read(tmp_path / "log.jsonl") if event.kind == "fault.gone"]
    assert [each[-1] for each in ids] == ["2", "1"]
    assert replayed(tmp_path)


def test_the_second_fault_is_not_applied_after_the_first_failed(tmp_path: Path, monkeypatch: Any) -> None:
    """The first apply is refused: inconclusive; both are withdrawn all the same, since both were intended."""
    judgement, world = play(tmp_path, monkeypatch, bent(apply_fails=True), inject=TWO)
    assert (str(judgement.outcome), judgement.link) == ("inconclusive", "effect")
    assert world.calls[:5] == ["prepare", "prepare crack", "apply", "withdraw crack", "withdraw"]
    assert undo.read(tmp_path / "undo.jsonl").unfinished is False


def test_one_of_two_that_stays_is_unsafe_and_the_other_is_gone(tmp_path: Path, monkeypatch: Any) -> None:
    """The reason names the one that stays; the journal holds it alone."""
    judgement, world = play(tmp_path, monkeypatch, bent(sticky=99), inject=TWO)
    assert (str(judgement.outcome), len(judgement.reasons), world.cracked) == ("unsafe", 1, False)
    assert [fault[-1] for fault in undo.read(tmp_path / "undo.jsonl").faults] == ["1"]
    assert replayed(tmp_path)


def test_one_of_two_that_never_bites_proves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    """Half an effect is none: inconclusive."""
    judgement, _ = play(tmp_path, monkeypatch, bent(bite=None), inject=TWO)
    assert (str(judgement.outcome), judgement.link) == ("inconclusive", "effect")


# -- two steps ---------------------------------------------------------------------------------------------------

STEPS = {
    "hook": {
        **HOOK,
        "actions": [{"name": "degrade", "effect": "lane=='slow'"}, {"name": "block", "effect": "gate=='blocked'"}],
    }
}


@pytest.mark.parametrize(
    ("actions", "outcome", "link"),
    [
        (("degrade", "block"), "passed", None),
        (("block", "degrade"), "failed", "act"),
        (("degrade",), "failed", "act"),
        (("degrade", "block", "undo"), "failed", "only"),
    ],
)
def test_an_action_of_two_steps(
    tmp_path: Path, monkeypatch: Any, actions: tuple[str, ...], outcome: str, link: str | None
) -> None:
    """Both, in their order, and nothing else; what they changed is put back."""
    judgement, world = play(
        tmp_path, monkeypatch, bent(actions=actions, lane_after="slow"), expect="action=='degrade+block'",
        profile={"hooks": STEPS, "facts": {**PROFILE["facts"]}},
    )  # fmt: skip
    assert (str(judgement.outcome), judgement.link) == (outcome, link)
    assert world.set_back["lane"] == "fast"


# -- eyes that close ---------------------------------------------------------------------------------------------


def closed_eyes(name: str, start: float, end: float) -> Any:
    """Return a trouble: that observer sees nothing from `start` to `end`, in seconds after the fault was applied."""

    def trouble(world: World, who: str) -> None:
        if who == name and world.on is not None and start <= world.now() - world.on <= end:
            raise CannotLook("connection refused")

    return trouble


EYES = [
    # observer, blind from, until, with the script's links at +1.5 alert, +2.0 action, +2.25 effect, +2.0 message
    ("an audit read back in time", "hooks", 1.0, 8.0, {}, "passed", None),
    ("an audit read back too late", "hooks", 1.0, 20.0, {}, "inconclusive", "act"),
    ("an audit never read back", "hooks", 1.0, 1e9, {}, "inconclusive", "act"),
    ("an inbox read back in time", "inbox", 1.0, 8.0, {}, "passed", None),
    ("an inbox read back too late", "inbox", 1.0, 20.0, {}, "inconclusive", "notify"),
    ("a state that changed unseen", "state", 1.0, 8.0, {}, "passed", None),
    ("a state seen too late", "state", 1.0, 20.0, {}, "inconclusive", "act"),
    ("the rule engine over the alert", "prom", 1.0, 4.0, {}, "passed", None),
    ("the rule engine, and no alert", "prom", 1.0, 4.0, {"fire": None}, "inconclusive", "detect"),
    ("the rule engine for two looks only, and no alert", "prom", 1.0, 1.3, {"fire": None}, "failed", "detect"),
    ("the inbox, and no alert", "inbox", 1.0, 1e9, {"fire": None}, "failed", "detect"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "start", "end", "changes", "outcome", "link"), [row[1:] for row in EYES], ids=[row[0] for row in EYES]
)
def test_eyes_that_close(
    tmp_path: Path,
    monkeypatch: Any,
    name: str,
    start: float,
    end: float,
    changes: dict[str, Any],
    outcome: str,
    link: str | None,
) -> None:
    """What was not seen is unknown, what was read back in time counts, and what was seen to be missing is missed."""
    judgement, world = play(tmp_path, monkeypatch, bent(trouble=closed_eyes(name, start, end), **changes))
    assert (str(judgement.outcome), judgement.link) == (outcome, link)
    assert world.off is not None
    assert replayed(tmp_path)


def test_no_link_behind_a_blind_one_is_missed(tmp_path: Path, monkeypatch: Any) -> None:
    """The rule engine was blind: that neither action nor message came is unknown too, not missed."""
    judgement, _ = play(tmp_path, monkeypatch, bent(trouble=closed_eyes("prom", 1.0, 1e9), fire=None))
    assert {of(judgement, clause) for clause in ("detect", "act", "notify:slack", "expect.1", "expect.2")} == {
        "unknown"
    }


# -- clocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-30.0, 30.0])
def test_a_source_whose_clock_differs_is_read_on_its_own(tmp_path: Path, monkeypatch: Any, offset: float) -> None:
    """Half a minute off in either direction, measured at baseline: the same verdicts."""
    from tests.kernel import scripted
    from tests.kernel.test_preflight import with_method

    async def source_time(self: Any) -> float:
        import asyncio

        return EPOCH + asyncio.get_running_loop().time() + offset

    original = scripted._alert
    monkeypatch.setattr(scripted, "_alert", lambda name, starts, state: original(name, starts + offset, state))
    with_method(monkeypatch, "source_time", source_time)
    judgement, _ = play(tmp_path, monkeypatch, expect="alert=='Broken'")
    assert of(judgement, "detect") == "met"
    assert of(judgement, "expect.1") == "met"


# -- plugins that fall -------------------------------------------------------------------------------------------


def falls(step: str, error: BaseException) -> Any:
    """Return an oddity: that step of the injector raises."""

    def odd(world: World, injector: Injector) -> Injector:
        async def broken(*_: Any) -> Any:
            raise error

        return replace(injector, **{step: broken})

    return odd


PLUGINS = [
    ("prepare", KeyError("x"), "error"),
    ("prepare", SystemExit(0), "error"),
    ("prepare", InjectionError("503"), "inconclusive"),
    ("apply", KeyError("x"), "error"),
    ("apply", SystemExit(0), "error"),
    ("apply", TimeoutError(), "inconclusive"),
    ("effective", KeyError("x"), "error"),
    ("effective", SystemExit(0), "error"),
    ("effective", InjectionError("503"), "inconclusive"),
    ("withdraw", KeyError("x"), "unsafe"),
    ("withdraw", SystemExit(0), "unsafe"),
    ("gone", KeyError("x"), "unsafe"),
    ("drive", KeyError("x"), "error"),
    ("renew", KeyError("x"), "error"),
]


@pytest.mark.parametrize(("step", "error", "outcome"), PLUGINS, ids=lambda value: repr(value))
def test_an_injector_that_falls(
    tmp_path: Path, monkeypatch: Any, step: str, error: BaseException, outcome: str
) -> None:
    """Its own refusal is inconclusive, its bug our error; unsafe wherever the fault is not read back gone."""
    judgement, world = play(tmp_path, monkeypatch, bent(odd=falls(step, error), fire=6.0))
    assert str(judgement.outcome) == outcome
    if outcome != "unsafe" and world.on is not None:
        assert world.off is not None
    assert replayed(tmp_path)


def test_evidence_of_a_stuck_fault_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    """What the last read-back said stands in the reason."""

    def odd(world: World, injector: Injector) -> Injector:
        async def gone(*_: Any) -> Probe:
            return Probe(False, {"toxics": 2})

        return replace(injector, gone=gone)

    judgement, _ = play(tmp_path, monkeypatch, bent(odd=odd))
    assert judgement.reasons[0].endswith("is not proven gone: still there: toxics 2")


def test_nonsense_from_a_target_is_not_our_error(tmp_path: Path, monkeypatch: Any) -> None:
    """Half a surrogate pair and NaN in what an observer saw are written as what they are worth."""
    told: list[bool] = []

    def more(world: World, name: str) -> list[Observation]:
        if name != "inbox" or world.on is None or told:
            return []
        told.append(True)
        about = {
            "name": "x\ud800", "labels": {"v": "\udfff"}, "fingerprint": None, "starts_at": float("nan"),
            "status": "firing",
        }  # fmt: skip
        data = {
            "id": "x", "channel": "slack", "address": "#\ud800", "status": "firing", "title": "", "alerts": [about],
        }  # fmt: skip
        return [Observation("message", data)]

    judgement, _ = play(tmp_path, monkeypatch, bent(more=more))
    assert str(judgement.outcome) == "passed"
    assert told == [True]


# -- stops -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", ["witnessed", "full"])
def test_a_second_request_to_stop_does_not_shorten_the_withdrawal(tmp_path: Path, monkeypatch: Any, hold: str) -> None:
    """The fault resists twice; a second Ctrl-C comes meanwhile: it is withdrawn to the end, and 130."""
    from sim.around import Stop

    original = Stop.ask

    def twice(self: Stop, by: str, reason: str, signal: str | None = None) -> None:
        import asyncio

        original(self, by, reason, signal)
        asyncio.get_running_loop().call_later(0.2, original, self, by, reason, "SIGTERM")

    monkeypatch.setattr(Stop, "ask", twice)
    judgement, world = play(tmp_path, monkeypatch, bent(sticky=2, fire=None), stop_at=3.0, hold=hold)
    assert (str(judgement.outcome), judgement.exit_code, world.withdrawals) == ("aborted", 130, 3)
    assert undo.read(tmp_path / "undo.jsonl").unfinished is False


def test_a_fault_that_stays_after_a_stop_is_unsafe(tmp_path: Path, monkeypatch: Any) -> None:
    """130 only once the undo is proven; otherwise 6."""
    judgement, _ = play(tmp_path, monkeypatch, bent(sticky=99, fire=None), stop_at=3.0)
    assert (str(judgement.outcome), judgement.exit_code) == ("unsafe", 6)


def test_a_lapsed_state_fails_the_run(tmp_path: Path, monkeypatch: Any) -> None:
    """The alert flaps, so the gate opens while the fault is still there: missed, in a run that holds for its time."""

    def more(world: World, name: str) -> list[Observation]:
        if name != "state" or world.on is None or not 4.0 <= world.now() - world.on <= 4.3:
            return []
        return [Observation("state", {"fact": "gate", "value": "open"})]

    judgement, _ = play(tmp_path, monkeypatch, bent(more=more), expect="gate=='blocked'", hold="full")
    assert (str(judgement.outcome), of(judgement, "expect.1")) == ("failed", "missed")
