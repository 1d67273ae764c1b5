"""The quote cache: fresh and old, bounded, dropped by a swap; and what degraded service answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbp.dec.app import build
from mbp.dec.quotes import QuoteCache
from tests.mbp.engines import Clocks, ask, refusal, running
from tests.mbp.test_dec import FREE, SWAP, InProcess

QUOTE = {"market": "m1", "side": "yes", "amount": "10"}
DEGRADED = {"X-MBP-Mode": "degraded"}


class Asked(InProcess):
    """The engine client that counts the quotes it was asked for, and can do something while it is asked."""

    def __init__(self, app):
        super().__init__(app)
        self.quotes, self.meanwhile = 0, None

    async def ask(self, method, path, body=None, headers=None):
        answer = await super().ask(method, path, body, headers)
        if path.endswith("/quote"):
            self.quotes += 1
            if self.meanwhile is not None:
                await self.meanwhile()
        return answer


class Dec:
    """A candidate over an engine, on a clock that a test moves."""

    def __init__(self, engine):
        self.clocks, self.client = Clocks(), Asked(engine.app)
        self.app = build("candidate", self.client, limits=FREE, clock=self.clocks.monotonic)

    def ask(self, method, path, **options):
        return ask(self.app, method, path, **options)

    def quote(self, headers=None, **changed):
        """Return the price of a quote, its age, and how many the engine was asked for by now."""
        answer = self.ask("POST", "/v1/quotes", json={**QUOTE, **changed}, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()["price_after"], answer.headers["x-mbp-quote-age"], self.client.quotes

    def sample(self, line):
        return f"\n{line}\n" in self.ask("GET", "/metrics").text


@pytest.fixture
def dec(tmp_path):
    """A candidate over a fresh engine with one market."""
    with running(tmp_path) as engine:
        made = Dec(engine)
        made.ask("POST", "/v1/markets", json={"id": "m1", "question": "Will it?", "reserve": "1000"})
        yield made


def test_a_fresh_quote_is_answered_again(dec):
    """Cold asks the engine, warm does not, at most 250 ms long; another request is another quote."""
    price, age, asked = dec.quote()
    assert (age, asked) == ("0.000", 1)
    dec.clocks.now += 0.25
    assert dec.quote() == (price, "0.250", 1)
    assert dec.quote(amount="11")[1:] == ("0.000", 2)
    dec.clocks.now += 0.001
    assert dec.quote()[1:] == ("0.000", 3)
    assert dec.sample('dec_quote_cache_total{outcome="hit",release="candidate"} 1.0')
    assert dec.sample('dec_quote_cache_total{outcome="miss",release="candidate"} 3.0')
    assert dec.sample('dec_quote_cache_entries{release="candidate"} 2.0')


@pytest.mark.parametrize("path", ["/v1/swaps", "/v1/markets/m1/liquidity"])
def test_a_change_of_the_market_drops_its_quotes(dec, path):
    """The next quote is computed and has the new state; another market's stays."""
    dec.ask("POST", "/v1/markets", json={"id": "m2", "question": "Will it?", "reserve": "1000"})
    before = dec.quote()
    other = dec.quote(market="m2")
    assert dec.ask("POST", path, json=SWAP if path == "/v1/swaps" else {"amount": "500"}).status_code < 300
    after = dec.quote()
    assert after[1:] == ("0.000", 3)
    assert after[0] != before[0]
    assert dec.quote(market="m2") == (other[0], "0.000", 3)


def test_a_quote_overtaken_by_a_swap_is_not_kept(dec):
    """A swap that is answered while the quote is on its way back makes it untrue."""

    async def swap():
        dec.client.meanwhile = None
        import httpx

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=dec.app), base_url="http://dec") as client:
            assert (await client.post("/v1/swaps", json=SWAP)).status_code == 201

    dec.client.meanwhile = swap
    first = dec.quote()
    assert dec.quote()[0] != first[0]
    assert dec.client.quotes == 2


def test_a_refusal_is_not_kept(dec):
    """An unknown market is asked for each time."""
    codes = [dec.ask("POST", "/v1/quotes", json={**QUOTE, "market": "none"}).status_code for _ in range(2)]
    assert (codes, dec.client.quotes) == ([404, 404], 2)


def test_degraded_service_answers_old_quotes(dec):
    """Older than fresh, with their age; computed only when there is none; never past five minutes."""
    price, _, _ = dec.quote()
    dec.clocks.now += 299
    assert dec.quote(DEGRADED) == (price, "299.000", 1)
    assert dec.quote(DEGRADED, amount="11")[1:] == ("0.000", 2)
    dec.clocks.now += 2
    assert dec.quote(DEGRADED)[1:] == ("0.000", 3)
    assert dec.sample('dec_quote_cache_evictions_total{release="candidate"} 1.0')


def test_degraded_service_refuses_what_can_wait(dec):
    """New markets and liquidity changes, with a 409 that burns no budget; swaps and looks go on; all say the mode."""
    opened = {"id": "m2", "question": "Will it?", "reserve": "1000"}
    refused = [
        dec.ask("POST", "/v1/markets", json=opened, headers=DEGRADED),
        dec.ask("POST", "/v1/markets/m1/liquidity", json={"amount": "5"}, headers=DEGRADED),
    ]
    assert [refusal(answer) for answer in refused] == [(409, "service_degraded")] * 2
    served = [
        dec.ask("POST", "/v1/swaps", json=SWAP, headers=DEGRADED),
        dec.ask("GET", "/v1/markets/m1", headers=DEGRADED),
    ]
    assert [answer.status_code for answer in served] == [201, 200]
    assert {answer.headers["x-mbp-mode"] for answer in refused + served} == {"degraded"}
    assert dec.ask("GET", "/v1/markets/m2").headers["x-mbp-mode"] == "normal"
    assert dec.ask("GET", "/v1/markets/m2").status_code == 404


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "get", "forget"]), st.sampled_from("ab"), st.integers(0, 4), st.integers(0, 3)
        )
    )
)
def test_the_cache_against_a_plain_model(steps):
    """Whatever is put, looked at and dropped: never more than the bound, never older, and never a wrong quote."""
    now, model = 0.0, {}
    cache = QuoteCache(lambda: now, entries=3, oldest_s=5.0)
    for what, market, number, passes in steps:
        now += passes
        request = bytes([number])
        if what == "put":
            cache.put(market, request, b"%g" % now, now)
            model[market, request] = now
        elif what == "forget":
            cache.forget(market)
            model = {key: at for key, at in model.items() if key[0] != market}
        else:
            found = cache.get(market, request, 2.0)
            if found is not None:
                assert (found[0], found[1]) == (b"%g" % model[market, request], now - model[market, request])
                assert found[1] <= 2.0
            elif (market, request) in model and now - model[market, request] <= 2.0:
                newer = sum(at >= model[market, request] for at in model.values())
                assert newer > 3  # it made room
        assert len(cache) <= 3
