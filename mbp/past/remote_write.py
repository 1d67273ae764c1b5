"""Prometheus remote write 1.0 by hand: the three messages it needs, in protobuf's wire format. Pure.

WriteRequest {repeated TimeSeries timeseries = 1}
TimeSeries   {repeated Label labels = 1; repeated Sample samples = 2}
Label        {string name = 1; string value = 2}      Sample {double value = 1; int64 timestamp = 2}
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from mbp.past.shape import Labels, Series

HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
    "User-Agent": "mbp-past/1",
}
_DELIMITED, _DOUBLE, _VARINT = 2, 1, 0


def varint(number: int) -> bytes:
    """Return a base-128 varint; ``number`` is 0 or more (our timestamps are)."""
    if number < 0:
        raise ValueError("negative numbers are not written here")
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def _message(number: int, content: bytes) -> bytes:
    return _field(number, _DELIMITED) + varint(len(content)) + content


def time_series(labels: Labels, samples: Iterable[tuple[int, float]]) -> bytes:
    """Return one TimeSeries message."""
    named = b"".join(_message(1, _message(1, name.encode()) + _message(2, value.encode())) for name, value in labels)
    value_tag, time_tag = _field(1, _DOUBLE), _field(2, _VARINT)
    pairs = (value_tag + struct.pack("<d", value) + time_tag + varint(at) for at, value in samples)
    return named + b"".join(_message(2, pair) for pair in pairs)


def write_requests(series: Iterable[Series], samples_each: int) -> Iterator[bytes]:
    """Yield WriteRequest messages of at most about ``samples_each`` samples; a series stays in time order."""
    parts: list[bytes] = []
    held = 0
    for one in series:
        for start in range(0, len(one.samples), samples_each):
            chunk = one.samples[start : start + samples_each]
            if parts and held + len(chunk) > samples_each:
                yield b"".join(parts)
                parts, held = [], 0
            parts.append(_message(1, time_series(one.labels, chunk)))
            held += len(chunk)
    if parts:
        yield b"".join(parts)
