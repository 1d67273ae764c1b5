"""The engine's faults: what each of its two points is asked to be, and which market it works in.

A fault has a market of its own, opened with it. Ending a fault is final: its market is closed (or resolved) with it, so
a renewal that comes late cannot revive it. Leases themselves are :mod:`mbp._faults`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from mbp import _faults
from mbp._faults import FAULTS_AT_ONCE, TTL_CAP_S, TTL_LEAST_S

__all__ = ["FAULTS_AT_ONCE", "KIND", "POINT", "RATIO_CAP", "TTL_CAP_S", "TTL_LEAST_S", "Fault", "FaultSpec", "Leases"]

POINT = "engine.swap"
KIND = "mutate"
RATIO_CAP = Fraction(1, 1000)


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """What a fault is asked to be; two requests are the same fault when these are equal."""

    market: str
    delta_k_ratio: Fraction
    ratio_text: str  # as it was written, for the answer
    reserve: int
    ttl_s: float
    run: str
    rate: float = 1.0
    seed: int = 0


Fault = _faults.Fault[FaultSpec]


class Leases(_faults.Leases[FaultSpec]):
    """The faults in force, by id and by market."""

    def of_market(self, market: str) -> Fault | None:
        """Return the fault that works in a market."""
        return next((fault for fault in self if fault.spec.market == market), None)
