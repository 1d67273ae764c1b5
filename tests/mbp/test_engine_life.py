"""A market's life in the engine: resolution, freeze, abuse, flags, and the events and audit rows that tell of it."""

from __future__ import annotations

import json
import sqlite3

import pytest

from mbp import _wire, events
from mbp.engine.store import Store
from tests.mbp.engines import BEARER, Clocks, open_market, refusal, running, swap

OPENED = "2023-11-14T22:30:00.000000Z"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@pytest.fixture
def engine(tmp_path):
    """A fresh engine with its fault door open."""
    with running(tmp_path) as made:
        yield made


def post(engine, path, body=None, **headers):
    """POST below the market m1."""
    return engine.ask("POST", f"/v1/markets/m1/{path}", json=body, headers=headers)


def freeze(engine, frozen=True, market="m1", reason="late", **headers):
    """Freeze a market, or end its freeze."""
    return engine.ask("PUT", f"/v1/markets/{market}/frozen", json={"frozen": frozen, "reason": reason}, headers=headers)


def feed(engine, **params):
    """Return the rows of the event feed."""
    return engine.ask("GET", "/v1/events", params=params).json()["rows"]


def told(engine, **params):
    """Return the types of the events, in order."""
    return [row["type"] for row in feed(engine, **params)]


def audit(engine, kind="markets"):
    """Return the audit of markets or flags: subject, event, before, after, reason."""
    rows = engine.ask("GET", f"/v1/audit/{kind}").json()["rows"]
    return [(row["subject"], row["event"], row["before"], row["after"], row["reason"]) for row in rows]


def set_flag(engine, name, on, **headers):
    """Set a feature flag."""
    return engine.ask("PUT", f"/v1/flags/{name}", json={"on": on, "reason": "drill"}, headers=headers)


# The feed


def test_each_change_has_its_event_in_order(engine):
    """Opening, liquidity, trade, start, finish and abuse: valid, in the order of commit, with their trace."""
    open_market(engine)
    engine.ask("POST", "/v1/markets/m1/liquidity", json={"amount": "5"}, headers=TRACED)
    engine.ask("POST", "/v1/markets/m1/liquidity", json={"shares": "1", "action": "remove"})
    row = swap(engine, **TRACED, **{"X-Request-Id": "req-1"}).json()
    post(engine, "flags", {"reason": "wash trades"})
    post(engine, "resolution", {"reason": "over"}, **TRACED)
    post(engine, "resolution/finish", {"outcome": "no", "reason": "seen"})
    rows = feed(engine)
    assert [(row["seq"], row["type"], row["trace_id"] == TRACE) for row in rows] == [
        (1, "market_created", False),
        (2, "liquidity_added", True),
        (3, "trade_executed", True),
        (4, "flagged_abuse", False),
        (5, "resolution_started", True),
        (6, "resolution_finished", False),
    ]
    assert len({row["trace_id"] for row in rows}) == 4  # a request that brings no trace begins one of its own
    for each in rows:
        events.validate(each["type"], each["data"])
        assert (each["subject"], each["schema"]) == ("m1", f"mbp.events.v1/{each['type']}")
    assert len({each["id"] for each in rows}) == 6
    price = row["k_after"] and engine.ask("GET", "/v1/markets/m1").json()["price_yes"]
    assert [each["data"] for each in rows[2:]] == [
        {
            "market": "m1",
            "swap": 1,
            "side": "yes",
            "action": "buy",
            "amount_in": "10",
            "amount_out": row["amount_out"],
            "fee": "0.02",
            "price_yes": price,
            "request_id": "req-1",
            "fault": None,
        },
        {"market": "m1", "reason": "wash trades"},
        {"market": "m1", "by": "manual", "reason": "over", "closes_at": None},
        {"market": "m1", "outcome": "no", "by": "manual", "reason": "seen", "started_at": OPENED},
    ]
    lines = engine.ask("GET", "/metrics").text.splitlines()
    assert [line for line in lines if line.startswith("mbp_events_total")] == [
        f'mbp_events_total{{type="{kind}"}} 1.0' for kind in sorted(events.TYPES)
    ]


def test_the_feed_is_read_in_pages_and_by_market(engine):
    """By `next`, to an empty page that keeps the cursor."""
    for market in ("a", "b"):
        open_market(engine, market)
    swap(engine, "a")
    page = engine.ask("GET", "/v1/events?limit=2").json()
    assert ([row["seq"] for row in page["rows"]], page["next"]) == ([1, 2], 2)
    assert [row["seq"] for row in feed(engine, after=2)] == [3]
    assert engine.ask("GET", "/v1/events?after=3").json() == {"rows": [], "next": 3}
    assert [row["seq"] for row in feed(engine, market="a")] == [1, 3]


def test_a_refused_change_leaves_no_event(engine):
    """And neither does the same swap asked for again under its key."""
    open_market(engine)
    swap(engine, amount="0")
    for _ in range(2):
        assert swap(engine, **{"Idempotency-Key": "k"}).status_code == 201
    assert told(engine) == ["market_created", "trade_executed"]


def test_a_change_whose_event_is_not_valid_is_not_made(engine, monkeypatch):
    """Fail-closed: answered with an error, pool, audit and feed as before, and the next one works."""
    open_market(engine)
    before = engine.ask("GET", "/v1/markets/m1").json()

    def broken(kind, data):
        raise events.EventInvalid(f"{kind}: no")

    with monkeypatch.context() as patched:
        patched.setattr("mbp.events.validate", broken)
        assert refusal(swap(engine)) == (500, "event_invalid")
        assert refusal(post(engine, "resolution")) == (500, "event_invalid")
    assert engine.ask("GET", "/v1/markets/m1").json() == before
    assert engine.ask("GET", "/v1/audit/swaps").json()["rows"] == []
    assert (told(engine), audit(engine)) == (["market_created"], [])
    assert 'mbp_events_total{type="trade_executed"} 0.0' in engine.ask("GET", "/metrics").text
    assert swap(engine).json()["seq"] == 1


# Resolution


def test_a_market_is_started_traded_resolved_and_then_not_traded(engine):
    """Trading goes on while the resolution is under way, and ends with it."""
    open_market(engine)
    started = post(engine, "resolution", {"reason": "over"}).json()
    assert (started["status"], started["resolution_started_at"], started["outcome"]) == ("resolving", OPENED, None)
    assert swap(engine).status_code == 201
    engine.clocks.now += 1800
    resolved = post(engine, "resolution/finish", {"outcome": "yes"}).json()
    assert (resolved["status"], resolved["outcome"], resolved["resolved_at"]) == (
        "resolved",
        "yes",
        "2023-11-14T23:00:00.000000Z",
    )
    _wire.Market.model_validate(resolved)
    assert engine.ask("GET", "/v1/markets/m1").json() == resolved
    for answer in (
        swap(engine),
        post(engine, "quote", {"side": "yes", "amount": "1"}),
        post(engine, "liquidity", {"amount": "1"}),
        post(engine, "resolution"),
        post(engine, "resolution/finish", {"outcome": "no"}),
    ):
        assert refusal(answer) == (409, "market_resolved")
    assert audit(engine) == [
        ("m1", "resolution_started", {"status": "open"}, {"status": "resolving"}, "over"),
        (
            "m1",
            "resolution_finished",
            {"status": "resolving", "outcome": None},
            {"status": "resolved", "outcome": "yes"},
            "asked for",
        ),
    ]


def test_asking_for_what_is_so_changes_nothing(engine):
    """A second start and a second finish to the same outcome answer 200 and leave no trace."""
    open_market(engine)
    for path, body in (("resolution", None), ("resolution/finish", {"outcome": "yes"})):
        first = post(engine, path, body)
        assert post(engine, path, body).json() == first.json()
    assert told(engine) == ["market_created", "resolution_started", "resolution_finished"]


@pytest.mark.parametrize(("side", "outcome"), [(None, "yes"), ("yes", "yes"), ("no", "no")])
def test_the_rule_goes_by_the_last_price(engine, side, outcome):
    """YES from 0.5 on; what it would decide is shown before."""
    open_market(engine)
    if side:
        swap(engine, side=side)
    post(engine, "resolution")
    assert engine.ask("GET", "/v1/markets/m1/resolution").json()["by_rule"] == outcome
    resolved = post(engine, "resolution/finish").json()
    assert (resolved["outcome"], feed(engine)[-1]["data"]["by"]) == (outcome, "rule")


def test_a_market_that_closes_at_a_time_starts_by_itself(engine):
    """To the second, stamped with that time although nobody looked for a while; the audit says the rule did it."""
    body = {"id": "m1", "question": "?", "reserve": "1000", "closes_at": "2023-11-14T23:30:10+01:00"}
    made = engine.ask("POST", "/v1/markets", json=body).json()
    assert (made["status"], made["closes_at"]) == ("open", "2023-11-14T22:30:10.000000Z")
    engine.clocks.now += 9.999
    assert engine.ask("GET", "/v1/markets/m1").json()["status"] == "open"
    engine.clocks.now += 3600
    market = engine.ask("GET", "/v1/markets/m1").json()
    assert (market["status"], market["resolution_started_at"]) == ("resolving", "2023-11-14T22:30:10.000000Z")
    started = feed(engine)[-1]
    assert (started["type"], started["at"], started["data"]["by"], started["trace_id"]) == (
        "resolution_started",
        "2023-11-14T22:30:10.000000Z",
        "rule",
        None,  # nobody asked for it
    )
    assert audit(engine) == [
        ("m1", "resolution_started", {"status": "open"}, {"status": "resolving"}, "its closing time has come")
    ]


def test_the_age_is_counted_from_the_stamp_and_only_while_it_is_not_resolved(engine):
    """No series before the start, hours while it waits, none after: a rule sees nothing stale."""

    def series():
        lines = engine.ask("GET", "/metrics").text.splitlines()
        return [line for line in lines if line.startswith("res_sla_hours{")]

    def shown():
        found = engine.ask("GET", "/v1/markets/m1/resolution").json()
        return found["status"], found["age_hours"], found["overdue"]

    open_market(engine)
    assert (series(), shown()) == ([], ("open", None, False))
    post(engine, "resolution")
    assert (series(), shown()) == (['res_sla_hours{market="m1"} 0.0'], ("resolving", 0.0, False))
    engine.clocks.now += 25 * 3600
    assert (series(), shown()) == (['res_sla_hours{market="m1"} 25.0'], ("resolving", 25.0, True))
    assert "mbp_markets_open 0.0" in engine.ask("GET", "/metrics").text
    post(engine, "resolution/finish")
    assert (series(), shown()) == ([], ("resolved", None, False))
    assert 'market="m1"' not in engine.ask("GET", "/metrics").text


# Freeze


def test_a_frozen_market_trades_nothing_and_others_go_on(engine):
    """Refused with its own code, also while the resolution is under way; thawed it trades again."""
    open_market(engine)
    open_market(engine, "m2")
    for step in (lambda: None, lambda: post(engine, "resolution")):
        step()
        assert freeze(engine).json()["frozen"] is True
        for answer in (
            swap(engine),
            post(engine, "quote", {"side": "yes", "amount": "1"}),
            post(engine, "liquidity", {"amount": "1"}),
            post(engine, "liquidity", {"action": "remove", "shares": "1"}),
        ):
            assert refusal(answer) == (409, "market_frozen")
        assert swap(engine, "m2").status_code == 201
        assert "mbp_markets_frozen 1.0" in engine.ask("GET", "/metrics").text
        assert freeze(engine, False).json()["frozen"] is False
        assert swap(engine).status_code == 201


def test_a_frozen_market_is_resolved_and_then_thawed(engine):
    """The resolution needs no trade; afterwards the flag can be taken back, and trades stay refused as resolved."""
    open_market(engine)
    freeze(engine)
    post(engine, "resolution")
    assert post(engine, "resolution/finish").json()["frozen"] is True
    assert refusal(swap(engine)) == (409, "market_resolved")
    thawed = freeze(engine, False).json()
    assert (thawed["status"], thawed["frozen"]) == ("resolved", False)
    assert refusal(swap(engine)) == (409, "market_resolved")


def test_a_freeze_is_done_once_a_key_and_audited(engine):
    """The same key gives the first answer again, for another request it is refused; what is so leaves no row."""
    open_market(engine)
    key = {"Idempotency-Key": "k1", **TRACED}
    first = freeze(engine, **key).json()
    assert freeze(engine, False, reason="resolved").json()["frozen"] is False
    assert freeze(engine, **key).json() == first
    assert engine.ask("GET", "/v1/markets/m1").json()["frozen"] is False
    assert refusal(freeze(engine, False, **key)) == (409, "idempotency_key_reused")
    freeze(engine, False)
    assert audit(engine) == [
        ("m1", "freeze", {"frozen": False}, {"frozen": True}, "late"),
        ("m1", "unfreeze", {"frozen": True}, {"frozen": False}, "resolved"),
    ]
    (row, _) = engine.ask("GET", "/v1/audit/markets?market=m1").json()["rows"]
    assert (row["seq"], row["at"], row["idempotency_key"], row["trace_id"]) == (1, OPENED, "k1", TRACE)


# Flags


def test_flags_are_shown_with_who_they_belong_to(engine):
    """Name, category, owner and default; both are on until someone changes them."""
    flags = engine.ask("GET", "/v1/flags").json()["flags"]
    assert [(each["name"], each["on"], each["category"], each["owner"], each["default"]) for each in flags] == [
        ("mbp.create_market", True, "kill_switch", "PM", True),
        ("mbp.resolve.manual", True, "permission", "PM/BC", True),
    ]
    assert {each["changed_at"] for each in flags} == {None}


def test_no_market_is_opened_while_that_is_off_but_a_faults_own(engine):
    """403 with the flag's name and owner; a fault brings its market all the same."""
    set_flag(engine, "mbp.create_market", False)
    answer = engine.ask("POST", "/v1/markets", json={"question": "?", "reserve": "1000"})
    assert refusal(answer) == (403, "flag_off")
    assert answer.json()["detail"] == "the flag mbp.create_market is off (drill); it belongs to PM"
    assert told(engine) == []
    assert delay(engine).status_code == 200
    set_flag(engine, "mbp.create_market", True)
    open_market(engine)


def test_no_market_is_resolved_by_hand_while_that_is_off(engine):
    """The rule still resolves it."""
    open_market(engine)
    post(engine, "resolution")
    set_flag(engine, "mbp.resolve.manual", False)
    assert refusal(post(engine, "resolution/finish", {"outcome": "no"})) == (403, "flag_off")
    assert post(engine, "resolution/finish").json()["outcome"] == "yes"


def test_each_change_of_a_flag_is_audited_once(engine):
    """What already is so leaves no row; a key gives its first answer again."""
    key = {"Idempotency-Key": "k"}
    first = set_flag(engine, "mbp.create_market", False, **key).json()
    assert first == {
        "name": "mbp.create_market",
        "on": False,
        "category": "kill_switch",
        "owner": "PM",
        "default": True,
        "summary": "markets can be opened",
        "reason": "drill",
        "changed_at": OPENED,
    }
    set_flag(engine, "mbp.create_market", False)
    set_flag(engine, "mbp.create_market", True)
    assert set_flag(engine, "mbp.create_market", False, **key).json() == first
    assert refusal(set_flag(engine, "mbp.create_market", True, **key)) == (409, "idempotency_key_reused")
    assert audit(engine, "flags") == [
        ("mbp.create_market", "flag", {"on": True}, {"on": False}, "drill"),
        ("mbp.create_market", "flag", {"on": False}, {"on": True}, "drill"),
    ]
    assert engine.ask("GET", "/v1/flags").json()["flags"][0]["on"] is True


def test_a_flag_that_cannot_be_stored_is_not_changed(engine):
    """503, and what was so still is."""
    engine.store._db.execute("PRAGMA query_only=ON")
    assert refusal(set_flag(engine, "mbp.create_market", False)) == (503, "store_unavailable")
    assert engine.ask("GET", "/v1/flags").json()["flags"][0]["on"] is True


# What survives


def test_all_of_it_is_there_in_the_next_life(tmp_path):
    """Flags, freeze, a resolution under way, its age, events and audit; a closing time that passed meanwhile starts."""
    with running(tmp_path) as first:
        open_market(first)
        body = {"id": "timed", "question": "?", "reserve": "1000", "closes_at": "2023-11-14T22:31:00Z"}
        first.ask("POST", "/v1/markets", json=body)
        post(first, "resolution")
        freeze(first)
        set_flag(first, "mbp.create_market", False)
        kept = [first.ask("GET", path).json() for path in ("/v1/markets/m1", "/v1/flags", "/v1/audit/markets?limit=2")]
        rows = feed(first)
    clocks = Clocks()
    clocks.now += 3600
    with running(tmp_path, clocks) as second:
        paths = ("/v1/markets/m1", "/v1/flags", "/v1/audit/markets?limit=2")
        assert [second.ask("GET", path).json() for path in paths] == kept
        assert feed(second)[:3] == rows
        assert 'res_sla_hours{market="m1"} 1.0' in second.ask("GET", "/metrics").text
        assert 'mbp_events_total{type="market_created"} 2.0' in second.ask("GET", "/metrics").text
        assert refusal(swap(second)) == (409, "market_frozen")
        assert second.ask("GET", "/v1/markets/timed").json()["resolution_started_at"] == "2023-11-14T22:31:00.000000Z"


def test_a_file_of_an_older_engine_is_refused_and_left_alone(tmp_path):
    """With what to do; it is not half changed."""
    path = tmp_path / "engine.sqlite3"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE markets (id TEXT PRIMARY KEY)")
    db.close()
    with pytest.raises(sqlite3.DatabaseError, match="has version 1, this engine writes version 2"):
        Store(path)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("markets",)]
    db.close()


# The fault that holds a resolution back


def delay(engine, fault_id="f1", hours=25, ttl_s=10, **more):
    """Ask for the fault."""
    params = {"event": "resolution_finished", "hours": hours}
    body = {"point": "events.delay", "kind": "hold", "params": params, "ttl_s": ttl_s, "run": "r1", **more}
    return engine.ask("PUT", f"/faults/{fault_id}", json=body, headers=BEARER)


def test_a_delay_opens_a_market_that_is_late_by_its_stamps(engine):
    """Answer, market, events and series; the clock is where it was, and a renewal changes none of it."""
    assert delay(engine).json() == {
        "id": "f1",
        "point": "events.delay",
        "kind": "hold",
        "run": "r1",
        "rev": 1,
        "params": {"event": "resolution_finished", "hours": 25.0},
        "market": "sim-f1",
        "rate": 1.0,
        "match": {},
        "seed": 0,
        "ttl_s": 10.0,
        "expires_at": "2023-11-14T22:30:10.000000Z",
        "hits": 0,
        "impacted": 0,
        "last_hit_at": None,
    }
    market = engine.ask("GET", "/v1/markets/sim-f1").json()
    late = "2023-11-13T21:30:00.000000Z"
    assert {key: market[key] for key in ("status", "frozen", "opened_at", "resolution_started_at", "fault")} == {
        "status": "resolving",
        "frozen": False,
        "opened_at": late,
        "resolution_started_at": late,
        "fault": "f1",
    }
    assert [(row["type"], row["at"], row["recorded_at"]) for row in feed(engine)] == [
        ("market_created", late, OPENED),
        ("resolution_started", late, OPENED),
    ]
    engine.clocks.now += 9
    assert delay(engine).json()["rev"] == 2
    text = engine.ask("GET", "/metrics").text
    assert 'res_sla_hours{market="sim-f1"} 25.0025' in text
    assert 'sim_fault_active{point="events.delay"} 1.0' in text
    assert len(feed(engine)) == 2


def test_it_is_traded_until_it_is_frozen(engine):
    """The danger, and what removes it."""
    delay(engine)
    assert swap(engine, "sim-f1").json()["fault"] is None
    freeze(engine, market="sim-f1")
    assert refusal(swap(engine, "sim-f1")) == (409, "market_frozen")


def test_while_it_is_held_nobody_finishes_it(engine):
    """By hand and by rule; each try is a hit."""
    delay(engine)
    for body in (None, {"outcome": "no"}):
        answer = engine.ask("POST", "/v1/markets/sim-f1/resolution/finish", json=body)
        assert refusal(answer) == (409, "resolution_held")
    (listed,) = engine.ask("GET", "/faults", headers=BEARER).json()
    assert (listed["hits"], listed["impacted"], listed["last_hit_at"]) == (2, 2, OPENED)
    assert 'sim_fault_hits_total{point="events.delay"} 2.0' in engine.ask("GET", "/metrics").text


def by_delete(engine):
    """End it by its id."""
    assert engine.ask("DELETE", "/faults/f1", headers=BEARER).status_code == 204


def by_run(engine):
    """End it by its run."""
    assert engine.ask("DELETE", "/faults?run=r1", headers=BEARER).status_code == 204


def by_time(engine):
    """Let the lease run out."""
    engine.clocks.now += 10


@pytest.mark.parametrize("end", [by_delete, by_run, by_time])
def test_however_it_ends_the_event_comes_once(engine, end):
    """The market is resolved, the series is gone, a freeze can be taken back, and no renewal revives it."""
    delay(engine)
    freeze(engine, market="sim-f1")
    end(engine)
    market = engine.ask("GET", "/v1/markets/sim-f1").json()
    assert (market["status"], market["outcome"], market["frozen"]) == ("resolved", "yes", True)
    end(engine)
    assert told(engine, market="sim-f1") == ["market_created", "resolution_started", "resolution_finished"]
    assert feed(engine)[-1]["data"]["by"] == "fault"
    assert "sim-f1" not in engine.ask("GET", "/metrics").text
    assert freeze(engine, False, market="sim-f1").json()["frozen"] is False
    assert refusal(delay(engine)) == (409, "market_exists")
    assert engine.ask("GET", "/faults", headers=BEARER).json() == []


def test_a_restart_releases_it(tmp_path):
    """A fault lives in memory only: in the next life the market is resolved and the event is there."""
    with running(tmp_path) as first:
        delay(first)
    with running(tmp_path) as second:
        assert second.ask("GET", "/v1/markets/sim-f1").json()["status"] == "resolved"
        assert told(second) == ["market_created", "resolution_started", "resolution_finished"]
        assert second.ask("GET", "/faults", headers=BEARER).json() == []


def test_a_deaf_engine_takes_it_and_nothing_is_late(tmp_path):
    """The defect that a harness must notice: the fault is listed, its market is there, and no resolution started."""
    with running(tmp_path, deaf=True) as engine:
        assert delay(engine).status_code == 200
        assert engine.ask("GET", "/v1/markets/sim-f1").json()["status"] == "open"
        assert told(engine) == ["market_created"]
        engine.ask("DELETE", "/faults/f1", headers=BEARER)
        assert engine.ask("GET", "/v1/markets/sim-f1").json()["status"] == "closed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hours": 0}, (422, "invalid")),
        ({"hours": 240.5}, (422, "invalid")),
        ({"hours": "25"}, (422, "invalid")),
        ({"params": {"event": "trade_executed", "hours": 25}}, (422, "invalid")),
        ({"params": {"event": "resolution_finished", "hours": 25, "market": "m1"}}, (422, "invalid")),
        ({"rate": 0.5}, (422, "invalid")),
        ({"kind": "mutate"}, (422, "invalid")),
        ({"ttl_s": 0}, (422, "invalid")),
        ({"fault_id": "f" * 77}, (422, "invalid")),
    ],
)
def test_a_delay_out_of_bounds_is_refused(engine, changes, said):
    """And nothing is opened."""
    assert refusal(delay(engine, **changes)) == said
    assert told(engine) == []


def test_the_same_id_with_another_dose_is_refused(engine):
    """It is another fault."""
    delay(engine)
    assert refusal(delay(engine, hours=26)) == (409, "fault_differs")


# Bad input


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "/v1/markets/nobody/resolution", None, (404, "market_not_found")),
        ("POST", "/v1/markets/nobody/resolution/finish", None, (404, "market_not_found")),
        ("PUT", "/v1/markets/nobody/frozen", {"frozen": True, "reason": "r"}, (404, "market_not_found")),
        ("POST", "/v1/markets/nobody/flags", {"reason": "r"}, (404, "market_not_found")),
        ("GET", "/v1/markets/nobody/resolution", None, (404, "market_not_found")),
        ("PUT", "/v1/flags/nobody", {"on": True, "reason": "r"}, (404, "flag_not_found")),
        ("POST", "/v1/markets/m1/resolution/finish", None, (409, "resolution_not_started")),
        ("POST", "/v1/markets/m1/resolution/finish", {"outcome": "maybe"}, (422, "invalid")),
        ("POST", "/v1/markets/m1/resolution", {"reason": ""}, (422, "invalid")),
        ("POST", "/v1/markets/m1/resolution", [], (422, "invalid")),
        ("PUT", "/v1/markets/m1/frozen", {"frozen": 1, "reason": "r"}, (422, "invalid")),
        ("PUT", "/v1/markets/m1/frozen", {"frozen": True}, (422, "invalid")),
        ("PUT", "/v1/markets/m1/frozen", {"frozen": True, "reason": "r", "more": 1}, (422, "invalid")),
        ("PUT", "/v1/markets/m1/frozen", None, (422, "invalid")),
        ("POST", "/v1/markets/m1/flags", {"reason": "x" * 501}, (422, "invalid")),
        ("POST", "/v1/markets/m1/flags", {"reason": "a\0b"}, (422, "invalid")),
        ("POST", "/v1/markets/m1/resolution", {"reason": "a\0b"}, (422, "invalid")),
        ("POST", "/v1/markets", {"question": "a\0b", "reserve": "1000"}, (422, "invalid")),
        ("PUT", "/v1/flags/mbp.create_market", {"on": "false", "reason": "r"}, (422, "invalid")),
        ("PUT", "/v1/flags/mbp.create_market", {"on": False}, (422, "invalid")),
        ("GET", "/v1/events?after=-1", None, (422, "invalid")),
        ("GET", "/v1/events?limit=1001", None, (422, "invalid")),
        ("GET", "/v1/audit/flags?after=x", None, (422, "invalid")),
        ("DELETE", "/v1/events", None, (405, "method_not_allowed")),
    ],
)
def test_bad_input_is_refused_clearly_and_changes_nothing(engine, method, path, body, said):
    """Each with its code."""
    before = open_market(engine)
    assert refusal(engine.ask(method, path, json=body)) == said
    assert engine.ask("GET", "/v1/markets/m1").json() == before
    assert (told(engine), audit(engine), audit(engine, "flags")) == (["market_created"], [], [])


@pytest.mark.parametrize(
    ("closes_at", "said"),
    [
        ("2023-11-14T22:30:00Z", (422, "closes_at_past")),
        ("2023-13-14T22:30:00Z", (422, "invalid")),
        ("2099-01-01T00:00:00", (422, "invalid")),
        ("tomorrow", (422, "invalid")),
        (4102444800, (422, "invalid")),
    ],
)
def test_a_market_closes_at_a_time_that_is_still_to_come(engine, closes_at, said):
    """With a time zone, in the future, in the calendar."""
    body = {"id": "m1", "question": "?", "reserve": "1000", "closes_at": closes_at}
    assert refusal(engine.ask("POST", "/v1/markets", json=body)) == said
    assert told(engine) == []


@pytest.mark.parametrize("raw", [b"{", b'"', b"\xff", b'{"frozen": true, "reason": "\\ud800"}'])
def test_a_body_that_is_no_json_or_no_text_is_refused(engine, raw):
    """400 or 422, never a 5xx."""
    open_market(engine)
    answer = engine.ask("PUT", "/v1/markets/m1/frozen", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert json.loads(answer.text).keys() == {"error", "detail"}
    assert audit(engine) == []
