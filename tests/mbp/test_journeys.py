"""Whole journeys through the public entry, as a user goes them: one that ends well, and three that do not."""

from __future__ import annotations

import pytest

from tests.mbp.engines import refusal, running
from tests.mbp.test_shadow import Platform

OPEN = ("POST", "/v1/markets", {"id": "rain", "question": "Will it rain?", "reserve": "1000"})
BUY = {"market": "rain", "side": "yes", "action": "buy", "amount": "10"}
START = ("POST", "/v1/markets/rain/resolution", {})
FINISH = ("POST", "/v1/markets/rain/resolution/finish", {"outcome": "yes"})


@pytest.fixture
def platform(tmp_path):
    """Entry, both releases and engine, with nothing in it."""
    with running(tmp_path) as engine:
        made = Platform(tmp_path, engine)
        yield made
        made.store.close()


def events(platform):
    """Return type and market of every event, in order."""
    rows = platform.engine.ask("GET", "/v1/events").json()["rows"]
    return [(row["type"], row["subject"]) for row in rows]


def test_a_market_from_its_opening_to_its_resolution(platform):
    """Open, fund, quote, trade at the quoted price, resolve: each step answers, and each is an event."""
    answers = platform.tell(
        OPEN,
        ("POST", "/v1/markets/rain/liquidity", {"amount": "500"}),
        ("POST", "/v1/quotes", {key: BUY[key] for key in ("market", "side", "amount")}),
        ("POST", "/v1/swaps", BUY),
        START,
        FINISH,
        ("GET", "/v1/markets/rain", None),
    )
    assert [answer.status_code for answer in answers] == [201, 200, 200, 201, 200, 200, 200]
    quoted, traded, at_last = answers[2].json(), answers[3].json(), answers[6].json()
    assert traded["amount_out"] == quoted["amount_out"]
    assert (at_last["status"], at_last["swaps"], at_last["frozen"]) == ("resolved", 1, False)
    kinds = ("market_created", "liquidity_added", "trade_executed", "resolution_started", "resolution_finished")
    assert events(platform) == [(kind, "rain") for kind in kinds]


def test_a_trade_in_a_frozen_market_and_in_a_resolved_one(platform):
    """Unhappy: the freeze refuses while it holds, the resolution for good; neither leaves a swap or an event."""
    platform.tell(OPEN, ("POST", "/v1/swaps", BUY))
    platform.engine.ask("PUT", "/v1/markets/rain/frozen", json={"frozen": True, "reason": "late"})
    (frozen,) = platform.tell(("POST", "/v1/swaps", BUY))
    platform.engine.ask("PUT", "/v1/markets/rain/frozen", json={"frozen": False, "reason": "in time again"})
    thawed, *_, resolved = platform.tell(("POST", "/v1/swaps", BUY), START, FINISH, ("POST", "/v1/swaps", BUY))
    assert (refusal(frozen), thawed.status_code, refusal(resolved)) == (
        (409, "market_frozen"), 201, (409, "market_resolved"),
    )  # fmt: skip
    assert [kind for kind, _ in events(platform)].count("trade_executed") == 2


def test_a_market_that_may_not_be_opened_now(platform):
    """Unhappy: a flag that is off, and a service that is degraded, refuse by name; both can be tried again."""
    platform.engine.ask("PUT", "/v1/flags/mbp.create_market", json={"on": False, "reason": "incident"})
    (off,) = platform.tell(OPEN)
    platform.engine.ask("PUT", "/v1/flags/mbp.create_market", json={"on": True, "reason": "over"})
    _, degraded, _, opened = platform.tell(
        ("PUT", "/service/mode", {"mode": "degraded", "reason": "lag"}),
        OPEN,
        ("PUT", "/service/mode", {"mode": "normal", "reason": "caught up"}),
        OPEN,
    )
    assert (refusal(off), refusal(degraded), opened.status_code) == ((403, "flag_off"), (409, "service_degraded"), 201)
    assert events(platform) == [("market_created", "rain")]


def test_a_trade_that_the_pool_cannot_serve(platform):
    """Unhappy: more than the pool holds, shares that nobody has, a market that is not there: refused, pool unmoved."""
    (opened,) = platform.tell(OPEN)
    too_much, no_shares, nowhere, after = platform.tell(
        ("POST", "/v1/swaps", {**BUY, "amount": "900000000"}),
        ("POST", "/v1/swaps", {**BUY, "action": "sell", "amount": "5000"}),
        ("POST", "/v1/swaps", {**BUY, "market": "snow"}),
        ("GET", "/v1/markets/rain", None),
    )
    assert [refusal(answer)[0] for answer in (too_much, no_shares, nowhere)] == [422, 422, 404]
    assert after.json() == opened.json()
