"""The reaper: heartbeats that run out reset a Toxiproxy server, up a ladder, until it reads back clean."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import web

from injectors._reaper import Beats, Proxy, Reaper, Refused
from injectors._reaper.__main__ import app, main
from injectors._reaper.reaper import IDLE_S, RETRY_S, STRAY_S


class Server:
    """As much of Toxiproxy as resetting meets. `stuck` names calls that fail; `deaf`, those that change nothing."""

    def __init__(self):
        self.proxies = {name: self.fresh(name) for name in ("db", "sinks")}
        self.stuck, self.deaf, self.calls = set(), set(), []

    @staticmethod
    def fresh(name):
        return {"name": name, "listen": f"{name}:1", "upstream": f"{name}:2", "enabled": True, "toxics": []}

    async def handle(self, request):
        call = f"{request.method} {request.path}"
        self.calls.append(call)
        if call in self.stuck:
            return web.Response(status=503)
        if call == "GET /proxies":
            return web.json_response(self.proxies)
        body = await request.json() if request.can_read_body else None
        if call not in self.deaf:
            self.change(request.method, request.path, body)
        return web.Response(status=204)

    def change(self, method, path, body):
        name = path.removeprefix("/proxies/")
        if path == "/reset":
            self.proxies = {each: self.fresh(each) for each in self.proxies}
        elif path == "/proxies":
            self.proxies[body["name"]] = {**body, "toxics": []}
        elif method == "DELETE":
            del self.proxies[name]
        else:
            self.proxies[name]["enabled"] = body["enabled"]


@contextlib.asynccontextmanager
async def standing(server):
    """Yield a reaper over `server`, its clock (a list of one number) and a client of its HTTP side."""
    web_app = web.Application()
    web_app.router.add_route("*", "/{tail:.*}", server.handle)
    now = [100.0]
    async with contextlib.AsyncExitStack() as stack:
        runner = web.AppRunner(web_app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        reaper = Reaper(Proxy(session, f"http://127.0.0.1:{runner.addresses[0][1]}/"), lambda: now[0])
        assert await reaper.trouble() is None  # as its health check does: then it knows the proxies
        own = web.AppRunner(app(reaper, lambda: now[0]))
        await own.setup()
        stack.push_async_callback(own.cleanup)
        await web.TCPSite(own, "127.0.0.1", 0).start()
        server.calls.clear()
        yield reaper, now, lambda method, path, **more: ask(session, own, method, path, **more)


async def ask(session, runner, method, path, **more):
    async with session.request(method, f"http://127.0.0.1:{runner.addresses[0][1]}{path}", **more) as answer:
        return answer.status, await answer.json() if answer.content_type == "application/json" else None


def sick(server):
    """Put a fault into the server."""
    server.proxies["db"]["toxics"] = [{"name": "slow"}]
    server.proxies["sinks"]["enabled"] = False


def test_a_heartbeat_that_stops_resets_the_server_and_one_that_goes_on_does_not():
    """Renewed it lives on; ended in order it is forgotten; run out, everything is taken away, once."""

    async def story():
        server = Server()
        async with standing(server) as (reaper, now, call):
            sick(server)
            said = [
                await call("PUT", "/heartbeat/run-1", json={"ttl_s": 4}),
                await call("PUT", "/heartbeat/run-2", json={"ttl_s": 2}),
            ]
            waits = [await reaper.step()]
            now[0] += 3
            said += [await call("DELETE", "/heartbeat/run-2"), await call("DELETE", "/heartbeat/nobody")]
            said += [await call("PUT", "/heartbeat/run-1", json={"ttl_s": 4})]
            waits += [await reaper.step()]
            before = list(server.calls)
            now[0] += 4
            waits += [await reaper.step()]
            after = (list(server.calls), server.proxies)
            waits += [await reaper.step()]
            return said, waits, before, after, list(server.calls), await call("GET", "/heartbeats")

    said, waits, before, after, calls, shown = asyncio.run(story())
    assert said == [
        (200, {"id": "run-1", "ttl_s": 4.0, "expires_in_s": 4.0}),
        (200, {"id": "run-2", "ttl_s": 2.0, "expires_in_s": 2.0}),
        (204, None),
        (204, None),
        (200, {"id": "run-1", "ttl_s": 4.0, "expires_in_s": 4.0}),
    ]
    assert waits == [2.0, 4.0, IDLE_S, IDLE_S]
    assert before == []
    assert after == (["POST /reset", "GET /proxies"], {name: Server.fresh(name) for name in ("db", "sinks")})
    assert calls == after[0], "once"
    last = {"ids": ["run-1"], "took_s": 0.0, "how": "reset", "error": None}
    assert shown == (200, {"live": [], "expired": [], "resets": 1, "last": last})


def test_one_that_expired_between_two_looks_is_still_answered_when_it_ends_in_order_late():
    """A heartbeat that ran out is answered even if its owner comes back to end it: nobody looked after the fault."""

    async def story():
        server = Server()
        server.stuck = {
            "POST /reset",
            "POST /proxies/db",
            "DELETE /proxies/db",
            "POST /proxies/sinks",
            "DELETE /proxies/sinks",
        }
        async with standing(server) as (reaper, now, call):
            sick(server)
            await call("PUT", "/heartbeat/r", json={"ttl_s": 1})
            now[0] += 1
            waits = [await reaper.step()]
            await call("DELETE", "/heartbeat/r")
            stuck = (await call("GET", "/heartbeats"))[1]
            server.stuck = set()
            waits += [await reaper.step()]
            return waits, stuck, (await call("GET", "/heartbeats"))[1], server.proxies

    waits, stuck, shown, proxies = asyncio.run(story())
    assert waits == [RETRY_S, IDLE_S]
    assert (stuck["expired"], stuck["resets"]) == (["r"], 0)
    assert stuck["last"]["error"] == "DELETE /proxies/sinks: 503"
    assert (shown["expired"], shown["resets"], shown["last"]["how"]) == ([], 1, "reset")
    assert proxies == {name: Server.fresh(name) for name in ("db", "sinks")}


@pytest.mark.parametrize(
    ("stuck", "how"),
    [
        ({"POST /reset"}, "made anew: sinks"),
        ({"POST /reset", "POST /proxies/db", "POST /proxies/sinks"}, "made anew: sinks"),
    ],
)
def test_a_reset_that_fails_is_made_up_for_proxy_by_proxy(stuck, how):
    """What the one call cannot do is done with each proxy: off and on, then made anew, as it was first seen."""

    async def story():
        server = Server()
        server.stuck = stuck
        async with standing(server) as (reaper, now, call):
            server.proxies["db"]["toxics"] = [{"name": "slow"}]
            server.proxies["sinks"]["toxics"] = [{"name": "slow"}]
            await call("PUT", "/heartbeat/r", json={"ttl_s": 1})
            now[0] += 1
            await reaper.step()
            return (await call("GET", "/heartbeats"))[1]["last"], server.proxies

    last, proxies = asyncio.run(story())
    assert (last["how"], last["error"]) == (how, None)
    assert proxies == {name: Server.fresh(name) for name in ("db", "sinks")}


def test_a_reset_that_says_well_and_changes_nothing_is_not_believed():
    """The server is read back: an answer of 204 proves nothing."""

    async def story():
        server = Server()
        server.deaf = {"POST /reset"}
        async with standing(server) as (reaper, now, call):
            server.proxies["sinks"]["enabled"] = False
            await call("PUT", "/heartbeat/r", json={"ttl_s": 1})
            now[0] += 1
            await reaper.step()
            return (await call("GET", "/heartbeats"))[1]["last"]

    assert asyncio.run(story()) == {"ids": ["r"], "took_s": 0.0, "how": "off and on: sinks", "error": None}


def test_its_health_is_that_it_sees_the_server():
    """A reaper that cannot reach the server could not answer a heartbeat: it says so."""

    async def story():
        server = Server()
        async with standing(server) as (_, _, call):
            well = await call("GET", "/healthz")
            server.stuck = {"GET /proxies"}
            return well, await call("GET", "/healthz")

    assert asyncio.run(story()) == ((200, {"status": "ok"}), (503, {"error": "GET /proxies: 503"}))


def test_what_is_no_heartbeat_is_refused():
    """A heartbeat has an id, and is good for a bounded time."""

    async def story():
        server = Server()
        async with standing(server) as (_, _, call):
            bad = [{"ttl_s": 0.4}, {"ttl_s": 601}, {"ttl_s": "5"}, {"ttl_s": True}, {}, [1]]
            said = [await call("PUT", "/heartbeat/r", json=each) for each in bad]
            return [
                *said,
                await call("PUT", "/heartbeat/a%20b", json={"ttl_s": 1}),
                await call("PUT", "/heartbeat/r", data=b"x"),
            ]

    assert [status for status, _ in asyncio.run(story())] == [400] * 8
    beats = Beats()
    for number in range(64):
        beats.beat(f"r{number}", 1, 0)
    with pytest.raises(Refused, match="alive already"):
        beats.beat("one-more", 1, 0)
    beats.beat("r0", 2, 0)
    with pytest.raises(Refused, match="a number"):
        beats.beat("r", float("nan"), 0)


def test_it_runs_until_it_is_cancelled_and_wakes_for_news():
    """The loop sleeps until the next heartbeat runs out, and is woken by a new one."""

    async def story():
        server = Server()
        async with standing(server) as (reaper, now, call):
            running = asyncio.create_task(reaper.run())
            now[0] += 1
            await call("PUT", "/heartbeat/r", json={"ttl_s": 1})
            now[0] += 1
            reaper.heard()
            while (await call("GET", "/heartbeats"))[1]["resets"] == 0:
                await asyncio.sleep(0)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            return server.calls

    assert asyncio.run(story())[:3] == ["GET /proxies", "POST /reset", "GET /proxies"]


@pytest.mark.parametrize("owner", ["lives", "is gone"])
def test_what_stood_there_when_it_started_is_taken_away_unless_somebody_beats(owner):
    """A reaper that was started anew knows no heartbeat: the runner may have died with the one before."""

    async def story():
        server = Server()
        async with standing(server) as (reaper, now, call):
            sick(server)
            server.stuck = {"GET /proxies"}
            await reaper.begin()
            server.stuck = set()
            await reaper.begin()
            if owner == "lives":
                await call("PUT", "/heartbeat/r", json={"ttl_s": 2 * STRAY_S})
            waits = [await reaper.step()]
            now[0] += STRAY_S
            waits += [await reaper.step()]
            await reaper.begin()
            return waits, (await call("GET", "/heartbeats"))[1], server.proxies["db"]["toxics"]

    waits, shown, toxics = asyncio.run(story())
    assert waits == [IDLE_S, IDLE_S]
    assert (shown["expired"], [each["id"] for each in shown["live"]]) == ([], ["r"] if owner == "lives" else [])
    assert (shown["resets"], toxics) == ((0, [{"name": "slow"}]) if owner == "lives" else (1, []))


def test_a_clean_server_needs_no_watch_from_the_start():
    """Nothing stood there, so nothing is taken away, then or later."""

    async def story():
        server = Server()
        async with standing(server) as (reaper, now, call):
            await reaper.begin()
            now[0] += STRAY_S
            await reaper.step()
            return (await call("GET", "/heartbeats"))[1]

    assert asyncio.run(story()) == {"live": [], "expired": [], "resets": 0, "last": None}


def test_it_cannot_start_on_what_is_no_address(capsys):
    """An address that is none ends it with code 2, and says which."""
    assert main(["--listen", "127.0.0.1:x", "--proxy", "http://127.0.0.1:1"]) == 2
    assert "127.0.0.1:x" in capsys.readouterr().err
