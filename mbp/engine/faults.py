"""Leased faults: what `PUT /faults/{id}` keeps, and when it ends. Pure; the clock is an argument.

A fault lives only in memory and only as long as its lease: a dead harness leaves nothing, and neither does a restart
of the engine. Ending one is final: its market is closed with it, so a renewal that comes late cannot revive it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

POINT = "engine.swap"
KIND = "mutate"
TTL_CAP_S = 60.0
TTL_LEAST_S = 0.1
FAULTS_AT_ONCE = 16
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


@dataclass(slots=True)
class Fault:
    """A fault in force: its lease and what it has met."""

    id: str
    spec: FaultSpec
    rev: int
    expires: float  # on the engine's monotonic clock
    expires_wall: float  # a label
    hits: int = 0  # swaps that met it
    impacted: int = 0  # swaps that it changed
    last_hit_wall: float | None = None
    dice: random.Random = field(default_factory=random.Random)

    def bites(self, wall: float) -> bool:
        """Count one swap that meets the fault, and tell whether it is to be changed (always, at a rate of 1)."""
        self.hits += 1
        self.last_hit_wall = wall
        return self.spec.rate >= 1.0 or self.dice.random() < self.spec.rate


class Leases:
    """The faults in force, by id and by market."""

    def __init__(self) -> None:
        """Begin with none."""
        self._by_id: dict[str, Fault] = {}
        self._by_market: dict[str, Fault] = {}
        self._rev = 0
        self.hits_total = 0

    def __iter__(self) -> Iterator[Fault]:
        """Iterate over the faults in force, oldest first."""
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        """Return how many faults are in force."""
        return len(self._by_id)

    def get(self, fault_id: str) -> Fault | None:
        """Return a fault by its id."""
        return self._by_id.get(fault_id)

    def of_market(self, market: str) -> Fault | None:
        """Return the fault that biases a market."""
        return self._by_market.get(market)

    def grant(self, fault_id: str, spec: FaultSpec, now: float, wall: float) -> Fault:
        """Put a new fault in force."""
        self._rev += 1
        fault = Fault(fault_id, spec, self._rev, now + spec.ttl_s, wall + spec.ttl_s)
        fault.dice = random.Random(spec.seed)  # noqa: S311 - a seeded share of swaps, not a secret
        self._by_id[fault_id] = self._by_market[spec.market] = fault
        return fault

    def renew(self, fault: Fault, now: float, wall: float) -> None:
        """Begin the lease anew."""
        self._rev += 1
        fault.rev, fault.expires, fault.expires_wall = self._rev, now + fault.spec.ttl_s, wall + fault.spec.ttl_s

    def drop(self, fault: Fault) -> None:
        """Take a fault out of force."""
        self._by_id.pop(fault.id, None)
        self._by_market.pop(fault.spec.market, None)

    def expired(self, now: float) -> list[Fault]:
        """Return the faults whose lease is over."""
        return [fault for fault in self if fault.expires <= now]

    def next_expiry(self) -> float | None:
        """Return when the next lease is over, on the monotonic clock, or None when there is none."""
        return min((fault.expires for fault in self), default=None)
