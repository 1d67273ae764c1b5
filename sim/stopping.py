"""Stop conditions: when to end a run early, whatever its expectations say.

Kept apart from the judge on purpose: an expectation says what should happen, this says what must not go on. It is asked
only while a fault may be in (from t0 until gone), of fresh samples; a metric that is lost stops the run as well, since
nobody could see then whether it must be stopped.
"""

from __future__ import annotations

from collections.abc import Callable

from sim import expression
from sim.event import Event
from sim.expression import Truth
from sim.judge.ledger import Ledger
from sim.judge.present import Now

#: After so many looks in a row that tell nothing, the metric is lost.
LOOKS = 3


class Stopping:
    """Watches one run's stop condition. Calls `ask(by, reason)` at most once."""

    def __init__(self, text: str | None, ledger: Ledger, ask: Callable[[str, str], None]) -> None:
        self._tree = expression.parse(text) if text else None
        self._text = text or ""
        self._ledger = ledger
        self._ask = ask
        self._facts = expression.facts_of(self._tree, ledger.words) if self._tree else frozenset()
        facts = ledger.plan.target.facts
        self._observers = frozenset(name for fact in self._facts for name in facts[fact].from_)
        self._unknown = 0
        self._asked = False

    def see(self, event: Event) -> None:
        """Look at one event that the ledger has taken in already."""
        marks = self._ledger.marks
        if self._tree is None or self._asked or "t0" not in marks or "gone" in marks:
            return
        blind = event.kind == "observer.blind" and event.source in self._observers
        read = event.kind in ("gauge", "state") and event.data["fact"] in self._facts
        if blind or read or event.kind == "fault.t0":
            self._look(event)

    def _look(self, event: Event) -> None:
        assert self._tree is not None
        told = expression.evaluate(self._tree, Now(self._ledger), self._ledger.words)
        if told.truth is Truth.TRUE:
            self._stop("stop_when", f"{self._text} is true: {told.actual}")
            return
        if told.truth is Truth.FALSE:  # known, even where one of several sources is blind
            self._unknown = 0
            return
        self._unknown += 1
        unseen = sorted(name for name in self._observers if not self._ledger.seeing.get(name, False))
        if unseen:
            whys = (f"{name} is blind: {self._ledger.blind_why.get(name) or 'no answer'}" for name in unseen)
            self._stop("lost", f"the stop metric is lost: {'; '.join(whys)}")
        elif event.kind == "state" or self._unknown >= LOOKS:  # a state is told once a change: it stays unknown
            names = ", ".join(sorted(self._observers))
            self._stop("lost", f"the stop metric is lost: {names} gives no value: {told.actual}")

    def _stop(self, by: str, reason: str) -> None:
        self._asked = True
        self._ask(by, reason)
