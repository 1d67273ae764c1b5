"""The engine's faults: what each of its two points is asked to be, and which market it works in.

A fault has a market of its own, opened with it. Ending a fault is final: its market is closed (or resolved) with it, so
a renewal that comes late cannot revive it. Leases themselves are :mod:`mbp._faults`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from mbp import _faults
from mbp._faults import FAULTS_AT_ONCE

__all__ = ["FAULTS_AT_ONCE", "KINDS", "RATIO_CAP", "BiasSpec", "DelaySpec", "Fault", "FaultSpec", "Leases"]

SWAP = "engine.swap"
DELAY = "events.delay"
KINDS = {SWAP: "mutate", DELAY: "hold"}  # by point
RATIO_CAP = Fraction(1, 1000)
HOURS_CAP = 240.0
DELAY_RESERVE = 1_000 * 10**9  # of the market that a delay opens, base units


@dataclass(frozen=True, slots=True)
class BiasSpec:
    """A biased market. Two requests are the same fault when these are equal."""

    market: str
    delta_k_ratio: Fraction
    ratio_text: str  # as it was written, for the answer
    reserve: int
    ttl_s: float
    run: str
    rate: float = 1.0
    seed: int = 0
    point: str = SWAP


@dataclass(frozen=True, slots=True)
class DelaySpec:
    """A market whose resolution started `hours` ago and whose resolution_finished is held until the fault ends."""

    market: str
    hours: float
    ttl_s: float
    run: str
    rate: float = 1.0
    seed: int = 0
    reserve: int = DELAY_RESERVE
    point: str = DELAY


FaultSpec = BiasSpec | DelaySpec
Fault = _faults.Fault[FaultSpec]


class Leases(_faults.Leases[FaultSpec]):
    """The faults in force, by id and by market."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.hits: dict[str, int] = dict.fromkeys(KINDS, 0)

    def of_market(self, market: str) -> Fault | None:
        """Return the fault that works in a market."""
        return next((fault for fault in self if fault.spec.market == market), None)
