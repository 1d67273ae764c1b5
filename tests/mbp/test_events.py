"""The schemas of `mbp.events.v1`: closed, strict, and named where something is wrong."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from mbp import events
from mbp.events import EventInvalid, validate

STAMP = "2026-01-02T03:04:05.678901Z"
GOOD = {
    "market_created": {
        "market": "m1",
        "question": "Will it?",
        "reserve": "1000",
        "price_yes": "0.5",
        "closes_at": STAMP,
        "fault": None,
    },
    "liquidity_added": {
        "market": "m1",
        "amount": "5",
        "shares": "4.9",
        "yes_out": "0",
        "no_out": "0.1",
        "reserve_yes": "1000",
        "reserve_no": "1000000000000.000000001",
        "price_yes": "0.5",
    },
    "trade_executed": {
        "market": "m1",
        "swap": 1,
        "side": "yes",
        "action": "buy",
        "amount_in": "10",
        "amount_out": "19.861383789",
        "fee": "0.02",
        "price_yes": "0.51",
        "request_id": "r",
        "fault": "f1",
    },
    "resolution_started": {"market": "m1", "by": "rule", "reason": "it closed", "closes_at": None},
    "resolution_finished": {"market": "m1", "outcome": "no", "by": "manual", "reason": "seen", "started_at": STAMP},
    "flagged_abuse": {"market": "m1", "reason": "wash trades"},
}


def test_every_type_has_a_closed_schema_of_the_draft():
    """As many schemas as types; each names itself, allows no further property and requires every one."""
    assert sorted(path.stem for path in events.SCHEMAS.iterdir()) == sorted(events.TYPES)
    for kind in events.TYPES:
        schema = events.schema(kind)
        Draft202012Validator.check_schema(schema)
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert (schema["title"], schema["additionalProperties"]) == (events.schema_name(kind), False)
        assert schema["required"] == list(schema["properties"])


@pytest.mark.parametrize("kind", events.TYPES)
def test_a_good_event_is_taken_and_no_key_may_be_missing_or_added(kind):
    """Both ends refuse what has more or less than the schema says."""
    validate(kind, GOOD[kind])
    for key in GOOD[kind]:
        with pytest.raises(EventInvalid, match=f"'{key}' is a required property"):
            validate(kind, {name: value for name, value in GOOD[kind].items() if name != key})
    with pytest.raises(EventInvalid, match="Additional properties are not allowed"):
        validate(kind, {**GOOD[kind], "more": 1})


@pytest.mark.parametrize(
    ("kind", "change", "place"),
    [
        ("trade_executed", {"amount_in": 10}, "amount_in"),
        ("trade_executed", {"amount_in": "1e9"}, "amount_in"),
        ("trade_executed", {"amount_in": "-1"}, "amount_in"),
        ("trade_executed", {"fee": "01"}, "fee"),
        ("trade_executed", {"swap": 0}, "swap"),
        ("trade_executed", {"side": "maybe"}, "side"),
        ("market_created", {"market": "no blanks"}, "market"),
        ("market_created", {"question": ""}, "question"),
        ("market_created", {"question": "\ud800"}, "data"),
        ("market_created", {"closes_at": "tomorrow"}, "closes_at"),
        ("resolution_finished", {"outcome": None}, "outcome"),
        ("resolution_finished", {"started_at": None}, "started_at"),
        ("flagged_abuse", {"reason": "x" * 501}, "reason"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(kind, change, place):
    """The text says type, place and what is wrong there."""
    with pytest.raises(EventInvalid) as caught:
        validate(kind, {**GOOD[kind], **change})
    assert str(caught.value).startswith(f"mbp.events.v1/{kind}: {place}: ")


@pytest.mark.parametrize("data", [None, [], "text", 1])
def test_an_event_is_an_object(data):
    """Nothing else is one."""
    with pytest.raises(EventInvalid, match="is not of type 'object'"):
        validate("flagged_abuse", data)


def test_a_character_that_not_every_store_can_hold_is_refused():
    """PostgreSQL has no U+0000: one such event would stop the relay for ever. A text that speaks of it is a text."""
    with pytest.raises(EventInvalid, match=r"U\+0000"):
        validate("flagged_abuse", {"market": "m", "reason": "a\0b"})
    validate("flagged_abuse", {"market": "m", "reason": "a\\u0000b"})


@pytest.mark.parametrize("kind", ["", "market_closed", "../market_created", "market_created.json"])
def test_a_type_that_there_is_not_is_refused(kind):
    """And reads no file."""
    with pytest.raises(EventInvalid, match="no event type"):
        validate(kind, {})


def test_the_schemas_are_kept_as_they_are_registered():
    """Two-space JSON, one newline at the end: the registry gets these very texts."""
    for kind in events.TYPES:
        text = (events.SCHEMAS / f"{kind}.json").read_text(encoding="utf-8")
        assert text == json.dumps(events.schema(kind), indent=2, ensure_ascii=False) + "\n"
