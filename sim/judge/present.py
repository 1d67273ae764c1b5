"""What an expression reads of the present: states and gauges as last read, and nothing where nobody is looking."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sim.expression import Reading, Truth, Witness

if TYPE_CHECKING:
    from sim.judge.ledger import Ledger


class Now:
    """The environment of an expression about the present: states and gauges as last read."""

    def __init__(self, ledger: Ledger, since: float | None = None) -> None:
        self._ledger = ledger
        self._since = since

    def reading(self, fact: str) -> Reading:
        """Return the last reading of `fact`; one from before `since` does not count for a gauge."""
        spec = self._ledger.plan.target.facts[fact]
        found = (self._ledger.states if spec.kind == "state" else self._ledger.gauges).get(fact)
        if found and self._since is not None and spec.kind == "gauge" and found.at < self._since:
            found = None
        seeing = all(self._ledger.seeing.get(name, False) for name in spec.from_)
        if not seeing:
            found = None  # what it read before it went blind says nothing about now
        if found and found.value is None and spec.subject is None:
            found = None  # no data; with a subject it says that the subject does not exist
        return Reading(kind=spec.kind, values=(found,) if found else (), settled=True, seeing=seeing)

    def variable(self, name: str) -> Any:
        """Return a variable of the plan."""
        return self._ledger.plan.variables[name]

    def baseline(self, fact: str) -> Witness | None:
        """Return the worst baseline sample of a gauge less its tolerance; null with fewer than 5 samples."""
        samples = self._ledger.baseline.get(fact, [])
        if len(samples) < 5:
            return None
        spec = self._ledger.plan.target.facts[fact]
        if spec.worse == "up":
            worst = max(samples, key=_number)
            return replace(worst, value=_number(worst) + spec.tolerance)
        worst = min(samples, key=_number)
        return replace(worst, value=_number(worst) - spec.tolerance)

    def temporal(self, node: Any) -> Truth:
        """Temporal words have no meaning about the present alone."""
        raise ValueError(f"{node} has no meaning outside a clause")


class Supposed(Now):
    """The present, save that one state fact reads `value`."""

    def __init__(self, ledger: Ledger, fact: str, value: Any) -> None:
        super().__init__(ledger)
        self._fact, self._value = fact, value

    def reading(self, fact: str) -> Reading:
        """Return the supposed reading of the one fact, the last one of any other."""
        if fact != self._fact:
            return super().reading(fact)
        return Reading(kind="state", values=(Witness(self._value, 0, 0.0),), settled=True, seeing=True)


def _number(sample: Witness) -> float:
    assert not isinstance(sample.value, str | None), "a gauge is a number"
    return float(sample.value)
