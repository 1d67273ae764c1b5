"""The target of the kill matrix: a process that keeps faults, a list and a gate a run, and can behave oddly.

Every run has a namespace of its own. A fault that bites for a while flips the gate, which stays so until it is put
back; the load is up while a fault is in. What happened is kept with its moment on the machine's monotonic clock, which
all processes share, so that the oracle can say how long after a kill the last fault went.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

#: How long a fault must bite until the gate flips, seconds.
FLIP_S = 0.45

#: An odd target answers slowly: longer than the client waits.
SLOW_S = 0.8

#: A late one does what it was asked for so long after it dropped the connection; a doubling one does it again.
LATE_S, DOUBLE_S = 0.3, 0.7

#: What a target may do oddly with a request. `refused` and `dying` do so this often.
ODD = ("slow", "late", "double", "dying", "forgetting", "dropped", "refused")
TIMES = 2


@dataclass
class Space:
    """What the store knows of one run."""

    how: str = ""
    at: str = ""
    odd: int = 0
    faults: dict[str, float | None] = field(default_factory=dict)
    since: float | None = None
    gate: str = "open"
    applies: Counter[str] = field(default_factory=Counter)
    ended: dict[str, float] = field(default_factory=dict)
    pending: set[asyncio.Task[None]] = field(default_factory=set)

    def look(self) -> None:
        """Let the time that has passed have its effect: leases end, the gate flips."""
        now = time.monotonic()
        over = {name: end for name, end in self.faults.items() if end is not None and end <= now}
        last = now if len(over) < len(self.faults) else max(over.values(), default=now)
        if self.since is not None and last - self.since >= FLIP_S:
            self.gate = "blocked"
        for name, end in over.items():
            self._drop(name, end)

    def put(self, name: str, ttl_s: float | None) -> None:
        """Take a fault in, or renew its lease."""
        self.look()
        now = time.monotonic()
        self.faults[name] = None if ttl_s is None else now + ttl_s
        self.since = self.since or now

    def drop(self, name: str) -> bool:
        """Take a fault out; tell whether it was there."""
        self.look()
        there = name in self.faults
        if there:
            self._drop(name, time.monotonic())
        return there

    def _drop(self, name: str, at: float) -> None:
        del self.faults[name]
        self.ended[name] = at
        if not self.faults:
            self.since = None

    def forget(self) -> None:
        """Lose every fault, as by a restart."""
        for name in list(self.faults):
            self.drop(name)

    def strange(self, at: str) -> bool:
        """Whether this request is to be treated oddly."""
        if self.at != at:
            return False
        self.odd += 1
        return self.odd <= TIMES or self.how not in ("dying", "refused", "dropped")

    def later(self, delay_s: float, what: Any, *arguments: Any) -> None:
        """Do something after a while, whoever is gone by then."""

        async def do() -> None:
            await asyncio.sleep(delay_s)
            what(*arguments)

        task = asyncio.create_task(do())
        self.pending.add(task)
        task.add_done_callback(self.pending.discard)


class Store:
    """All namespaces, and the requests."""

    def __init__(self) -> None:
        self.spaces: dict[str, Space] = {}

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application()
        app.router.add_put("/{space}", self.create)
        app.router.add_get("/{space}", self.show)
        app.router.add_get("/{space}/identity", self.identity)
        app.router.add_get("/{space}/state", self.state)
        app.router.add_put("/{space}/gate", self.gate)
        app.router.add_get("/{space}/faults", self.list)
        app.router.add_get("/{space}/faults/{fault}", self.one)
        app.router.add_put("/{space}/faults/{fault}", self.put)
        app.router.add_delete("/{space}/faults/{fault}", self.delete)
        return app

    def _space(self, request: web.Request) -> Space:
        try:
            space = self.spaces[request.match_info["space"]]
        except KeyError:
            raise web.HTTPNotFound from None
        space.look()
        return space

    async def create(self, request: web.Request) -> web.Response:
        """Make a namespace, and say how it behaves."""
        self.spaces[request.match_info["space"]] = Space(**await request.json())
        return web.json_response({})

    async def show(self, request: web.Request) -> web.Response:
        """Say everything about a namespace, for the oracle."""
        space = self._space(request)
        return web.json_response(
            {
                "faults": sorted(space.faults),
                "gate": space.gate,
                "applies": space.applies,
                "ended": space.ended,
                "pending": len(space.pending),
                "odd": space.odd,
            }
        )

    async def identity(self, request: web.Request) -> web.Response:
        """Say what this is: each namespace is an instance of its own, so that runs do not lock each other out."""
        return web.json_response({"environment": "sim-test", "instance": request.match_info["space"]})

    async def state(self, request: web.Request) -> web.Response:
        """Return the gate and the load."""
        space = self._space(request)
        return web.json_response({"gate": space.gate, "load": float(bool(space.faults))})

    async def gate(self, request: web.Request) -> web.Response:
        """Set the gate."""
        self._space(request).gate = (await request.json())["gate"]
        return web.json_response({})

    async def list(self, request: web.Request) -> web.Response:
        """Return the faults that are in."""
        return web.json_response(sorted(self._space(request).faults))

    async def one(self, request: web.Request) -> web.Response:
        """Return one fault."""
        there = request.match_info["fault"] in self._space(request).faults
        return web.json_response({"there": there}, status=200 if there else 404)

    async def put(self, request: web.Request) -> web.StreamResponse:
        """Take a fault in."""
        space, name, body = self._space(request), request.match_info["fault"], await request.json()
        if body["renewal"]:
            space.put(name, body["ttl_s"])
            return web.json_response({})
        space.applies[name] += 1
        if space.how == "double":
            space.later(DOUBLE_S, space.put, name, body["ttl_s"])
        if not space.strange("apply") or space.how == "double":
            space.put(name, body["ttl_s"])
            return web.json_response({})
        return await self._oddly(request, space, lambda: space.put(name, body["ttl_s"]))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Take a fault out."""
        space, name = self._space(request), request.match_info["fault"]
        if not space.strange("withdraw") or space.how == "double":
            return web.json_response({}, status=200 if space.drop(name) else 404)
        return await self._oddly(request, space, lambda: space.drop(name))

    async def _oddly(self, request: web.Request, space: Space, do: Any) -> web.StreamResponse:
        match space.how:
            case "slow":
                do()
                await asyncio.sleep(SLOW_S)
                return web.json_response({})
            case "late":
                space.later(LATE_S, do)
            case "dying":
                do()
                return web.json_response({}, status=500)
            case "forgetting":
                do()
                space.forget()
                return web.json_response({})
            case "dropped":
                do()
            case "refused":
                pass
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


async def serve() -> None:
    """Serve on a free port of the loopback interface, say which, and end with whoever started it."""
    runner = web.AppRunner(Store().app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
