"""What is known about the consumer, shared by its threads: how far it is, how late, and what was put aside.

Three witnesses of the lag, each measured on its own: the lag of each event when it was applied, the freshness (age of
the newest commit applied), and what PostgreSQL says of its replication client. The last ten seconds of each are kept.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mbp.data.cdc.line import Line
from mbp.data.cdc.warehouse import Applied
from mbp.data.schema import HOT, TABLES

WINDOW_S = 10.0
_KEPT = 100_000  # samples of one witness, whatever comes

#: Edges close to the limit of the rule (120 s) and to the dose of the exercise (180 s).
_EDGES = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 90, 120, 150, 175, 180, 185, 200, 240, 300, 600)


class Recent:
    """The values of the last seconds."""

    def __init__(self) -> None:
        """Begin with none."""
        self._values: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def add(self, now: float, value: float) -> None:
        """Keep a value; ``now`` is monotonic."""
        self._values.append((now, value))
        while self._values and self._values[0][0] < now - WINDOW_S:
            self._values.popleft()

    def summary(self, now: float) -> dict[str, float | int | None]:
        """Return count, least, p95 (nearest rank), most and last of the window, rounded to milliseconds."""
        values = [value for at, value in self._values if at >= now - WINDOW_S]
        if not values:
            return {"count": 0, "min": None, "p95": None, "max": None, "last": None}
        ranked = sorted(values)
        p95 = ranked[min(len(ranked) - 1, -(-len(ranked) * 95 // 100) - 1)]
        shown = {"min": ranked[0], "p95": p95, "max": ranked[-1], "last": values[-1]}
        return {"count": len(values), **{name: round(value, 3) for name, value in shown.items()}}


class State:
    """All of it; every method may be called from any thread."""

    def __init__(self, line: Line, *, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        """Begin unconnected; ``monotonic`` and ``wall`` give seconds."""
        self._line, self._monotonic, self._wall = line, monotonic, wall
        self._lock = Lock()
        self._rows: Counter[str] = Counter()
        self._quarantined: Counter[str] = Counter()
        self._newest: float | None = None  # time of the newest commit applied
        self._events, self._fresh, self._replay = Recent(), Recent(), Recent()
        self._slot: dict[str, float] = {}
        self._reconnects = 0
        self.trouble: str | None = "not connected yet"
        self.registry = CollectorRegistry()
        self._lag = Histogram(
            "cdc_event_lag_seconds", "From a row's commit at the source until it was applied.", buckets=_EDGES,
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(_Page(self))

    def resumed(self, newest: float | None) -> None:
        """The stream was taken up where the warehouse stands: its newest commit is from ``newest``."""
        with self._lock:
            self._newest = newest if newest is not None else self._newest
            self.trouble = None

    def lost(self, why: str) -> None:
        """The stream broke, for this reason."""
        with self._lock:
            self.trouble = why
            self._reconnects += 1

    def applied(self, commit_at: float, result: Applied) -> None:
        """A transaction was applied."""
        now, lag = self._monotonic(), max(0.0, self._wall() - commit_at)
        with self._lock:
            self._rows += result.rows
            self._quarantined += result.quarantined
            self._newest = max(commit_at, self._newest or commit_at)
            self._events.add(now, lag)
        for _ in range(max(1, result.rows.total())):
            self._lag.observe(lag)

    def sampled(self, active: bool, replay_lag_s: float | None, slot_bytes: float) -> None:
        """PostgreSQL was asked about its client; ``replay_lag_s`` is None where it has none to tell."""
        now, freshness = self._monotonic(), self.freshness()
        with self._lock:
            self._slot = {"active": float(active), "bytes": slot_bytes}
            if replay_lag_s is not None:
                self._slot["replay_lag"] = replay_lag_s
                self._replay.add(now, replay_lag_s)
            if freshness is not None:
                self._fresh.add(now, freshness)

    def unsampled(self) -> None:
        """PostgreSQL could not be asked: nothing is known of the slot. The consumer's own age grows all the same."""
        now, freshness = self._monotonic(), self.freshness()
        with self._lock:
            self._slot = {}
            if freshness is not None:
                self._fresh.add(now, freshness)

    def freshness(self) -> float | None:
        """Return the age of the newest commit applied, now; None before the first."""
        return None if self._newest is None else max(0.0, self._wall() - self._newest)

    def shown(self) -> dict[str, Any]:
        """Return what `GET /lag` answers: the three witnesses over the last seconds, and how it stands."""
        fresh = self.freshness()
        with self._lock:
            now = self._monotonic()
            return {
                "window_s": WINDOW_S,
                "event_lag_s": self._events.summary(now),
                "freshness_s": self._fresh.summary(now),
                "replay_lag_s": self._replay.summary(now),
                "freshness_now_s": None if fresh is None else round(fresh, 3),
                "slot_active": bool(self._slot.get("active", 0)),
                "streaming": self.trouble is None,
                "queued": len(self._line),
                "queued_bytes": self._line.size,
                "rows": dict(self._rows),
                "quarantined": self._quarantined.total(),
            }

    def families(self) -> Iterator[Metric]:
        """Yield the metrics, computed at the moment of the scrape."""
        freshness = self.freshness()
        fresh = GaugeMetricFamily("cdc_freshness_seconds", "Age of the newest commit applied.", labels=["table"])
        for table in HOT if freshness is not None else ():
            # The heartbeat is behind all that was committed before it, in whichever table: one age for all.
            fresh.add_metric([table], freshness or 0.0)
        rows = CounterMetricFamily("cdc_rows_applied", "Rows applied, by table.", labels=["table"])
        aside = CounterMetricFamily("cdc_rows_quarantined", "Rows put aside as invalid, by table.", labels=["table"])
        with self._lock:
            for table in TABLES:
                rows.add_metric([table], self._rows[table])
                aside.add_metric([table], self._quarantined[table])
            slot, trouble, reconnects = dict(self._slot), self.trouble, self._reconnects
        yield from (fresh, rows, aside)
        yield GaugeMetricFamily("cdc_streaming", "1 while the stream is being read.", float(trouble is None))
        yield CounterMetricFamily("cdc_reconnects", "Times that the stream broke.", reconnects)
        yield GaugeMetricFamily("cdc_queued_bytes", "Bytes that were read and not yet applied.", self._line.size)
        yield GaugeMetricFamily("cdc_queued_commits", "Commits that were read and not yet applied.", len(self._line))
        for name, key, text in (
            ("cdc_slot_active", "active", "1 while the slot is in use, as PostgreSQL says."),
            ("cdc_slot_lag_bytes", "bytes", "Log that the slot holds back."),
            ("cdc_replay_lag_seconds", "replay_lag", "replay_lag in pg_stat_replication."),
        ):
            if key in slot:
                yield GaugeMetricFamily(name, text, slot[key])


class _Page(Collector):
    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        yield from self._state.families()
