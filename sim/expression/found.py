"""A value with its provenance, or the reason why there is none; what readings and counts leave undecided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sim.expression import values
from sim.expression.tree import Value, spell
from sim.expression.truth import Reading, Truth, and_
from sim.expression.values import FLIPPED, clip
from sim.expression.vocabulary import FactInfo

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Found:
    """A value and where it came from.

    `lack` (pending or unknown) says that there is none, and `reason` why. `grows` is what a count that can still rise
    leaves undecided. A null `value` without a lack is a subject that does not exist: equal to nothing.
    """

    value: Value | None = None
    lack: Truth | None = None
    reason: str = ""
    because: tuple[int, ...] = ()
    at: float | None = None
    grows: Truth | None = None

    def shown(self) -> str:
        """Return the value as the language writes it, or the reason why there is none."""
        if self.lack is not None:
            return self.reason
        return "absent" if self.value is None else clip(spell(self.value))


def joined(parts: Sequence[Found]) -> tuple[tuple[int, ...], float | None]:
    """Return the events behind `parts`, ascending, and the time of the latest."""
    seqs = sorted({seq for part in parts for seq in part.because})
    return tuple(seqs), max((part.at for part in parts if part.at is not None), default=None)


def read(reading: Reading, info: FactInfo) -> Found:
    """Return the current value of a state or a gauge."""
    if not reading.values:
        if not reading.settled:
            return Found(lack=Truth.PENDING, reason="not read yet")
        return Found(lack=Truth.UNKNOWN, reason="never read" if reading.seeing else "its source was blind")
    last = reading.values[-1]
    if last.value is None and info.subject is None:
        return Found(lack=Truth.UNKNOWN, reason="no data", because=(last.seq,), at=last.at)
    if isinstance(last.value, float) and math.isnan(last.value):
        return Found(lack=Truth.UNKNOWN, reason="no data (NaN)", because=(last.seq,), at=last.at)
    return Found(last.value, because=(last.seq,), at=last.at)


def undecided(reading: Reading) -> Truth | None:
    """Return what the absence of an event means: pending, unknown, or (null) that it did not happen."""
    if not reading.settled:
        return Truth.PENDING
    return None if reading.seeing else Truth.UNKNOWN


def listed(reading: Reading) -> str:
    """Return the events of a reading for people, each value once, and what is to be thought of their absence."""
    if reading.settled:
        state = "" if reading.seeing else " (its source was blind)"
    else:
        state = " so far" if reading.seeing else " so far (its source is blind)"
    if not reading.values:
        return f"nothing{state}"
    shown = list(dict.fromkeys(clip(spell(witness.value)) for witness in reading.values))
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more + state


def while_growing(op: str, left: Found, right: Found, now: Truth) -> Truth:
    """Return `now` if it holds of a count however much that still rises, else what the count leaves undecided."""
    if left.grows and right.grows:
        return and_(left.grows, right.grows)
    if right.grows:
        if op == "in":
            return right.grows
        left, right, op = right, left, FLIPPED[op]
    assert left.grows is not None and left.value is not None and right.value is not None
    if op in (">", ">="):
        return now if now is Truth.TRUE else left.grows
    if op in ("<", "<="):
        return now if now is Truth.FALSE else left.grows
    beyond = op in ("==", "!=") and values.compare(">", left.value, right.value)
    return now if beyond else left.grows


def steps_in(text: str, joint: str) -> tuple[str, ...]:
    """Return the steps of ``a+b``, without the blanks around them."""
    return tuple(step.strip() for step in text.split(joint))
