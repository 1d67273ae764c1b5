"""Prometheus' own notations, read as text: durations, and how far an expression looks back."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping

_DURATION = re.compile(r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)
_SECONDS = (365 * 86400.0, 7 * 86400.0, 86400.0, 3600.0, 60.0, 1.0, 0.001)
_QUIET = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`|#[^\n]*')
_LENGTH = r"(?:\d+(?:ms|[smhdwy]))+|\d+(?:\.\d+)?"
_RANGE = re.compile(
    rf"\[\s*({_LENGTH})\s*(:\s*(?:{_LENGTH})?\s*)?\](?:\s*@\s*[\w.()]+)?(?:\s*\boffset\s+(-?)\s*({_LENGTH}))?"
)
_SELECTED = re.compile(rf"([A-Za-z_:][A-Za-z0-9_:]*)\s*(?:\{{[^}}]*\}})?\s*\[\s*({_LENGTH})\s*\]")
_OFFSET = re.compile(rf"\boffset\s+(-?)\s*({_LENGTH})")
_JOB = re.compile(r'\bjob\s*=\s*"((?:\\.|[^"\\])*)"')
_WORD = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_IN_GROUPING = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_IN_BRACES = re.compile(r"\{[^}]*\}")
_DEPTH = 8


def duration(value: object) -> float:
    """Return a Prometheus duration (``1h30m``, ``250ms``, ``2w``, ``0``) in seconds. Raises `ValueError`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0.0
    match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if match is None:
        if value == "0":
            return 0.0
        raise ValueError(f"not a Prometheus duration: {value!r:.60} (write 90s, 5m, 1h30m)")
    return sum(float(number) * unit for number, unit in zip(match.groups(), _SECONDS, strict=True) if number)


def _length(text: str) -> float:
    """Return the length of a range: a duration, or (since 3.0) a bare number of seconds."""
    with contextlib.suppress(ValueError):
        return float(text)
    parts = re.findall(r"(\d+)(ms|[smhdwy])", text)
    units = dict(zip(("y", "w", "d", "h", "m", "s", "ms"), _SECONDS, strict=True))
    return sum(float(number) * units[unit] for number, unit in parts)


def window_s(expression: str) -> float:
    """Return how far back an expression looks, in seconds: its longest range with its offset, and its subqueries.

    Read textually, so a bound from above where subqueries stand side by side. The look-back of plain selectors (an
    evaluation never reads further back than the last sample) does not count.
    """
    text = _QUIET.sub(" ", expression)
    longest = nested = 0.0
    for span, subquery, sign, offset in _RANGE.findall(text):
        total = _length(span) + (_length(offset) if offset and not sign else 0.0)
        if subquery:
            nested += total
        else:
            longest = max(longest, total)
    plain = _RANGE.sub(" ", text)
    for sign, offset in _OFFSET.findall(plain):
        longest = max(longest, 0.0 if sign else _length(offset))
    return longest + nested


def windows(expression: str) -> dict[str, float]:
    """Return the metrics that an expression selects over a range by name, each with its longest range, in seconds."""
    found: dict[str, float] = {}
    for name, span in _SELECTED.findall(_QUIET.sub(" ", expression)):
        if name not in ("and", "or", "unless"):
            found[name] = max(found.get(name, 0.0), _length(span))
    return found


def words(expression: str) -> frozenset[str]:
    """Return the words of an expression that may be metric names: neither in strings, selectors nor groupings.

    Functions and keywords are among them; a name selected by ``{__name__="…"}`` is not.
    """
    text = _QUIET.sub(" ", expression)
    for pattern in (_IN_BRACES, _IN_GROUPING, _RANGE):
        text = pattern.sub(" ", text)
    return frozenset(_WORD.findall(text))


def jobs(expression: str) -> frozenset[str]:
    """Return the jobs that an expression selects by ``job="…"``."""
    return frozenset(_JOB.findall(expression))


def whole_window_s(expression: str, recorded: Mapping[str, str], depth: int = _DEPTH) -> float:
    """Return how far back an expression looks through the recording rules it reads (`recorded`: name → expression)."""
    own = window_s(expression)
    if depth == 0:
        return own
    behind = [whole_window_s(recorded[name], recorded, depth - 1) for name in words(expression) if name in recorded]
    return own + max(behind, default=0.0)
