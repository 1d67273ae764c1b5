"""What notifications say, against payloads of a real Alertmanager (`stock/`: version 0.25, stock templates)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expectations._messages import FIRING, RESOLVED, read

STOCK = Path(__file__).parent / "stock"
OURS = Path(__file__).parents[1] / "fixtures" / "notifications"
TITLES = {FIRING: "[FIRING:2] AmmInvariantBreach (DEC/PM)", RESOLVED: "[RESOLVED] AmmInvariantBreach (DEC/PM)"}
FIRST = {"alertname": "AmmInvariantBreach", "market": "sim-cd34", "owner": "DEC/PM"}
SECOND = {"alertname": "AmmInvariantBreach", "market": "sim-ab12", "note": 'a <b> & "c"', "owner": "DEC/PM"}
MARK, START = "8f736008802ad12d", 1795442197.651


def stock(name):
    return json.loads((STOCK / f"{name}.json").read_text())


def alert(status, labels=None, mark=None, start=None):
    return {"name": "AmmInvariantBreach", "labels": labels, "fingerprint": mark, "starts_at": start, "status": status}


def both(status, start=None):
    return [alert(status, FIRST, MARK, start), alert(status, SECOND, "c7dc0b50863a64cb", start)]


@pytest.mark.parametrize("status", [FIRING, RESOLVED])
def test_stock_templates_are_read_as_far_as_they_go(status):
    """On-call and e-mail list all labels, so the fingerprint follows; Slack has the name only; none has startsAt."""
    message = {"status": status, "title": TITLES[status]}
    assert read(stock(f"slack_{status}")).to_json() == {**message, "alerts": [alert(status)]}
    assert read(stock(f"pd_{status}")).to_json() == {**message, "alerts": both(status)}
    assert read(stock(f"email_{status}")).to_json() == {**message, "alerts": both(status)}


def test_alertmanagers_webhook_carries_everything():
    """Fingerprint and startsAt stand in the webhook's body."""
    found = read(stock("webhook_resolved")).to_json()
    assert found["status"] == RESOLVED
    assert found["alerts"] == both(RESOLVED, 1795443498.901)


RECORDS = "; ".join(
    f"{mark} 2026-11-23T13:56:37.651Z {status} AmmInvariantBreach"
    for mark, status in ((MARK, FIRING), ("c7dc0b50863a64cb", RESOLVED))
)


@pytest.mark.parametrize(
    ("payload", "title"),
    [
        (
            {
                "channel": "#dec-pm",
                "attachments": [
                    {
                        "title": "T",
                        "fields": [{"title": "alerts", "value": RECORDS}, {"title": "status", "value": FIRING}],
                    }
                ],
            },
            "T",
        ),
        (
            {
                "routing_key": "dec-pm",
                "event_action": "trigger",
                "payload": {"summary": "T", "custom_details": {"alerts": RECORDS, "status": FIRING}},
            },
            "T",
        ),
        (
            {
                "to": ["dec-pm@mbp.test"],
                "text": "",
                "headers": {
                    "Subject": "=?utf-8?q?T=C3=A9?=",
                    "X-Mbp-Status": FIRING,
                    "X-Mbp-Alerts": RECORDS.replace("; ", ";\r\n "),
                },
            },
            "Té",
        ),
    ],
)
def test_correlation_records_name_each_alert(payload, title):
    """Fingerprint, startsAt, status and name of each alert of a message are read from its records, folded or not."""
    expected = [alert(FIRING, None, MARK, START), alert(RESOLVED, None, "c7dc0b50863a64cb", START)]
    assert read(payload).to_json() == {"status": FIRING, "title": title, "alerts": expected}


@pytest.mark.parametrize(("state", "status"), [("open", FIRING), ("closed", RESOLVED)])
def test_tickets_name_their_alert(state, status):
    """An open ticket is a firing message, a closed one a resolved."""
    ticket = {
        "assignee": "data",
        "title": "T",
        "state": state,
        "fingerprint": MARK,
        "starts_at": "2026-11-23T13:56:37.651Z",
        "alertname": "AmmInvariantBreach",
    }
    expected = {"status": status, "title": "T", "alerts": [alert(status, None, MARK, START)]}
    assert read(ticket).to_json() == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [
                    "headers",
                    "attachments",
                    "fields",
                    "alerts",
                    "event_action",
                    "payload",
                    "custom_details",
                    "labels",
                    "status",
                    "title",
                    "value",
                    "fingerprint",
                    "startsAt",
                    "starts_at",
                    "text",
                    "Subject",
                ]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_payload_is_read_without_failing(payload):
    """A stranger's payload is a message that names no alert, never a crash of the observer."""
    found = read(payload)
    assert found.status in (None, FIRING, RESOLVED)
    assert all(set(each) == {"name", "labels", "fingerprint", "starts_at", "status"} for each in found.alerts)
    json.dumps(found.to_json())


@pytest.mark.parametrize("path", sorted(OURS.glob("*.json")), ids=lambda path: path.stem)
def test_captured_notifications_of_the_bundled_target_carry_the_whole_correlation(path):
    """Every channel of `mbp` names fingerprint, startsAt, status and name of its alert."""
    sample = json.loads(path.read_text())
    payload = sample.get("payload", sample) if "alerts" not in sample else sample
    found = read(payload)
    wanted = path.stem.rpartition("_")[2]
    assert found.status == wanted
    assert len(found.alerts) >= 1
    for each in found.alerts:
        assert each["status"] == wanted
        assert len(each["fingerprint"]) == 16
        assert each["starts_at"] > 1_600_000_000
        assert each["name"]
