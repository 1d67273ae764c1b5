"""Times and identities as Alertmanager has them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expectations._stamp import cut, epoch, fingerprint, nanoseconds


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"zone": "z1", "alertname": "Later", "job": "self", "owner": "SRE"}, "f6bbd3e7dd4ebe89"),
        (
            {"alertname": "Now", "market": "sim-α x", "owner": "DEC/PM", "severity": "page", "zone": "z1"},
            "f6d33d1018c6736b",
        ),
        ({"alertname": "SimCanary"}, "5d892d829990bc77"),
        ({"alertname": "SimCanary", "empty": ""}, "5d892d829990bc77"),
    ],
)
def test_fingerprints_are_those_of_a_real_alertmanager(labels, expected):
    """The vectors were read from Alertmanager 0.25."""
    assert fingerprint(labels) == expected


def test_times_are_cut_to_milliseconds_as_alertmanager_cuts_them():
    """Prometheus' nanoseconds and Alertmanager's milliseconds of one moment are equal after the cut."""
    assert cut(nanoseconds("2026-11-23T13:56:28.151810036Z")) == epoch("2026-11-23T13:56:28.151Z") == 1795442188.151
    assert epoch("2026-11-23T14:56:28.151999+01:00") == 1795442188.151
    assert epoch(1795442197.651) == 1795442197.651
    assert [epoch(bad) for bad in ("0001-01-01T00:00:00Z", "yesterday", "2026-13-01T00:00:00Z", None, True, [])] == [
        None
    ] * 6


@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1)))
def test_every_time_reads_back_as_its_milliseconds(moment):
    """Text, number and number again agree to the millisecond."""
    aware = moment.replace(tzinfo=UTC)
    found = epoch(aware.isoformat().replace("+00:00", "Z"))
    whole = int((aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() // 1)
    assert found == (whole * 1000 + moment.microsecond // 1000) / 1000
    assert epoch(found) == found
