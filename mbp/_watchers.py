"""What the watchers say before a deploy: does one fire, and can it be known at all?

Prometheus' `/api/v1/rules` tells what fires, its `/api/v1/targets` whether a rule that is silent could have spoken. No
answer, no rule to watch, one that could not be evaluated, and anything that is not scraped is *blind*: nobody may take
silence for good news.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp

from mbp._asgi import ApiError

WAIT_S = 2.0
_ANSWER_LIMIT = 4 * 1024 * 1024  # bytes


class Blind(Exception):
    """Nobody can say whether a watcher fires; the text says why."""


class Watchers(Protocol):
    """Whatever knows which watchers fire."""

    async def firing(self) -> list[str]:
        """Return the names of the watched alerts that fire, sorted. Raises :class:`Blind`."""


class Prometheus:
    """The watchers of a Prometheus server. `session` is closed by whoever opened it."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, severity: str = "critical", *, alert: str | None = None
    ) -> None:
        """Watch the rules of one severity at the server at `url`, or (`alert`) the rules of that name alone."""
        self._session, self._url = session, f"{url.rstrip('/')}/api/v1"
        self._severity, self._alert = severity, alert

    async def firing(self) -> list[str]:
        """Return the names of the alerts that fire, sorted. Raises :class:`Blind`."""
        found = await self._ask("rules", {"type": "alert"})
        firing = firing_in(found, self._severity) if self._alert is None else firing_alert(found, self._alert)
        if not firing:
            require_scraped(await self._ask("targets", {"state": "active"}))
        return firing

    async def _ask(self, what: str, params: dict[str, str]) -> Any:
        try:
            async with self._session.get(
                f"{self._url}/{what}",
                params=params,
                timeout=aiohttp.ClientTimeout(total=WAIT_S),
                allow_redirects=False,
            ) as answer:
                if answer.status != 200:
                    raise Blind(f"Prometheus answered {answer.status}")
                content = bytearray()
                async for part in answer.content.iter_any():
                    content += part
                    if len(content) > _ANSWER_LIMIT:
                        raise Blind("Prometheus answered too much")
            return json.loads(content)
        except TimeoutError:
            raise Blind(f"Prometheus did not answer within {WAIT_S:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            raise Blind(f"Prometheus does not answer: {type(error).__name__}") from None


def firing_in(answer: Any, severity: str) -> list[str]:
    """Return which alerts of a severity fire by an answer of `/api/v1/rules`. Raises :class:`Blind`."""
    return _firing(answer, lambda rule: rule.get("labels", {}).get("severity") == severity, f"of severity {severity}")


def firing_alert(answer: Any, name: str) -> list[str]:
    """Return the alert of that name if it fires by an answer of `/api/v1/rules`. Raises :class:`Blind`."""
    return _firing(answer, lambda rule: rule["name"] == name, name)


def _firing(answer: Any, is_watched: Callable[[dict[str, Any]], bool], which: str) -> list[str]:
    try:
        rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
        watched = [rule for rule in rules if is_watched(rule)]
        unwell = sorted({str(rule["name"]) for rule in watched if rule["health"] != "ok"})
        firing = sorted({str(rule["name"]) for rule in watched if rule["state"] == "firing"})
    except (KeyError, TypeError, AttributeError):
        raise Blind("Prometheus gave an answer of another shape") from None
    if firing:
        return firing
    if not watched:
        raise Blind(f"no rule {which} is loaded")
    if unwell:
        raise Blind(f"not evaluated, or in error: {', '.join(unwell)}")
    return []


def require_scraped(answer: Any) -> None:
    """Return when an answer of `/api/v1/targets` shows that all there is was scraped. Raises :class:`Blind`.

    A rule over series that have ended is evaluated, healthy and silent.
    """
    try:
        targets = [(str(each["health"]), str(each["labels"]["job"])) for each in answer["data"]["activeTargets"]]
    except (KeyError, TypeError, AttributeError):
        raise Blind("Prometheus gave an answer of another shape") from None
    if not targets:
        raise Blind("nothing is scraped")
    if down := sorted({job for health, job in targets if health != "up"}):
        raise Blind(f"not scraped: {', '.join(down)}")


async def require_silence(watchers: Watchers) -> None:
    """Return when the watchers see and are silent. Raises :class:`ApiError`: 409 `watcher_firing`, 503 blind."""
    try:
        firing = await watchers.firing()
    except Blind as blind:
        raise ApiError(503, "watchers_blind", f"nobody can say whether a watcher fires: {blind}") from None
    if firing:
        raise ApiError(409, "watcher_firing", f"firing: {', '.join(firing)}")
