"""What a judgement says: one verdict a clause, one outcome a run, and the exit code that goes with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

Value = Literal["met", "missed", "unknown", "pending"]


class Outcome(StrEnum):
    """The answer to a run, in the order in which one outranks the next."""

    UNSAFE = "unsafe"
    ERROR = "error"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    ABORTED = "aborted"
    PASSED = "passed"

    @property
    def exit_code(self) -> int:
        """The code that `sim run` of this one exercise ends with (an interruption ends 130 or 143 instead)."""
        return _EXIT[self]


_EXIT = {
    Outcome.PASSED: 0,
    Outcome.FAILED: 1,
    Outcome.INCONCLUSIVE: 4,
    Outcome.ABORTED: 4,
    Outcome.UNSAFE: 6,
    Outcome.ERROR: 7,
}

#: Over many exercises the first of these that occurred is the code.
_RANK = (6, 7, 3, 1, 4, 0)

#: What a run ends with after SIGHUP, SIGINT, SIGTERM.
_INTERRUPTED = {129, 130, 143}


def worst_exit(codes: Iterable[int]) -> int:
    """Return the exit code of several: 6 > 129/130/143 > any other > 7 > 3 > 1 > 4 > 0; 5 when there were none."""
    seen = set(codes)
    if not seen:
        return 5
    if 6 in seen:
        return 6
    for apart in (seen & _INTERRUPTED, seen - set(_RANK)):
        if apart:
            return min(apart)
    return next(code for code in _RANK if code in seen)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to one clause. Once its value is not ``pending`` it never changes.

    `took_s` counts from t0 (for `recover` and gauges from *gone*), `from_effective_s` from the moment the fault was
    proven to bite. `because` are the sequence numbers of the events that settle it. `late_s` is how long after its
    budget the thing came after all; it does not un-miss.
    """

    clause: str
    origin: str
    stage: str
    text: str
    value: Value
    within_s: float
    took_s: float | None = None
    from_effective_s: float | None = None
    until_s: float | None = None
    late_s: float | None = None
    expected: str = ""
    actual: str = ""
    reason: str = ""
    because: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as it stands in ``verdicts.json``."""
        return {name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the record of one run proves. `link` is the first link of the chain that did not hold.

    `events` and `head` (the SHA-256 of the last line) say which record: with them a line that was altered last, or cut
    off, shows as well.
    """

    outcome: Outcome
    exit_code: int
    link: str | None
    reasons: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    plan_digest: str
    events: int
    head: str
    marks: tuple[tuple[str, float], ...]

    def as_json(self) -> dict[str, Any]:
        """Return the judgement as it stands in ``verdicts.json``."""
        return {
            "format": 1,
            "outcome": str(self.outcome),
            "exit_code": self.exit_code,
            "link": self.link,
            "reasons": list(self.reasons),
            "verdicts": [verdict.as_json() for verdict in self.verdicts],
            "plan": self.plan_digest,
            "record": {"events": self.events, "head": self.head},
            "marks": dict(self.marks),
        }
