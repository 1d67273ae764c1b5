"""Resets a Toxiproxy server until it reads back clean."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import aiohttp

from injectors._reaper.beats import Beats

#: How long a call may take, seconds. A server that hangs answers 503 only after 25 s; nobody waits for that.
CALL_S = 3.0
RETRY_S = 1.0
IDLE_S = 5.0
#: The heartbeat of whoever brought in what stood at the server when the reaper started, and how long it is good for:
#: several renewals of a runner that lives.
STRAY, STRAY_S = "found-at-start", 30.0


class ProxyError(Exception):
    """The server did not answer, or not as it should."""


class Proxy:
    """The few calls of Toxiproxy's API that resetting needs, each within `CALL_S`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url.rstrip("/")
        self.known: dict[str, dict[str, Any]] = {}

    async def look(self) -> list[str]:
        """Return what is not as it should be: a toxic, a proxy that is off, one that is gone. Raises `ProxyError`."""
        found = await self._call("GET", "/proxies")
        if not isinstance(found, dict):
            raise ProxyError("GET /proxies: no object")
        odd = [f"{name} is gone" for name in self.known if name not in found]
        for name, proxy in sorted(found.items()):
            odd += [f"{name}: {toxic.get('name')}" for toxic in proxy.get("toxics") or ()]
            odd += [] if proxy.get("enabled") else [f"{name} is off"]
            self.known.setdefault(name, {key: proxy.get(key) for key in ("name", "listen", "upstream")})
        return odd

    async def reset(self) -> None:
        """Ask for everything at once. Raises `ProxyError`."""
        await self._call("POST", "/reset")

    async def bounce(self, name: str) -> None:
        """Drop the connections of one proxy: switch it off, and on again. Raises `ProxyError`."""
        await self._call("POST", f"/proxies/{name}", {"enabled": False})
        await self._call("POST", f"/proxies/{name}", {"enabled": True})

    async def remake(self, name: str) -> None:
        """Make one proxy anew, as it was first seen. Raises `ProxyError`."""
        await self._call("DELETE", f"/proxies/{name}", missing=True)
        await self._call("POST", "/proxies", {**self.known[name], "enabled": True})

    async def _call(self, method: str, path: str, body: Any = None, missing: bool = False) -> Any:
        try:
            async with (
                asyncio.timeout(CALL_S),
                self._session.request(method, self._url + path, json=body) as answer,
            ):
                if answer.status >= 300 and not (missing and answer.status == 404):
                    raise ProxyError(f"{method} {path}: {answer.status}")
                return await answer.json(content_type=None) if method == "GET" else None
        except TimeoutError as error:
            raise ProxyError(f"{method} {path}: no answer within {CALL_S:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ProxyError(f"{method} {path}: {error or type(error).__name__}") from error


class Reaper:
    """Heartbeats on one side, a proxy server on the other."""

    def __init__(self, proxy: Proxy, clock: Callable[[], float]) -> None:
        self.beats = Beats()
        self._proxy, self._clock = proxy, clock
        self._news = asyncio.Event()
        self._begun = False
        self._resets = 0
        self._last: dict[str, object] | None = None

    def heard(self) -> None:
        """Say that the heartbeats have changed. Whoever beats is there to look after what was found at the start."""
        self.beats.end(STRAY)
        self._news.set()

    async def begin(self) -> None:
        """Watch, once, over what stands at the server already: the reaper that its owner beat to may be no more.

        Heartbeats are kept in memory only. An owner who lives beats again soon; for one who does not nobody else would.
        """
        try:
            odd = [] if self._begun else await self._proxy.look()
        except ProxyError:
            return  # it is not up yet, or stuck: asked again at the next turn
        if odd:
            self.beats.beat(STRAY, STRAY_S, self._clock())
        self._begun = True

    async def run(self) -> None:
        """Answer every heartbeat that runs out, until cancelled."""
        while True:
            self._news.clear()
            await self.begin()
            wait_s = await self.step()
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def step(self) -> float:
        """Do what is to be done now; return after how many seconds to look again."""
        now = self._clock()
        lapsed = self.beats.lapsed(now)
        if lapsed:
            how, error = await self._clean()
            done = self._clock()
            self._last = {"ids": list(lapsed), "took_s": round(done - now, 3), "how": how, "error": error}
            if error is not None:
                return RETRY_S
            self._resets += 1
            self.beats.answered(lapsed)
            now = done
        until = self.beats.next_end()
        return IDLE_S if until is None else min(IDLE_S, max(0.0, until - now))

    async def _clean(self) -> tuple[str, str | None]:
        """Go up the ladder until the server reads back clean; return the last rung, and what is wrong still."""
        rungs: list[tuple[str, Callable[[], Awaitable[None]]]] = [("reset", self._proxy.reset)]
        rungs += [(f"off and on: {name}", partial(self._proxy.bounce, name)) for name in self._proxy.known]
        rungs += [(f"made anew: {name}", partial(self._proxy.remake, name)) for name in self._proxy.known]
        wrong = "not tried"
        for how, rung in rungs:
            try:
                await rung()
            except ProxyError as error:
                wrong = str(error)
                continue
            try:
                odd = await self._proxy.look()
            except ProxyError as error:
                wrong = str(error)
                continue
            if not odd:
                return how, None
            wrong = "; ".join(odd)
        return rungs[-1][0], wrong

    async def trouble(self) -> str | None:
        """Return why a heartbeat that runs out now could not be answered, None when it could."""
        try:
            await self._proxy.look()
        except ProxyError as error:
            return str(error)
        return None

    def shown(self) -> dict[str, object]:
        """Return all that is known, as JSON."""
        return {**self.beats.shown(self._clock()), "resets": self._resets, "last": self._last}
