"""Asks whether the watcher of the page's INP fires, by the rule of all deploys (:mod:`mbp._watchers`)."""

from __future__ import annotations

from typing import Protocol

import aiohttp

from mbp import _watchers
from mbp._asgi import ApiError

ALERT = "WebInpP75High"


class Watcher(Protocol):
    """Whoever is asked before a deploy."""

    async def allow(self) -> None:
        """Return when the watcher is seeing and silent; raises :class:`ApiError` (409 or 503) otherwise."""
        ...


class Prometheus:
    """The watcher as a Prometheus at `url` shows it; with no URL there is nobody to ask."""

    def __init__(self, url: str | None) -> None:
        """Remember whom to ask."""
        self._url = url

    async def allow(self) -> None:
        """See :class:`Watcher`."""
        if self._url is None:
            raise ApiError(503, "watchers_blind", "no Prometheus was named (--prom)")
        async with aiohttp.ClientSession(trust_env=False) as session:
            await _watchers.require_silence(_watchers.Prometheus(session, self._url, alert=ALERT))
