"""The healthy past as series: 4 h of the decision API at N requests a second, 24 h of about forty good page views.

Pure and deterministic: the same end gives the same samples, byte for byte. Every sample is a whole count; every series
begins at 0 and ends at the end, so that no window reads a first value as an increase.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from mbp._edges import DEC_SECONDS, INP_MS, le_text

HOUR_S = 3600
API_HOURS, API_STEP_S, API_RPS = 4, 15, 120
PAGE_HOURS, PAGE_STEP_S, PAGE_VIEWS = 24, 60, 40

Labels = tuple[tuple[str, str], ...]  # sorted by name, __name__ among them

_API: dict[str, str] = {"instance": "seeded", "job": "dec", "release": "candidate", "route": "/v1/swaps"}
_PAGE: dict[str, str] = {"instance": "seeded", "page": "/", "env": "local"}

# Answers by class, and of those that are no 5xx the share that took at most so many seconds: a service at rest, whose
# answers take 240 ms and a little. Bad (over 0.8 s, or 5xx) are 1.5 in 10,000: a burn of 0.015 of the 1 % budget.
_CLASSES: tuple[tuple[str, Fraction], ...] = (
    ("4xx", Fraction(1, 1000)),
    ("429", Fraction(0)),
    ("5xx", Fraction(5, 100_000)),
)
_WITHIN: tuple[tuple[float, Fraction], ...] = (
    (0.2, Fraction(0)),
    (0.25, Fraction(70, 100)),
    (0.3, Fraction(96, 100)),
    (0.4, Fraction(99, 100)),
    (0.5, Fraction(998, 1000)),
    (0.8, Fraction(9999, 10_000)),
    (1.0, Fraction(1)),
)
_MEAN_S = 0.249
_VIEWS_MS = (128, 144, 136, 152, 128, 160, 144, 136)  # on the 8 ms grid, good: at most 160


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its labels, its step, and its samples as (Unix milliseconds, value), oldest first."""

    labels: Labels
    step_s: int
    samples: tuple[tuple[int, float], ...]


def healthy(until_s: int) -> Iterator[Series]:
    """Yield the past that ends at ``until_s`` (Unix seconds), the longest window first."""
    yield from _page(until_s)
    yield from _api(until_s)


def windows() -> dict[str, dict[str, int]]:
    """Return what windows the past fills, in seconds, by family: the beginning of its metrics' names."""
    return {
        "dec_request_seconds": {"window_s": API_HOURS * HOUR_S, "step_s": API_STEP_S, "rps": API_RPS},
        "dec_requests_total": {"window_s": API_HOURS * HOUR_S, "step_s": API_STEP_S, "rps": API_RPS},
        "web_vitals_inp_ms": {"window_s": PAGE_HOURS * HOUR_S, "step_s": PAGE_STEP_S, "views": PAGE_VIEWS},
    }


def _labels(name: str, base: dict[str, str], **more: str) -> Labels:
    return tuple(sorted({"__name__": name, **base, **more}.items()))


def _api(until_s: int) -> Iterator[Series]:
    steps = API_HOURS * HOUR_S // API_STEP_S
    times = [(until_s - (steps - index) * API_STEP_S) * 1000 for index in range(steps + 1)]
    totals = [index * API_STEP_S * API_RPS for index in range(steps + 1)]
    by_class = {name: [int(total * share) for total in totals] for name, share in _CLASSES}
    by_class["2xx"] = [total - sum(counts) for total, *counts in zip(totals, *by_class.values(), strict=True)]
    for name in sorted(by_class):
        labels = _labels("dec_requests_total", _API, **{"class": name})
        yield Series(labels, API_STEP_S, _join(times, by_class[name]))
    served = [total - bad for total, bad in zip(totals, by_class["5xx"], strict=True)]
    for edge in (*DEC_SECONDS, float("inf")):
        share = _share_within(edge)
        labels = _labels("dec_request_seconds_bucket", _API, le=le_text(edge))
        yield Series(labels, API_STEP_S, _join(times, [int(count * share) for count in served]))
    yield Series(_labels("dec_request_seconds_count", _API), API_STEP_S, _join(times, served))
    seconds = [round(count * _MEAN_S, 3) for count in served]
    yield Series(_labels("dec_request_seconds_sum", _API), API_STEP_S, _join(times, seconds))


def _share_within(edge: float) -> Fraction:
    return max((share for limit, share in _WITHIN if limit <= edge), default=Fraction(0))


def _page(until_s: int) -> Iterator[Series]:
    steps = PAGE_HOURS * HOUR_S // PAGE_STEP_S
    times = [(until_s - (steps - index) * PAGE_STEP_S) * 1000 for index in range(steps + 1)]
    seen = [index * PAGE_VIEWS // steps for index in range(steps + 1)]  # views so far, spread evenly
    views = [_VIEWS_MS[index % len(_VIEWS_MS)] for index in range(PAGE_VIEWS)]
    for edge in (*INP_MS, float("inf")):
        good = [sum(value <= edge for value in views[:count]) for count in range(PAGE_VIEWS + 1)]
        labels = _labels("web_vitals_inp_ms_bucket", _PAGE, le=le_text(edge))
        yield Series(labels, PAGE_STEP_S, _join(times, [good[count] for count in seen]))
    yield Series(_labels("web_vitals_inp_ms_count", _PAGE), PAGE_STEP_S, _join(times, seen))
    sums = [sum(views[:count]) for count in range(PAGE_VIEWS + 1)]
    yield Series(_labels("web_vitals_inp_ms_sum", _PAGE), PAGE_STEP_S, _join(times, [sums[count] for count in seen]))


def _join(times: list[int], values: list[int] | list[float]) -> tuple[tuple[int, float], ...]:
    return tuple((at, float(value)) for at, value in zip(times, values, strict=True))
