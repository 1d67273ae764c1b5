"""What the judge makes of single moments: each rule of the meaning of a verdict, on records written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from sim.judge import Judge, Outcome
from tests.kernel.records import EPOCH, FINGERPRINT, T0, Record, good, plan_of, until_told
from tests.kernel.scripted import PROFILE

HOOK = PROFILE["hooks"]["hook"]
#: The scripted target without hooks that any injector is bound to.
UNBOUND = {"hooks": {name: {**hook, "faults": []} for name, hook in PROFILE["hooks"].items()}}


def two_steps() -> dict[str, Any]:
    """Return a profile whose hook degrades first and rolls back then; effects are two different states."""
    actions = [{"name": "degrade", "effect": "lane=='slow'"}, {"name": "rollback", "effect": "gate=='blocked'"}]
    return {"hooks": {"hook": {**HOOK, "actions": actions}}}


def values(record: Record, plan: Any) -> dict[str, str]:
    """Return every verdict's value by its clause."""
    return {verdict.clause: verdict.value for verdict in record.judged(plan).verdicts}


def test_the_good_record_passes() -> None:
    """The record that every other test bends is one that passes."""
    judgement = good().judged(plan_of())
    assert (str(judgement.outcome), judgement.reasons) == ("passed", ())


# -- belonging ---------------------------------------------------------------------------------------------------


def test_an_alert_that_began_before_t0_is_not_the_faults() -> None:
    """An old alert of the hook, seen again after t0, detects nothing."""
    record = Record().opened().injected().alert(T0 + 2, starts=T0 - 5).withdrawn(T0 + 20).closed(T0 + 30)
    assert record.verdict(plan_of(), "detect").value == "missed"


@pytest.mark.parametrize(("offset", "starts", "value"), [(5.0, 6.0, "met"), (5.0, 4.0, "missed"), (-5.0, -4.0, "met")])
def test_stamps_are_read_on_the_sources_own_clock(offset: float, starts: float, value: str) -> None:
    """A clock that is 5 s ahead stamps an alert of t0+1 s as t0+6 s; one of t0-1 s as t0+4 s is old."""
    record = Record().opened().add(8.0, "observer.offset", {"offset_s": offset, "error_s": 0.01}, "prom")
    record.injected().alert(T0 + 2, starts=T0 + starts).withdrawn(T0 + 20)
    record.alert(T0 + 21, "resolved", starts=T0 + starts).samples(T0 + 21, "errors", 0.0, 0.0, 0.0).closed(T0 + 30)
    assert record.verdict(plan_of(), "detect").value == value


STOCK = {"fingerprint": None, "starts_at": None}


def test_a_stock_message_belongs_by_name_and_labels() -> None:
    """Without fingerprint and startsAt, name and labels that match an alert of the fault are enough."""
    record = Record().opened().injected().alert(T0 + 2).message(T0 + 4, **STOCK)
    assert record.folded(plan_of()).trackers[3].witnessed == (T0 + 4, (record.events[-1].seq,))


def test_a_stock_message_that_overtakes_the_look_at_the_alert_belongs() -> None:
    """What counts is that it came at or after startsAt, not that our look at Prometheus was a moment later."""
    record = Record().opened().injected().message(T0 + 2.1, **STOCK).alert(T0 + 2.2)
    assert record.folded(plan_of()).trackers[3].witnessed is not None


def test_a_stock_message_from_before_the_alert_does_not_belong() -> None:
    """A message that came before startsAt is about something else."""
    record = Record().opened().injected().message(T0 + 1.0, **STOCK).alert(T0 + 2.2)
    assert record.folded(plan_of()).trackers[3].witnessed is None


def test_an_execution_that_names_an_alert_with_the_injections_id_belongs() -> None:
    """An alert outside the hook that carries the injection's id is the fault's, and so is what is done for it."""
    record = Record().opened().injected()
    labels = {"alertname": "Else", "market": "sim-1"}
    record.alert(T0 + 2, name="Else", labels=labels, fingerprint="e" * 16)
    record.execution(T0 + 3, "started", "undo", alert="Else", fingerprint="e" * 16)
    only = record.verdict(plan_of(), "only")
    assert (only.value, only.reason) == ("missed", "uninvited action: undo on app")


# -- once --------------------------------------------------------------------------------------------------------


def again(*between: str) -> Record:
    """Return a record in which the alert goes through these states after the action, which is then done again."""
    record = until_told()
    for number, state in enumerate(between):
        record.alert(T0 + 5 + number, state, starts=T0 + 2 if state != "pending" else T0 + 5)
    return record.done(T0 + 9, id="block-1")


@pytest.mark.parametrize(
    ("between", "value"),
    [
        (("resolved", "firing"), "pending"),
        (("resolved", "pending", "firing"), "pending"),
        (("pending", "firing"), "pending"),
        (("firing",), "missed"),
        ((), "missed"),
    ],
)
def test_an_action_done_again_needs_an_alert_that_was_inactive_in_between(between: tuple[str, ...], value: str) -> None:
    """The same alert may act again only if Prometheus showed it inactive; pending on its way back changes nothing."""
    assert again(*between).verdict(plan_of(), "only").value == value


@pytest.mark.parametrize(("other", "value"), [("market/sim-1", "missed"), ("market/mine", "met")])
def test_what_is_done_elsewhere_for_the_same_alert_was_not_asked_for(other: str, value: str) -> None:
    """The market that carries the injection's id was frozen, and another one with it; where none does, who can say."""
    record = told(Record()).alert(T0 + 2).done(T0 + 3, target=other).done(T0 + 3.2, id="block-1", target="market/x")
    record.state(T0 + 3.5, "gate", "blocked").message(T0 + 4).withdrawn(T0 + 8).well(T0 + 12).closed(T0 + 20)
    only = record.verdict(plan_of(), "only")
    assert (only.value, only.reason) == (value, "uninvited target: block on market/x" if value == "missed" else "")


def test_two_detectors_of_one_alert_do_not_make_a_renewal() -> None:
    """One source says resolved, another still says firing: nobody saw it inactive and firing again."""
    facts = {**PROFILE["facts"], "alert": {"kind": "event", "stage": "detect", "from": ["prom", "am"]}}
    plan = plan_of(profile={"facts": facts, "observers": {**PROFILE["observers"], "am": {"kind": "prom"}}})
    record = until_told().alert(T0 + 5, "resolved").alert(T0 + 5.1, "firing", source="am")
    record.done(T0 + 9, id="block-1")
    assert record.verdict(plan, "only").reason == "done 2 times: block on app"


def test_a_message_delivered_again_counts_once() -> None:
    """The same fingerprint, startsAt, status and channel is a re-delivery."""
    assert until_told().message(T0 + 5).verdict(plan_of(), "only").value == "pending"


def test_a_skipped_execution_is_none() -> None:
    """What the executor skipped was not done."""
    assert until_told().execution(T0 + 5, "skipped", id="block-1").verdict(plan_of(), "only").value == "pending"


# -- two steps ---------------------------------------------------------------------------------------------------


def stepped(first: tuple[str, int, int], second: tuple[str, int, int]) -> Record:
    """Return a record of two executions: action, audit sequence of started and of succeeded."""
    record = (
        Record().opened().injected().alert(T0 + 2).state(T0 + 2.5, "lane", "slow").state(T0 + 2.5, "gate", "blocked")
    )
    rows = sorted(
        (seq, state, action)
        for action, *seqs in (first, second)
        for seq, state in zip(seqs, ("started", "succeeded"), strict=True)
    )
    for seq, state, action in rows:
        record.execution(T0 + 3 + seq / 100, state, action, audit=seq)
    return record


STEPS = [
    (("degrade", 1, 2), ("rollback", 3, 4), "degrade+rollback", True),
    (("degrade", 1, 3), ("rollback", 2, 4), "degrade+rollback", False),
    (("rollback", 1, 2), ("degrade", 3, 4), "degrade+rollback", False),
    (("degrade", 1, 3), ("rollback", 2, 4), "rollback+degrade", False),
    (("rollback", 1, 2), ("degrade", 3, 4), "rollback+degrade", True),
]


@pytest.mark.parametrize(("first", "second", "wanted", "holds"), STEPS)
def test_a_sequence_is_one_after_the_other(first: Any, second: Any, wanted: str, holds: bool) -> None:
    """`a+b`: a succeeded before b started, by the executor's own sequence; two that overlapped are in no order."""
    plan = plan_of(f"action=='{wanted}'", profile=two_steps())
    fold = stepped(first, second).folded(plan)
    written = next(tracker for tracker in fold.trackers if tracker.clause.id == "expect.1")
    assert (written.witnessed is not None) is holds


def test_the_implied_act_wants_the_hooks_order() -> None:
    """Both done, in the wrong order: act is missed and says so."""
    record = stepped(("rollback", 1, 2), ("degrade", 3, 4)).withdrawn(T0 + 30).closed(T0 + 40)
    act = record.verdict(plan_of("action=='degrade'", profile=two_steps()), "act")
    assert (act.value, act.reason) == ("missed", "rollback began before the action ahead of it had succeeded")


def test_an_effect_read_while_the_observer_came_back_counts() -> None:
    """The state changed while its observer was blind: it is read in the look that ends the blindness."""
    record = Record().opened().injected().alert(T0 + 2).blind(T0 + 2.5, "release").done(T0 + 3)
    record.state(T0 + 4, "gate", "blocked").sees(T0 + 4, "release")
    act = next(t for t in record.folded(plan_of()).trackers if t.clause.id == "act")
    assert act.witnessed is not None and act.witnessed[0] == T0 + 4


def test_an_effect_that_was_there_before_the_blindness_counts_after_it() -> None:
    """Nothing changed meanwhile, so no state is told again: seeing again is enough."""
    record = Record().opened().injected().alert(T0 + 2).state(T0 + 2.2, "gate", "blocked").blind(T0 + 2.5, "release")
    record.done(T0 + 3).sees(T0 + 4, "release")
    act = next(t for t in record.folded(plan_of()).trackers if t.clause.id == "act")
    assert act.witnessed is not None and act.witnessed[0] == T0 + 4


# -- states ------------------------------------------------------------------------------------------------------

BLOCKED = "gate=='blocked'"


def test_a_state_that_lapses_before_withdrawal_is_missed() -> None:
    """True within its budget, false again before the fault was withdrawn."""
    record = until_told().state(T0 + 5, "gate", "open").withdrawn(T0 + 6).closed(T0 + 9)
    verdict = record.verdict(plan_of(BLOCKED), "expect.1")
    assert (verdict.value, verdict.reason) == (
        "missed",
        "it lapsed before the fault was withdrawn: 'open'",
    )


def test_a_state_may_lapse_after_withdrawal() -> None:
    """The executor reverses the action when the alert resolves: the clause was met, by what it read until then."""
    verdict = good().verdict(plan_of(BLOCKED), "expect.1")
    assert (verdict.value, verdict.actual) == ("met", "'blocked'")


def test_a_state_never_read_before_the_fault_proves_nothing() -> None:
    """Not known to be false at baseline, true afterwards: unknown, not met."""
    record = Record().opened(gate=None).injected().alert(T0 + 2).done(T0 + 3).state(T0 + 3.5, "gate", "blocked")
    record.message(T0 + 4).withdrawn(T0 + 5).well(T0 + 10).closed(T0 + 12)
    verdict = record.verdict(plan_of(BLOCKED), "expect.1")
    assert verdict.value == "unknown"
    assert verdict.reason == "it was not read as false before the fault: it would prove nothing"


def test_a_state_unseen_until_withdrawal_is_unknown() -> None:
    """It came true, then nobody could look until the fault was withdrawn: whether it held is not known."""
    record = until_told().blind(T0 + 4.5, "release").withdrawn(T0 + 5).sees(T0 + 6, "release")
    record.well(T0 + 10).closed(T0 + 12)
    verdict = record.verdict(plan_of(BLOCKED), "expect.1")
    assert (verdict.value, verdict.reason) == ("unknown", "release was blind from +14.5 s: refused")


def test_with_a_subject_absent_is_false_at_baseline() -> None:
    """The subject does not exist before the fault: that is a reading, and it is false."""
    facts = {**PROFILE["facts"], "gate": {**PROFILE["facts"]["gate"], "subject": "injection"}}
    plan = plan_of(BLOCKED, profile={"facts": facts, **UNBOUND, "restore": []})
    record = Record().opened(gate=None).state(1.0, "gate", None).injected().state(T0 + 3, "gate", "blocked")
    assert record.withdrawn(T0 + 5).closed(T0 + 9).verdict(plan, "expect.1").value == "met"


# -- gauges ------------------------------------------------------------------------------------------------------


def told(record: Record) -> Record:
    """Return the record until the message, with the gauge burn sampled at baseline and broken by the fault."""
    return record.opened(burn=0.0, score=1.0).injected()


def cured(*after: float | None, before: tuple[float, ...] = (3.0, 3.0, 3.0)) -> Record:
    """Return a run in which `burn` reads `before` until the action and `after` from then on, until withdrawal."""
    record = told(Record()).samples(T0 + 1, "burn", *before).alert(T0 + 2).done(T0 + 3)
    return record.state(T0 + 3.5, "gate", "blocked").message(T0 + 4).samples(T0 + 4, "burn", *after)


def over(record: Record, *end: float | None) -> Record:
    """Withdraw, recover with `end` as the last samples of burn, close."""
    return record.withdrawn(T0 + 8).well(T0 + 12).samples(T0 + 13, "burn", *end).closed(T0 + 20)


CURED = [
    ("held after the action and at close", (0.5, 0.5, 0.5), (0.5,), "met"),
    ("never held after the action", (3.0, 3.0, 3.0), (0.5,), "missed"),
    ("held too briefly", (0.5, 0.5, 3.0), (0.5,), "missed"),
    ("no data between", (0.5, None, 0.5, 0.5), (0.5,), "missed"),
    ("held, and broken again at close", (0.5, 0.5, 0.5), (3.0,), "missed"),
    ("held, and no data at close", (0.5, 0.5, 0.5), (None,), "unknown"),
]


@pytest.mark.parametrize(("after", "end", "value"), [row[1:] for row in CURED], ids=[row[0] for row in CURED])
def test_a_gauge_that_an_action_cures(
    after: tuple[float | None, ...], end: tuple[float | None, ...], value: str
) -> None:
    """Three samples in a row between action and withdrawal, and still at close."""
    assert over(cured(*after), *end).verdict(plan_of("burn < 1"), "expect.1").value == value


def test_a_gauge_held_before_the_action_is_not_cured_by_it() -> None:
    """Samples that held before the action was witnessed do not count."""
    record = over(cured(0.5, before=(0.5, 0.5, 0.5)), 0.5)
    assert record.verdict(plan_of("burn < 1"), "expect.1").value == "missed"


PROLONG = [
    ("action done, gauge not yet cured", (3.0,), False),
    ("action done, gauge held", (0.5, 0.5, 0.5), True),
    ("recover from the action is over", (*[3.0] * 500,), True),
]


@pytest.mark.parametrize(("after", "may"), [row[1:] for row in PROLONG], ids=[row[0] for row in PROLONG])
def test_how_long_a_cured_gauge_keeps_the_fault(after: tuple[float, ...], may: bool) -> None:
    """Until it has held for three samples after the action, at most `recover` (120 s) from the action."""
    assert cured(*after).folded(plan_of("burn < 1")).may_withdraw is may


@pytest.mark.parametrize(("failing", "may"), [((3.0, 3.0), False), ((3.0, 3.0, 3.0), True)])
def test_without_its_action_the_fault_stays_until_the_gauge_was_seen_to_fail(failing: Any, may: bool) -> None:
    """The action was missed: three samples that do not hold are waited for, so that the clause can be missed."""
    record = told(Record()).alert(T0 + 2).message(T0 + 4).samples(T0 + 16, "burn", *failing)
    assert record.folded(plan_of("burn < 1")).may_withdraw is may


def after_gone(before: tuple[float | None, ...], after: tuple[float | None, ...]) -> Record:
    """Return a run in which `score` reads `before` until withdrawal and `after` from then on."""
    record = told(Record()).alert(T0 + 2).done(T0 + 3).state(T0 + 3.5, "gate", "blocked").message(T0 + 4)
    record.samples(T0 + 4, "score", *before).withdrawn(T0 + 8).well(T0 + 12)
    return record.samples(T0 + 13, "score", *after).closed(T0 + 20)


PLAIN = [
    ("three samples after gone", (0.1,), (1.0, 1.0, 1.0), "met"),
    ("two samples after gone", (1.0, 1.0, 1.0), (1.0, 1.0), "unknown"),
    ("broken at close", (0.1,), (1.0, 1.0, 1.0, 0.1), "missed"),
    ("no data between", (0.1,), (1.0, 1.0, None, 1.0), "unknown"),
    ("no data at close", (0.1,), (1.0, 1.0, 1.0, None), "unknown"),
    ("no sample after gone", (1.0, 1.0, 1.0), (), "unknown"),
]


@pytest.mark.parametrize(("before", "after", "value"), [row[1:] for row in PLAIN], ids=[row[0] for row in PLAIN])
def test_a_gauge_is_judged_after_recovery(before: Any, after: Any, value: str) -> None:
    """Three samples in a row after gone, and still at close; what held before the fault was withdrawn is no proof."""
    assert after_gone(before, after).verdict(plan_of("score >= baseline"), "expect.1").value == value


def test_a_gauge_that_nobody_can_read_at_close_is_unknown() -> None:
    """It held for three samples, and its source went blind: whether it still holds is not known."""
    record = told(Record()).alert(T0 + 2).done(T0 + 3).state(T0 + 3.5, "gate", "blocked").message(T0 + 4)
    record.withdrawn(T0 + 8).well(T0 + 12).samples(T0 + 13, "score", 1.0, 1.0, 1.0).blind(T0 + 15, "prom")
    assert record.closed(T0 + 20).verdict(plan_of("score >= baseline"), "expect.1").value == "unknown"


def test_always_is_unknown_over_a_gap() -> None:
    """Nobody knows what the samples would have been while the source was blind."""
    record = told(Record()).blind(T0 + 1, "prom").sees(T0 + 3, "prom").samples(T0 + 4, "burn", 0.0)
    record.withdrawn(T0 + 8).well(T0 + 12).samples(T0 + 13, "burn", 0.0).closed(T0 + 20)
    assert record.verdict(plan_of("always(burn < 1)"), "expect.1").value == "unknown"


def test_always_is_unknown_over_a_sample_without_data() -> None:
    """No data is never good news."""
    record = told(Record()).samples(T0 + 1, "burn", 0.0, None, 0.0).withdrawn(T0 + 8).well(T0 + 12)
    record.samples(T0 + 13, "burn", 0.0).closed(T0 + 20)
    assert record.verdict(plan_of("always(burn < 1)"), "expect.1").value == "unknown"


@pytest.mark.parametrize("clause", ["always(burn < 1)", "at_end(burn < 1)", "never", "burn < 1"])
def test_nothing_waits_for_a_gauge_that_can_only_be_settled_at_close(clause: str) -> None:
    """Once all else is well the run may close: `always`, `at_end`, `never` and a cured gauge run into no deadline."""
    more = {"expect": "action=='block'", "never": "burn > 5"} if clause == "never" else {"expect": clause}
    record = cured(0.5, 0.5, 0.5, before=(0.5,)).withdrawn(T0 + 8).well(T0 + 12).samples(T0 + 13, "burn", 0.5)
    assert record.folded(plan_of(**more)).may_close is True


@pytest.mark.parametrize("clause", ["burn < 1", "score >= baseline", "always(burn < 1)", "at_end(score > 0)"])
def test_a_gauge_of_a_fault_that_is_not_gone_is_judged_without_a_crash(clause: str) -> None:
    """The fault is stuck: unsafe, whatever the gauges read."""
    record = told(Record()).samples(T0 + 1, "burn", 0.0, 0.0, 0.0).samples(T0 + 2, "score", 1.0, 1.0, 1.0)
    record.add(T0 + 8, "fault.withdrawing", {"fault": "sim-1"})
    record.add(T0 + 9, "fault.stuck", {"fault": "sim-1", "reason": "still there"}).closed(T0 + 20)
    assert str(record.judged(plan_of(clause)).outcome) == "unsafe"


def test_the_worst_value_of_a_gauge_is_told() -> None:
    """A clause that is met at close still says how bad it was."""
    record = over(cured(0.5, 0.5, 0.5, before=(2.0, 7.5, 3.0)), 0.5)
    assert "worst 7.5" in record.verdict(plan_of("burn < 1"), "expect.1").actual


# -- never -------------------------------------------------------------------------------------------------------


def lapsed(fact: str, *values: str) -> Record:
    """Return a record in which a state goes through these values, a second each."""
    record = until_told()
    for number, value in enumerate(values):
        record.state(T0 + 5 + number, fact, value)
    return record


NEVER = [
    ("action that came", "action=='block'", until_told(), "missed"),
    ("action begun only", "action=='undo'", until_told().execution(T0 + 5, "started", "undo"), "missed"),
    ("state that came", "lane=='slow'", lapsed("lane", "slow", "fast"), "missed"),
    ("gauge that came", "burn > 2", until_told(burn=0.0).samples(T0 + 5, "burn", 0.0, 3.0, 0.0), "missed"),
    ("action that did not come", "action=='undo'", until_told(), "met"),
    ("state that did not come", "lane=='slow'", until_told(), "met"),
    ("gauge that did not come", "burn > 2", until_told(burn=0.0).samples(T0 + 5, "burn", 0.0, 0.0), "met"),
    ("gauge without data", "burn > 2", until_told(burn=0.0).samples(T0 + 5, "burn", 0.0, None, 0.0), "unknown"),
    ("state nobody saw", "lane=='slow'", until_told().blind(T0 + 5, "release").sees(T0 + 6, "release"), "unknown"),
    ("audit read back", "action=='undo'", until_told().blind(T0 + 5, "hooks").sees(T0 + 6, "hooks"), "met"),
    ("audit not read back", "action=='undo'", until_told().blind(T0 + 5, "hooks"), "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("never", "record", "value"), [row[1:] for row in NEVER], ids=[row[0] for row in NEVER])
def test_never(never: str, record: Record, value: str) -> None:
    """Missed the moment it is true; met at close if all who would have seen it were looking."""
    over_ = Record()
    over_.events = list(record.events)
    over_.withdrawn(T0 + 8).well(T0 + 12).closed(T0 + 20)
    assert over_.verdict(plan_of("action=='block'", never=never), "never.1").value == value


# -- blindness ---------------------------------------------------------------------------------------------------


def test_blind_at_the_very_deadline_is_unknown() -> None:
    """Blindness logged at the same instant as the deadline: the source was not seeing up to its end."""
    record = Record().opened().injected().blind(T0 + 10, "prom", since=T0 + 9).closed(T0 + 30)
    assert record.verdict(plan_of(), "detect").value == "unknown"


def test_blind_only_after_the_deadline_leaves_it_missed() -> None:
    """All was seen up to the deadline: what came then changes nothing."""
    record = Record().opened().injected().blind(T0 + 10.000001, "prom", since=T0 + 10.000001).closed(T0 + 30)
    assert record.verdict(plan_of(), "detect").value == "missed"


@pytest.mark.parametrize(("back", "value"), [(T0 + 14, "missed"), (T0 + 16, "unknown"), (None, "unknown")])
def test_a_source_with_a_cursor_is_blind_while_its_gap_is_not_read_back(back: float | None, value: str) -> None:
    """Back before the deadline it has read everything; back after it, the verdict was already unknown and stays."""
    record = Record().opened().injected().alert(T0 + 2).blind(T0 + 3, "hooks")
    if back is not None:
        record.sees(back, "hooks")
    assert record.withdrawn(T0 + 20).closed(T0 + 30).verdict(plan_of(), "act").value == value


def test_facts_read_back_after_the_deadline_stay_in_the_report() -> None:
    """The action was found in the audit 1 s after its budget: unknown, and told as late."""
    record = Record().opened().injected().alert(T0 + 2).blind(T0 + 3, "hooks").state(T0 + 4, "gate", "blocked")
    record.done(T0 + 16).sees(T0 + 16, "hooks").withdrawn(T0 + 20).closed(T0 + 30)
    verdict = record.verdict(plan_of(), "act")
    assert (verdict.value, verdict.late_s) == ("unknown", 1.0)


def test_what_comes_after_a_stop_is_not_late() -> None:
    """A clause that a stop settled was not late when its event still came within the budget."""
    record = Record().opened().injected().add(T0 + 1, "stopped", {"by": "halt", "reason": "x", "signal": None})
    verdict = record.alert(T0 + 2).withdrawn(T0 + 3).closed(T0 + 4).verdict(plan_of(), "detect")
    assert (verdict.value, verdict.reason, verdict.late_s) == ("unknown", "stopped at +1.0 s", None)


# -- several faults ----------------------------------------------------------------------------------------------


def test_two_faults_are_gone_when_both_are() -> None:
    """`recover` counts from the last fault's read-back."""
    record = until_told(2)
    record.add(T0 + 5, "fault.gone", {"fault": "sim-2", "evidence": {}})
    assert "gone" not in record.folded(plan_of()).ledger.marks
    record.add(T0 + 9, "fault.gone", {"fault": "sim-1", "evidence": {}})
    assert record.folded(plan_of()).ledger.marks["gone"] == T0 + 9


def test_two_faults_are_effective_when_both_are() -> None:
    """One of two that never bit proves nothing."""
    record = Record(2).opened().injected(effective=None)
    record.add(T0 + 1, "fault.effective", {"fault": "sim-1", "evidence": {}})
    assert "effective" not in record.folded(plan_of()).ledger.marks


# -- outcomes ----------------------------------------------------------------------------------------------------


def test_a_record_that_ends_before_gone_is_unsafe() -> None:
    """A runner that was killed leaves a record without read-back: the fault is not proven gone."""
    judgement = until_told().judged(plan_of())
    assert (str(judgement.outcome), judgement.exit_code, judgement.link) == ("unsafe", 6, "withdraw")


def test_a_record_that_ends_before_restore_is_unsafe() -> None:
    """The fault is gone, and nobody read whether the target is as it was."""
    judgement = until_told().withdrawn(T0 + 5).add(T0 + 6, "run.closed", {}).judged(plan_of())
    assert (str(judgement.outcome), judgement.exit_code, judgement.link) == ("unsafe", 6, "restore")


def test_settling_between_events_is_as_fine_as_the_record() -> None:
    """A microsecond that the record cannot tell from the deadline does not settle it either."""
    fold = Judge(plan_of())
    for event in Record().opened().injected().events:
        fold.feed(event)
    fold.settled_by(T0 + 10.0000004)
    detect = next(tracker for tracker in fold.trackers if tracker.clause.id == "detect")
    assert detect.settled is None
    assert (EPOCH, FINGERPRINT) == (1_700_000_000.0, "f" * 16)


# -- a fault that did not hold -----------------------------------------------------------------------------------

UNHELD = {"fault": "sim-1", "reason": "rate not held", "evidence": {}}


@pytest.mark.parametrize("missed", [False, True])
def test_a_fault_that_did_not_hold_is_neither_passed_nor_failed(missed: bool) -> None:
    """Whatever was met or missed under it: inconclusive, at the link *effect*, with its reason."""
    record = until_told().withdrawn(T0 + 5).add(T0 + 5.1, "fault.unheld", UNHELD).well(T0 + 10).closed(T0 + 12)
    plan = plan_of(BLOCKED if not missed else "action=='undo'")
    judged = record.judged(plan)
    assert (judged.outcome, judged.link) == (Outcome.INCONCLUSIVE, "effect")
    assert judged.reasons == ("effect: sim-1 did not hold until it was withdrawn: rate not held",)


def test_a_halt_stays_a_halt_though_the_fault_did_not_hold() -> None:
    """Somebody ended it: that is the outcome."""
    stop = {"by": "halt", "reason": "sim halt"}
    record = until_told().add(T0 + 4.5, "stopped", stop).withdrawn(T0 + 5).add(T0 + 5.1, "fault.unheld", UNHELD)
    judged = record.closed(T0 + 12).judged(plan_of(BLOCKED))
    assert (judged.outcome, judged.reasons) == (Outcome.ABORTED, ("sim halt",))
