"""The judge: a pure fold of events into verdicts, and of verdicts into an outcome. Sees no clock, no task, no socket.

Live and offline are the same: the runner feeds events as they are written, `sim judge RUN` feeds them from the disk,
and both come to the same bytes. Time is whatever the events say; before an event is taken in, every budget that ended
before it is settled, so *when* somebody asks never matters.
"""

from __future__ import annotations

from collections.abc import Iterable

from sim.event import Event
from sim.judge.clauses import Act, Detect, Effect, Notify, Only, Recover, Tracker
from sim.judge.gauges import GaugeClause
from sim.judge.ledger import Ledger
from sim.judge.verdict import Judgement, Outcome, Verdict, worst_exit
from sim.judge.written import EventClause, NeverClause, StateClause
from sim.log import FIRST_PREV, hash_of
from sim.plan import Clause, Plan

__all__ = ["Judge", "Judgement", "Outcome", "Verdict", "judge", "worst_exit"]

#: The order in which links are named.
_CHAIN = ("effect", "detect", "act", "notify", "only", "recover")

#: A closed terminal ends a run as a polite kill does.
_SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 143}

#: Stops that somebody wanted. Any other (metric lost, runner stood still, clock set) took the sight away.
_WANTED = ("signal", "halt", "stop_when")


class Judge:
    """Folds one record. `plan` says what is judged."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ledger = Ledger(plan)
        self._last: Event | None = None
        self.trackers: tuple[Tracker, ...] = tuple(_tracker(clause, self.ledger) for clause in plan.clauses)

    def feed(self, event: Event) -> None:
        """Take in one event: first settle the budgets that ended before it, then look at what it changes."""
        # A stop may say since when nobody looked: no budget that ended after that is missed.
        since = event.data.get("since") if event.kind == "stopped" else None
        self._expire(event.seen_at if since is None else float(since))  # type: ignore[arg-type]
        self.ledger.feed(event)
        self._last = event
        if event.kind == "stopped":
            for tracker in self.trackers:
                tracker.stop(event.seen_at)
        elif event.kind == "run.closed":
            for tracker in self.trackers:
                tracker.look(event.seen_at)
                tracker.close(event.seen_at)
        else:
            for tracker in self.trackers:
                if (not tracker.settled or tracker.late is None) and _concerns(event, tracker):
                    tracker.look(event.seen_at)

    def _expire(self, now: float) -> None:
        for tracker in self.trackers:
            tracker.expire(now)

    def next_deadline(self, now: float) -> float | None:
        """Return the next second of the record at which a verdict may settle by itself."""
        ahead = [t.deadline for t in self.trackers if not t.settled and t.deadline is not None and t.deadline >= now]
        return min(ahead, default=None)

    def settled_by(self, now: float) -> None:
        """Settle every budget that was over before `now`, for a runner that waits without events.

        Finer than the record can tell would settle what the next line, read offline, does not.
        """
        self._expire(round(now, 6))

    @property
    def may_withdraw(self) -> bool:
        """Whether the fault has taught what it can: effect proven, every event and state witnessed or missed."""
        return "effective" in self.ledger.marks and all(
            tracker.done for tracker in self.trackers if tracker.clause.kind not in ("effect", "recover", "only")
        )

    @property
    def may_close(self) -> bool:
        """Whether nothing is left to wait for after withdrawal."""
        return not any(tracker.waits for tracker in self.trackers)

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return every verdict as it stands."""
        return tuple(tracker.verdict() for tracker in self.trackers)

    def judgement(self) -> Judgement:
        """Return what the record so far proves."""
        verdicts = self.verdicts()
        outcome, link, reasons = _outcome(self.ledger, verdicts)
        code = outcome.exit_code
        stopped = self.ledger.stopped
        if stopped and stopped["by"] == "signal" and outcome not in (Outcome.UNSAFE, Outcome.ERROR):
            code = _SIGNALS.get(str(stopped["signal"]), 130)
        marks = tuple((name, round(at, 6)) for name, at in sorted(self.ledger.marks.items(), key=lambda m: m[1]))
        seen = 0 if self._last is None else self._last.seq + 1
        head = FIRST_PREV if self._last is None else hash_of(self._last)
        return Judgement(outcome, code, link, reasons, verdicts, self.plan.digest(), seen, head, marks)


def judge(plan: Plan, events: Iterable[Event]) -> Judgement:
    """Judge a whole record."""
    fold = Judge(plan)
    for event in events:
        fold.feed(event)
    return fold.judgement()


def _concerns(event: Event, tracker: Tracker) -> bool:
    """Whether this event can change what the tracker sees: samples of gauges are many, and few clauses read them."""
    if event.kind != "gauge":
        return True
    return tracker.clause.kind in ("gauge", "recover") or event.data["fact"] in tracker.clause.facts


def _tracker(clause: Clause, ledger: Ledger) -> Tracker:
    if clause.origin == "never":
        return NeverClause(clause, ledger)
    kinds: dict[str, type[Tracker]] = {
        "effect": Effect,
        "alert": Detect,
        "action": Act,
        "message": Notify,
        "only": Only,
        "recover": Recover,
        "event": EventClause,
        "state": StateClause,
        "gauge": GaugeClause,
    }
    return kinds[clause.kind](clause, ledger)


def _outcome(ledger: Ledger, verdicts: tuple[Verdict, ...]) -> tuple[Outcome, str | None, tuple[str, ...]]:
    """Return the first outcome that fits, the first link that broke, and why."""
    if ledger.stuck:
        reasons = tuple(f"{fault} is not proven gone: {reason}" for fault, reason in ledger.stuck.items())
        return Outcome.UNSAFE, "withdraw", reasons
    left = [fault for fault in ledger.injections if fault not in ledger.gone] if ledger.t0 is not None else []
    if left:
        return Outcome.UNSAFE, "withdraw", tuple(f"{fault} was never read back gone" for fault in left)
    if ledger.differs:
        return Outcome.UNSAFE, "restore", tuple(f"not put back: {each}" for each in ledger.differs)
    if ledger.t0 is not None and ledger.differs is None:
        return Outcome.UNSAFE, "restore", ("the run ended before it was read whether all was put back",)
    if ledger.errors:
        return Outcome.ERROR, None, tuple(ledger.errors)
    if ledger.refused:
        return Outcome.INCONCLUSIVE, ledger.refused[0][0], tuple(f"{c}: {detail}" for c, detail in ledger.refused)
    stopped = ledger.stopped
    if ledger.ineffective or ("effective" not in ledger.marks and not stopped):
        said = next((v.reason for v in verdicts if v.stage == "effect" and v.reason), "it was never proven")
        return Outcome.INCONCLUSIVE, "effect", (f"effect: {ledger.ineffective or said}",)
    if ledger.unheld and "effective" in ledger.marks:
        if stopped and stopped["by"] in _WANTED:
            return Outcome.ABORTED, None, (str(stopped["reason"]),)
        why = tuple(f"effect: {fault} did not hold until it was withdrawn: {r}" for fault, r in ledger.unheld.items())
        return Outcome.INCONCLUSIVE, "effect", why
    missed = [verdict for verdict in verdicts if verdict.value == "missed"]
    if missed:
        return Outcome.FAILED, _first(missed), _reasons(missed)
    why = (str(stopped["reason"]),) if stopped else ()
    if stopped and stopped["by"] in _WANTED:
        return Outcome.ABORTED, None, why
    unknown = [verdict for verdict in verdicts if verdict.value != "met"]
    if unknown:
        return Outcome.INCONCLUSIVE, _first(unknown), (*why, *_reasons(unknown))
    return Outcome.PASSED, None, ()


def _first(verdicts: list[Verdict]) -> str:
    return min((verdict.stage for verdict in verdicts), key=_CHAIN.index)


def _reasons(verdicts: list[Verdict]) -> tuple[str, ...]:
    ordered = sorted(verdicts, key=lambda verdict: _CHAIN.index(verdict.stage))
    return tuple(f"{verdict.clause}: {verdict.reason or verdict.actual}" for verdict in ordered)
