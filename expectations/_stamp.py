"""Times and identities as Prometheus and Alertmanager write them, made comparable.

Alertmanager carries times in milliseconds, cut off, not rounded; Prometheus in nanoseconds. The identity of an alert's
episode, fingerprint and startsAt, can be compared across sources only after the same cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?\d*(Z|z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET, _PRIME, _MASK = 0xCBF29CE484222325, 0x100000001B3, 0xFFFFFFFFFFFFFFFF


def nanoseconds(stamp: str) -> int:
    """Return an RFC 3339 time as whole nanoseconds since the epoch. Raises `ValueError`."""
    match = _RFC3339.fullmatch(stamp)
    if match is None:
        raise ValueError(f"not a time: {stamp!r:.60}")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    try:
        whole = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"not a time: {stamp!r:.60}: {error}") from error
    zone = match[8]
    offset = 0
    if zone not in "Zz":
        offset = (int(zone[1:3]) * 60 + int(zone[4:6])) * 60 * (-1 if zone[0] == "-" else 1)
    since = (whole - _EPOCH) // timedelta(seconds=1) + (second == 60) - offset
    return since * 1_000_000_000 + int((match[7] or "").ljust(9, "0"))


def cut(epoch_ns: int) -> float:
    """Return epoch seconds cut off to the millisecond, as Alertmanager's API does."""
    return epoch_ns // 1_000_000 / 1000


def epoch(stamp: object) -> float | None:
    """Return a time as epoch seconds cut to the millisecond: RFC 3339 text or a number; None for anything else.

    Go's zero time, which Alertmanager writes for "none", is None.
    """
    if isinstance(stamp, bool):
        return None
    if isinstance(stamp, int | float):
        # Rounded to the microsecond first, since 1.651 may be held as 1.6509999.
        return cut(round(stamp * 1_000_000) * 1000) if abs(stamp) < 1e11 else None
    if not isinstance(stamp, str):
        return None
    try:
        value = nanoseconds(stamp)
    except ValueError:
        return None
    return cut(value) if value > 0 else None


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return Alertmanager's identity of a label set: 64-bit FNV-1a over the sorted labels, as 16 hex digits.

    Each name and each value is followed by a byte 0xff; a label with an empty value does not exist.
    """
    digest = _OFFSET
    for name in sorted(labels, key=lambda text: text.encode()):
        if labels[name] == "":
            continue
        for byte in name.encode() + b"\xff" + labels[name].encode() + b"\xff":
            digest = (digest ^ byte) * _PRIME & _MASK
    return f"{digest:016x}"
