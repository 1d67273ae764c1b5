"""The tracker of gauge clauses: what must hold for some samples in a row, at a time when withdrawing cannot flatter it.

A gauge that only the action cures (`cured_by: action`) is judged between action and withdrawal, and again at close;
any other after *gone*. ``always`` is judged at every sample from t0 on, ``at_end`` at close alone.
"""

from __future__ import annotations

from sim import expression
from sim.expression import Explanation, Temporal, Truth
from sim.judge.clauses import SAMPLES
from sim.judge.ledger import Ledger, Now
from sim.judge.verdict import Value
from sim.judge.written import Written
from sim.plan import Clause


class GaugeClause(Written):
    """Holds for some samples in a row, at the right time, and still at close; `always` at every sample from t0 on."""

    anchor = "gone"

    def __init__(self, clause: Clause, ledger: Ledger) -> None:
        super().__init__(clause, ledger)
        word = self.tree.word if isinstance(self.tree, Temporal) else None
        self.body = self.tree.operand if isinstance(self.tree, Temporal) else self.tree
        self.always, self.at_end = word == "always", word == "at_end"
        cured = any(ledger.plan.target.facts[fact].cured_by == "action" for fact in clause.facts)
        self.cured = cured and word is None
        self.worst: dict[str, float] = {}
        self.holding = 0
        self.failing = 0
        self.last_seq = -1
        self.held_before = False
        self.acted_at: float | None = None
        self.truth = Truth.PENDING
        self.gap = ""
        self.after_gone = False
        self.now = 0.0

    @property
    def deadline(self) -> float | None:
        """The end of `recover`; nothing runs out for what is judged at every sample or only at close."""
        return None if self.always or self.at_end else super().deadline

    def observers(self) -> set[str]:
        """The observers that sample its facts."""
        return {name for fact in self.clause.facts for name in self.ledger.plan.target.facts[fact].from_}

    def look(self, now: float) -> None:
        """Count samples that hold and samples that do not; one without data is neither, and ends the row."""
        ledger = self.ledger
        self.now = now
        if ledger.t0 is None:
            return
        self._note_action(now)
        if not self.after_gone and "gone" in ledger.marks:
            self.after_gone = True
            self.holding = 0 if not self.cured else self.holding
        newest = max((ledger.sampled.get(fact, -1) for fact in self.clause.facts), default=-1)
        if newest == self.last_seq or newest < 0:
            return
        self.last_seq = newest
        since = ledger.marks.get("gone") if not (self.cured or self.always) else None
        told = expression.evaluate(self.body, Now(ledger, since), ledger.words)
        self.truth = told.truth
        self.actual = told.actual + self._note_worst()
        self.holding = self.holding + 1 if told.truth is Truth.TRUE else 0
        self.failing = self.failing + 1 if told.truth is Truth.FALSE else 0
        self._sample(now, told)

    def _note_action(self, now: float) -> None:
        if self.acted_at is None and any(e.effective_at is not None for e in self.ledger.our_executions()):
            self.acted_at, self.holding = now, 0

    def _note_worst(self) -> str:
        """Keep the worst value of each gauge since t0, and return it for people."""
        for fact in self.clause.facts:
            found, worse = self.ledger.gauges.get(fact), self.ledger.plan.target.facts[fact].worse
            if found is None or isinstance(found.value, str | None) or found.at < (self.ledger.t0 or 0.0):
                continue
            pick = min if worse == "down" else max
            self.worst[fact] = pick(self.worst.get(fact, float(found.value)), float(found.value))
        return "".join(f"; {fact} at worst {value:g}" for fact, value in sorted(self.worst.items()))

    def _sample(self, now: float, told: Explanation) -> None:
        if self.always:
            if told.truth is Truth.FALSE:
                self._settle("missed", f"it did not hold at a sample: {told.actual}")
            elif told.truth is not Truth.TRUE:
                self.gap = self.gap or f"a sample says nothing: {told.actual}"
        elif self.cured:
            held = "withdrawing" in self.ledger.marks
            if self.acted_at is not None and not held and self.holding >= SAMPLES:
                self.held_before = True
        elif not self.at_end and self.after_gone:
            if self.holding >= SAMPLES:
                self._witness(now, told.because)
            elif self.witnessed and told.truth is not Truth.TRUE and not self.settled:
                self.witnessed = None

    @property
    def prolongs(self) -> bool:
        """Whether the fault must stay: a gauge that an action cures would be cured by withdrawing it too."""
        if not self.cured or self.settled or self.held_before:
            return False
        if self.acted_at is None:
            return self.failing < SAMPLES
        return self.now <= self.acted_at + self.clause.within_s

    @property
    def done(self) -> bool:
        """Whether the fault may go as far as this clause is concerned."""
        return not self.prolongs

    @property
    def waits(self) -> bool:
        """Whether a sample after withdrawal can still change what close will say.

        What did not hold before withdrawal is missed whatever is sampled after it.
        """
        decided = self.cured and (self.truth is Truth.TRUE or (not self.held_before and self.truth is Truth.FALSE))
        return super().waits and not decided

    def expire(self, now: float) -> None:
        """Miss it when the time to hold is over."""
        self.now = max(self.now, now)
        deadline = self.deadline
        if self.settled or deadline is None or now <= deadline or self.witnessed:
            return
        if self.cured and self.held_before and self.truth is Truth.TRUE:
            return
        why = self.ledger.blind(self.sources(), self.ledger.marks["gone"], deadline)
        value: Value = "missed" if self.truth is Truth.FALSE and not why else "unknown"
        if self.cured and not self.held_before and not why:
            value = "missed"
        self._settle(value, why or f"it did not hold: {self.actual}")

    def at_close(self, now: float) -> None:
        """Met when it held as asked and holds now."""
        ledger = self.ledger
        gone = ledger.marks.get("gone")
        if gone is None:
            return
        why = ledger.blind(self.observers(), (ledger.t0 or 0.0) if self.always else now, now) or self.gap
        if self.truth is Truth.FALSE:
            self._settle("missed", f"it does not hold at close: {self.actual}")
        elif self.cured and not self.held_before:
            self._settle("missed", "it did not hold before the fault was withdrawn: the action did not cure it")
        elif why or self.truth is not Truth.TRUE:
            self._settle("unknown", why or self.actual or "no sample was read")
        elif self.witnessed or self.cured or self.always or self.at_end:
            self.witnessed = self.witnessed or (now, (self.last_seq,))
            self._settle("met", "")
        else:
            self._settle("unknown", f"fewer than {SAMPLES} samples in a row after the fault was gone")
