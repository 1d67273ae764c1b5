"""Quotes that were computed a moment ago are answered again: bounded in number and age, dropped by a swap.

Fresh (at most 250 ms old) in normal service; in degraded service any that is kept is good enough, and the engine is
asked only when there is none. What changes a market through this process drops that market's quotes, also those that
are being computed while it does; a change through another process is seen when the quote is no longer fresh.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Response
from prometheus_client import CollectorRegistry, Counter, Gauge

ENTRIES = 1024
FRESH_S = 0.25
OLDEST_S = 300.0
AGE = "X-MBP-Quote-Age"


@dataclass(slots=True)
class _Asked:
    """A quote that is being computed; stale as soon as its market changes meanwhile."""

    stale: bool = False


class QuoteCache:
    """The quotes by market and request, least recently used first. Not for threads: it belongs to one event loop."""

    def __init__(self, clock: Callable[[], float], entries: int = ENTRIES, oldest_s: float = OLDEST_S) -> None:
        """Keep at most ``entries``, none older than ``oldest_s``; ``clock`` is monotonic seconds."""
        self._clock, self._entries, self._oldest_s = clock, entries, oldest_s
        self._kept: OrderedDict[tuple[str, bytes], tuple[bytes, float]] = OrderedDict()
        self._of_market: dict[str, set[bytes]] = {}
        self._asked: dict[str, list[_Asked]] = {}
        self.evicted: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._kept)

    def get(self, market: str, request: bytes, at_most_s: float) -> tuple[bytes, float] | None:
        """Return the quote and its age in seconds, if there is one that is at most ``at_most_s`` old."""
        found = self._kept.get((market, request))
        if found is None:
            return None
        age = self._clock() - found[1]
        if age > self._oldest_s:
            self._drop(market, request)
            self.evicted()
            return None
        if age > at_most_s:
            return None
        self._kept.move_to_end((market, request))
        return found[0], age

    def put(self, market: str, request: bytes, body: bytes, asked_at: float) -> None:
        """Keep a quote that was asked for at ``asked_at``, and let go of the least recently used past the bound."""
        self._kept[market, request] = body, asked_at
        self._kept.move_to_end((market, request))
        self._of_market.setdefault(market, set()).add(request)
        while len(self._kept) > self._entries:
            self._drop(*next(iter(self._kept)))
            self.evicted()

    def forget(self, market: str) -> None:
        """Drop a market's quotes, and mark those that are being computed."""
        for request in list(self._of_market.get(market, ())):
            self._drop(market, request)
        for asked in self._asked.get(market, ()):
            asked.stale = True

    def _drop(self, market: str, request: bytes) -> None:
        del self._kept[market, request]
        self._of_market[market].discard(request)
        if not self._of_market[market]:
            del self._of_market[market]

    @contextmanager
    def asking(self, market: str) -> Iterator[_Asked]:
        """Hold while a quote of ``market`` is computed; it says whether the market changed meanwhile."""
        asked = _Asked()
        self._asked.setdefault(market, []).append(asked)
        try:
            yield asked
        finally:
            self._asked[market].remove(asked)
            if not self._asked[market]:
                del self._asked[market]

    def now(self) -> float:
        """Return the monotonic second."""
        return self._clock()


class Quotes:
    """Answers quotes from the cache, and counts."""

    def __init__(self, cache: QuoteCache, release: str, registry: CollectorRegistry) -> None:
        """Use ``cache``; the series are those of ``release``."""
        self._cache = cache
        looks = Counter("dec_quote_cache", "Quotes looked up.", ["release", "outcome"], registry=registry)
        self._hits, self._misses = looks.labels(release, "hit"), looks.labels(release, "miss")
        evictions = Counter(
            "dec_quote_cache_evictions", "Quotes let go for room or age.", ["release"], registry=registry
        )
        cache.evicted = evictions.labels(release).inc
        entries = Gauge("dec_quote_cache_entries", "Quotes kept.", ["release"], registry=registry)
        entries.labels(release).set_function(lambda: len(cache))

    async def answer(
        self, market: str, request: bytes, compute: Callable[[], Awaitable[Response]], *, degraded: bool
    ) -> Response:
        """Return a kept quote that is good enough, else compute one; its age is on it, in seconds."""
        kept = self._cache.get(market, request, OLDEST_S if degraded else FRESH_S)
        if kept is not None:
            self._hits.inc()
            return Response(kept[0], media_type="application/json", headers={AGE: f"{kept[1]:.3f}"})
        self._misses.inc()
        with self._cache.asking(market) as asked:
            asked_at = self._cache.now()
            answer = await compute()
        if answer.status_code == 200:
            answer.headers[AGE] = "0.000"
            if not asked.stale:
                self._cache.put(market, request, bytes(answer.body), asked_at)
        return answer

    @contextmanager
    def changing(self, market: str) -> Iterator[None]:
        """Hold while a market is changed, whatever comes of it: its quotes before then are no longer true."""
        try:
            yield
        finally:
            self._cache.forget(market)
