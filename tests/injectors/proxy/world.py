"""A proxy server in the test's own loop, with a clock that stands still until it is moved, and real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
import socket

import aiohttp

from injectors._proxy.serve import Server


class FakeTimer:
    """A call that is to happen; cancelled ones are passed over."""

    def __init__(self, when, callback):
        self.when, self.callback, self.cancelled = when, callback, False

    def cancel(self):
        """Let it not happen."""
        self.cancelled = True


class FakeClock:
    """Time that passes when it is told to."""

    def __init__(self, now=1000.0):
        self.now = now
        self._timers = []
        self._order = itertools.count()

    def time(self):
        """Return now."""
        return self.now

    def call_at(self, when, callback):
        """Remember a call."""
        timer = FakeTimer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def due(self):
        """Return the moments of what is to come, in order."""
        return sorted(when for when, _, timer in self._timers if not timer.cancelled)

    def turn(self):
        """Call the first thing that is due now; return whether there was one."""
        while self._timers and self._timers[0][0] <= self.now + 1e-9:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                timer.callback()
                return True
        return False

    def run(self, most=100_000):
        """Call all that is due now, also what comes due by that."""
        for _ in range(most):
            if not self.turn():
                return
        raise AssertionError("what is due never ends")

    def advance(self, seconds):
        """Let so much time pass, timer by timer."""
        end = round(self.now + seconds, 9)
        while self._timers and self._timers[0][0] <= end + 1e-9:
            self.now = max(self.now, self._timers[0][0])
            self.run()
        self.now = end


async def settle(rounds=25):
    """Let everything happen that needs no time."""
    for _ in range(rounds):
        await asyncio.sleep(0)


class Peer:
    """One end of a connection: sends, and says what came."""

    def __init__(self, reader, writer, clock):
        self.reader, self.writer, self.clock = reader, writer, clock

    async def send(self, data):
        """Send, and let it arrive."""
        self.writer.write(data)
        await settle()
        self.clock.run()
        await settle()

    async def get(self, size):
        """Return exactly `size` bytes."""
        return await asyncio.wait_for(self.reader.readexactly(size), 10)

    async def rest(self):
        """Return all up to the end of the stream, or ``reset``."""
        try:
            return await asyncio.wait_for(self.reader.read(), 10)
        except ConnectionResetError:
            return "reset"

    async def nothing(self):
        """Return what came (``b""`` for nothing), without waiting."""
        await settle()
        try:
            return await asyncio.wait_for(self.reader.read(1 << 20), 0.001)
        except TimeoutError:
            return b""

    def reset(self):
        """Close with RST."""
        self.writer.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0"
        )
        self.writer.transport.abort()


class World:
    """A server with its clock, an upstream, and a client of the API."""

    def __init__(self, server, clock, session, told):
        self.server, self.clock, self.session, self.told = server, clock, session, told
        self.accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self.upstream = ""
        self._peers = []

    async def call(self, method, path, body=None, raw=None, headers=None):
        """Return (status, what was answered: JSON where it is, else text)."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        async with self.session.request(method, path, data=data, headers=headers) as response:
            text = await response.text()
            try:
                return response.status, json.loads(text)
            except ValueError:
                return response.status, text

    async def toxic(self, kind, stream="downstream", proxy="p", **attributes):
        """Add a toxic; it must be taken."""
        body = {"type": kind, "stream": stream, "attributes": attributes}
        status, answer = await self.call("POST", f"/proxies/{proxy}/toxics", body)
        assert status == 200, answer
        return answer["name"]

    async def remove(self, name, proxy="p"):
        """Remove a toxic; it must go."""
        assert await self.call("DELETE", f"/proxies/{proxy}/toxics/{name}") == (204, "")
        self.clock.run()

    async def stats(self, proxy="p"):
        """Return the counters of a proxy."""
        return (await self.call("GET", f"/proxies/{proxy}"))[1]["stats"]

    async def client(self, proxy="p"):
        """Return a client that has connected."""
        host, port = self.server.registry.proxies[proxy].listen.rsplit(":", 1)
        peer = Peer(*await asyncio.open_connection(host, int(port)), self.clock)
        self._peers.append(peer)
        return peer

    async def pair(self, proxy="p"):
        """Return (client, upstream's end) of a connection that is up."""
        client = await self.client(proxy)
        return client, await asyncio.wait_for(self.accepted.get(), 10)

    async def moved(self, seconds):
        """Let time pass, and what follows from it happen."""
        self.clock.advance(seconds)
        await settle()

    async def _accept(self, reader, writer):
        peer = Peer(reader, writer, self.clock)
        self._peers.append(peer)
        self.accepted.put_nowait(peer)


@contextlib.asynccontextmanager
async def world(*proxies, seed=7, dial_s=10.0, bare=False, tell=None):
    """Give a world with a proxy ``p`` before one upstream (none if `bare`), and `proxies` beside it."""
    clock, told = FakeClock(), []
    server = Server(seed=seed, dial_s=dial_s, tell=tell or told.append, clock=clock)
    async with contextlib.AsyncExitStack() as stack:
        here = World(server, clock, None, told)
        behind = await asyncio.start_server(here._accept, "127.0.0.1", 0)
        here.upstream = f"127.0.0.1:{behind.sockets[0].getsockname()[1]}"
        own = [] if bare else [{"name": "p", "listen": "127.0.0.1:0", "upstream": here.upstream}]
        await server.start("127.0.0.1:0", [*own, *proxies])
        stack.push_async_callback(server.close)
        here.session = await stack.enter_async_context(aiohttp.ClientSession(server.url))
        try:
            yield here
        finally:
            for peer in here._peers:
                peer.writer.transport.abort()
            behind.close()
            await settle()


def within(story, *proxies, **options):
    """Run `story(world)`."""

    async def main():
        async with world(*proxies, **options) as here:
            return await asyncio.wait_for(story(here), 60)

    return asyncio.run(main())
