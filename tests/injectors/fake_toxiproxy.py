"""A small Toxiproxy in this process, for the tests of the faults of a link: its API, real links, and a stuck lock.

Links are real sockets to an upstream that answers HTTP and a PostgreSQL request for TLS. Of the toxics it does what the
tests look at. `sim` makes it say of itself what `sim proxy` says, and count. `stuck` names calls that never answer,
`refusals` how often others are answered with an error first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import sys
import urllib.request
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from injectors import _toxiproxy_look as looking
from injectors import _toxiproxy_stop as stop
from sim.injector import Site
from sim.secret import Secrets
from sim.target import Door
from tests.injectors import fake_door

ANSWER = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nX-Pad: " + b"x" * 400 + b"\r\nConnection: close\r\n\r\n"


class Link:
    """One proxy: a listener while it is enabled, and its open connections."""

    def __init__(self, owner, name, listen, upstream):
        self.owner, self.name, self.listen, self.upstream = owner, name, listen, upstream
        self.enabled, self.toxics, self.server, self.open = False, [], None, set()
        self.impacted, self.passed = {}, 0

    async def enable(self):
        host, port = self.listen.rsplit(":", 1)
        self.server = await asyncio.start_server(self.accepted, host, int(port))
        self.listen = f"{host}:{self.server.sockets[0].getsockname()[1]}"
        self.enabled = True

    async def disable(self):
        self.enabled = False
        if self.server:
            self.server.close()
        for writer in list(self.open):
            writer.transport.abort()
        self.server = None

    def toxic(self, kind, stream="downstream"):
        return next((each for each in self.toxics if (each["type"], each["stream"]) == (kind, stream)), None)

    async def accepted(self, reader, writer):
        self.passed += 1
        for each in self.toxics:
            self.impacted[each["name"]] = self.impacted.get(each["name"], 0) + 1
        self.open.add(writer)
        try:
            if self.toxic("reset_peer"):
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return
            try:
                up_reader, up_writer = await asyncio.open_connection(*self.upstream.rsplit(":", 1))
            except OSError:
                return
            self.open.add(up_writer)
            await asyncio.gather(self.pipe(reader, up_writer, "upstream"), self.pipe(up_reader, writer, "downstream"))
        finally:
            self.open.discard(writer)
            writer.close()

    async def pipe(self, reader, writer, stream):
        sent = 0
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                if late := self.toxic("latency", stream):
                    await asyncio.sleep(late["attributes"]["latency"] / 1000)
                if narrow := self.toxic("bandwidth", stream):
                    await asyncio.sleep(len(chunk) / narrow["attributes"]["rate"] / 1000)
                if self.toxic("timeout", stream):
                    continue
                if limit := self.toxic("limit_data", stream):
                    chunk = chunk[: limit["attributes"]["bytes"] - sent]
                sent += len(chunk)
                writer.write(chunk)
            if (slow := self.toxic("slow_close", stream)) or self.toxic("timeout", stream):
                await asyncio.sleep(slow["attributes"]["delay"] / 1000 if slow else 0.3)
        self.open.discard(writer)
        writer.close()

    def shown(self):
        """Return the link as a real server lists it."""
        own = ("name", "listen", "upstream", "enabled", "toxics")
        told = {key: getattr(self, key) for key in own} | {"Logger": {}}
        if self.owner.sim:
            told["stats"] = {"impacted": self.impacted, "lateness_ms": {"count": 0}, "connections": self.passed}
        return told


class Toxiproxy:
    """The server: `links` by name, `stuck` calls, and `asked`, every request that changes something."""

    def __init__(self, sim=False, version="2.12.0"):
        self.sim, self.version, self.links, self.stuck, self.asked = sim, version, {}, set(), []
        self.loosened, self.refusals = {}, {}

    def state(self):
        """Return what a fault changes: which links are cut, and every toxic."""
        cut = [name for name, link in self.links.items() if not link.enabled]
        return cut + [f"{link.name}/{toxic['name']}" for link in self.links.values() for toxic in link.toxics]

    async def add(self, form):
        link = Link(self, form["name"], form["listen"], form["upstream"])
        self.links[link.name] = link
        await link.enable()
        return link

    async def handle(self, request):
        name, toxic = request.match_info.get("name"), request.match_info.get("toxic")
        kind = "toxic" if toxic else "toxics" if request.path.endswith("/toxics") else "link" if name else request.path
        what = f"{request.method} {kind}"
        body = json.loads(await request.text() or "null")
        if request.method != "GET":
            self.asked.append(what if body is None else f"{what} {json.dumps(body)}")
        if what in self.stuck:
            await asyncio.Event().wait()
        self.stuck -= set(self.loosened.get(what, ()))
        if self.refusals.get(what, 0) > 0:
            self.refusals[what] -= 1
            return web.Response(text='{"error":"address already in use","status":500}\n', status=500)
        if name and name not in self.links:
            return web.Response(text='{"error":"proxy not found","status":404}\n', status=404)
        call = {"version": self.about, "proxies": self.index}.get(request.path.strip("/"), self.one)
        return await call(request, name and self.links[name], toxic, body)

    async def about(self, request, link, toxic, body):
        return web.json_response({"version": self.version} | ({"sim": True, "leases": True} if self.sim else {}))

    async def index(self, request, link, toxic, body):
        if request.method == "POST":
            return web.json_response((await self.add(body)).shown(), status=201)
        return web.json_response({name: link.shown() for name, link in self.links.items()})

    async def one(self, request, link, toxic, body):
        method = request.method
        if request.path.endswith("/toxics"):
            link.toxics.append({key: value for key, value in body.items() if key != "ttl_s"})
            return web.json_response(link.toxics[-1])
        if toxic is not None:
            found = [each for each in link.toxics if each["name"] == toxic]
            if not found:
                return web.Response(text='{"error":"toxic not found","status":404}\n', status=404)
            if method == "DELETE":
                link.toxics.remove(found[0])
                return web.Response(status=204)
            return web.json_response(found[0])
        if method == "DELETE":
            await self.links.pop(link.name).disable()
            return web.Response(status=204)
        if method in ("PATCH", "POST") and "enabled" not in body and link.enabled:
            return web.Response(text='{"error":"there is no lease to renew","status":400}\n', status=400)
        if method in ("PATCH", "POST") and body.get("enabled", False) != link.enabled:
            await (link.enable() if body["enabled"] else link.disable())
        return web.json_response(link.shown())

    @asynccontextmanager
    async def serve(self):
        """Serve the API, an upstream and the link ``db`` to it; give the address of the API."""
        upstream = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = upstream.sockets[0].getsockname()[1]
        await self.add({"name": "db", "listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{port}"})
        paths = ("/version", "/proxies", "/proxies/{name}", "/proxies/{name}/toxics", "/proxies/{name}/toxics/{toxic}")
        try:
            async with fake_door.serving([web.route("*", path, self.handle) for path in paths]) as url:
                yield url
        finally:
            for link in self.links.values():
                await link.disable()
            upstream.close()
            await asyncio.sleep(0)


async def answer(reader, writer):
    """Answer one HTTP question, or one request for TLS."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        start = await reader.readexactly(8)
        if start == looking._ASK["postgres"]:
            writer.write(b"N")
            await reader.read()
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
    writer.close()


@contextlib.contextmanager
def quick():
    """Make the looks and the ladder as quick as this machine: what a network needs is not waited for."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"QUIET_S": 0.02, "LONGEST_S": 0.4}.items():
            patch.setattr(looking, name, value)
        for name, value in {"READ_S": 0.3, "CHANGE_S": 0.3, "ALL_S": 4.0, "RESTART_S": 0.5}.items():
            patch.setattr(stop, name, value)
        yield


@asynccontextmanager
async def fake(given, sim=True):
    """Yield what the contract test uses: the door, the arguments, and the server's own state."""
    toxiproxy = Toxiproxy(sim)
    with quick():
        async with toxiproxy.serve() as url:
            yield {"proxy": Door(url=url)}, {"link": "db", **given}, toxiproxy.state


def site(url, fault="r1-1"):
    """Return where one fault works."""
    return Site(fault, "r1", {"proxy": Door(url=url)}, Secrets({}), ttl_s=6.0)


def against(toxiproxy, work):
    """Run `work(toxiproxy, url)` while it serves, and return what it returns."""

    async def main():
        with quick():
            async with toxiproxy.serve() as url:
                return await work(toxiproxy, url)

    return asyncio.run(main())


def used(injector, given, sim=False):
    """Use a fault once, and return the prepared, the probe of its effect, the state under it, and the probe of gone."""

    async def work(toxiproxy, url):
        prepared = await injector.prepare(site(url), injector.params.model_validate({"link": "db", **given}))
        kept = json.loads(json.dumps(prepared.receipt))
        await injector.apply(site(url), kept)
        state = [dict(each) for each in toxiproxy.links["db"].toxics] or ["cut"] * (not toxiproxy.links["db"].enabled)
        effect = await injector.effective(site(url), kept)
        during = await injector.gone(site(url), kept)
        await injector.withdraw(site(url), kept)
        gone = await injector.gone(site(url), kept)
        assert (during.holds, toxiproxy.state()) == (False, [])
        return prepared, effect, state, gone

    return against(Toxiproxy(sim), work)


@asynccontextmanager
async def served(given):
    """Yield the same of `sim proxy`, in a process of its own."""
    upstream = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = upstream.sockets[0].getsockname()[1]
    command = ("-m", "injectors._proxy", "--listen", "127.0.0.1:0", "--proxy", f"db=127.0.0.1:0=127.0.0.1:{port}")
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        url = re.search(r"ready at (\S+?),", line)[1]

        def state():
            with urllib.request.urlopen(f"{url}/proxies", timeout=10) as answered:
                links = json.load(answered)
            cut = [name for name, link in links.items() if not link["enabled"]]
            return cut + [f"{name}/{toxic['name']}" for name, link in links.items() for toxic in link["toxics"]]

        yield {"proxy": Door(url=url)}, {"link": "db", **given}, state
    finally:
        process.terminate()
        await process.wait()
        upstream.close()
