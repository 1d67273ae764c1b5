"""The engine's two pages that the relay reads: its event feed, and the price of a market."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import quote, urlsplit

WAIT_S = 2.0
PAGE = 500
_ANSWER_LIMIT = 8 * 1024 * 1024


class FeedError(Exception):
    """The engine cannot be read now; the text says what was asked and what came."""


class Feed:
    """One kept connection to the engine; used by one thread."""

    def __init__(self, url: str) -> None:
        """Read from the base URL ``url``."""
        self._url, self._host = url, urlsplit(url)
        self._connection: http.client.HTTPConnection | None = None

    def events(self, after: int) -> list[dict[str, Any]]:
        """Return events behind ``after``, oldest first, at most :data:`PAGE`. Raises :class:`FeedError`."""
        rows = self._get(f"/v1/events?after={after}&limit={PAGE}").get("rows")
        if not isinstance(rows, list) or not all(isinstance(each, dict) and "seq" in each for each in rows):
            raise FeedError(f"{self._url}/v1/events: the answer has no rows")
        return rows

    def price(self, market: str) -> str | None:
        """Return the price of YES in an open market, None when there is no such market. Raises :class:`FeedError`."""
        try:
            found = self._get(f"/v1/markets/{quote(market, safe='')}")
        except LookupError:
            return None
        return str(found["price_yes"]) if found.get("status") == "open" and "price_yes" in found else None

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _get(self, path: str) -> dict[str, Any]:
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    self._host.hostname or "", self._host.port, timeout=WAIT_S
                )
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
            raw = answer.read(_ANSWER_LIMIT)
            if answer.read(1):
                raise FeedError(f"GET {self._url}{path}: more than {_ANSWER_LIMIT} bytes")
            found = json.loads(raw)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise FeedError(f"GET {self._url}{path}: {type(error).__name__}: {error}") from None
        if answer.status == 404:
            raise LookupError(path)
        if answer.status != 200 or not isinstance(found, dict):
            raise FeedError(f"GET {self._url}{path}: {answer.status} {raw[:200]!r}")
        return found
