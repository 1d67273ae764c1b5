"""Asks Prometheus whether the watcher of the page's INP fires. No answer and no such rule are blind, not good news."""

from __future__ import annotations

import json
from typing import Any, Protocol

import aiohttp

from mbp._asgi import ApiError

ALERT = "WebInpP75High"
WAIT_S = 2.0
_ANSWER_LIMIT = 1024 * 1024  # bytes


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
            raise _blind("no Prometheus was named (--prom)")
        try:
            rules = await self._rules(f"{self._url}/api/v1/rules?type=alert")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _blind(f"Prometheus gives no usable answer: {type(error).__name__}: {error}") from None
        if not rules:
            raise _blind(f"Prometheus has no rule {ALERT}")
        ill = [rule for rule in rules if rule.get("health") != "ok"]
        if ill:
            raise _blind(f"{ALERT} is not evaluated: {ill[0].get('lastError') or ill[0].get('health')}")
        if any(rule.get("state") == "firing" for rule in rules):
            raise ApiError(409, "watcher_firing", f"{ALERT} fires: no deploy until it has resolved")

    async def _rules(self, url: str) -> list[dict[str, Any]]:
        timeout = aiohttp.ClientTimeout(total=WAIT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session, session.get(url) as answer:
            answer.raise_for_status()
            content = bytearray()
            async for part in answer.content.iter_any():
                content += part
                if len(content) > _ANSWER_LIMIT:
                    raise ValueError(f"more than {_ANSWER_LIMIT} bytes")
        body = json.loads(content)
        return [rule for group in body["data"]["groups"] for rule in group["rules"] if rule["name"] == ALERT]


def _blind(why: str) -> ApiError:
    return ApiError(503, "watchers_blind", why)
