"""What an instant query answered, read without trust."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


class BadQuery(Exception):
    """The server understood the request and refuses this query (400, 422): the others can still be asked."""


def single(result: list[Any]) -> tuple[float | None, str | None]:
    """Return the one finite number in a result, or None and the reason why there is none."""
    series: Any
    if len(result) == 2 and isinstance(result[0], int | float) and isinstance(result[1], str):
        sample: Any = result
    else:
        if not result:
            return None, "no data: the query yields no series"
        if len(result) > 1:
            return None, f"ambiguous: the query yields {len(result)} series, not one"
        series = result[0]
        sample = series.get("value") if isinstance(series, dict) else None
        if not isinstance(sample, list) or len(sample) != 2:
            return None, "not a number: the query yields a range or a histogram"
    try:
        value = float(sample[1])
    except (TypeError, ValueError):
        return None, f"not a number: {sample[1]!r:.60}"
    if math.isfinite(value):
        return value, None
    return None, f"not a number: {sample[1]}"


def firing_since(result: Sequence[Any], labels: Mapping[str, str], active_at: float) -> float | None:
    """Return the time of the first sample of ``ALERTS{alertstate="firing"}`` of an episode, or None if none is there.

    `result` is a range selector's; `active_at` (epoch s, cut to ms) is when the episode began.
    """
    for series in result:
        if not isinstance(series, dict):
            continue
        metric, values = series.get("metric"), series.get("values")
        if not isinstance(metric, dict) or not isinstance(values, list):
            continue
        if {k: v for k, v in metric.items() if k not in ("__name__", "alertstate")} != dict(labels):
            continue
        times = [v[0] for v in values if isinstance(v, list) and v and isinstance(v[0], int | float)]
        return min((float(t) for t in times if t >= active_at), default=None)
    return None
