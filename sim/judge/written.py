"""Trackers of the clauses that an exercise spells out: events, states and gauges, and what must never be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sim import expression
from sim.expression import Explanation, Reading, Temporal, Truth, Witness
from sim.judge.clauses import SAMPLES, Tracker, duplicates
from sim.judge.ledger import Ledger, Now
from sim.judge.verdict import Value
from sim.plan import Clause


class Written(Tracker):
    """What every written clause has: its tree, and a reading of the facts that belong to the fault."""

    def __init__(self, clause: Clause, ledger: Ledger) -> None:
        super().__init__(clause, ledger)
        self.tree = expression.parse(clause.text)
        self.stages = {ledger.plan.target.facts[fact].stage for fact in clause.facts}

    def sources(self) -> Iterable[str]:
        """The observers behind the facts, and those of every earlier link of the chain."""
        named = {name for fact in self.clause.facts for name in self.ledger.plan.target.facts[fact].from_}
        if self.ledger.plan.hook and self.stages & {"act", "notify"}:
            named |= self.ledger.sources("detect")
        return named

    def told(self, settled: bool = False, until: float | None = None, seeing: bool = True) -> Explanation:
        """Evaluate the clause over what is known."""
        environment = Belonging(self.ledger, until, settled, seeing, self.clause.origin == "never")
        explanation = expression.evaluate(self.tree, environment, self.ledger.words)
        self.actual = explanation.actual
        return explanation


class Belonging(Now):
    """The environment of an expression about event facts: what belongs to the fault, up to a moment."""

    def __init__(self, ledger: Ledger, until: float | None, settled: bool, seeing: bool, begun: bool) -> None:
        super().__init__(ledger)
        self._until, self._settled, self._seeing, self._begun = until, settled, seeing, begun

    def reading(self, fact: str) -> Reading:
        """Return the events of `fact` in their order, or the present state or gauge."""
        spec = self._ledger.plan.target.facts[fact]
        if spec.kind != "event":
            return super().reading(fact)
        found = [w for w in self._events(spec.stage, spec.from_) if self._until is None or w.at <= self._until]
        return Reading(kind="event", values=tuple(found), settled=self._settled, seeing=self._seeing)

    def _events(self, stage: str | None, sources: tuple[str, ...]) -> list[Witness]:
        ledger = self._ledger
        if stage == "act":
            return self._actions()
        if stage == "notify":
            return [Witness(m.owner, m.seq, m.at) for m in ledger.our_messages() if m.source in sources]
        return [
            Witness(a.name, a.seq, a.at)
            for a in ledger.ours(ledger.alerts)
            if a.state == "firing" and a.source in sources
        ]

    def _actions(self) -> list[Witness]:
        """Actions in the executor's order; two that overlapped stand reversed, so that neither came after the other."""
        ours = [e for e in self._ledger.our_executions() if e.effective_at is not None]
        if self._begun:  # what must never be done is broken by the attempt
            begun = [e for e in self._ledger.our_executions() if e.started_event is not None]
            return [Witness(e.action, e.started_event or 0, e.started_at or 0.0) for e in begun]
        groups: list[list[Any]] = []
        for execution in ours:
            overlaps = groups and (execution.started or 0) <= max(e.succeeded or 0 for e in groups[-1])
            groups[-1].append(execution) if overlaps else groups.append([execution])
        ordered = [execution for group in groups for execution in reversed(group)]
        return [Witness(e.action, e.because[0], e.effective_at or 0.0) for e in ordered]


class EventClause(Written):
    """Some event of the fault makes it true within its budget, and no duplicate comes."""

    def look(self, now: float) -> None:
        """Witness the first moment at which it is true; a duplicate of anything it reads is a miss."""
        if self.ledger.t0 is None:
            return
        told = self.told(until=self.deadline)
        if told.truth is Truth.TRUE:
            self._witness(now, told.because)
        elif self.deadline is not None and now > self.deadline and self.told().truth is Truth.TRUE:
            self._witness(now, ())
        elif told.truth is Truth.FALSE:
            self._settle("missed", f"{told.actual}")
        if self.witnessed and not self.settled and self.ledger.plan.hook:
            for reason, seqs in duplicates(self.ledger):
                done = "act" in self.stages and reason.startswith("done")
                said = "notify" in self.stages and reason.startswith("told")
                if done or said:
                    self.actual = reason
                    self.witnessed = (self.witnessed[0], (*self.witnessed[1], *seqs))
                    self._settle("missed", reason)

    def expire(self, now: float) -> None:
        """At its deadline a negation may still be met; all else is missed, or unknown if nobody was looking."""
        deadline, t0 = self.deadline, self.ledger.t0
        if self.settled or self.witnessed or deadline is None or t0 is None or now <= deadline:
            return
        why = self.ledger.blind(self.sources(), t0, deadline)
        told = self.told(settled=True, until=deadline, seeing=why is None)
        if told.truth is Truth.TRUE:
            self.witnessed = (deadline, told.because)
        elif told.truth is Truth.FALSE:
            self._settle("missed", self._instead())
        else:
            self._settle("unknown", why or told.actual)

    def at_close(self, now: float) -> None:
        """Met when it was witnessed; say what was seen in all, now that no more can come."""
        if self.witnessed:
            self.told(settled=True)
            self._settle("met", "")

    def _instead(self) -> str:
        if self.stages == {"act"}:
            from sim.judge.clauses import _what_happened

            literal = [action.name for action in self.ledger.plan.actions if action.name in self.clause.text]
            if literal:
                return _what_happened(literal[0], self.ledger.our_executions(), self.ledger)
        return self.actual or self.absent()


class StateClause(Written):
    """False at baseline, true within the budget, and true until withdrawal."""

    def look(self, now: float) -> None:
        """Witness when it becomes true; miss it when it lapses before the fault is withdrawn."""
        if self.ledger.t0 is None or self.settled:
            return
        held = "withdrawing" in self.ledger.marks
        told = self.told()
        if told.truth is Truth.TRUE:
            if now <= self.ledger.t0:
                self._settle("unknown", "already true before the fault: it would prove nothing")
            self._witness(now, told.because)
        elif told.truth is Truth.FALSE and self.witnessed and not held:
            self._settle("missed", f"it lapsed before the fault was withdrawn: {told.actual}")


class GaugeClause(Written):
    """Holds for some samples in a row, at the right time, and still at close; `always` at every sample from t0 on."""

    anchor = "gone"

    def __init__(self, clause: Clause, ledger: Ledger) -> None:
        super().__init__(clause, ledger)
        facts = [ledger.plan.target.facts[fact] for fact in clause.facts]
        self.cured = any(fact.cured_by == "action" for fact in facts)
        self.worst: float | None = None
        self.holding = 0
        self.failing = 0
        self.last_seq = -1
        self.held_before = False
        self.acted_at: float | None = None
        self.truth = Truth.PENDING
        self.always = isinstance(self.tree, Temporal) and self.tree.word == "always"
        self.at_end = isinstance(self.tree, Temporal) and self.tree.word == "at_end"
        self.body = self.tree.operand if isinstance(self.tree, Temporal) else self.tree

    def look(self, now: float) -> None:
        """Count samples that hold and samples that do not."""
        ledger = self.ledger
        if ledger.t0 is None:
            return
        self._note_action(now)
        newest = max((ledger.gauges[f].seq for f in self.clause.facts if f in ledger.gauges), default=-1)
        if newest == self.last_seq or newest < 0:
            return
        self.last_seq = newest
        since = ledger.marks.get("gone") if not (self.cured or self.always) else None
        told = expression.evaluate(self.body, Now(ledger, since), ledger.words)
        self.truth, self.actual = told.truth, told.actual
        self.holding = self.holding + 1 if told.truth is Truth.TRUE else 0
        self.failing = self.failing + 1 if told.truth is Truth.FALSE else 0
        self._sample(now, told)

    def _note_action(self, now: float) -> None:
        if self.acted_at is None and any(e.effective_at is not None for e in self.ledger.our_executions()):
            self.acted_at, self.holding = now, 0

    def _sample(self, now: float, told: Explanation) -> None:
        gone = self.ledger.marks.get("gone")
        if self.always:
            if told.truth is Truth.FALSE:
                self._settle("missed", f"it did not hold at a sample: {told.actual}")
            return
        if self.at_end:
            return
        if self.cured:
            held = "withdrawing" in self.ledger.marks
            if self.acted_at is not None and not held and self.holding >= SAMPLES:
                self.held_before = True
            return
        if gone is not None and self.holding >= SAMPLES:
            self._witness(now, told.because)
        elif self.witnessed and told.truth is not Truth.TRUE and not self.settled:
            self.witnessed = None

    @property
    def prolongs(self) -> bool:
        """Whether the fault must stay: a gauge that an action cures would be cured by withdrawing it too."""
        if not self.cured or self.settled or self.held_before:
            return False
        acted = self.acted_at
        if acted is None:
            return self.failing < SAMPLES
        return True

    @property
    def done(self) -> bool:
        """Whether the fault may go as far as this clause is concerned."""
        return not self.prolongs

    def expire(self, now: float) -> None:
        """Miss it when the time to hold is over."""
        deadline = self.deadline
        if self.settled or self.always or self.at_end or deadline is None or now <= deadline or self.witnessed:
            return
        if self.cured and self.held_before and self.truth is Truth.TRUE:
            return
        why = self.ledger.blind(self.sources(), self.ledger.marks["gone"], deadline)
        value: Value = "unknown" if why or self.truth is Truth.UNKNOWN else "missed"
        self._settle(value, why or f"it did not hold: {self.actual}")

    def at_close(self, now: float) -> None:
        """Met when it held as asked and holds now."""
        if self.truth is Truth.UNKNOWN or self.truth is Truth.PENDING:
            self._settle("unknown", self.actual or "no sample was read")
        elif self.truth is Truth.FALSE:
            self._settle("missed", f"it does not hold at close: {self.actual}")
        elif self.cured and not (self.always or self.at_end) and not self.held_before:
            self._settle("missed", "it did not hold before the fault was withdrawn: the action did not cure it")
        else:
            self.witnessed = self.witnessed or (now, (self.last_seq,))
            self._settle("met", "")


class NeverClause(Written):
    """Must not become true between t0 and close."""

    @property
    def deadline(self) -> float | None:
        """Nothing runs out: what must not come is judged at close."""
        return None

    @property
    def done(self) -> bool:
        """There is never anything to wait for."""
        return True

    def look(self, now: float) -> None:
        """Miss it the moment it is true."""
        if self.ledger.t0 is None or self.settled:
            return
        told = self.told()
        if told.truth is Truth.TRUE:
            self.witnessed = (now, told.because)
            self._settle("missed", f"it came true: {told.actual}")

    def at_close(self, now: float) -> None:
        """Met when it is false and all who would have seen it were looking."""
        if self.ledger.t0 is None:
            return
        why = self.ledger.blind(self.sources(), self.ledger.t0, now)
        told = self.told(settled=True, seeing=why is None)
        if why is None and told.truth is Truth.FALSE:
            self._settle("met", "")
        else:
            self._settle("unknown", why or told.actual)
