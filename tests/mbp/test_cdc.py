"""The CDC consumer's parts without PostgreSQL: the delay line, the witnesses, the fault door, what is let in."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import httpx
import pytest

from mbp._faults import Faults
from mbp.data import schema
from mbp.data.cdc.app import build, point
from mbp.data.cdc.consumer import traces
from mbp.data.cdc.line import Line
from mbp.data.cdc.pgoutput import Change, Transaction
from mbp.data.cdc.state import State
from mbp.data.cdc.warehouse import Applied, RowInvalid, Warehouse
from mbp.events import EventInvalid

TOKEN = "fault-token-of-the-test"


class Clock:
    """Wall and monotonic time that stand until they are moved."""

    def __init__(self):
        self.at = 1000.0

    def __call__(self):
        return self.at


def commit(at, end=1, size=10):
    return Transaction(1, at, end, size)


def ends(line, wall):
    """Return the positions of what is due."""
    return [each.end_lsn for each in line.due(wall)]


def test_without_a_delay_a_commit_is_due_at_once_and_in_order():
    """First in, first out; nothing waits, nothing is due."""
    line = Line()
    assert (line.due(0.0), line.wait_s(0.0), len(line), line.full) == ([], None, 0, False)
    line.put(commit(1000.0, 1))
    line.put(commit(1001.0, 2))
    assert ends(line, 1000.5) == [1]
    assert ends(line, 1001.0) == [1, 2]
    line.done(1)
    assert (ends(line, 1001.0), line.size, line.held) == ([2], 10, 0)


def test_a_backlog_is_given_out_in_parts():
    """So that the positions that were reached can be told in between."""
    line = Line()
    for end in range(250):
        line.put(commit(1000.0, end))
    parts = []
    while due := ends(line, 1000.0):
        parts.append((due[0], len(due)))
        line.done(len(due))
    assert (parts, line.size) == ([(0, 100), (100, 100), (200, 50)], 0)


def test_a_commit_is_due_at_its_own_time_plus_the_delay_and_at_once_when_the_fault_ends():
    """Also one that was there before the fault came; the order never changes."""
    line = Line()
    line.put(commit(1000.0, 1))
    line.delay_s = 180.0
    line.put(commit(1001.0, 2))
    assert (line.due(1179.9), line.wait_s(1170.0), line.held) == ([], 10.0, 1)
    assert ends(line, 1180.0) == [1]
    line.done(1)
    assert line.due(1180.9) == []
    line.delay_s = 0.0
    assert (ends(line, 1003.0), line.wait_s(1003.0)) == ([2], 0.0)


def test_the_line_is_bounded_by_bytes():
    """When it is full nothing more is to be read; a new connection begins with an empty one."""
    line = Line(limit_bytes=25)
    for end in (1, 2, 3):
        assert not line.full
        line.put(commit(1000.0, end))
    assert (line.full, line.size) == (True, 30)
    line.done(1)
    assert not line.full
    line.clear()
    assert (len(line), line.size) == (0, 0)


def state_of(clock, line=None):
    return State(line or Line(), monotonic=clock, wall=clock)


def test_the_witnesses_are_those_of_the_last_ten_seconds():
    """Least, p95 by nearest rank, most and last; what is older is not told."""
    clock = Clock()
    state = state_of(clock)
    state.resumed(990.0)
    for second in range(20):
        clock.at = 1000.0 + second
        state.applied(clock.at - second, Applied(Counter(mbp_trades=1)))
        state.sampled(True, 100.0 + second, 5.0)
    assert state.shown() == {
        "window_s": 10.0,
        "event_lag_s": {"count": 11, "min": 9.0, "p95": 19.0, "max": 19.0, "last": 19.0},
        "freshness_s": {"count": 11, "min": 9.0, "p95": 19.0, "max": 19.0, "last": 19.0},
        "replay_lag_s": {"count": 11, "min": 109.0, "p95": 119.0, "max": 119.0, "last": 119.0},
        "freshness_now_s": 19.0,
        "slot_active": True,
        "streaming": True,
        "queued": 0,
        "queued_bytes": 0,
        "rows": {"mbp_trades": 20},
        "quarantined": 0,
    }
    clock.at += 60.0
    silent = {"count": 0, "min": None, "p95": None, "max": None, "last": None}
    shown = state.shown()
    assert [shown[name] for name in ("event_lag_s", "freshness_s", "replay_lag_s")] == [silent] * 3
    assert shown["freshness_now_s"] == 79.0


def samples(state):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in state.registry.collect()
        for sample in family.samples
        if "bucket" not in sample.name and "created" not in sample.name
    }


def test_freshness_grows_at_the_scrape_although_nothing_comes_and_is_absent_before_the_first_commit():
    """A frozen stream is silent in the event lag; its age is not. No data is no zero."""
    clock = Clock()
    state = state_of(clock)
    assert [key for key in samples(state) if key[0] == "cdc_freshness_seconds"] == []
    state.applied(999.5, Applied(Counter(mbp_trades=2, mbp_heartbeat=1), Counter(mbp_markets=1)))
    clock.at += 30.0
    found = samples(state)
    assert {key[1]: value for key, value in found.items() if key[0] == "cdc_freshness_seconds"} == dict.fromkeys(
        schema.HOT, 30.5
    )
    assert found[("cdc_event_lag_seconds_count",)] == 3.0
    assert found[("cdc_rows_applied_total", "mbp_trades")] == 2.0
    assert found[("cdc_rows_quarantined_total", "mbp_markets")] == 1.0


def test_what_postgresql_does_not_say_is_not_shown():
    """Unasked or without a client there is no replay lag; a break is counted and told."""
    clock = Clock()
    state = state_of(clock)
    state.sampled(False, None, 7.0)
    found = samples(state)
    assert found[("cdc_slot_active",)] == 0.0
    assert ("cdc_replay_lag_seconds",) not in found
    state.sampled(True, 0.25, 7.0)
    assert samples(state)[("cdc_replay_lag_seconds",)] == 0.25
    state.unsampled()
    state.lost("gone")
    found = samples(state)
    assert ("cdc_slot_active",) not in found
    assert (found[("cdc_streaming",)], found[("cdc_reconnects_total",)], state.trouble) == (0.0, 1.0, "gone")
    state.resumed(None)
    assert (state.trouble, state.freshness()) == (None, None)


BODY = {"point": "cdc.apply", "kind": "delay", "params": {"delay_s": 180}, "ttl_s": 10, "run": "r1"}


def with_app(work, token=TOKEN):
    """Run `work(http, line, clock, woken)` against the app with its threads replaced by nothing."""
    line, clock, woken = Line(), Clock(), []

    async def main():
        faults = Faults([point(line, lambda: woken.append(line.delay_s))], monotonic=clock, wall=clock)
        app = build(state_of(clock, line), line, faults, token, [threading.Thread(target=int)], lambda: None)
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://cdc", headers=headers) as http,
        ):
            return await work(http, line, clock, woken)

    return asyncio.run(main())


def test_the_fault_sets_the_delay_and_its_end_lets_go_at_once():
    """By DELETE and by expiry alike, and the consumer is woken each time."""

    async def work(http, line, clock, woken):
        assert (await http.put("/faults/f1", json=BODY)).status_code == 200
        assert line.delay_s == 180.0
        line.put(commit(1000.0))
        await asyncio.sleep(0)
        (shown,) = (await http.get("/faults")).json()
        assert {key: shown[key] for key in ("params", "held", "queued", "hits")} == {
            "params": {"delay_s": 180.0}, "held": 1, "queued": 1, "hits": 1,
        }  # fmt: skip
        assert (await http.delete("/faults/f1")).status_code == 204
        assert line.delay_s == 0.0
        await http.put("/faults/f2", json=BODY)
        clock.at += 10.1
        assert (await http.get("/faults")).json() == []
        assert (line.delay_s, woken) == (0.0, [180.0, 0.0, 180.0, 0.0])

    with_app(work)


@pytest.mark.parametrize("delay", [0, -1, 3601, "180", None, True])
def test_a_delay_out_of_bounds_is_refused_and_only_one_fault_is_taken(delay):
    """422 names the place; a second fault is 409, for two delays of one line mean nothing."""

    async def work(http, line, clock, woken):
        answer = await http.put("/faults/f1", json={**BODY, "params": {"delay_s": delay}})
        assert (answer.status_code, line.delay_s) == (422, 0.0)
        await http.put("/faults/f1", json=BODY)
        assert (await http.put("/faults/f2", json=BODY)).json()["error"] == "too_many_faults"
        assert (await http.put("/faults/f1", json={**BODY, "params": {"delay_s": 1}})).json()[
            "error"
        ] == "fault_differs"

    with_app(work)


def test_without_the_switch_there_is_no_door_and_health_tells_the_trouble():
    """404 on the door; 503 with the reason until the stream is up; the witnesses can be read all the same."""

    async def work(http, line, clock, woken):
        assert (await http.put("/faults/f1", json=BODY)).status_code == 404
        health = await http.get("/healthz")
        assert (health.status_code, health.json()["detail"]) == (503, "not connected yet")
        assert (await http.get("/lag")).json()["streaming"] is False
        assert "sim_fault_active" not in (await http.get("/metrics")).text

    with_app(work, token=None)


HEAD = {"seq": "1", "event_id": "e", "type": "flagged_abuse", "at": "t", "recorded_at": "t", "trace_id": None}
GOOD = {**HEAD, "data": '{"market": "m", "reason": "spam"}', "market": "m", "reason": "spam"}


def checked(change):
    """Return what the warehouse's gate says to a change."""
    gate = Warehouse.__new__(Warehouse)
    gate._shapes = {
        "mbp_abuse_events": schema.Shape(frozenset(GOOD), ("seq",)),
        "mbp_quotes": schema.Shape(frozenset({"id", "market", "price_yes"}), ("id",)),
    }
    try:
        gate._check(change)
    except (RowInvalid, EventInvalid) as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (Change("insert", "public", "mbp_abuse_events", GOOD), None),
        (Change("delete", "public", "mbp_abuse_events", {}, {"seq": "1"}), None),
        (Change("update", "public", "mbp_quotes", {"id": "1"}), None),
        (Change("insert", "public", "mbp_other", {}), "RowInvalid: there is no warehouse table for public.mbp_other"),
        (Change("insert", "wh", "mbp_quotes", {}), "RowInvalid: there is no warehouse table for wh.mbp_quotes"),
        (
            Change("update", "public", "mbp_quotes", {"id": "1", "new": "x"}),
            "RowInvalid: mbp_quotes.new: the warehouse does not have this column",
        ),
        (
            Change("insert", "public", "mbp_quotes", {"id": "1", "market": "m"}),
            "RowInvalid: mbp_quotes.price_yes: this column did not come",
        ),
        (
            Change("insert", "public", "mbp_abuse_events", {**GOOD, "data": '{"market": "m"}'}),
            "EventInvalid: mbp.events.v1/flagged_abuse: data: 'reason' is a required property",
        ),
        (
            Change("insert", "public", "mbp_abuse_events", {**GOOD, "type": "trade_executed"}),
            "EventInvalid: mbp.events.v1/trade_executed: data: ",
        ),
        (
            Change("insert", "public", "mbp_abuse_events", {**GOOD, "type": None}),
            "EventInvalid: there is no event type '' in mbp.events.v1",
        ),
        (
            Change("insert", "public", "mbp_abuse_events", {**GOOD, "data": "{"}),
            "RowInvalid: mbp_abuse_events.data: not JSON: ",
        ),
        (
            Change("insert", "public", "mbp_abuse_events", {**GOOD, "data": "[" * 5000 + "]" * 5000}),
            "RowInvalid: mbp_abuse_events.data: nested too deep",
        ),
    ],
)
def test_only_what_is_as_its_schema_says_comes_into_the_warehouse(change, told):
    """Events by their JSON Schema, rows by the table's shape; whatever is not, is put aside with the reason."""
    said = checked(change)
    assert said is None if told is None else str(said).startswith(told)


def test_the_traces_of_a_commit_are_those_of_its_rows():
    """Each once, with its tables; heartbeat and samples come from none, and what is no trace id is none."""
    one, two = "a" * 32, "b" * 32
    rows = [("mbp_trades", one), ("mbp_quotes", one), ("mbp_heartbeat", None), ("mbp_trades", two),
            ("mbp_trades", "by hand")]  # fmt: skip
    done = commit(1.0)
    done.changes.extend(
        Change("insert", "public", table, {} if trace is None else {"trace_id": trace}) for table, trace in rows
    )
    assert traces(done) == {one: ["mbp_trades", "mbp_quotes"], two: ["mbp_trades"]}
