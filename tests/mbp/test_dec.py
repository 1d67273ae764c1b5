"""The decision API over a real engine in the same process, its limits, its contract, and what it counts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from mbp import _wire
from mbp._asgi import ApiError
from mbp.dec.app import build
from mbp.dec.capacity import RELEASES, Capacity, Limits, QueueFull
from mbp.dec.engine_client import Answer, EngineClient
from mbp.dec.openapi import contract
from mbp.dec.telemetry import class_of, route_of
from tests.mbp.engines import ask, refusal, running

FREE = Limits(slots=4, service_s=0.0, queue=4)


class InProcess(EngineClient):
    """The engine client with the engine's app behind it instead of a socket."""

    def __init__(self, app):
        super().__init__("http://engine")
        self.app, self.fails = app, None

    async def ask(self, method, path, body=None, headers=None):
        if self.fails is not None:
            raise self.fails
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            sent = {"Content-Type": "application/json", **(headers or {})}
            answer = await client.request(method, path, content=body, headers=sent)
            return Answer(answer.status_code, answer.content)


class Dec:
    """One release over an engine."""

    def __init__(self, engine, release="candidate"):
        self.engine, self.client = engine, InProcess(engine.app)
        self.app = build(release, self.client, limits=FREE)

    def ask(self, method, path, **options):
        return ask(self.app, method, path, **options)

    def count(self, route, name):
        """Return a counter as it is exported."""
        start = f'dec_requests_total{{class="{name}",release="candidate",route="{route}"}} '
        (line,) = [line for line in self.ask("GET", "/metrics").text.splitlines() if line.startswith(start)]
        return float(line.removeprefix(start))


@pytest.fixture
def dec(tmp_path):
    """A candidate over a fresh engine with one market."""
    with running(tmp_path) as engine:
        made = Dec(engine)
        answer = made.ask("POST", "/v1/markets", json={"id": "m1", "question": "Will it?", "reserve": "1000"})
        assert answer.status_code == 201
        _wire.Market.model_validate(answer.json())
        yield made


SWAP = {"market": "m1", "side": "yes", "action": "buy", "amount": "10"}


def test_the_journey_of_a_trader(dec):
    """Quote, swap, look, add liquidity: the engine's answers, valid by the contract's shapes, with the release."""
    quote = dec.ask("POST", "/v1/quotes", json={"market": "m1", "side": "yes", "amount": "10"})
    made = dec.ask("POST", "/v1/swaps", json=SWAP, headers={"X-Request-Id": "req-1"})
    market = dec.ask("GET", "/v1/markets/m1")
    markets = dec.ask("GET", "/v1/markets")
    funding = dec.ask("POST", "/v1/markets/m1/liquidity", json={"amount": "5"})
    answers = [quote, made, market, markets, funding]
    assert [answer.status_code for answer in answers] == [200, 201, 200, 200, 200]
    assert {answer.headers["x-mbp-release"] for answer in answers} == {"candidate"}
    _wire.Quote.model_validate(quote.json())
    row = _wire.Swap.model_validate(made.json())
    assert (quote.json()["amount_out"], row.request_id) == (row.amount_out, "req-1")
    assert _wire.MarketList.model_validate(markets.json()).markets == [_wire.Market.model_validate(market.json())]
    _wire.Funding.model_validate(funding.json())
    assert dec.engine.ask("GET", "/v1/audit/swaps").json()["rows"] == [made.json()]


def test_an_idempotency_key_reaches_the_engine(dec):
    """The same key twice is one swap."""
    rows = [dec.ask("POST", "/v1/swaps", json=SWAP, headers={"Idempotency-Key": "k"}).json() for _ in range(2)]
    assert rows[0] == rows[1]
    assert dec.ask("GET", "/v1/markets/m1").json()["swaps"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/v1/swaps", {**SWAP, "market": "none"}, (404, "market_not_found")),
        ("POST", "/v1/swaps", {**SWAP, "action": "sell"}, (422, "insufficient_shares")),
        ("POST", "/v1/swaps", {**SWAP, "amount": "900000000"}, (422, "reserve_floor")),
        ("POST", "/v1/swaps", {**SWAP, "amount": 10}, (422, "invalid")),
        ("POST", "/v1/swaps", {**SWAP, "amount": "1e5"}, (422, "invalid")),
        ("POST", "/v1/swaps", {**SWAP, "market": "../m1"}, (422, "invalid")),
        ("POST", "/v1/swaps", {**SWAP, "more": 1}, (422, "invalid")),
        ("POST", "/v1/quotes", {"market": "m1", "side": "yes", "amount": "-1"}, (422, "invalid")),
        ("POST", "/v1/markets", {"id": "m1", "question": "q", "reserve": "20"}, (409, "market_exists")),
        ("POST", "/v1/markets/m1/liquidity", {"shares": "1"}, (422, "invalid")),
        ("GET", "/v1/markets/none", None, (404, "market_not_found")),
        ("GET", "/v1/markets/a%20b", None, (422, "invalid")),
        ("GET", "/v1/swaps", None, (405, "method_not_allowed")),
        ("GET", "/v1/nowhere", None, (404, "not_found")),
    ],
)
def test_refusals_pass_through(dec, method, path, body, expected):
    """Ours and the engine's 4xx have one shape, carry the release, and leave no swap."""
    answer = dec.ask(method, path, json=body)
    assert refusal(answer) == expected
    assert answer.headers["x-mbp-release"] == "candidate"
    assert dec.engine.ask("GET", "/v1/audit/swaps").json() == {"rows": [], "next": 0}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", (400, "malformed")),
        (b'{"amount": NaN', (400, "malformed")),
        (b"x" * 65_537, (413, "body_too_large")),
        (b"", (422, "invalid")),
    ],
)
def test_bad_bodies_are_refused(dec, content, expected):
    """Broken, empty and oversized bodies never reach the engine, and count as 4xx."""
    answer = dec.ask("POST", "/v1/swaps", content=content, headers={"Content-Type": "application/json"})
    assert refusal(answer) == expected
    assert answer.headers["x-mbp-release"] == "candidate"
    assert dec.count("/v1/swaps", "4xx") == 1


def test_every_series_is_there_at_0(tmp_path):
    """Each route and class exists from the start, and the edge at 0.8 s too; no series is born late."""
    with running(tmp_path) as engine:
        text = ask(Dec(engine, "stable").app, "GET", "/metrics").text
    for route in ("/v1/quotes", "/v1/swaps", "/v1/markets", "/v1/markets/{id}", "/v1/markets/{id}/liquidity", "other"):
        for name in ("2xx", "4xx", "429", "5xx"):
            assert f'dec_requests_total{{class="{name}",release="stable",route="{route}"}} 0.0' in text
        assert f'dec_request_seconds_bucket{{le="0.8",release="stable",route="{route}"}} 0.0' in text
    assert "_created" not in text


def test_an_outage_of_the_engine_is_a_5xx(dec):
    """Unreachable is a 502, too slow a 503; both count as 5xx, and neither is in the histogram as speed."""
    dec.client.fails = ApiError(502, "engine_unreachable", "no connection")
    assert refusal(dec.ask("POST", "/v1/swaps", json=SWAP)) == (502, "engine_unreachable")
    assert refusal(dec.ask("GET", "/healthz")) == (503, "unhealthy")
    dec.client.fails = ApiError(503, "engine_timeout", "too slow")
    assert refusal(dec.ask("POST", "/v1/swaps", json=SWAP)) == (503, "engine_timeout")
    dec.client.fails = None
    assert dec.ask("POST", "/v1/swaps", json=SWAP).status_code == 201
    assert dec.ask("GET", "/healthz").status_code == 200
    assert (dec.count("/v1/swaps", "5xx"), dec.count("/v1/swaps", "2xx")) == (2, 1)
    assert 'dec_request_seconds_count{release="candidate",route="/v1/swaps"} 1.0' in dec.ask("GET", "/metrics").text


def test_a_failing_engine_is_a_502(dec):
    """What the engine answers with a 5xx is passed on as a 502 of ours."""
    dec.engine.store._db.execute("PRAGMA query_only=ON")
    assert refusal(dec.ask("POST", "/v1/swaps", json=SWAP)) == (502, "engine_failed")


def test_a_crash_counts_as_5xx(dec):
    """An unexpected error is a 500 with the one shape, the release, and a count."""
    dec.client.fails = RuntimeError("defect")
    answer = dec.ask("POST", "/v1/swaps", json=SWAP)
    assert refusal(answer) == (500, "internal")
    assert dec.count("/v1/swaps", "5xx") == 1


def test_the_committed_contract_is_the_one_served(dec):
    """`mbp/schemas/mbp/openapi.v1.json` is what both releases serve; run `python -m mbp.dec.openapi` to renew it."""
    kept = Path(__file__).parents[2] / "mbp" / "schemas" / "mbp" / "openapi.v1.json"
    assert kept.read_text(encoding="utf-8") == contract()
    served = dec.ask("GET", "/openapi.json").json()
    assert served == json.loads(contract())
    assert served["info"]["title"] == "mbp.v1"
    assert sorted(served["paths"]) == [
        "/v1/markets",
        "/v1/markets/{market}",
        "/v1/markets/{market}/history",
        "/v1/markets/{market}/liquidity",
        "/v1/markets/{market}/resolution",
        "/v1/markets/{market}/resolution/finish",
        "/v1/quotes",
        "/v1/swaps",
    ]


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/swaps", "/v1/swaps"),
        ("/v1/markets", "/v1/markets"),
        ("/v1/markets/x", "/v1/markets/{id}"),
        ("/v1/markets/x/liquidity", "/v1/markets/{id}/liquidity"),
        ("/v1/markets/x/history", "/v1/markets/{id}/history"),
        ("/v1/markets/x/y", "other"),
        ("/v1/markets/", "other"),
        ("/v1/anything", "other"),
    ],
)
def test_routes_are_from_a_fixed_list(path, route):
    """No path of a client makes a new series."""
    assert route_of(path) == route


def test_classes():
    """A throttle is apart from other refusals, and only 5xx is 5xx."""
    assert [class_of(status) for status in (200, 201, 304, 400, 404, 428, 429, 430, 499, 500, 503)] == (
        ["2xx"] * 3 + ["4xx"] * 3 + ["429"] + ["4xx"] * 2 + ["5xx"] * 2
    )


# Capacity


def test_the_releases_serve_what_the_design_says():
    """Candidate 133 a second with a queue of 330, stable 240."""
    assert {name: (round(limits.rate), limits.queue) for name, limits in RELEASES.items()} == {
        "candidate": (133, 330),
        "stable": (240, 330),
    }


class Time:
    """Virtual seconds: `sleep` is a wish that :meth:`Simulation.run` grants in order."""

    def __init__(self):
        self.now, self.sleepers = 0.0, []

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.now + max(0.0, seconds), len(self.sleepers), woken))
        await woken

    async def run(self):
        """Let time pass until nobody sleeps."""
        while True:
            for _ in range(20):
                await asyncio.sleep(0)
            waiting = [each for each in self.sleepers if not each[2].done()]
            if not waiting:
                return
            self.now, _, woken = min(waiting)
            woken.set_result(None)


def simulate(limits, arrivals, monkeypatch, lateness=0.0):
    """Return, for each arrival, its latency or None when it was turned away."""
    time = Time()
    found = [None] * len(arrivals)
    real_sleep = asyncio.sleep

    async def late(seconds):
        await (real_sleep(0) if seconds == 0 else time.sleep(seconds + lateness))

    async def request(capacity, index, at):
        await time.sleep(at)
        try:
            due = await capacity.enter()
        except QueueFull:
            return
        await capacity.leave(due, overran=False)
        found[index] = time.now - at

    async def story():
        capacity = Capacity(limits, lambda: time.now)
        tasks = [asyncio.create_task(request(capacity, index, at)) for index, at in enumerate(arrivals)]
        await time.run()
        await asyncio.gather(*tasks)
        assert (capacity.busy, capacity.queued) == (0, 0)

    monkeypatch.setattr("mbp.dec.capacity.asyncio.sleep", late)
    try:
        asyncio.run(story())
    finally:
        monkeypatch.undo()
    return found


def test_under_the_limit_nobody_waits(monkeypatch):
    """At less than the rate each request takes the service time and no more."""
    found = simulate(Limits(2, 0.5, 3), [0.0, 0.25, 0.5, 0.75, 1.0], monkeypatch)
    assert found == pytest.approx([0.5] * 5)


def test_over_the_limit_they_queue_in_order_and_overflow(monkeypatch):
    """Two slots, a queue of three: the first two at once, three wait in turn, the sixth is turned away at once."""
    found = simulate(Limits(2, 0.5, 3), [0.0, 0.01, 0.02, 0.03, 0.04, 0.05], monkeypatch)
    assert found[:5] == pytest.approx([0.5, 0.5, 0.98, 0.98, 1.46])
    assert found[5] is None


def test_a_late_timer_does_not_cost_the_rate(monkeypatch):
    """With every timer 100 ms late the last of a full queue is late by 100 ms once, not once a turn."""
    found = simulate(Limits(1, 0.5, 5), [0.0] * 6, monkeypatch, lateness=0.1)
    assert max(found) == pytest.approx(6 * 0.5 + 0.1)


def test_a_waiter_that_leaves_does_not_keep_a_slot():
    """A request cancelled in the queue, or in the instant that its slot comes, passes the slot on."""

    async def story():
        capacity = Capacity(Limits(1, 0.0, 5), lambda: 0.0)
        due = await capacity.enter()
        gone, unlucky, last = (asyncio.create_task(capacity.enter()) for _ in range(3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        leaving = asyncio.create_task(capacity.leave(due, overran=True))
        await asyncio.sleep(0)
        unlucky.cancel()  # its slot has come, it has not run yet
        await leaving
        await capacity.leave(await last, overran=True)
        return capacity.busy, capacity.queued, gone.cancelled(), unlucky.cancelled()

    assert asyncio.run(story()) == (0, 0, True, True)


def test_a_full_queue_is_answered_503(tmp_path):
    """With one slot and nobody allowed to wait, the second of two requests at once is 503 with Retry-After, a 5xx."""
    asked, answered = asyncio.Event(), asyncio.Event()

    class Slow(InProcess):
        """An engine that answers the first request when the second has its answer."""

        async def ask(self, *given, **options):
            asked.set()
            await answered.wait()
            return await super().ask(*given, **options)

    with running(tmp_path) as engine:
        client = Slow(engine.app)
        app = build("candidate", client, limits=Limits(slots=1, service_s=0.05, queue=0))

        async def both():
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://dec") as http:
                first = asyncio.create_task(http.get("/v1/markets"))
                await asyncio.wait_for(asked.wait(), 10)
                second = await http.get("/v1/markets")
                answered.set()
                return await first, second

        first, second = asyncio.run(both())
        assert (first.status_code, refusal(second)) == (200, (503, "overloaded"))
        assert (second.headers["retry-after"], second.headers["x-mbp-release"]) == ("1", "candidate")
        text = ask(app, "GET", "/metrics").text
        assert 'dec_requests_total{class="5xx",release="candidate",route="/v1/markets"} 1.0' in text


# The client


async def served(handler, work):
    """Run ``work`` with the base URL of a small server on loopback."""
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    client = EngineClient(f"http://127.0.0.1:{port}", timeout_s=0.3, connect_s=0.3)
    await client.open()
    try:
        return await work(client)
    finally:
        await client.close()
        await runner.cleanup()


def outcome(handler):
    """Return what the client makes of a server: an answer, or status and code of the error."""

    async def work(client):
        try:
            return await client.ask("POST", "/x", b"{}", {"X-Request-Id": "r"})
        except ApiError as error:
            return error.status, error.code

    return asyncio.run(served(handler, work))


def test_the_client_sends_and_reads_whole():
    """Method, body and headers arrive; a long answer comes back whole."""

    async def handler(request):
        assert (request.method, await request.read(), request.headers["X-Request-Id"]) == ("POST", b"{}", "r")
        return web.Response(body=b"x" * 500_000, status=201)

    assert outcome(handler) == Answer(201, b"x" * 500_000)


def test_the_client_tells_slow_from_gone_from_too_much(monkeypatch):
    """No answer in time is a 503, a broken connection a 502, an endless answer a 502."""

    async def slow(request):
        await asyncio.sleep(5)
        return web.Response()

    async def broken(request):
        request.transport.abort()
        return web.Response()

    async def endless(request):
        return web.Response(body=b"x" * 5000)

    assert outcome(slow) == (503, "engine_timeout")
    assert outcome(broken) == (502, "engine_unreachable")
    monkeypatch.setattr("mbp.dec.engine_client.ANSWER_LIMIT", 1000)
    assert outcome(endless) == (502, "engine_answer_too_large")


def test_nobody_there_is_a_502():
    """A port where nobody listens: 502, at once."""

    async def work():
        client = EngineClient("http://127.0.0.1:1")
        with pytest.raises(RuntimeError):
            await client.ask("GET", "/")
        await client.open()
        try:
            await client.ask("GET", "/")
        except ApiError as error:
            return error.status, error.code
        finally:
            await client.close()

    assert asyncio.run(work()) == (502, "engine_unreachable")
