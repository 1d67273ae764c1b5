"""Measuring two things in turn, so that whatever else the machine does hits both alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Bench:
    """`ours` is held against `reference`, `rounds` times in turn. `goal` is the ratio aimed at; null: none is set."""

    name: str
    reference_name: str
    ours: Callable[[], object]
    reference: Callable[[], object]
    rounds: int
    goal: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians in seconds; the ratios are of each round's pair."""

    bench: Bench
    ours_s: float
    reference_s: float
    ratio: float
    least: float
    most: float


def measure(bench: Bench, clock: Callable[[], float] = time.perf_counter) -> Measured:
    """Run both once unmeasured, then in turn, and return the medians and the spread of the pairwise ratios."""
    bench.ours()
    bench.reference()
    ours: list[float] = []
    reference: list[float] = []
    for number in range(bench.rounds):
        # Who goes first alternates: the second of a pair finds warmer caches.
        pair = [(bench.ours, ours), (bench.reference, reference)]
        for call, times in pair if number % 2 else reversed(pair):
            gc.collect()
            started = clock()
            call()
            times.append(clock() - started)
    ratios = [mine / theirs for mine, theirs in zip(ours, reference, strict=True)]
    return Measured(bench, median(ours), median(reference), median(ratios), min(ratios), max(ratios))


def table(measured: list[Measured]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| what | against | ours | reference | ratio (median; least to most) | goal |",
        "|---|---|---|---|---|---|",
    ]
    for each in measured:
        bench = each.bench
        goal = "-" if bench.goal is None else f"≤ {bench.goal:g}: {'kept' if each.ratio <= bench.goal else 'NOT KEPT'}"
        times = f"{each.ours_s * 1000:.1f} ms | {each.reference_s * 1000:.1f} ms"
        spread = f"{each.ratio:.2f} ({each.least:.2f} to {each.most:.2f})"
        lines.append(f"| {bench.name} | {bench.reference_name} | {times} | {spread} | {goal} |")
    return "\n".join(lines)
