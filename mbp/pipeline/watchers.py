"""What the watchers say: is one that is critical firing, and can it be known at all?

One call to Prometheus' `/api/v1/rules` tells both. No answer, no critical rule, or one that could not be evaluated is
*blind*: nobody may take silence for good news.
"""

from __future__ import annotations

from typing import Any, Protocol

import aiohttp

WAIT_S = 2.0
_ANSWER_LIMIT = 4 * 1024 * 1024


class Blind(Exception):
    """Nobody can say whether a critical watcher fires; the text says why."""


class Watchers(Protocol):
    """Whatever knows which watchers fire."""

    async def firing(self) -> list[str]:
        """Return the names of the critical alerts that fire, sorted. Raises :class:`Blind`."""


class Prometheus:
    """The watchers of a Prometheus server. `session` is closed by whoever opened it."""

    def __init__(self, session: aiohttp.ClientSession, url: str, severity: str = "critical") -> None:
        """Ask the server at `url` for the rules of one severity."""
        self._session, self._url, self._severity = session, url.rstrip("/"), severity

    async def firing(self) -> list[str]:
        """Return the names of the alerts that fire, sorted. Raises :class:`Blind`."""
        try:
            async with self._session.get(
                f"{self._url}/api/v1/rules", params={"type": "alert"}, timeout=aiohttp.ClientTimeout(total=WAIT_S),
                allow_redirects=False,
            ) as answer:  # fmt: skip
                if answer.status != 200:
                    raise Blind(f"Prometheus answered {answer.status}")
                if (answer.content_length or 0) > _ANSWER_LIMIT:
                    raise Blind("Prometheus answered too much")
                found = await answer.json(content_type=None)
        except TimeoutError:
            raise Blind(f"Prometheus did not answer within {WAIT_S:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Blind(f"Prometheus does not answer: {type(error).__name__}") from None
        return firing_in(found, self._severity)


def firing_in(answer: Any, severity: str) -> list[str]:
    """Return which alerts of a severity fire by an answer of `/api/v1/rules`. Raises :class:`Blind`."""
    try:
        rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
        watched = [rule for rule in rules if rule.get("labels", {}).get("severity") == severity]
        unwell = sorted({str(rule["name"]) for rule in watched if rule["health"] != "ok"})
        firing = sorted({str(rule["name"]) for rule in watched if rule["state"] == "firing"})
    except (KeyError, TypeError, AttributeError):
        raise Blind("Prometheus gave an answer of another shape") from None
    if firing:
        return firing
    if not watched:
        raise Blind(f"no rule of severity {severity} is loaded")
    if unwell:
        raise Blind(f"not evaluated, or in error: {', '.join(unwell)}")
    return []
