"""The four values, what a fact has to say for itself, and the explanation of an evaluation. No clock, no source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

from sim.event import JSON
from sim.expression.tree import Scalar, Temporal

Kind = Literal["event", "state", "gauge"]


class Truth(Enum):
    """True, false, pending (more may come that decides it) or unknown (it was not seen, and will not be)."""

    TRUE = "true"
    FALSE = "false"
    PENDING = "pending"
    UNKNOWN = "unknown"


def _first_of(order: tuple[Truth, ...]) -> Callable[[Iterable[Truth]], Truth]:
    def fold(values: Iterable[Truth]) -> Truth:
        seen = set(values)
        return next((truth for truth in order if truth in seen), order[-1])

    return fold


_all = _first_of((Truth.FALSE, Truth.UNKNOWN, Truth.PENDING, Truth.TRUE))
_any = _first_of((Truth.TRUE, Truth.UNKNOWN, Truth.PENDING, Truth.FALSE))


def and_(*values: Truth) -> Truth:
    """Return false if any is false, else unknown if any is, else pending if any is, else true (also of none)."""
    return _all(values)


def or_(*values: Truth) -> Truth:
    """Return true if any is true, else unknown if any is, else pending if any is, else false (also of none)."""
    return _any(values)


def not_(value: Truth) -> Truth:
    """Return the contrary of true and false; pending and unknown stay what they are."""
    return {Truth.TRUE: Truth.FALSE, Truth.FALSE: Truth.TRUE}.get(value, value)


@dataclass(frozen=True, slots=True)
class Witness:
    """One value that was seen: `seq` is its event's number in the record, `at` the caller's clock in seconds.

    `value` is null where the source answered and had none (no data; a subject that does not exist; no owner).
    """

    value: Scalar | None
    seq: int
    at: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known of one fact.

    `values`: of an event fact everything seen that belongs, in order; of a state or a gauge the current value, or
    nothing while there is none to be trusted. `settled`: the deadline is past, nothing more can come. `seeing`: the
    source was seeing for the whole span, so what was not seen did not happen.
    """

    kind: Kind
    values: tuple[Witness, ...] = ()
    settled: bool = False
    seeing: bool = True


class Environment(Protocol):
    """Where an evaluation gets its values from."""

    def reading(self, fact: str) -> Reading:
        """Return what is known of a fact of the vocabulary."""
        ...

    def variable(self, name: str) -> Scalar:
        """Return the value of a variable of the vocabulary."""
        ...

    def baseline(self, fact: str) -> Witness | None:
        """Return the worst baseline sample of a gauge, less its tolerance; null where there are too few samples."""
        ...

    def temporal(self, node: Temporal) -> Truth:
        """Return what ``always(x)`` or ``at_end(x)`` has come to over the samples so far."""
        ...


@dataclass(frozen=True, slots=True)
class Explanation:
    """One evaluation and why: `text` (the expression), what was `expected`, what was the `actual`.

    `at` is when it was decided (the clock of the witnesses), null where nothing that was seen decides it; `because`
    are the numbers of the events that decide it, ascending; `parts` explain the operands.
    """

    text: str
    truth: Truth
    expected: str
    actual: str
    at: float | None = None
    because: tuple[int, ...] = ()
    parts: tuple[Explanation, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """Return the explanation as plain JSON, parts and all; the truth as its word."""
        return {
            "text": self.text,
            "truth": self.truth.value,
            "expected": self.expected,
            "actual": self.actual,
            "at": self.at,
            "because": list(self.because),
            "parts": [part.to_json() for part in self.parts],
        }
