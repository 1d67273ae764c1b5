"""The executor as a process: killed in the middle of its work, it loses nothing and doubles nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mbp.hooks import audit
from mbp.hooks.table import load
from tests.mbp._a110 import alert, delivery
from tests.ports import free_port

pytestmark = pytest.mark.live
MARKETS = 40
EACH = 10
START_S = 120  # as long as a stack's services may take; what is done once it is up has bounds of its own


class Target:
    """Freezes markets, slowly, and honours idempotency keys; `twentieth` is set in the middle of a call."""

    def __init__(self) -> None:
        self.frozen: set[str] = set()
        self.keys: set[str] = set()
        self.effects: Counter[str] = Counter()
        self.calls = 0
        self.twentieth = asyncio.Event()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/markets/{id}", self._get)
        app.router.add_put("/markets/{id}", self._put)
        return app

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response({"frozen": request.match_info["id"] in self.frozen})

    async def _put(self, request: web.Request) -> web.Response:
        market, key = request.match_info["id"], request.headers["Idempotency-Key"]
        wanted = bool((await request.json())["frozen"])
        self.calls += 1
        if key not in self.keys:
            self.keys.add(key)
            self.effects[f"{market} {wanted}"] += 1
            (self.frozen.add if wanted else self.frozen.discard)(market)
        if self.calls == 20:
            self.twentieth.set()
        await asyncio.sleep(0.02)  # the effect is there, its answer is not: the worst moment to die
        return web.json_response({})


def table(folder: Path) -> Path:
    """Write a table whose invariant hook freezes the alert's market at the endpoint called release."""
    raw = load().model_dump(by_alias=True, mode="json", exclude_none=True)
    raw["operations"]["freeze@release"] = {
        "endpoint": "release",
        "do": {"method": "PUT", "path": "/markets/{subject}", "json": {"frozen": True}},
        "read": {"path": "/markets/{subject}", "field": "frozen", "equals": True},
        "undo": {"method": "PUT", "path": "/markets/{subject}", "json": {"frozen": False}},
    }
    raw["hooks"]["amm_invariant_breach"]["actions"] = [
        {"name": "freeze", "endpoint": "release", "subject": "market", "reversal": "on_resolved"}
    ]
    path = folder / "table.yaml"
    path.write_text(json.dumps(raw))
    return path


async def start(folder: Path, port: int, url: str, http: aiohttp.ClientSession) -> asyncio.subprocess.Process:
    """Start the executor, and wait until it answers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mbp.hooks.executor", "--port", str(port), "--data", str(folder / "data"),
        "--table", str(table(folder)), "--endpoint", f"release={url}", env={**os.environ, "MBP_INSTANCE": "kill"},
    )  # fmt: skip
    try:
        await within(START_S, process, _up(http, f"http://127.0.0.1:{port}"))
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    return process


async def _up(http: aiohttp.ClientSession, url: str) -> None:
    while True:
        try:
            async with http.get(f"{url}/healthz") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass  # it does not listen yet
        await asyncio.sleep(0.05)


async def within(seconds: float, process: asyncio.subprocess.Process, work: Awaitable[Any]) -> None:
    """Wait so long for `work`, but not past the end of the executor that it needs."""
    doing, ended = asyncio.ensure_future(work), asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({doing, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        assert not ended.done(), f"the executor ended by itself: {ended.result()}"
        assert doing.done(), f"nothing came of it in {seconds:g} s"
        await doing
    finally:
        doing.cancel()
        ended.cancel()


async def send(http: aiohttp.ClientSession, url: str, status: str, number: int) -> None:
    """Deliver as Alertmanager does: until a 2xx comes."""
    body = delivery(alert(status, fingerprint=f"{number:016x}", market=f"m/{number}"))
    while True:
        try:
            async with http.post(f"{url}/v1/alerts", data=body) as answer:
                if answer.status == 202:
                    return
                assert answer.status == 503, await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError):
            await asyncio.sleep(0.05)


async def send_all(url: str, status: str, each: int) -> None:
    """Deliver every alert `each` times, sixteen at once."""
    gate = asyncio.Semaphore(16)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:

        async def one(number: int) -> None:
            async with gate:
                await send(http, url, status, number)

        await asyncio.gather(*(one(number) for _ in range(each) for number in range(MARKETS)))


async def read(http: aiohttp.ClientSession, url: str, path: str) -> list[dict[str, Any]]:
    """Return all rows of a log."""
    found: list[dict[str, Any]] = []
    while True:
        after = found[-1]["seq"] if found else 0
        async with http.get(f"{url}{path}?limit=1000&after={after}") as answer:
            rows = (await answer.json())["rows"]
        if not rows:
            return found
        found += rows


async def until(http: aiohttp.ClientSession, url: str, reverted: bool) -> list[dict[str, Any]]:
    """Wait until every execution has succeeded, and has been put back if that is asked for."""
    async with asyncio.timeout(10):
        while True:
            rows = await read(http, url, "/v1/executions")
            if len(rows) == MARKETS and all(
                row["state"] == "succeeded" and row["reverted"] is reverted for row in rows
            ):
                return rows
            await asyncio.sleep(0.05)


async def story(folder: Path) -> None:
    """400 deliveries, a kill in the middle, a restart, the end of all alerts."""
    port = free_port()
    url, target = f"http://127.0.0.1:{port}", Target()
    async with TestServer(target.app()) as server, aiohttp.ClientSession() as http:
        process = await start(folder, port, str(server.make_url("")), http)
        try:
            sending = asyncio.create_task(send_all(url, "firing", EACH))
            await within(10, process, target.twentieth.wait())
            process.kill()
            await process.wait()
            process = await start(folder, port, str(server.make_url("")), http)
            await within(15, process, sending)
            rows = await until(http, url, reverted=False)
            assert target.effects == Counter({f"m/{number} True": 1 for number in range(MARKETS)})
            assert target.calls > MARKETS, "no call was cut: the kill came too late to prove anything"
            assert sum(row["deliveries"] for row in rows) >= MARKETS * EACH
            await send_all(url, "resolved", 2)
            await until(http, url, reverted=True)
            assert target.frozen == set()
            assert set(target.effects.values()) == {1} and len(target.effects) == 2 * MARKETS
            trail = await read(http, url, "/v1/audit")
            assert audit.first_break(trail) is None
            assert Counter(row["event"] for row in trail if row["event"] not in ("duplicate", "retry")) == {
                "accepted": MARKETS, "started": MARKETS, "succeeded": MARKETS, "reverted": MARKETS,
            }  # fmt: skip
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 5) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def test_a_kill_in_the_middle_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    """Every alert acts exactly once at the target and is put back exactly once, over a kill -9 and 400 deliveries."""
    asyncio.run(story(tmp_path))
