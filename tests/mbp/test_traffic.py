"""The resident trickle against a real decision API in the same process, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import json
from fractions import Fraction

import httpx
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mbp.traffic.__main__ import make_app
from mbp.traffic.trickle import MARKET, HttpApi, Reply, Trickle
from tests.mbp.engines import running
from tests.mbp.test_dec import Dec


class Api:
    """Asks an app in this process; can be told to answer something else."""

    def __init__(self, dec):
        self.dec, self.instead, self.asked = dec, None, []

    async def get(self, path):
        self.asked.append((path, None, None))
        return self.instead or Reply(200)

    async def post(self, path, body, key=None):
        self.asked.append((path, body, key))
        if self.instead is not None:
            return self.instead
        headers = {"Idempotency-Key": key} if key else {}
        transport = httpx.ASGITransport(app=self.dec.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            answer = await client.post(path, json=body, headers=headers)
        return Reply(answer.status_code, answer.json())


def trickle(api, sleeps, on_sleep=lambda now: None):
    """Run a trickle for so many sleeps of virtual time; return it and what was slept, in the order of waking."""
    now, slept, sleeping = 0.0, [], []

    async def sleep(seconds):
        woken = asyncio.get_running_loop().create_future()
        sleeping.append((now + seconds, len(slept) + len(sleeping), seconds, woken))
        await woken

    async def story():
        nonlocal now
        made = Trickle(api, sleep=sleep, clock=lambda: now)
        running = asyncio.create_task(made.run())
        while len(slept) < sleeps:
            while len(sleeping) < 2:  # until both loops wait for the time
                assert not running.done(), running.exception()
                await asyncio.sleep(0)
            sleeping.sort()
            now, _, seconds, woken = sleeping.pop(0)
            slept.append(round(seconds, 6))
            on_sleep(now)
            woken.set_result(None)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return made

    return asyncio.run(story()), slept


def counts(made):
    """Return the outcomes counted."""
    found = {}
    for family in made.registry.collect():
        for sample in family.samples:
            found[sample.labels["outcome"]] = int(sample.value)
    return found


def test_it_opens_its_market_and_stays_in_balance(tmp_path):
    """After whole rounds the pool is where it was, to within rounding, and nobody holds a share."""
    with running(tmp_path) as engine:
        api = Api(Dec(engine))
        made, _ = trickle(api, 90)
        market = engine.exchange.market(MARKET)
        swaps = engine.exchange.audit(None, 0, 1000)
        assert counts(made)["failed"] == counts(made)["unreachable"] == 0
        assert len(swaps) > 20
        sides = [(row.side, row.action) for row in swaps[:8]]
        assert sides == [("yes", "buy"), ("yes", "sell"), ("no", "buy"), ("no", "sell")] * 2
        assert abs(market.pool.price_yes - Fraction(1, 2)) < Fraction(1, 5000)
        assert not any(row.breach for row in swaps)


def test_it_finds_a_market_that_is_there(tmp_path):
    """After a restart of the trickle its market is there already: found, not refused."""
    with running(tmp_path) as engine:
        trickle(Api(Dec(engine)), 10)
        made, _ = trickle(Api(Dec(engine)), 10)
        assert counts(made)["refused"] == 0
        assert counts(made)["ok"] >= 8


def test_an_outage_slows_it_down_and_does_not_end_it(tmp_path):
    """While nothing answers the pauses double to 5 s and no more; afterwards it goes on as before."""
    with running(tmp_path) as engine:
        api = Api(Dec(engine))
        api.instead = Reply(0)
        made, slept = trickle(api, 40, lambda now: setattr(api, "instead", None if now > 40 else Reply(0)))
        assert slept[:10] == [1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 5.0, 5.0, 5.0, 5.0]
        assert max(slept) == 5.0
        assert slept[-4:] == [0.5] * 4
        assert counts(made)["unreachable"] > 8
        assert counts(made)["ok"] > 4


def test_a_swap_without_a_clear_answer_is_asked_again_under_its_key(tmp_path):
    """The same body under the same key until there is an answer, so that it is made once; then a new key."""
    with running(tmp_path) as engine:
        api = Api(Dec(engine))

        async def story():
            made = Trickle(api, clock=lambda: 0.0)
            await made.open()
            api.instead = Reply(503)
            outcomes = [await made.swap(), await made.swap()]
            api.instead = None
            return [*outcomes, await made.swap(), await made.swap()]

        assert asyncio.run(story()) == ["failed", "failed", "ok", "ok"]
        swaps = [(body["action"], key) for path, body, key in api.asked if path == "/v1/swaps"]
        assert [action for action, _ in swaps] == ["buy", "buy", "buy", "sell"]
        assert swaps[0][1] == swaps[1][1] == swaps[2][1] != swaps[3][1]
        assert len(engine.exchange.audit(None, 0, 10)) == 2


def test_a_refused_swap_begins_the_round_anew(tmp_path):
    """What it thinks it holds may be gone: a refused sale is followed by a purchase."""
    with running(tmp_path) as engine:
        api = Api(Dec(engine))

        async def story():
            made = Trickle(api, clock=lambda: 0.0)
            await made.open()
            await made.swap()
            api.instead = Reply(422, {"error": "insufficient_shares"})
            refused = await made.swap()
            api.instead = None
            return refused, await made.swap()

        assert asyncio.run(story()) == ("refused", "ok")
        assert [body["action"] for path, body, _ in api.asked if path == "/v1/swaps"] == ["buy", "sell", "buy"]


def test_a_lost_market_is_opened_again(tmp_path):
    """An engine with a new data folder does not know the market: the next step opens it."""
    with running(tmp_path) as engine:
        made, _ = trickle(Api(Dec(engine)), 30, lambda now: None)
        assert made._opened
        api = Api(Dec(engine))
        api.instead = Reply(404, {"error": "market_not_found"})
        made._api = api
        assert asyncio.run(made.quote()) == "refused"
        assert not made._opened


def test_outcomes():
    """Each status is counted as what it is."""
    found = [Reply(status).outcome for status in (0, 200, 201, 404, 429, 500, 503)]
    assert found == ["unreachable", "ok", "ok", "refused", "throttled", "failed", "failed"]


def test_the_client_never_raises():
    """Answers that are no JSON object, and no answer at all, are replies too."""

    async def story():
        app = web.Application()

        async def odd(request):
            return web.Response(text=json.dumps([1]) if request.path == "/list" else "no json")

        app.router.add_post("/{rest}", odd)
        async with TestServer(app) as server, HttpApi(str(server.make_url("")), timeout_s=2) as api:
            replies = [await api.post("/list", {}), await api.post("/text", {})]
        async with HttpApi("http://127.0.0.1:1", timeout_s=2) as api:
            replies.append(await api.post("/x", {}))
        return replies

    assert asyncio.run(story()) == [Reply(200), Reply(200), Reply(0)]


def test_the_small_web_app(monkeypatch):
    """Health, metrics at 0, identity, and the one error shape."""
    monkeypatch.setenv("MBP_ENVIRONMENT", "sim-local")
    monkeypatch.setenv("MBP_INSTANCE", "i-1")

    async def story():
        made = Trickle(Api(None), clock=lambda: 0.0)
        async with TestClient(TestServer(make_app(made))) as client:
            found = {}
            for method, path, data in (
                ("GET", "/healthz", None),
                ("GET", "/identity", None),
                ("GET", "/nowhere", None),
                ("POST", "/healthz", b"{}"),
                ("POST", "/healthz", b"x" * 70_000),
            ):
                answer = await client.request(method, path, data=data)
                body = await answer.json()
                found[method, path, len(data or b"")] = (answer.status, body.get("error") or body)
            text = await (await client.get("/metrics")).text()
        return found, text

    found, text = asyncio.run(story())
    assert found == {
        ("GET", "/healthz", 0): (200, {"status": "ok", "service": "traffic"}),
        ("GET", "/identity", 0): (200, {"environment": "sim-local", "instance": "i-1", "service": "traffic"}),
        ("GET", "/nowhere", 0): (404, "not_found"),
        ("POST", "/healthz", 2): (405, "method_not_allowed"),
        ("POST", "/healthz", 70_000): (413, "body_too_large"),
    }
    for outcome in ("ok", "refused", "throttled", "failed", "unreachable"):
        assert f'mbp_traffic_requests_total{{outcome="{outcome}"}} 0.0' in text.splitlines()
