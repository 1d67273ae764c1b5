"""Whole runs against a scripted target, in virtual time: each bent link gives its outcome and names itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim import log, undo
from sim.judge import judge
from sim.log import canonical
from sim.report import read_plan
from tests.kernel.scripted import PROFILE, Script, World, bent, planned, play

ALL_MET = {
    "effect": "met",
    "detect": "met",
    "act": "met",
    "notify:slack": "met",
    "only": "met",
    "recover": "met",
    "expect.1": "met",
    "expect.2": "met",
}


def test_a_chain_that_holds_passes(tmp_path: Path, monkeypatch: Any) -> None:
    """Every link in time, the fault withdrawn once, the gate open again: passed, and every clause met."""
    judgement, world = play(tmp_path, monkeypatch)
    assert (str(judgement.outcome), judgement.exit_code, judgement.link) == ("passed", 0, None)
    assert {verdict.clause: verdict.value for verdict in judgement.verdicts} == ALL_MET
    assert world.calls == ["prepare", "apply", "withdraw"]
    assert undo.read(tmp_path / "undo.jsonl").unfinished is False


BENT = [
    ("rule deleted", {"fire": None}, "failed", "detect"),
    ("rule late", {"fire": 11.0}, "failed", "detect"),
    ("hook off", {"act": None}, "failed", "act"),
    ("hook late", {"act": 14.0}, "failed", "act"),
    ("recorded, not done", {"effect": None}, "failed", "act"),
    ("wrong action", {"actions": ("undo",)}, "failed", "act"),
    ("uninvited action", {"actions": ("block", "undo")}, "failed", "only"),
    ("done twice", {"twice": True}, "failed", "act"),
    ("route elsewhere", {"address": "#other"}, "failed", "notify"),
    ("address of nobody", {"address": "#nobody"}, "failed", "notify"),
    ("route late", {"tell": 14.0}, "failed", "notify"),
    ("alert stays", {"resolve": None}, "failed", "recover"),
    ("action stays", {"reverse": None}, "failed", "recover"),
    ("reversal late", {"reverse": 130.0}, "failed", "recover"),
    ("fault ignored", {"bite": None}, "inconclusive", "effect"),
    ("apply refused", {"apply_fails": True}, "inconclusive", "effect"),
    ("nothing to hit", {"targets": ()}, "inconclusive", "effect"),
    ("blind before the alert", {"blind_prom": (0.3, 1e9)}, "inconclusive", "detect"),
    ("already firing", {"firing_before": True}, "inconclusive", "already firing"),
    ("foreign alert", {"foreign": "Flood"}, "inconclusive", "foreign alert"),
    ("no steady state", {"errors": 0.5}, "inconclusive", "steady state"),
    ("another environment", {"environment": "production"}, "inconclusive", "environment"),
    ("fault stays", {"sticky": 99}, "unsafe", "withdraw"),
    ("not put back", {"lane_after": "slow", "restore_works": False}, "unsafe", "restore"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "outcome", "link"), [row[1:] for row in BENT], ids=[row[0] for row in BENT])
def test_each_bent_link_names_itself_and_leaves_nothing(
    tmp_path: Path, monkeypatch: Any, changes: dict[str, Any], outcome: str, link: str
) -> None:
    """One link bent: its outcome and its name; nothing stays unless unsafe; judged again it gives the same bytes."""
    judgement, world = play(tmp_path, monkeypatch, bent(**changes))
    assert (str(judgement.outcome), judgement.link) == (outcome, link)
    if "apply" in world.calls:
        assert undo.read(tmp_path / "undo.jsonl").unfinished is (outcome == "unsafe")
    if "apply" in world.calls and outcome != "unsafe":
        assert world.off is not None
        assert world.set_back.get("gate") or _last_reading(tmp_path, "gate") == "open"
    again = judge(read_plan(tmp_path), log.read(tmp_path / "log.jsonl"))
    assert (tmp_path / "verdicts.json").read_text() == canonical(again.as_json()) + "\n"


def _last_reading(folder: Path, fact: str) -> Any:
    events = [e for e in log.read(folder / "log.jsonl") if e.kind == "state" and e.data["fact"] == fact]
    return events[-1].data["value"]


def test_a_late_alert_stays_in_the_report_and_stays_missed(tmp_path: Path, monkeypatch: Any) -> None:
    """What comes after its budget is told as late, and un-misses nothing."""
    judgement, _ = play(tmp_path, monkeypatch, bent(fire=12.0))
    detect = next(verdict for verdict in judgement.verdicts if verdict.clause == "detect")
    assert (detect.value, detect.took_s) == ("missed", None)
    assert detect.late_s is not None and 1.9 < detect.late_s < 2.6


def test_an_interrupt_withdraws_at_once_and_judges_nothing_unsettled(tmp_path: Path, monkeypatch: Any) -> None:
    """SIGINT in the middle: withdrawn, restored, no waiting for recovery; exit 130 and aborted."""
    judgement, world = play(tmp_path, monkeypatch, bent(resolve=60.0), stop_at=2.0)
    assert (str(judgement.outcome), judgement.exit_code) == ("aborted", 130)
    assert world.off is not None and world.off < 3.0
    assert {v.clause: v.value for v in judgement.verdicts}["recover"] == "unknown"


def test_an_interrupt_before_t0_injects_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    """Stopped during the baseline: nothing was prepared, nothing is withdrawn."""
    judgement, world = play(tmp_path, monkeypatch, stop_at=0.3)
    assert (str(judgement.outcome), judgement.exit_code, world.calls) == ("aborted", 130, [])


def test_an_allowed_foreign_alert_does_not_refuse(tmp_path: Path, monkeypatch: Any) -> None:
    """`--allow-firing` goes on, and the reason is in the record."""
    judgement, _ = play(tmp_path, monkeypatch, bent(foreign="Flood"), allow={"Flood": "known, ticket 7"})
    told = [e.data["detail"] for e in log.read(tmp_path / "log.jsonl") if e.kind == "preflight"]
    assert str(judgement.outcome) == "passed"
    assert "Flood is firing, allowed: known, ticket 7" in told


def test_what_an_action_changed_besides_is_put_back(tmp_path: Path, monkeypatch: Any) -> None:
    """A state that nothing reverses is set back by the profile's call, with its prior value."""
    judgement, world = play(tmp_path, monkeypatch, bent(lane_after="slow"))
    assert str(judgement.outcome) == "passed"
    assert world.calls[-1] == "restore {'lane': 'fast'}"
    assert world.set_back == {"lane": "fast"}


def test_a_failed_withdrawal_is_tried_again(tmp_path: Path, monkeypatch: Any) -> None:
    """The third attempt takes the fault away: passed, and three withdrawals."""
    judgement, world = play(tmp_path, monkeypatch, bent(sticky=2))
    assert (str(judgement.outcome), world.withdrawals) == ("passed", 3)


def test_unsafe_outranks_a_missed_clause(tmp_path: Path, monkeypatch: Any) -> None:
    """A fault that stays and an alert that never came: unsafe, exit 6."""
    judgement, _ = play(tmp_path, monkeypatch, bent(sticky=99, fire=None))
    assert (str(judgement.outcome), judgement.exit_code) == ("unsafe", 6)
    assert undo.read(tmp_path / "undo.jsonl").unfinished is True


GAUGES = [
    ("an action cures it", {"burn": (0.0, 3.0, 0.5)}, "burn < 1", "passed"),
    ("no action cures it", {"burn": (0.0, 3.0)}, "burn < 1", "failed"),
    ("after recovery", {}, "score >= baseline", "passed"),
    ("always", {}, "always(errors < 0.1)", "passed"),
    ("always, broken at a sample", {"burn": (0.0, 3.0, 0.5)}, "always(burn < 1)", "failed"),
    ("at the end", {"burn": (0.0, 3.0, 0.5)}, "at_end(burn < 1)", "passed"),
]


@pytest.mark.parametrize(("changes", "clause", "outcome"), [row[1:] for row in GAUGES], ids=[row[0] for row in GAUGES])
def test_gauge_clauses(tmp_path: Path, monkeypatch: Any, changes: dict[str, Any], clause: str, outcome: str) -> None:
    """A gauge is judged where withdrawing the fault could not flatter it."""
    judgement, _ = play(tmp_path, monkeypatch, bent(**changes), expect=f"action=='block' && {clause}")
    assert str(judgement.outcome) == outcome


STATES = [
    ({}, "gate=='blocked'", "passed", None),
    ({"effect": 20.0}, "gate=='blocked'", "failed", "act"),
    ({}, "gate=='open'", "inconclusive", "ready"),
]


@pytest.mark.parametrize(("changes", "clause", "outcome", "link"), STATES)
def test_state_clauses(
    tmp_path: Path, monkeypatch: Any, changes: dict[str, Any], clause: str, outcome: str, link: str | None
) -> None:
    """False at baseline, true within the budget, true until withdrawal; true already proves nothing."""
    judgement, _ = play(tmp_path, monkeypatch, bent(**changes), expect=f"action=='block' && {clause}")
    assert (str(judgement.outcome), judgement.link) == (outcome, link)


@pytest.mark.parametrize(
    ("never", "outcome"), [("action=='undo'", "passed"), ("action=='undo' || alert.to=='TEAM'", "failed")]
)
def test_never_clauses(tmp_path: Path, monkeypatch: Any, never: str, outcome: str) -> None:
    """What must not come fails the run when it comes, and is met at close otherwise."""
    judgement, _ = play(tmp_path, monkeypatch, never=never)
    assert str(judgement.outcome) == outcome


def test_hold_full_keeps_the_fault_for_its_time(tmp_path: Path, monkeypatch: Any) -> None:
    """`hold: full` withdraws at the hold time, not when everything was witnessed."""
    judgement, _ = play(tmp_path, monkeypatch, hold="full", inject="break(duration=40)")
    marks = dict(judgement.marks)
    assert 40.0 <= marks["withdrawing"] - marks["t0"] < 40.5


def test_without_a_hook_everything_after_t0_counts(tmp_path: Path, monkeypatch: Any) -> None:
    """No hook is bound: no implied links, and the written ones still hold."""
    hooks = {name: {**hook, "faults": []} for name, hook in PROFILE["hooks"].items()}
    judgement, _ = play(tmp_path, monkeypatch, profile={"hooks": hooks})
    assert [verdict.clause for verdict in judgement.verdicts] == ["effect", "recover", "expect.1", "expect.2"]
    assert str(judgement.outcome) == "passed"


def test_the_journal_has_the_intent_before_the_effect(tmp_path: Path, monkeypatch: Any) -> None:
    """When apply is called, its intent and every restore are already on the disk."""
    seen: list[list[str]] = []
    world = World(Script())
    plan = planned(world)
    original = World.now

    def spy(self: World) -> float:
        if self.calls[-1:] == ["apply"] and not seen:
            lines = (tmp_path / "undo.jsonl").read_text().splitlines()
            seen.append([json.loads(line)["record"] for line in lines])
        return original(self)

    monkeypatch.setattr(World, "now", spy)
    play(tmp_path, monkeypatch, plan=plan)
    assert seen == [["open", "restore", "restore", "intent"]]
