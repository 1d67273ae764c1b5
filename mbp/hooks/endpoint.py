"""Calls to the services that actions are done at: one request, bounded in time and size, its failure told apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from mbp.hooks.table import Reading, Request

CALL_WAIT_S = 2.0
_ANSWER_LIMIT = 64 * 1024
_TRY_AGAIN = frozenset({408, 425, 429})


class TargetError(Exception):
    """The endpoint could not be asked, or answered that it cannot now: trying again may help."""


class TargetRefused(Exception):
    """The endpoint understood and refused: trying the same again will not help."""


class Endpoints:
    """The services by name. `session` is closed by whoever opened it."""

    def __init__(self, session: aiohttp.ClientSession, urls: Mapping[str, str]) -> None:
        """Use `session` for calls to `urls`, base URLs by endpoint name."""
        self._session = session
        self._urls = {name: url.rstrip("/") for name, url in urls.items()}

    async def in_effect(self, endpoint: str, reading: Reading, subject: str) -> bool:
        """Say whether the action is in effect now, as the endpoint says. Raises the two errors of this module."""
        url = self._urls[endpoint] + _filled(reading.path, subject)
        found: Any = await self._ask("GET", url, None, {})
        for part in reading.field.split("."):
            if not isinstance(found, dict) or part not in found:
                raise TargetError(f"GET {url}: the answer has no {reading.field}")
            found = found[part]
        return type(found) is type(reading.equals) and bool(found == reading.equals)

    async def call(self, endpoint: str, request: Request, subject: str, reason: str, key: str) -> None:
        """Do one call under an idempotency key. Raises the two errors of this module."""
        url = self._urls[endpoint] + _filled(request.path, subject)
        body = None if request.body is None else {
            name: value.replace("{reason}", reason).replace("{subject}", subject) if isinstance(value, str) else value
            for name, value in request.body.items()
        }  # fmt: skip
        await self._ask(request.method, url, body, {"Idempotency-Key": key})

    async def ask(self, endpoint: str, method: str, path: str, body: dict[str, Any], key: str) -> Any:
        """Do one call under an idempotency key and return its JSON. Raises the two errors of this module."""
        return await self._ask(method, self._urls[endpoint] + path, body, {"Idempotency-Key": key})

    async def _ask(self, method: str, url: str, body: Any, headers: dict[str, str]) -> Any:
        try:
            async with self._session.request(
                method, url, json=body, headers=headers, timeout=aiohttp.ClientTimeout(total=CALL_WAIT_S),
                allow_redirects=False,
            ) as answer:  # fmt: skip
                raw = await answer.content.read(_ANSWER_LIMIT)
        except TimeoutError:
            raise TargetError(f"{method} {url}: no answer within {CALL_WAIT_S:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TargetError(f"{method} {url}: {type(error).__name__}: {error}") from error
        if not 200 <= answer.status < 300:
            text = f"{method} {url}: {answer.status} {raw[:200].decode('utf-8', 'replace')}"
            permanent = 300 <= answer.status < 500 and answer.status not in _TRY_AGAIN
            raise TargetRefused(text) if permanent else TargetError(text)
        try:
            return json.loads(raw) if raw else None
        except (ValueError, RecursionError):
            if method == "GET":
                raise TargetError(f"{method} {url}: the answer is not JSON") from None
            return None


def _filled(path: str, subject: str) -> str:
    return path.replace("{subject}", quote(subject, safe=""))
