"""Trackers of the clauses that an exercise spells out: events and states, and what must never be."""

from __future__ import annotations

from collections.abc import Iterable

from sim import expression
from sim.expression import Explanation, Reading, Truth, Witness
from sim.judge.clauses import Tracker, in_order, what_happened
from sim.judge.ledger import Execution, Ledger, Now
from sim.judge.once import duplicates
from sim.plan import Clause


class Written(Tracker):
    """What every written clause has: its tree, and a reading of the facts that belong to the fault."""

    def __init__(self, clause: Clause, ledger: Ledger) -> None:
        super().__init__(clause, ledger)
        self.tree = expression.parse(clause.text)
        self.stages = {ledger.plan.target.facts[fact].stage for fact in clause.facts}
        self.steps = _steps(self.tree)

    def sources(self) -> Iterable[str]:
        """The observers behind the facts, and those of every earlier link of the chain."""
        named = {name for fact in self.clause.facts for name in self.ledger.plan.target.facts[fact].from_}
        if self.ledger.plan.hook and self.stages & {"act", "notify"}:
            named |= self.ledger.sources("detect")
        return named

    def told(self, settled: bool = False, until: float | None = None, seeing: bool = True) -> Explanation:
        """Evaluate the clause over what is known."""
        begun = self.clause.origin == "never"
        environment = Belonging(self.ledger, until, settled, seeing, begun, self.steps)
        explanation = expression.evaluate(self.tree, environment, self.ledger.words)
        self.actual = explanation.actual
        return explanation


class Belonging(Now):
    """The environment of an expression about event facts: what belongs to the fault, up to a moment."""

    def __init__(
        self, ledger: Ledger, until: float | None, settled: bool, seeing: bool, begun: bool, steps: list[str]
    ) -> None:
        super().__init__(ledger)
        self._steps = steps
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
        """Actions in the executor's order; where the wanted steps were not done one after the other, reversed.

        Two that overlapped are in no order, so a list must not show them in the one that is asked for.
        """
        if self._begun:  # what must never be done is broken by the attempt
            begun = [e for e in self._ledger.our_executions() if e.started_event is not None]
            return [Witness(e.action, e.started_event or 0, e.started_at or 0.0) for e in begun]
        ours = [e for e in self._ledger.our_executions() if e.effective_at is not None]
        if self._steps and len(in_order(ours, self._steps)) < len(self._steps):
            ours = sorted(ours, key=self._backwards)
        return [Witness(e.action, e.because[0], e.effective_at or 0.0) for e in ours]

    def _backwards(self, execution: Execution) -> int:
        return -self._steps.index(execution.action) if execution.action in self._steps else 0


def _steps(tree: expression.Node) -> list[str]:
    """Return the actions of the first ``a+b`` that the expression names, in order; none where it names no such."""
    texts = (node.value for node in expression.walk(tree) if isinstance(node, expression.Literal))
    joined = next((text for text in texts if isinstance(text, str) and "+" in text), None)
    return [step.strip() for step in joined.split("+")] if joined else []


class EventClause(Written):
    """Some event of the fault makes it true within its budget, and no duplicate comes."""

    def sources(self) -> Iterable[str]:
        """Those that it reads, and those by which an action's effect is read back: without it no action counts."""
        read_back = self.ledger.effect_sources() if "act" in self.stages else frozenset()
        return {*super().sources(), *read_back}

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
            literal = [action.name for action in self.ledger.plan.actions if action.name in self.clause.text]
            if literal:
                return what_happened(literal[0], self.ledger.our_executions(), self.ledger)
        return self.actual or self.absent()


class StateClause(Written):
    """False at baseline, true within the budget, and true until withdrawal."""

    def __init__(self, clause: Clause, ledger: Ledger) -> None:
        super().__init__(clause, ledger)
        self.before: Truth | None = None

    def look(self, now: float) -> None:
        """Witness when it becomes true; miss it when it lapses before the fault is withdrawn."""
        withdrawing = "withdrawing" in self.ledger.marks
        if self.ledger.t0 is None or self.settled or (self.witnessed and withdrawing):
            return
        told = self.told()
        if self.before is None:
            self.before = told.truth
        if self.before is Truth.TRUE:
            self._settle("unknown", "already true before the fault: it would prove nothing")
        elif self.before is not Truth.FALSE:
            self._settle("unknown", "it was not read as false before the fault: it would prove nothing")
        elif told.truth is Truth.TRUE:
            self._witness(now, told.because)
        elif told.truth is Truth.FALSE and self.witnessed and not withdrawing:
            self._settle("missed", f"it lapsed before the fault was withdrawn: {told.actual}")

    def at_close(self, now: float) -> None:
        """Met when it held until withdrawal, and somebody was looking all the while."""
        if not self.witnessed:
            return
        named = {name for fact in self.clause.facts for name in self.ledger.plan.target.facts[fact].from_}
        why = self.ledger.blind(named, self.witnessed[0], self.ledger.marks.get("withdrawing", now))
        self._settle("unknown" if why else "met", why or "")


class NeverClause(Written):
    """Must not become true between t0 and close."""

    def __init__(self, clause: Clause, ledger: Ledger) -> None:
        super().__init__(clause, ledger)
        self.unseen = ""

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
        elif told.truth is Truth.UNKNOWN:
            self.unseen = self.unseen or told.actual

    def at_close(self, now: float) -> None:
        """Met when it is false and all who would have seen it were looking."""
        if self.ledger.t0 is None:
            return
        why = self.ledger.blind(self.sources(), self.ledger.t0, now)
        told = self.told(settled=True, seeing=why is None)
        if why is None and told.truth is Truth.FALSE and not self.unseen:
            self._settle("met", "")
        else:
            self._settle("unknown", why or self.unseen or told.actual)
