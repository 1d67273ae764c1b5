"""One proxy: an address that is listened at, the upstream behind it, its toxics and its connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from injectors._proxy import address
from injectors._proxy.body import ApiError
from injectors._proxy.clock import Clock, Handle
from injectors._proxy.link import Link, Side
from injectors._proxy.stats import Stats
from injectors._proxy.toxics import Change, Toxic, lease_as_json

#: So often a proxy whose lease has run out tries to listen again if its address is taken, and so many seconds apart.
RETRIES, RETRY_S = 60, 1.0


class Settings:
    """What all proxies of one server share."""

    def __init__(self, clock: Clock, seed: int, dial_s: float, tell: Callable[[str], None]) -> None:
        self.clock, self.seed, self.dial_s, self._tell = clock, seed, dial_s, tell

    def tell(self, text: str) -> None:
        """Say what happened by itself; that it cannot be said must not keep a fault in place."""
        with contextlib.suppress(Exception):
            self._tell(text)


class Proxy:
    """See the module. Methods that return at once never wait for a peer; those that wait say for what."""

    def __init__(self, settings: Settings, name: str, listen: str, upstream: str) -> None:
        self.settings = settings
        self.name, self.listen, self.upstream = name, listen, upstream
        self.enabled = False
        self.toxics: list[Toxic] = []
        self.stats = Stats()
        self.links: set[Link] = set()
        self.ttl_s: float | None = None
        self._expires_at = 0.0
        self._lease: Handle | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._serials: dict[str, int] = {}
        self._server: asyncio.Server | None = None
        self._generation = 0

    def as_json(self) -> dict[str, Any]:
        """Return the proxy as the API shows it."""
        now = self.settings.clock.time()
        shown: dict[str, Any] = {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "toxics": self.toxics_as_json(),
            "stats": self.stats.as_json(self.settings.seed, len(self.links)),
        }
        if self.ttl_s is not None:
            shown |= lease_as_json(self.ttl_s, self._expires_at - now)
        return shown

    # -- on and off ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, and begin to accept. Waits for a name to be looked up at most. Raises `address.AddressError`."""
        if self.enabled:
            return
        asked = self._generation
        host, port = await self._resolved(self.listen)
        if asked != self._generation or self.enabled:
            return  # somebody said otherwise meanwhile
        listening = address.bind(host, port)
        self.listen = address.bound(listening)
        self.enabled = True
        generation = self._generation = asked + 1
        self.end_lease()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: self._accept(generation), sock=listening, backlog=address.BACKLOG
        )
        if generation != self._generation:
            self._server.close()

    def stop(self) -> None:
        """Close the listener and every connection. Returns at once."""
        self.enabled = False
        self._generation += 1
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in list(self.links):
            self.stats.cut += 1
            link.close()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self.end_lease()
        for toxic in self.toxics:
            _cancel(toxic)

    async def same_place(self, listen: str, upstream: str) -> bool:
        """Return whether the proxy is at `listen` and leads to `upstream` already; names are looked up."""
        if upstream != self.upstream:
            return False
        if listen == self.listen:
            return True
        try:
            host, port = await self._resolved(listen)
        except address.AddressError:
            return False
        return address.join(host, port) == self.listen and port != 0

    def move(self, listen: str, upstream: str) -> None:
        """Lead from and to other addresses, once it is started again: the listener and every connection are closed."""
        self.stop()
        self.listen, self.upstream = listen, upstream

    async def _resolved(self, listen: str) -> tuple[str, int]:
        try:
            return await address.resolve(listen)
        except address.AddressError as error:
            raise address.AddressError(f"listen tcp: {error}") from error

    # -- the lease of being disabled -----------------------------------------------------------------------------

    def lease(self, ttl_s: float) -> None:
        """Stay disabled for so many seconds from now, and then be enabled again."""
        self.end_lease()
        clock = self.settings.clock
        self.ttl_s, self._expires_at = ttl_s, clock.time() + ttl_s
        self._lease = clock.call_at(self._expires_at, self._expire)

    @property
    def leased(self) -> bool:
        """Whether the proxy is disabled under a lease that has not run out."""
        return self._lease is not None

    def end_lease(self) -> None:
        """Forget the lease."""
        self.ttl_s = None
        if self._lease is not None:
            self._lease.cancel()
            self._lease = None
        if self._reviving is not None and self._reviving is not asyncio.current_task():
            self._reviving.cancel()
        self._reviving = None

    def _expire(self) -> None:
        self._lease = None
        self._reviving = asyncio.get_running_loop().create_task(self._revive())
        self.settings.tell(f"proxy {self.name}: the lease of its being disabled ran out: enabling it")

    async def _revive(self) -> None:
        """Enable the proxy again; where its address is taken, try for a while."""
        for _ in range(RETRIES):
            try:
                await self.start()
                return
            except address.AddressError as error:
                self.settings.tell(f"proxy {self.name}: not enabled yet: {error}")
            await self._pause(RETRY_S)
        self.settings.tell(f"proxy {self.name}: stays disabled")

    async def _pause(self, seconds: float) -> None:
        clock, over = self.settings.clock, asyncio.get_running_loop().create_future()
        clock.call_at(clock.time() + seconds, lambda: None if over.done() else over.set_result(None))
        await over

    # -- toxics --------------------------------------------------------------------------------------------------

    def toxics_as_json(self) -> list[dict[str, Any]]:
        """Return the toxics as the API shows them: the upstream's first, each in the order of their addition."""
        now = self.settings.clock.time()
        return [each.as_json(now) for each in sorted(self.toxics, key=lambda each: not each.upstream)]

    def toxic(self, name: str) -> Toxic:
        """Return the toxic called `name`. Raises `ApiError` 404."""
        for each in self.toxics:
            if each.name == name:
                return each
        raise ApiError("toxic not found", 404)

    def add(self, toxic: Toxic) -> None:
        """Put a toxic to work on every connection, open or to come. Returns at once. Raises `ApiError` 409."""
        if any(each.name == toxic.name for each in self.toxics):
            raise ApiError("toxic already exists", 409)
        toxic.serial = self._serials[toxic.name] = self._serials.get(toxic.name, 0) + 1
        self.toxics.append(toxic)
        self.stats.start_counting(toxic.name)
        if toxic.ttl_s is not None:
            self._renew(toxic, toxic.ttl_s)
        for link in list(self.links):
            link.attach(toxic)

    def update(self, toxic: Toxic, change: Change) -> None:
        """Give a toxic new attributes, another toxicity, a longer lease. Returns at once."""
        if change.lease:
            _cancel(toxic)
            toxic.ttl_s = change.ttl_s
            if change.ttl_s is not None:
                self._renew(toxic, change.ttl_s)
        if (change.attributes, change.toxicity) == (toxic.attributes, toxic.toxicity):
            return
        toxic.attributes, toxic.toxicity = change.attributes, change.toxicity
        for link in list(self.links):
            link.changed(toxic)

    def remove(self, toxic: Toxic) -> None:
        """Take a toxic away. Returns at once: what it held goes out as fast as the peers take it."""
        _cancel(toxic)
        self.toxics.remove(toxic)
        for link in list(self.links):
            link.detach(toxic)

    def clear(self) -> None:
        """Take every toxic away."""
        for toxic in list(self.toxics):
            self.remove(toxic)

    def _renew(self, toxic: Toxic, ttl_s: float) -> None:
        clock = self.settings.clock
        toxic.expires_at = clock.time() + ttl_s
        toxic.lease = clock.call_at(toxic.expires_at, lambda: self._ran_out(toxic))

    def _ran_out(self, toxic: Toxic) -> None:
        self.remove(toxic)
        self.settings.tell(f"proxy {self.name}: the lease of toxic {toxic.name} ran out: removing it")

    # -- connections ---------------------------------------------------------------------------------------------

    def _accept(self, generation: int) -> Side:
        """Return the client's side of a new connection, and have its upstream dialled."""
        index = self.stats.connections
        self.stats.connections += 1
        key = f"{self.settings.seed}/{self.name}/{index}"
        link = Link(self.settings.clock, self.stats, key, self.toxics, self.links.discard)
        if generation != self._generation:
            link.close()  # accepted in the moment in which the proxy was stopped
            return link.client
        self.links.add(link)
        link.dial = asyncio.get_running_loop().create_task(self._dial(link))
        link.dial.add_done_callback(lambda _: link.dialled())
        return link.client

    async def _dial(self, link: Link) -> None:
        """Connect the upstream, each connection for itself, within `dial_s`; where that fails the client is closed."""
        loop = asyncio.get_running_loop()
        try:
            await link.held()
            host, port = address.split(self.upstream)
            async with asyncio.timeout(self.settings.dial_s):
                await loop.create_connection(lambda: link.server, host or address.LOOPBACK, port)
        except (OSError, UnicodeError, address.AddressError):  # a time-out is an OSError
            self.stats.refused += 1
            link.close()


def _cancel(toxic: Toxic) -> None:
    if toxic.lease is not None:
        toxic.lease.cancel()
        toxic.lease = None
