"""One tracker a clause: looks at the ledger after every event, is witnessed at most once, and settles at most once.

Two moments. *Witnessed*: first true within the budget. *Settled*: missed as soon as the budget is over or a violation
is seen; met only at close, when no duplicate came, the state held, the gauge was read after recovery.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from sim import expression
from sim.expression import Truth
from sim.judge.ledger import Execution, Ledger, Now
from sim.judge.once import violations
from sim.judge.verdict import Value, Verdict
from sim.plan import Clause

#: How many samples in a row must hold before a gauge clause counts as held.
SAMPLES = 3


@dataclass(slots=True)
class _Settled:
    value: Value
    reason: str


class Tracker(ABC):
    """Follows one clause through the record."""

    def __init__(self, clause: Clause, ledger: Ledger) -> None:
        self.clause = clause
        self.ledger = ledger
        self.witnessed: tuple[float, tuple[int, ...]] | None = None
        self.settled: _Settled | None = None
        self.late: float | None = None
        self.actual = ""

    # -- what a kind of clause says ----------------------------------------------------------------------------

    anchor = "t0"

    @abstractmethod
    def look(self, now: float) -> None:
        """Look at the ledger as it stands at `now`: call `_witness` or `_settle` where it is due."""

    def sources(self) -> Iterable[str]:
        """The observers that must be looking for an absence to mean anything."""
        return ()

    def absent(self) -> str:
        """Say what was there instead, once the budget is over."""
        return self.actual or "nothing of the kind was seen"

    def at_close(self, now: float) -> None:
        """Settle what may only settle at the end."""
        if self.witnessed:
            self._settle("met", "")

    # -- the mechanism, the same for all -----------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """The record's second at which the budget is over; null until its anchor is known."""
        since = self.ledger.marks.get(self.anchor)
        return None if since is None else round(since + self.clause.within_s, 6)

    def expire(self, now: float) -> None:
        """Settle as missed or unknown when the budget was over before `now`."""
        deadline = self.deadline
        if self.settled or self.witnessed or deadline is None or now <= deadline:
            return
        since = self.ledger.marks["t0"]
        why = self.ledger.blind(self.sources(), since, deadline)
        if why:
            self._settle("unknown", why)
        else:
            self._settle("missed", self.absent())

    def stop(self, now: float) -> None:
        """Settle as unknown what a stop left open; where nobody was looking, that is the nearer reason."""
        if self.settled:
            return
        t0 = self.ledger.t0
        why = self.ledger.blind(self.sources(), t0, now) if t0 is not None and not self.witnessed else None
        when = f" at {now - t0:+.1f} s" if t0 is not None else " before t0"
        self._settle("unknown", why or f"stopped{when}")

    def close(self, now: float) -> None:
        """Settle whatever is left at the end of the record."""
        if not self.settled:
            self.at_close(now)
        if not self.settled:
            why = self.ledger.blind(self.sources(), self.ledger.t0 or 0.0, now)
            self._settle("unknown", why or "the run ended before this could be settled")

    def _witness(self, now: float, because: Iterable[int]) -> None:
        deadline = self.deadline
        if self.witnessed is not None or deadline is None:
            return
        if now > deadline:
            if self.late is None:
                self.late = round(now - deadline, 6)
            return
        if self.settled:
            return  # a stop settled it: in time, and too late to count
        self.witnessed = (now, tuple(because))

    def _settle(self, value: Value, reason: str) -> None:
        if self.settled is None:
            self.settled = _Settled(value, reason)

    @property
    def done(self) -> bool:
        """Whether waiting longer (with the fault in place) can teach nothing about this clause."""
        return self.settled is not None or self.witnessed is not None

    @property
    def waits(self) -> bool:
        """Whether there is still something to wait for after withdrawal."""
        return not self.settled and not self.witnessed and self.deadline is not None

    def verdict(self) -> Verdict:
        """Return the verdict as it stands."""
        took = effective = None
        since = self.ledger.marks.get(self.anchor)
        if self.witnessed and since is not None:
            took = round(self.witnessed[0] - since, 6)
            bites = self.ledger.marks.get("effective")
            if bites is not None and self.anchor == "t0" and self.clause.kind != "effect":
                effective = round(self.witnessed[0] - bites, 6)
        return Verdict(
            clause=self.clause.id,
            origin=self.clause.origin,
            stage=self.clause.stage,
            text=self.clause.text,
            value=self.settled.value if self.settled else "pending",
            within_s=self.clause.within_s,
            took_s=took,
            from_effective_s=effective,
            until_s=None if self.settled else self.deadline,
            late_s=self.late,
            expected=self.clause.text,
            actual=self.actual,
            reason=self.settled.reason if self.settled else "",
            because=self.witnessed[1] if self.witnessed else (),
        )


class Effect(Tracker):
    """The injector's own probe saw every fault bite. Never missed: what was not broken cannot be judged."""

    def look(self, now: float) -> None:
        """Witness when the last fault was proven."""
        at = self.ledger.marks.get("effective")
        if at is not None:
            self.actual = "proven by the injector's own probe"
            self._witness(at, ())
            if self.witnessed:
                self._settle("met", "")
        elif self.ledger.ineffective:
            self._settle("unknown", f"the fault never bit: {self.ledger.ineffective}")

    def expire(self, now: float) -> None:
        """Settle as unknown when the budget is over."""
        deadline = self.deadline
        if not self.settled and deadline is not None and now > deadline:
            self._settle("unknown", f"the fault was not proven to bite within {self.clause.within_s:g} s")


class Detect(Tracker):
    """One of the hook's alerts fires."""

    def sources(self) -> Iterable[str]:
        """Those that see alerts."""
        return self.ledger.detectors()

    def look(self, now: float) -> None:
        """Witness the first firing alert of the hook, as the detectors see it."""
        hook = self.ledger.plan.hook
        assert hook is not None
        detectors = self.ledger.detectors()
        for alert in self.ledger.alerts:
            if alert.source in detectors and alert.name in hook.alerts and self.ledger.belongs(alert):
                if not self.witnessed:
                    self.actual = f"{alert.name} is {alert.state}"
                if alert.state == "firing":
                    self._witness(now, (alert.seq,))


class Act(Tracker):
    """The hook's actions are done, in order, and the effect of each is read back."""

    def sources(self) -> Iterable[str]:
        """Those that see executions, and those of every earlier link."""
        return self.ledger.sources("detect", "act") | self.ledger.effect_sources()

    def look(self, now: float) -> None:
        """Witness once each action was done after the one before it, and was read back."""
        wanted = [action.name for action in self.ledger.plan.actions]
        ours = self.ledger.our_executions()
        chain = in_order([execution for execution in ours if execution.effective_at is not None], wanted)
        if len(chain) == len(wanted):
            self.actual = "done and read back"
            self._witness(now, sorted({seq for execution in chain for seq in execution.because}))
            return
        missing = wanted[len(chain)]
        self.actual = what_happened(missing, ours, self.ledger)


def in_order(executions: list[Execution], wanted: list[str]) -> list[Execution]:
    """Return the longest run of `wanted`, from its start, in which each began only after the one before succeeded."""
    chain: list[Execution] = []
    for execution in executions:
        if len(chain) == len(wanted):
            break
        after = not chain or (execution.started or 0) > (chain[-1].succeeded or 0)
        if execution.action == wanted[len(chain)] and after:
            chain.append(execution)
    return chain


def what_happened(action: str, ours: list[Execution], ledger: Ledger) -> str:
    """Say what became of an action that was wanted."""
    of_it = [execution for execution in ours if execution.action == action]
    if of_it:
        last = of_it[-1]
        if last.succeeded_event is None:
            return f"{action} is {last.last}" + (f": {last.detail}" if last.detail else "")
        effect = next((a.effect for a in ledger.plan.actions if a.name == action), None)
        if last.effective_at is None:
            reads = ", ".join(
                f"{name} reads {witness.value!r}" if witness else f"{name} reads nothing"
                for name, witness in ledger.states.items()
                if effect and name in effect
            )
            seen = reads or "no reading"
            return f"effect: {action} is recorded as succeeded, but {effect} was never read back ({seen})"
        return f"{action} began before the action ahead of it had succeeded"
    others = sorted({execution.action for execution in ours})
    return f"{action} was not done" + (f"; done instead: {', '.join(others)}" if others else "")


class Notify(Tracker):
    """The hook's owner is told on one channel, at the address that the owners' register gives."""

    def sources(self) -> Iterable[str]:
        """Those that receive messages, and those of every earlier link."""
        return self.ledger.sources("detect", "notify")

    def look(self, now: float) -> None:
        """Witness the first message of the fault that this owner received on this channel."""
        channel = self.clause.channel
        others: dict[str, None] = {}
        for message in self.ledger.our_messages():
            if message.channel != channel:
                continue
            if message.owner == self.ledger.plan.owner:
                self.actual = f"received at {message.address}"
                self._witness(now, (message.seq,))
            else:
                others[f"{message.owner} at {message.address}"] = None
        if others and not self.witnessed:
            self.actual = f"told instead: {', '.join(others)}"


class Only(Tracker):
    """No other action, no other owner, nothing twice."""

    anchor = "t0"

    @property
    def deadline(self) -> float | None:
        """Nothing runs out: what must not come is judged at close."""
        return None

    def sources(self) -> Iterable[str]:
        """Those that see executions and messages."""
        return self.ledger.sources("act", "notify")

    @property
    def done(self) -> bool:
        """There is never anything to wait for."""
        return True

    def look(self, now: float) -> None:
        """Settle as missed at the first thing that nobody asked for."""
        if self.settled:
            return
        for reason, seqs in violations(self.ledger):
            self.witnessed = (now, seqs)
            self.actual = reason
            self._settle("missed", reason)
            return

    def at_close(self, now: float) -> None:
        """Met when all who would have seen it were looking."""
        if self.ledger.t0 is None:
            return
        why = self.ledger.blind(self.sources(), self.ledger.t0, now)
        self._settle("unknown" if why else "met", why or "")


class Recover(Tracker):
    """Steady state is back, the fault's alerts are resolved, the actions that reverse themselves have."""

    anchor = "gone"

    def __init__(self, clause: Clause, ledger: Ledger) -> None:
        super().__init__(clause, ledger)
        text = ledger.plan.steady_state
        self._steady = expression.parse(text) if text else None
        #: (action, fact) pairs that must read as before once the action has reversed itself.
        self._reversed = [
            (action.name, fact)
            for action in ledger.plan.actions
            if action.reversal == "on_resolved" and action.effect
            for fact in sorted(expression.facts_of(expression.parse(action.effect), ledger.words))
        ]

    def sources(self) -> Iterable[str]:
        """Everything that this plan reads."""
        return self.ledger.plan.observers

    @property
    def done(self) -> bool:
        """It counts from *gone*: the fault need not stay for it."""
        return True

    def look(self, now: float) -> None:
        """Witness the first moment at which nothing is amiss any more; forget it when something is again."""
        gone = self.ledger.marks.get("gone")
        if gone is None:
            return
        amiss = self.amiss(gone)
        self.actual = "; ".join(amiss) or "steady state, alerts resolved, actions reversed"
        if not amiss:
            self._witness(now, ())
        elif self.witnessed and not self.settled:
            self.witnessed = None

    def amiss(self, gone: float) -> list[str]:
        """Return what is not yet well."""
        found: list[str] = []
        ledger = self.ledger
        if self._steady is not None:
            told = expression.evaluate(self._steady, Now(ledger, since=gone), ledger.words)
            if told.truth is not Truth.TRUE:
                found.append(f"steady state {told.text} is {told.truth.name.lower()} ({told.actual})")
        last: dict[tuple[object, str], tuple[str, str]] = {}
        for alert in ledger.ours(ledger.alerts):
            last[(alert.key, alert.source)] = (alert.name, alert.state)
        found += sorted({f"{name} is {state}" for name, state in last.values() if state != "resolved"})
        for action, fact in self._reversed:
            if not ledger.back(fact):
                found.append(f"{action} is not reversed: {fact} reads {ledger.reads(fact)!r}")
        return found

    def expire(self, now: float) -> None:
        """Missed when something is still amiss after the budget; unknown when that cannot be seen."""
        deadline = self.deadline
        if self.settled or self.witnessed or deadline is None or now <= deadline:
            return
        why = self.ledger.blind(self.sources(), self.ledger.marks["gone"], deadline)
        self._settle("unknown" if why else "missed", why or f"still amiss: {self.actual}")
