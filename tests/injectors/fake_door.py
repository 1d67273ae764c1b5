"""A small target with a fault door, for the tests of a fault that is leased there.

A test module derives its target from `Target`, adds what else the platform has (`routes`) and what a fault does to it
(`came`, `went`), and gets the rest: a server on a real socket, sites that know the token, and the checks that are the
same for every such fault.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from sim.injector import InjectionError, Site
from sim.secret import Secrets
from sim.target import Door

TOKEN = "fault-token-of-the-test"
IDENTITY = {"environment": "sim-local", "instance": "i1"}

#: What `refused` reads of a door that refuses the token, and of one that is off.
UNAUTHORIZED = 'GET URL/faults: 401 {"error": "unauthorized"} (check auth: env:FAULT_TOKEN)'
OFF = "GET URL/faults: 404, the fault endpoint is off: start it with SIM_FAULTS=1"


class Target:
    """A fault door in memory: `faults` by id, `puts` as they came; `open` and `token` say who gets in.

    A fault that nobody renews within its lease goes by itself, as it does at the platform's doors.
    """

    def __init__(self, token=TOKEN):
        self.faults, self.puts, self.open, self.token = {}, [], True, token
        self.leases = {}

    def routes(self):
        """Return what the target serves beside its door and its identity."""
        return []

    def came(self, fault, new):
        """Let a fault do what it does; the door lists it as this leaves it."""

    def went(self, fault):
        """Undo what a fault that was in force has done."""

    async def door(self, request):
        """Answer at the fault door."""
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": "unauthorized"}, status=401)
        if not self.open:
            return web.json_response({"error": "not_found"}, status=404)
        key = request.match_info.get("id")
        if request.method == "GET":
            return web.json_response(list(self.faults.values()))
        if request.method == "DELETE":
            self.end(key)
            return web.Response(status=204)
        body = await request.json()
        self.puts.append((key, body))
        new = key not in self.faults
        self.faults[key] = {"id": key, **body}
        self.came(self.faults[key], new)
        if not new and key in self.leases:
            self.leases.pop(key).cancel()
        if body.get("ttl_s") is not None:
            self.leases[key] = asyncio.get_running_loop().call_later(body["ttl_s"], self.end, key)
        return web.json_response(self.faults[key])

    def end(self, key):
        """End a fault, if it is in force: it was withdrawn, or its lease is over."""
        if lease := self.leases.pop(key, None):
            lease.cancel()
        if fault := self.faults.pop(key, None):
            self.went(fault)

    async def identity(self, _):
        """Say who this is."""
        return web.json_response(IDENTITY)

    def serve(self):
        """Serve door, identity and `routes`; give the address."""
        own = [web.route("*", "/faults", self.door), web.route("*", "/faults/{id}", self.door)]
        return serving([*own, web.get("/identity", self.identity), *self.routes()])


@asynccontextmanager
async def serving(routes):
    """Serve routes on a free port of this machine; give the address."""
    app = web.Application()
    app.router.add_routes(routes)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fake(target, doors, given):
    """Yield what the contract test uses: the named doors, all at the target, the arguments, and its list of faults."""
    target.token = None
    async with target.serve() as url:
        yield {name: Door(url=url) for name in doors}, given, lambda: list(target.faults)


def locked(url):
    """Return a door that is opened with the token of the site."""
    return Door(url=url, auth="env:FAULT_TOKEN")


def site_of(token=TOKEN, **doors):
    """Return where one injection works; a door that is null is not there."""
    there = {name: door for name, door in doors.items() if door is not None}
    return Site("r1-0", "r1", there, Secrets({"FAULT_TOKEN": token}), ttl_s=6.0)


def against(target, work):
    """Run `work(target, url)` while the target serves, and return what it returns."""

    async def main():
        async with target.serve() as url:
            return await work(target, url)

    return asyncio.run(main())


async def refused(injector, site, params, url):
    """Prepare, which must be refused, and return why, with URL for the target's address."""
    with pytest.raises(InjectionError) as caught:
        await injector.prepare(site, params)
    return str(caught.value).replace(url, "URL")


async def held_and_withdrawn(injector, site, receipt, undoing):
    """Return what `gone` finds before, during and after a fault that is withdrawn twice.

    It is undone at the site `undoing`, from the receipt as the journal keeps it, as another process would do it.
    """
    kept = json.loads(json.dumps(receipt))
    before = await injector.gone(undoing, kept)
    await injector.apply(site, receipt)
    during = await injector.gone(undoing, kept)
    for _ in range(2):
        await injector.withdraw(undoing, kept)
    return before, during, await injector.gone(undoing, kept)


def puts_of(injector, target, site, receipt):
    """Apply and renew a fault at a target, with the site that `site(url)` gives; return the requests it got."""

    async def work(target, url):
        await injector.apply(site(url), receipt)
        await injector.renew(site(url), receipt)
        return target.puts

    return against(target, work)
