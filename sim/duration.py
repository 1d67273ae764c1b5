"""Lengths of time as people write them; inside, seconds. Strings like ``+180s`` die here."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WHOLE = re.compile(r"([+-]?)((?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def seconds(value: object) -> float:
    """Return `value` in seconds: a number as it is, or text such as ``250ms``, ``90s``, ``1h30m``, ``+180s``.

    Raises `ValueError` that names the cure.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"not a duration: {value!r} (use 90s, 5m, 24h)")  # noqa: TRY004 - pydantic maps ValueError
    if isinstance(value, int | float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"not a duration: {value!r} (use 90s, 5m, 24h)")
        return float(value)
    match = _WHOLE.fullmatch(value)
    if match is None:
        raise ValueError(f"not a duration: {value!r} (use 90s, 5m, 24h)")
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(match[2]))
    return -total if match[1] == "-" else total


def spell(value: float) -> str:
    """Return a length of time for people: ``250ms``, ``1.6s``, ``75s``, ``5m``, ``1h30m``."""
    if value < 0:
        return "-" + spell(-value)
    if value < 1:
        return f"{value * 1000:.0f}ms" if value else "0s"
    if value < 120 or (value % 60 and value < 600):
        return f"{value:.1f}".removesuffix(".0") + "s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return "".join(f"{n}{u}" for n, u in ((hours, "h"), (minutes, "m"), (rest, "s")) if n)
