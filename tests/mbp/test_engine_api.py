"""The engine over HTTP: markets, trading, audit, what survives, and bad input."""

from __future__ import annotations

import asyncio
import sqlite3
from fractions import Fraction

import pytest

from mbp import _wire
from tests.mbp.engines import ask, open_market, refusal, running, swap

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def engine(tmp_path):
    """A fresh engine."""
    with running(tmp_path) as made:
        yield made


def test_a_market_opens_at_even_price(engine):
    """A market opens with its reserve on both sides, is listed, and reads the same alone."""
    market = open_market(engine)
    assert market == {
        "id": "m1",
        "question": "Will it?",
        "status": "open",
        "reserve_yes": "1000",
        "reserve_no": "1000",
        "price_yes": "0.5",
        "k": "1000000",
        "frozen": False,
        "liquidity": "1000",
        "collateral": "1000",
        "fees": "0",
        "swaps": 0,
        "fault": None,
        "opened_at": "2023-11-14T22:30:00.000000Z",
        "closes_at": None,
        "resolution_started_at": None,
        "resolved_at": None,
        "outcome": None,
        "closed_at": None,
    }
    assert engine.ask("GET", "/v1/markets").json() == {"markets": [market]}
    assert engine.ask("GET", "/v1/markets/m1").json() == market
    assert refusal(engine.ask("POST", "/v1/markets", json={"id": "m1", "question": "x", "reserve": "20"})) == (
        409,
        "market_exists",
    )


def test_a_market_without_an_id_gets_one(engine):
    """Two markets without an id get two ids."""
    body = {"question": "Will it?", "reserve": "1000"}
    ids = {engine.ask("POST", "/v1/markets", json=body).json()["id"] for _ in range(2)}
    assert len(ids) == 2


def test_a_quote_is_what_the_swap_executes(engine):
    """Quote, then swap: the same output, the same fee, the same price; a quote itself changes nothing."""
    open_market(engine)
    swap(engine, amount="33.3")
    for side, action, amount in (("yes", "buy", "10"), ("no", "buy", "0.5"), ("yes", "sell", "7.25")):
        body = {"side": side, "action": action, "amount": amount}
        before = engine.ask("GET", "/v1/markets/m1").json()
        quote = engine.ask("POST", "/v1/markets/m1/quote", json=body).json()
        assert engine.ask("GET", "/v1/markets/m1").json() == before
        row = swap(engine, side=side, action=action, amount=amount).json()
        after = engine.ask("GET", "/v1/markets/m1").json()
        assert quote == {"amount_out": row["amount_out"], "fee": row["fee"], "price_after": after["price_yes"]}


def test_a_swap_is_answered_with_its_audit_row(engine):
    """The row carries exact products and the exact ratio, and the audit gives the same row."""
    open_market(engine)
    answer = swap(engine, **{"X-Request-Id": "req-7", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    row = answer.json()
    assert answer.status_code == 201
    assert row == {
        "seq": 1,
        "at": "2023-11-14T22:30:00.000000Z",
        "market": "m1",
        "side": "yes",
        "action": "buy",
        "amount_in": "10",
        "amount_out": "19.861383789",
        "fee": "0.02",
        "k_before": "1000000",
        "k_after": "1000000.00000078578",
        "delta_k_ratio": "39289/50000000000000000",
        "delta_k_float": 7.8578e-13,
        "breach": False,
        "fault": None,
        "request_id": "req-7",
        "trace_id": TRACE,
    }
    before, after = Fraction(row["k_before"]), Fraction(row["k_after"])
    assert Fraction(row["delta_k_ratio"]) == (after - before) / before
    assert engine.ask("GET", "/v1/audit/swaps").json() == {"rows": [row], "next": 1}


def test_the_answers_are_as_the_shared_shapes_say(engine):
    """Market, quote, row and funding validate against the strict models that the contract is made from."""
    _wire.Market.model_validate(open_market(engine))
    _wire.Swap.model_validate(swap(engine).json())
    quote = engine.ask("POST", "/v1/markets/m1/quote", json={"side": "no", "amount": "1"})
    _wire.Quote.model_validate(quote.json())
    _wire.Funding.model_validate(engine.ask("POST", "/v1/markets/m1/liquidity", json={"amount": "5"}).json())
    _wire.SwapPage.model_validate(engine.ask("GET", "/v1/audit/swaps").json())
    _wire.MarketList.model_validate(engine.ask("GET", "/v1/markets").json())


def test_the_audit_is_read_in_pages(engine):
    """Pages follow each other by `next`, by market too, and the last one is empty and keeps the cursor."""
    for market in ("a", "b"):
        open_market(engine, market)
    for market in ("a", "b", "a", "b", "a"):
        swap(engine, market)

    def page(**params):
        answer = engine.ask("GET", "/v1/audit/swaps", params=params).json()
        return [row["seq"] for row in answer["rows"]], answer["next"]

    assert page(limit=2) == ([1, 2], 2)
    assert page(after=2, limit=2) == ([3, 4], 4)
    assert page(after=5) == ([], 5)
    assert page(market="a") == ([1, 3, 5], 5)
    assert page(market="nobody", after=3) == ([], 3)


def test_liquidity_goes_in_and_comes_out(engine):
    """Adding at an uneven price hands out the surplus and keeps the price; taking it out gives back no more."""
    open_market(engine)
    swap(engine, amount="100")
    price = engine.ask("GET", "/v1/markets/m1").json()["price_yes"]
    added = engine.ask("POST", "/v1/markets/m1/liquidity", json={"amount": "50"}).json()
    assert (added["action"], added["amount"], added["no_out"]) == ("add", "50", "0")
    assert Fraction(added["yes_out"]) > 0
    assert added["market"]["price_yes"] == price
    removed = engine.ask(
        "POST", "/v1/markets/m1/liquidity", json={"action": "remove", "shares": added["shares"]}
    ).json()
    assert Fraction(removed["amount"]) + max(Fraction(removed["yes_out"]), Fraction(removed["no_out"])) <= 50
    assert removed["market"]["price_yes"] == price


def test_an_idempotency_key_makes_one_swap(engine):
    """The same key and order give the same row; another order under the key is refused; nothing is made twice."""
    open_market(engine)
    key = {"Idempotency-Key": "k-1"}
    first = swap(engine, **key)
    again = swap(engine, **key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert refusal(swap(engine, amount="11", **key)) == (409, "idempotency_key_reused")
    assert refusal(swap(engine, side="no", **key)) == (409, "idempotency_key_reused")
    assert engine.ask("GET", "/v1/markets/m1").json()["swaps"] == 1
    assert engine.ask("GET", "/v1/audit/swaps").json() == {"rows": [first.json()], "next": 1}


def test_a_key_still_counts_when_its_market_is_another(engine):
    """A key belongs to one order in one market."""
    open_market(engine, "a")
    open_market(engine, "b")
    swap(engine, "a", **{"Idempotency-Key": "k"})
    assert refusal(swap(engine, "b", **{"Idempotency-Key": "k"})) == (409, "idempotency_key_reused")


def test_what_was_answered_is_there_after_a_kill(tmp_path):
    """A second life over the same file, the first never closed, has every market, swap, key and counter."""
    with running(tmp_path) as first:
        open_market(first)
        rows = [swap(first, **{"Idempotency-Key": f"k{turn}"}).json() for turn in range(5)]
        market = first.ask("GET", "/v1/markets/m1").json()
        with running(tmp_path) as second:
            assert second.ask("GET", "/v1/markets/m1").json() == market
            assert second.ask("GET", "/v1/audit/swaps").json()["rows"] == rows
            assert swap(second, **{"Idempotency-Key": "k3"}).json() == rows[3]
            assert 'amm_swaps_total{market="m1"} 5.0' in second.ask("GET", "/metrics").text
            assert swap(second).json()["seq"] == 6


def test_a_store_that_takes_no_writes_changes_nothing(engine):
    """When the store fails: swap 503, the pool as it was, and health says so until the store works again."""
    open_market(engine)
    before = engine.ask("GET", "/v1/markets/m1").json()
    engine.store._db.execute("PRAGMA query_only=ON")
    assert refusal(swap(engine)) == (503, "store_unavailable")
    assert refusal(engine.ask("GET", "/healthz")) == (503, "unhealthy")
    assert engine.ask("GET", "/v1/markets/m1").json() == before
    engine.store._db.execute("PRAGMA query_only=OFF")
    assert engine.ask("GET", "/healthz").status_code == 200
    assert swap(engine).json()["k_before"] == before["k"]


def test_metrics_of_a_market(engine):
    """Counters are at 0 from the opening; price and depth are gauges."""
    open_market(engine)
    text = engine.ask("GET", "/metrics").text
    for line in (
        'amm_swaps_total{market="m1"} 0.0',
        'amm_invariant_error_total{market="m1"} 0.0',
        'amm_price_yes{market="m1"} 0.5',
        "mbp_markets_open 1.0",
        'sim_fault_active{point="engine.swap"} 0.0',
        'sim_fault_hits_total{point="engine.swap"} 0.0',
    ):
        assert line in text.splitlines()
    assert "_created{" not in text


def test_identity_comes_from_the_environment(engine, monkeypatch):
    """The label and the instance that a harness checks before it touches anything."""
    monkeypatch.setenv("MBP_ENVIRONMENT", "sim-local")
    monkeypatch.setenv("MBP_INSTANCE", "i-1")
    assert engine.ask("GET", "/identity").json() == {
        "environment": "sim-local",
        "instance": "i-1",
        "service": "engine",
    }


JSON_TYPE = {"Content-Type": "application/json"}
BAD_BODIES = [
    (b"", 422),
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b"[]", 422),
    (b"null", 422),
    (b"[" * 60_000, 400),
    (b'{"amount": NaN}', 422),
    (b'{"amount": "1", "side": "\\ud800"}', 422),
    (b'{"\\ud800": 1}', 422),
]


@pytest.mark.parametrize(("body", "status"), BAD_BODIES)
@pytest.mark.parametrize(
    "path", ["/v1/markets", "/v1/markets/m1/quote", "/v1/markets/m1/swaps", "/v1/markets/m1/liquidity"]
)
def test_bad_bodies_are_refused(engine, path, body, status):
    """Whatever is not the right JSON object is refused with the one error shape, and nothing is done."""
    before = open_market(engine)
    answer = engine.ask("POST", path, content=body, headers=JSON_TYPE)
    assert refusal(answer)[0] == status
    assert engine.ask("GET", "/v1/markets").json() == {"markets": [before]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": 10},
        {"amount": "-1"},
        {"amount": "NaN"},
        {"amount": "Infinity"},
        {"amount": "1e9"},
        {"amount": "9" * 400},
        {"amount": "1.0000000001"},
        {"amount": None},
        {"amount": "0"},
        {"amount": "2000000000"},
        {"side": "maybe"},
        {"side": True},
        {"action": "steal"},
        {"extra": 1},
    ],
)
def test_bad_swaps_are_refused(engine, wrong):
    """A wrong type, value or key is a 422 with the one error shape, and no swap."""
    open_market(engine)
    body = {"side": "yes", "action": "buy", "amount": "1", **wrong}
    assert refusal(engine.ask("POST", "/v1/markets/m1/swaps", json=body))[0] == 422
    assert engine.ask("GET", "/v1/audit/swaps").json() == {"rows": [], "next": 0}


@pytest.mark.parametrize(
    "wrong",
    [{"id": "../x"}, {"id": ""}, {"id": "x" * 81}, {"question": ""}, {"question": "x" * 501}, {"reserve": "9.9"}],
)
def test_bad_markets_are_refused(engine, wrong):
    """An id that is no label, an empty question, a reserve too small: 422."""
    body = {"id": "m1", "question": "Will it?", "reserve": "1000", **wrong}
    assert refusal(engine.ask("POST", "/v1/markets", json=body))[0] == 422


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nowhere", (404, "not_found")),
        ("GET", "/v1/markets/none", (404, "market_not_found")),
        ("POST", "/v1/markets/none/swaps", (404, "market_not_found")),
        ("POST", "/v1/markets/none/quote", (404, "market_not_found")),
        ("DELETE", "/v1/markets", (405, "method_not_allowed")),
        ("GET", "/v1/markets/m1/swaps", (405, "method_not_allowed")),
        ("POST", "/healthz", (405, "method_not_allowed")),
        ("GET", "/v1/audit/swaps?after=-1", (422, "invalid")),
        ("GET", "/v1/audit/swaps?after=99999999999999999999", (422, "invalid")),
        ("GET", "/v1/audit/swaps?limit=0", (422, "invalid")),
        ("GET", "/v1/audit/swaps?limit=many", (422, "invalid")),
    ],
)
def test_wrong_places_are_refused(engine, method, path, expected):
    """Unknown paths and ids, wrong methods and wrong queries have their own codes."""
    body = {"side": "yes", "action": "buy", "amount": "1"} if method == "POST" else None
    assert refusal(engine.ask(method, path, json=body)) == expected


def test_a_bad_key_is_refused(engine):
    """A key longer than 200 characters is no key."""
    open_market(engine)
    assert refusal(swap(engine, **{"Idempotency-Key": "k" * 201})) == (422, "invalid")


def test_a_body_over_the_limit_is_refused_before_it_is_read(engine):
    """Over 64 KiB: 413, by Content-Length without reading, and by counting when no length was declared."""
    assert refusal(engine.ask("POST", "/v1/markets", content=b"x" * 65_537, headers=JSON_TYPE)) == (
        413,
        "body_too_large",
    )

    async def chunks():
        for _ in range(70):
            yield b"x" * 1024

    assert refusal(engine.ask("POST", "/v1/markets", content=chunks(), headers=JSON_TYPE)) == (413, "body_too_large")
    exact = b" " * (65_536 - 2) + b"{}"
    assert refusal(engine.ask("POST", "/v1/markets", content=exact, headers=JSON_TYPE)) == (422, "invalid")


def test_a_length_that_is_no_number_is_refused(engine):
    """A Content-Length of words is a 400."""
    headers = {**JSON_TYPE, "Content-Length": "many"}
    assert refusal(engine.ask("POST", "/v1/markets", content=b"{}", headers=headers)) == (400, "bad_content_length")


def test_too_many_markets_are_refused(engine, monkeypatch):
    """The number of open markets is bounded, and so are the series that they make."""
    monkeypatch.setattr("mbp.engine.exchange.MARKETS_AT_ONCE", 2)
    open_market(engine, "a")
    open_market(engine, "b")
    body = {"id": "c", "question": "Will it?", "reserve": "1000"}
    assert refusal(engine.ask("POST", "/v1/markets", json=body)) == (409, "too_many_markets")


def test_a_defect_in_the_books_is_not_committed(engine, monkeypatch):
    """A swap that would let k fall without a fault is answered 500 and leaves no row."""
    open_market(engine)
    monkeypatch.setattr("mbp.engine.exchange.krule.holds", lambda *_, **__: False)
    assert refusal(swap(engine)) == (500, "internal")
    assert engine.ask("GET", "/v1/audit/swaps").json() == {"rows": [], "next": 0}


def test_the_log_is_moved_into_the_file(engine):
    """A checkpoint runs beside the writer and leaves everything readable."""
    open_market(engine)
    swap(engine)
    engine.store.checkpoint()
    with sqlite3.connect(engine.store.path) as other:
        assert other.execute("SELECT count(*) FROM swaps").fetchone() == (1,)
    other.close()


def test_the_tasks_end_with_the_app(engine):
    """Starting and stopping the app leaves no task behind."""

    async def live():
        async with engine.app.router.lifespan_context(engine.app):
            during = len(asyncio.all_tasks())
        return during, len(asyncio.all_tasks())

    assert asyncio.run(live()) == (3, 1)


def test_the_api_is_one_app_of_many(tmp_path):
    """Two engines in one process share nothing."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "one") as one, running(tmp_path / "two") as two:
        open_market(one)
        assert ask(two.app, "GET", "/v1/markets").json() == {"markets": []}
