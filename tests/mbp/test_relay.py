"""What an event becomes in the hot tables, and how the relay goes on when one of its neighbours is away."""

from __future__ import annotations

import json

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mbp._trace import Tracing
from mbp.data.relay.feed import Feed, FeedError
from mbp.data.relay.relay import Relay, Watch, stamp
from mbp.data.relay.rows import batch

AT = "2026-01-02T03:04:05.000006Z"
HEAD = ("00000000-0000-4000-8000-000000000001", AT, AT, "0af7651916cd43dd8448eb211c80319c")


def event(seq, kind, **data):
    """Return one row of the engine's feed."""
    return {
        "seq": seq, "id": HEAD[0], "type": kind, "subject": data["market"], "at": AT, "recorded_at": AT,
        "trace_id": HEAD[3], "schema": f"mbp.events.v1/{kind}", "data": data,
    }  # fmt: skip


CREATED = event(
    1, "market_created", market="m", question="q?", reserve="10", price_yes="0.5", closes_at=None, fault=None
)
TRADE = event(
    2, "trade_executed", market="m", swap=1, side="yes", action="buy", amount_in="1", amount_out="1.9", fee="0.002",
    price_yes="0.51", request_id="r", fault=None,
)  # fmt: skip
STARTED = event(3, "resolution_started", market="m", by="rule", reason="due", closes_at=None)
FINISHED = event(4, "resolution_finished", market="m", outcome="yes", by="manual", reason="seen", started_at=AT)
FLAGGED = event(5, "flagged_abuse", market="m", reason="spam")


def head(given):
    return (given["seq"], HEAD[0], given["type"], AT, AT, HEAD[3], json.dumps(given["data"]))


def test_every_type_of_event_has_its_rows():
    """A trade is a quote too; a market is one row, its last state, with what earlier events said of it."""
    made = batch([CREATED, TRADE, STARTED, FINISHED, FLAGGED])
    assert made.inserts == {
        "mbp_trades": [(*head(TRADE), "m", "yes", "buy", "1", "1.9", "0.002", "0.51")],
        "mbp_resolutions": [(*head(STARTED), "m", None), (*head(FINISHED), "m", "yes")],
        "mbp_abuse_events": [(*head(FLAGGED), "m", "spam")],
        "mbp_quotes": [("m", AT, "0.51", "trade", 2, HEAD[3])],
    }
    assert made.markets == {"m": ("m", *head(FINISHED), "q?", "resolved", "0.5", AT, "yes")}
    assert made.rejected == []
    assert made.types == dict.fromkeys(
        ("market_created", "trade_executed", "resolution_started", "resolution_finished", "flagged_abuse"), 1
    )


def test_an_event_that_is_not_valid_is_put_aside_and_holds_up_nobody():
    """With the whole event and the reason."""
    wrong = event(3, "flagged_abuse", market="m", reason="spam", more=1)
    unknown = event(4, "market_closed", market="m")
    made = batch([wrong, unknown, FLAGGED])
    assert [len(rows) for rows in made.inserts.values()] == [0, 0, 1, 0]
    assert [(seq, json.loads(text)) for seq, text, _ in made.rejected] == [(3, wrong), (4, unknown)]
    assert "'more' was unexpected" in made.rejected[0][2]
    assert made.rejected[1][2] == "there is no event type 'market_closed' in mbp.events.v1"


def test_what_postgresql_cannot_hold_is_put_aside_in_a_form_that_it_can():
    """U+0000 and half a surrogate pair: neither may stop the relay, as an event or as a rejected one."""
    made = batch([event(5, "flagged_abuse", market="m", reason=reason) for reason in ("a\0b", "a\ud800b")])
    assert made.inserts["mbp_abuse_events"] == []
    told = [json.loads(text)["data"]["reason"] for _, text, _ in made.rejected]
    assert told == ["a\\x00b", "a\\ud800b"]


def test_times_are_read_as_they_are_written():
    """RFC 3339 in UTC with microseconds."""
    assert stamp("1970-01-01T00:00:01.500000Z") == 1.5


class Away(Feed):
    """An engine that does not answer."""

    def __init__(self):
        super().__init__("http://127.0.0.1:1")
        self.asked = 0

    def events(self, after):
        self.asked += 1
        raise FeedError("GET /v1/events: refused")


def test_an_engine_that_is_away_is_asked_ever_less_often_and_told():
    """0.2 s after the first failure, 2 s at most; the lag grows from the last time that nothing was left behind."""
    now = [100.0]
    watch, feed = Watch(lambda: now[0], lambda: 0.0), Away()
    relay = Relay("unused", feed, [], watch)
    for _ in range(100):
        relay._events(0, now[0])
        now[0] += 0.1
    assert 7 <= feed.asked <= 9
    assert watch.trouble["engine"] == "GET /v1/events: refused"
    assert (watch.failed["engine"], watch.caught_up) == (feed.asked, 100.0)


def test_an_engine_that_cannot_be_reached_is_a_feed_error():
    """The text says what was asked."""
    with pytest.raises(FeedError, match=r"GET http://127.0.0.1:1/v1/events\?after=7&limit=500: ConnectionRefusedError"):
        Feed("http://127.0.0.1:1").events(7)


def test_each_event_that_is_relayed_has_a_span_in_the_trace_that_it_came_from():
    """By its id; an event without one begins a trace. Type and number are told."""
    exporter = InMemorySpanExporter()
    relay = Relay("unused", Away(), [], Watch(lambda: 0.0, lambda: 0.0), Tracing("relay", exporter))
    relay._trace([{"type": "trade_executed", "seq": 7, "trace_id": "ab" * 16}, {**FLAGGED, "trace_id": None}], 2.0)
    first, second = exporter.get_finished_spans()
    assert (first.name, first.start_time, f"{first.context.trace_id:032x}") == ("int.relay", 2_000_000_000, "ab" * 16)
    assert dict(first.attributes) == {"mbp.type": "trade_executed", "mbp.seq": 7}
    assert second.context.trace_id != first.context.trace_id
