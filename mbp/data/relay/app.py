"""The relay's HTTP face: health and metrics."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mbp._asgi import create_app
from mbp._trace import Tracing
from mbp.data.relay.relay import Watch
from mbp.events import TYPES

_EDGES = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)


class _Page(Collector):
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        watch = self._watch
        with watch.lock:
            counts, failed = dict(watch.events), dict(watch.failed)
            behind = max(0.0, watch.monotonic() - watch.caught_up)
        events = CounterMetricFamily("relay_events", "Events written to the hot tables.", labels=["type"])
        for kind in TYPES:
            events.add_metric([kind], counts.get(kind, 0))
        rounds = CounterMetricFamily("relay_failures", "Rounds that failed, by who did not answer.", labels=["where"])
        for where, count in failed.items():
            rounds.add_metric([where], count)
        yield from (events, rounds)
        yield CounterMetricFamily("relay_rejected", "Events put aside as invalid.", watch.rejected)
        yield CounterMetricFamily("relay_samples", "Quotes sampled.", watch.samples)
        yield GaugeMetricFamily("relay_lag_seconds", "Since no event was left behind at the engine.", behind)


def build(watch: Watch, thread: threading.Thread, stop: Callable[[], None], tracing: Tracing | None = None) -> FastAPI:
    """Return the app; ``thread`` runs while it runs and ends after ``stop``. The spans of ``tracing`` are counted."""
    registry = CollectorRegistry()
    registry.register(_Page(watch))
    if tracing is not None:
        tracing.export_to(registry)
    lag = Histogram(
        "relay_event_lag_seconds", "From an event's record at the engine until it was in the hot tables.",
        buckets=_EDGES, registry=registry,
    )  # fmt: skip
    watch.on_lag = lag.observe

    async def health() -> str | None:
        return "; ".join(f"{where}: {why}" for where, why in watch.trouble.items()) or None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        thread.start()
        try:
            yield
        finally:
            stop()
            await asyncio.to_thread(thread.join, 3.0)

    return create_app("relay", registry=registry, health=health, lifespan=lifespan)
