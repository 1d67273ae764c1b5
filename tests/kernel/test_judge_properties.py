"""Whatever comes in whatever order: verdicts are monotone, the fold is the replay, and nobody's asking changes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.clock import LoopClock
from sim.event import SIM, Event
from sim.judge import Judge, judge
from sim.log import Log, canonical, read
from tests.kernel.records import EPOCH, T0, Record, good, plan_of, until_told
from tests.kernel.scripted import PROFILE

PLANS = [
    plan_of(),
    plan_of("action=='block' && gate=='blocked' && burn < 1 && score >= baseline", never="action=='undo' || burn > 5"),
    plan_of("alert.to!='OTHER' && always(errors < 0.5) && at_end(burn < 1) && size(action)==1"),
    plan_of(profile={"hooks": {name: {**hook, "faults": []} for name, hook in PROFILE["hooks"].items()}}),
]

Step = Callable[[Record, float], Any]

#: What may happen, each a function of the record and the time.
HAPPENINGS: list[Step] = [
    lambda r, at: r.alert(at, starts=at),
    lambda r, at: r.alert(at, "resolved"),
    lambda r, at: r.alert(at, "pending"),
    lambda r, at: r.alert(at, starts=T0 - 5),
    lambda r, at: r.alert(at, name="Odd", labels={"alertname": "Odd", "run": "sim-1"}, fingerprint="a" * 16),
    lambda r, at: r.done(at),
    lambda r, at: r.done(at, id="block-1"),
    lambda r, at: r.execution(at, "started", "undo"),
    lambda r, at: r.done(at, "undo", alert="Odd", fingerprint="a" * 16),
    lambda r, at: r.message(at),
    lambda r, at: r.message(at, address="#other"),
    lambda r, at: r.message(at, fingerprint=None, starts_at=None),
    lambda r, at: r.message(at, "resolved"),
    lambda r, at: r.state(at, "gate", "blocked"),
    lambda r, at: r.state(at, "gate", "open"),
    lambda r, at: r.state(at, "gate", None),
    lambda r, at: r.gauge(at, "errors", 0.0),
    lambda r, at: r.gauge(at, "errors", 0.9),
    lambda r, at: r.samples(at, "burn", 3.0, 3.0, 3.0, every=0.0),
    lambda r, at: r.samples(at, "burn", 0.5, 0.5, 0.5, every=0.0),
    lambda r, at: r.gauge(at, "burn", None),
    lambda r, at: r.samples(at, "score", 1.0, 1.0, 1.0, every=0.0),
    lambda r, at: r.gauge(at, "score", 0.2),
    lambda r, at: r.blind(at, "prom", since=at - 0.5),
    lambda r, at: r.sees(at, "prom"),
    lambda r, at: r.blind(at, "hooks"),
    lambda r, at: r.sees(at, "hooks"),
    lambda r, at: r.blind(at, "release"),
    lambda r, at: r.sees(at, "release"),
    lambda r, at: r.blind(at, "slack"),
    lambda r, at: r.sees(at, "slack"),
    lambda r, at: r.add(at, "observer.offset", {"offset_s": 1.5, "error_s": 0.1}, "prom"),
    lambda r, at: r.add(at, "fault.withdrawing", {"fault": "sim-1"}),
    lambda r, at: r.add(at, "fault.gone", {"fault": "sim-1", "evidence": {}}),
    lambda r, at: r.add(at, "fault.stuck", {"fault": "sim-1", "reason": "there"}),
    lambda r, at: r.add(at, "stopped", {"by": "halt", "reason": "asked", "signal": None}),
    lambda r, at: r.add(at, "restored", {"ok": True, "differs": []}),
    lambda r, at: r.add(at, "note", {"text": "x"}),
]

#: Times fall often on one another and on the deadlines (t0 + 5, 10, 15; gone + 120).
GAPS = st.sampled_from([0.0, 0.0, 0.000001, 0.25, 1.0, 2.5, 5.0, 5.0, 120.0])


@st.composite
def records(draw: Any) -> Record:
    """Return a random record: mostly sensible up to t0, then anything."""
    record = Record().opened(burn=0.0, score=1.0)
    if draw(st.integers(0, 9)):
        record.injected(draw(st.sampled_from([T0 + 0.5, T0 + 0.5, None])))
    at = record.events[-1].seen_at
    for happening, gap in draw(st.lists(st.tuples(st.sampled_from(HAPPENINGS), GAPS), max_size=25)):
        at = round(at + gap, 6)
        happening(record, at)
    if draw(st.booleans()):
        record.closed(round(at + draw(GAPS), 6))
    return record


QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(records(), st.sampled_from(PLANS))
def test_a_settled_verdict_never_changes(record: Record, plan: Any) -> None:
    """Once its value is not pending, a verdict keeps value and reason whatever comes."""
    fold = Judge(plan)
    settled: dict[str, tuple[str, str]] = {}
    for event in record.events:
        fold.feed(event)
        now = {v.clause: (v.value, v.reason) for v in fold.verdicts() if v.value != "pending"}
        assert {clause: now.get(clause) for clause in settled} == settled
        settled = now
    fold.judgement()


@QUICK
@given(records(), st.sampled_from(PLANS), st.data())
def test_nobodys_asking_changes_a_verdict(record: Record, plan: Any, data: Any) -> None:
    """A runner polls in between at any moment: every verdict is that of the record alone."""
    asked = Judge(plan)
    for event, after in zip(record.events, [*record.events[1:], None], strict=True):
        asked.feed(event)
        if after is not None:
            span = after.seen_at - event.seen_at
            for part in data.draw(st.lists(st.sampled_from([0.0, 0.3, 0.9999999, 1.0]), max_size=2).map(sorted)):
                asked.settled_by(event.seen_at + part * span)
                assert asked.may_withdraw in (True, False)
                deadline = asked.next_deadline(event.seen_at)
                assert deadline is None or deadline >= event.seen_at
    assert asked.judgement() == judge(plan, record.events)


class Steps(LoopClock):
    """A clock that says what it is told."""

    def __init__(self) -> None:
        super().__init__(EPOCH)
        self.at = 0.0

    def now(self) -> float:
        """Return the time that was set."""
        return self.at


@settings(QUICK, max_examples=25)
@given(records(), st.sampled_from(PLANS))
def test_the_fold_is_the_replay_from_the_disk(
    tmp_path_factory: pytest.TempPathFactory, record: Record, plan: Any
) -> None:
    """Judged while it is written and judged from its JSON lines: the same bytes."""
    path: Path = tmp_path_factory.mktemp("run") / "log.jsonl"
    clock = Steps()
    log = Log(path, clock)
    live = Judge(plan)
    log.listen(live.feed)
    for event in record.events:
        clock.at = event.seen_at
        log.append(event.kind, event.data, event.source, event.occurred_at)
    log.close()
    assert canonical(live.judgement().as_json()) == canonical(judge(plan, read(path)).as_json())


# -- outcomes ----------------------------------------------------------------------------------------------------


def _insert(record: Record, at: float, kind: str, data: dict[str, Any], source: str = SIM) -> None:
    """Put one event into its place by time, before whatever is later."""
    place = next((n for n, event in enumerate(record.events) if event.seen_at > at), len(record.events))
    record.events.insert(place, Event(0, at, EPOCH + at, None, source, kind, data, ""))
    record.events[:] = [replace(event, seq=number) for number, event in enumerate(record.events)]


UNINVITED = {
    "id": "undo-0", "hook": "hook", "action": "undo", "target": "app", "state": "started", "fingerprint": "f" * 16,
    "starts_at": EPOCH + T0 + 2, "alert": "Broken", "audit_seq": 99, "detail": "",
}  # fmt: skip

#: What makes an outcome of a good record, from the strongest; each in another place of the record.
MAKES: list[tuple[str, Callable[[Record], None]]] = [
    ("unsafe", lambda r: _insert(r, T0 + 5.5, "fault.stuck", {"fault": "sim-1", "reason": "there"})),
    ("error", lambda r: _insert(r, T0 + 5.5, "run.error", {"error": "KeyError: x"})),
    ("inconclusive", lambda r: _insert(r, T0 + 4.9, "fault.ineffective", {"reason": "never bit"})),
    ("failed", lambda r: _insert(r, T0 + 4.5, "execution", UNINVITED, "hooks")),
    ("aborted", lambda r: _insert(r, T0 + 4.8, "stopped", {"by": "halt", "reason": "asked", "signal": None})),
    ("inconclusive", lambda r: _insert(r, T0 + 11, "observer.blind", {"error": "gone", "since": T0 + 11}, "slack")),
    ("passed", lambda r: None),
]  # fmt: skip


@pytest.mark.parametrize("weaker", range(len(MAKES)))
@pytest.mark.parametrize("stronger", range(len(MAKES)))
def test_the_first_outcome_that_fits_wins(stronger: int, weaker: int) -> None:
    """unsafe > error > refused or ineffective > failed > aborted > unknown > passed, pair by pair."""
    record = good()
    for number in sorted({stronger, weaker}, reverse=True):
        MAKES[number][1](record)
    assert str(record.judged(plan_of()).outcome) == MAKES[min(stronger, weaker)][0]


def test_differing_after_restore_is_unsafe() -> None:
    """Every clause met, and one state does not read as before: unsafe."""
    record = until_told().withdrawn(T0 + 5).well(T0 + 10).closed(T0 + 12, differs=["lane reads 'slow', was 'fast'"])
    judgement = record.judged(plan_of())
    assert (str(judgement.outcome), judgement.link, judgement.reasons) == (
        "unsafe", "restore", ("not put back: lane reads 'slow', was 'fast'",),
    )  # fmt: skip


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 143)])
@pytest.mark.parametrize(("more", "outcome", "own"), [(None, "aborted", None), ("fault.stuck", "unsafe", 6)])
def test_a_signal_gives_its_code_once_all_is_withdrawn(
    signal: str, code: int, more: str | None, outcome: str, own: int | None
) -> None:
    """130, 143 or 129 after withdrawing; 6 when the fault is not proven gone."""
    record = good()
    _insert(record, T0 + 4.8, "stopped", {"by": "signal", "reason": f"{signal} received", "signal": signal})
    if more:
        _insert(record, T0 + 5.5, more, {"fault": "sim-1", "reason": "there"})
    judgement = record.judged(plan_of())
    assert (str(judgement.outcome), judgement.exit_code) == (outcome, own or code)


def test_a_lost_stop_metric_is_inconclusive() -> None:
    """Nobody's wish and no bad value: what was not settled is unknown, and the run inconclusive."""
    record = good()
    _insert(record, T0 + 4.8, "stopped", {"by": "lost", "reason": "prom is blind", "signal": None})
    assert str(record.judged(plan_of()).outcome) == "inconclusive"


def test_missed_before_the_stop_stays_missed() -> None:
    """A stop makes unknown what was open; what was missed before it fails the run."""
    record = Record().opened().injected().add(T0 + 11, "stopped", {"by": "halt", "reason": "x", "signal": None})
    judgement = record.withdrawn(T0 + 12).closed(T0 + 13).judged(plan_of())
    assert (str(judgement.outcome), judgement.link) == ("failed", "detect")
