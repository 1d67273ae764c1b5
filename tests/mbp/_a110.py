"""What the tests of the executor share: deliveries as Alertmanager sends them, and a release controller to act on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiohttp import web
from aiohttp.test_utils import TestServer

from mbp.hooks.executor import Executor, build
from mbp.hooks.table import Table, load

STARTS = "2026-01-02T03:04:05.678Z"
LATER = "2026-01-02T04:00:00Z"


def alert(status: str = "firing", *, name: str = "AmmInvariantBreach", fingerprint: str = "00000000000000a1",
          starts_at: str = STARTS, **labels: str) -> dict[str, Any]:  # fmt: skip
    """Return one alert of a delivery."""
    return {
        "status": status, "labels": {"alertname": name, "owner": "DEC/PM", "market": "m1", **labels},
        "annotations": {}, "startsAt": starts_at, "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "",
        "fingerprint": fingerprint,
    }  # fmt: skip


def delivery(*alerts: dict[str, Any]) -> bytes:
    """Return the body of a delivery with these alerts."""
    return json.dumps({
        "version": "4", "groupKey": "{}:{}", "status": "firing", "receiver": "executor", "groupLabels": {},
        "commonLabels": {}, "commonAnnotations": {}, "externalURL": "", "truncatedAlerts": 0, "alerts": list(alerts),
    }).encode()  # fmt: skip


@dataclass
class Release:
    """A release controller: state, and every call that changed something, with its key."""

    gate: str = "open"
    status: str = "candidate"
    calls: list[tuple[str, str]] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    before: Callable[[str], int | None] = lambda _: None

    def app(self) -> web.Application:
        """Return the web application."""
        app = web.Application()
        app.router.add_get("/release", self._get)
        app.router.add_put("/release/gate", self._gate)
        app.router.add_post("/release/rollback", self._rollback)
        app.router.add_put("/release/throttle", self._throttle)
        return app

    async def _throttle(self, _: web.Request) -> web.Response:
        return web.json_response({"throttled": True})

    async def _get(self, _: web.Request) -> web.Response:
        status = self.before("read")
        return web.json_response({"gate": self.gate, "status": self.status}, status=status or 200)

    def _once(self, request: web.Request, what: str) -> bool:
        key = request.headers["Idempotency-Key"]
        self.calls.append((what, key))
        new = key not in self.keys
        self.keys.add(key)
        if new:
            self.effects.append(what)
        return new

    async def _gate(self, request: web.Request) -> web.Response:
        state = (await request.json())["state"]
        status = self.before(state)
        if status is None and self._once(request, state):
            self.gate = state
        return web.json_response({}, status=status or 200)

    async def _rollback(self, request: web.Request) -> web.Response:
        status = self.before("rollback")
        if status is None and self._once(request, "rollback"):
            self.status = "reverted"
        return web.json_response({}, status=status or 200)


@dataclass
class Rig:
    """An executor at work on a release controller."""

    executor: Executor
    release: Release
    http: httpx.AsyncClient

    async def send(self, *alerts: dict[str, Any]) -> None:
        """Deliver alerts and wait until nothing is left to do."""
        answer = await self.http.post("/v1/alerts", content=delivery(*alerts))
        assert answer.status_code == 202, answer.text
        await self.settle()

    async def settle(self) -> None:
        """Wait until nothing is left to do."""
        async with asyncio.timeout(10):
            while await self.executor.desk.do(self.executor.store.open_jobs):
                await asyncio.sleep(0)

    async def events(self) -> list[tuple[str, str]]:
        """Return the audit as (event, action)."""
        rows = (await self.http.get("/v1/audit", params={"limit": "1000"})).json()["rows"]
        return [(row["event"], row["action"]) for row in rows]

    async def states(self) -> list[tuple[str, str]]:
        """Return the executions as (action, state)."""
        rows = (await self.http.get("/v1/executions")).json()["rows"]
        return [(row["action"], row["state"]) for row in rows]


@asynccontextmanager
async def rig(folder: Path, release: Release | None = None, table: Table | None = None, *,
              pretend: tuple[str, ...] = (), known: bool = True) -> AsyncIterator[Rig]:  # fmt: skip
    """Run an executor in this process, on a release controller at a loopback port."""
    release = release or Release()
    async with TestServer(release.app()) as server:
        urls = {"release": str(server.make_url(""))} if known else {}
        executor = Executor(folder, table or load(), urls, pretend=pretend, wall=lambda: 1.7e9, rest=lambda _: 0.0)
        transport = httpx.ASGITransport(build(executor))
        async with executor.working(), httpx.AsyncClient(transport=transport, base_url="http://executor") as http:
            yield Rig(executor, release, http)
