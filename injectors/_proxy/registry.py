"""All proxies of one server, and what the API does to them. One change of proxies at a time; toxics at any time."""

from __future__ import annotations

import asyncio
from typing import Any

from injectors._proxy import toxics as toxic_reader
from injectors._proxy.address import AddressError
from injectors._proxy.body import ApiError, Object, as_list, as_object, bad, flag, text
from injectors._proxy.proxy import Proxy, Settings
from injectors._proxy.toxics import Toxic, ttl

_GO_PROXY = "toxiproxy.Proxy"


class Wanted:
    """A proxy as a request describes it."""

    def __init__(self, value: Any) -> None:
        """Read a JSON object. Raises `ApiError` 400; name and upstream may still be missing."""
        fields = as_object(value, _GO_PROXY)
        self.name, self.listen = text(fields, "name", ""), text(fields, "listen", "")
        self.upstream = text(fields, "upstream", "")
        self.enabled = flag(fields, "enabled", True)
        self.ttl_s = _lease(fields, self.enabled)
        self.toxics: list[Toxic] = []
        for each in as_list(fields.get("toxics"), "[]toxics.ToxicWrapper"):
            toxic = toxic_reader.parse(each)
            if any(toxic.name == other.name for other in self.toxics):
                raise ApiError("toxic already exists", 409)
            self.toxics.append(toxic)

    def check(self, place: str = "") -> None:
        """Raise `ApiError` 400 where a field is missing."""
        for key in ("name", "upstream"):
            if not getattr(self, key):
                raise ApiError(f"missing required field: {key}{place}", 400)


class Populated(Exception):
    """A list of proxies was not wholly done: those that were, and why not the next."""

    def __init__(self, done: list[Proxy], error: ApiError) -> None:
        super().__init__(error.text)
        self.done, self.error = done, error


class Registry:
    """See the module."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.proxies: dict[str, Proxy] = {}
        self._changes = asyncio.Lock()

    def get(self, name: str) -> Proxy:
        """Return the proxy called `name`. Raises `ApiError` 404."""
        if name not in self.proxies:
            raise ApiError("proxy not found", 404)
        return self.proxies[name]

    async def create(self, value: Any) -> Proxy:
        """Make a proxy, its toxics at work before it listens. Raises `ApiError` 400, 409, 500."""
        wanted = Wanted(value)
        wanted.check()
        async with self._changes:
            if wanted.name in self.proxies:
                raise ApiError("proxy already exists", 409)
            return await self._add(wanted)

    async def update(self, name: str, value: Any) -> Proxy:
        """Move, enable or disable a proxy. Raises `ApiError` 400, 404, 500."""
        proxy = self.get(name)
        fields = as_object(value, _GO_PROXY)
        enabled = flag(fields, "enabled", proxy.enabled)
        ttl_s = _lease(fields, enabled)
        if ttl_s is not None and fields.get("enabled") is None and not proxy.leased:
            raise bad('there is no lease to renew: ttl_s begins one beside "enabled": false')
        listen, upstream = text(fields, "listen", proxy.listen), text(fields, "upstream", proxy.upstream)
        if not enabled and (listen, upstream) == (proxy.listen, proxy.upstream):
            _disable(proxy, fields, ttl_s)  # needs no turn: to stop never waits
            return proxy
        async with self._changes:
            proxy = self.get(name)
            if not await proxy.same_place(listen, upstream):
                proxy.move(listen, upstream)
            if enabled:
                await _start(proxy)
            else:
                _disable(proxy, fields, ttl_s)
        return proxy

    def delete(self, name: str) -> None:
        """Close a proxy for good. Returns at once. Raises `ApiError` 404."""
        self.get(name).close()
        del self.proxies[name]

    async def populate(self, value: Any) -> list[Proxy]:
        """Make or replace proxies; leave those alone that are where they should be. Raises `Populated`."""
        done: list[Proxy] = []
        try:
            given = [Wanted(each) for each in as_list(value, "[]struct { toxiproxy.Proxy; Enabled *bool }")]
            for number, wanted in enumerate(given, 1):
                wanted.check(f" at proxy {number}")
            async with self._changes:
                for wanted in given:
                    done.append(await self._put(wanted))
        except ApiError as error:
            raise Populated(done, error) from error
        return done

    async def reset(self) -> None:
        """Take every toxic away, and enable every proxy. Raises `ApiError` 500, at the end, where one cannot be."""
        for proxy in self.proxies.values():
            proxy.clear()
        async with self._changes:
            failed: list[ApiError] = []
            for proxy in list(self.proxies.values()):
                try:
                    await _start(proxy)
                except ApiError as error:
                    failed.append(error)
                proxy.clear()
            if failed:
                raise failed[0]

    def close(self) -> None:
        """Close every proxy."""
        for name in list(self.proxies):
            self.delete(name)

    async def _put(self, wanted: Wanted) -> Proxy:
        existing = self.proxies.get(wanted.name)
        if existing is None:
            return await self._add(wanted)
        if await existing.same_place(wanted.listen, wanted.upstream):
            return existing
        running = existing.enabled
        existing.stop()
        try:
            made = await self._add(wanted)
        except ApiError:
            if running:
                await _start(existing)  # what was there stays
            raise
        existing.close()
        return made

    async def _add(self, wanted: Wanted) -> Proxy:
        proxy = Proxy(self.settings, wanted.name, wanted.listen, wanted.upstream)
        for toxic in wanted.toxics:
            proxy.add(toxic)
        try:
            if wanted.enabled:
                await _start(proxy)
            elif wanted.ttl_s is not None:
                proxy.lease(wanted.ttl_s)
        except ApiError:
            proxy.close()
            raise
        self.proxies[wanted.name] = proxy
        return proxy


def _disable(proxy: Proxy, fields: Object, ttl_s: float | None) -> None:
    """Disable; with a lease where one is asked for, for good where the request says no more than ``false``."""
    proxy.stop()
    if ttl_s is not None:
        proxy.lease(ttl_s)
    elif "enabled" in fields or "ttl_s" in fields:
        proxy.end_lease()


async def _start(proxy: Proxy) -> None:
    try:
        await proxy.start()
    except AddressError as error:
        raise ApiError(str(error), 500) from error


def _lease(fields: Object, enabled: bool) -> float | None:
    found = ttl(fields)
    if found is not None and enabled:
        raise bad('a proxy\'s ttl_s goes with "enabled": false')
    return found
