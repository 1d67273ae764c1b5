"""The relay's work: one round is one transaction of rows, cursor, heartbeat and sample, so nothing is there by halves.

The cursor is in the database, in the same transaction as the rows: a relay that was killed goes on where its last
commit was, and an event is there once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from threading import Event, Lock
from typing import Any

from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from mbp._trace import Tracing
from mbp.data import schema
from mbp.data.relay.feed import PAGE, Feed, FeedError
from mbp.data.relay.rows import COLUMNS, MARKET_COLUMNS, Batch, batch

EVERY_S = 0.5
BEAT_S = 1.0
REST_S = (0.1, 0.2, 0.5, 1.0, 2.0)

_KEPT = ("question", "price_yes", "opened_at", "resolved")  # what an event does not say stays as it was
_SET = ", ".join(
    f"{name} = coalesce(EXCLUDED.{name}, m.{name})" if name in _KEPT else f"{name} = EXCLUDED.{name}"
    for name in MARKET_COLUMNS.split(", ")[1:]
)
_MARKETS = f"INSERT INTO mbp_markets AS m ({MARKET_COLUMNS}) VALUES %s ON CONFLICT (market) DO UPDATE SET {_SET}"  # noqa: S608 - our own names

log = logging.getLogger("mbp.data.relay")


class Watch:
    """What is known of the relay, for its metrics and health; used by two threads."""

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        """Begin with nothing relayed."""
        self.monotonic, self.wall = monotonic, wall
        self.lock = Lock()
        self.events: dict[str, int] = {}
        self.rejected = 0
        self.samples = 0
        self.failed = {"engine": 0, "postgres": 0}
        self.trouble: dict[str, str] = {"postgres": "not connected yet"}
        self.caught_up = monotonic()  # when nothing was left behind, last
        self.on_lag: Callable[[float], None] = lambda _: None

    def failure(self, where: str, why: str) -> None:
        """A round could not be done."""
        with self.lock:
            self.failed[where] += 1
            self.trouble[where] = why

    def well(self, where: str) -> None:
        """It answers (again)."""
        with self.lock:
            self.trouble.pop(where, None)


class Relay:
    """Reads ``feed``, writes to the database at ``url``; `run` it on a thread of its own."""

    def __init__(
        self, url: str, feed: Feed, sample: Sequence[str], watch: Watch, tracing: Tracing | None = None
    ) -> None:
        """Sample the prices of the markets ``sample`` once a second."""
        self._tracing = tracing or Tracing("relay")
        self._url, self._feed, self._sample, self._watch = url, feed, sample, watch
        self._stop = Event()
        self._beat_at = 0.0
        self._engine_rest = 0.0  # until then the engine is not asked again
        self._failures = 0

    def stop(self) -> None:
        """End :meth:`run` soon."""
        self._stop.set()

    def run(self) -> None:
        """Relay until stopped, whatever is away meanwhile."""
        failures = 0
        while not self._stop.is_set():
            try:
                self._session()
            except Exception as error:  # noqa: BLE001 - whatever broke it, it is tried again
                why = f"{type(error).__name__}: {str(error).strip()}"
                self._watch.failure("postgres", why)
                log.warning("PostgreSQL: %s; again in %.1f s", why, REST_S[min(failures, 4)])
                self._stop.wait(REST_S[min(failures, 4)])
                failures += 1
            else:
                failures = 0
        self._feed.close()

    def _session(self) -> None:
        schema.migrate(self._url)
        db = schema.connect(self._url)
        try:
            with db, db.cursor() as cursor:
                cursor.execute("SELECT seq, coalesce((SELECT beat FROM mbp_heartbeat), 0) FROM relay_cursor")
                after, _ = cursor.fetchone() or (0, 0)
            self._watch.well("postgres")
            while not self._stop.is_set():
                began = self._watch.monotonic()
                after, more = self.round(db, after)
                if not more:
                    self._stop.wait(max(0.0, began + EVERY_S - self._watch.monotonic()))
        finally:
            db.close()

    def round(self, db: Connection, after: int) -> tuple[int, bool]:
        """Relay what came behind ``after``; return how far it is now, and whether there is more to fetch at once."""
        now = self._watch.monotonic()
        events, answered = self._events(after, now)
        prices = self._prices() if answered and now - self._beat_at >= BEAT_S else []
        beat = now - self._beat_at >= BEAT_S
        if not events and not beat:
            self._caught_up(answered)
            return after, False
        made, began = batch(events), self._watch.wall()
        with db, db.cursor() as cursor:
            cursor.execute("SELECT seq FROM relay_cursor WHERE id = 1 FOR UPDATE")
            there = int((cursor.fetchone() or (0,))[0])
            if there != after:  # another relay was here: what we hold is its already
                return there, True
            if events:
                _write(cursor, made, self._watch.wall())
                after = int(events[-1]["seq"])
                cursor.execute("UPDATE relay_cursor SET seq = %s WHERE id = 1", (after,))
            if beat:
                self._write_beat(cursor, prices)
        if beat:
            self._beat_at = now
        self._count(events, made, len(prices))
        self._trace(events, began)
        more = len(events) >= PAGE
        if not more:
            self._caught_up(answered)
        return after, more

    def _events(self, after: int, now: float) -> tuple[list[dict[str, Any]], bool]:
        if now < self._engine_rest:
            return [], False
        try:
            events = self._feed.events(after)
        except (FeedError, LookupError) as error:
            self._watch.failure("engine", str(error))
            log.warning("engine: %s", error)
            self._failures += 1
            self._engine_rest = self._watch.monotonic() + REST_S[min(self._failures, 4)]
            return [], False
        self._failures = 0
        self._watch.well("engine")
        return events, True

    def _prices(self) -> list[tuple[str, str]]:
        found = []
        try:
            for market in self._sample:
                price = self._feed.price(market)
                if price is not None:
                    found.append((market, price))
        except FeedError as error:
            self._watch.failure("engine", str(error))
        return found

    def _write_beat(self, cursor: Cursor, prices: list[tuple[str, str]]) -> None:
        wall = self._watch.wall()
        cursor.execute(
            "INSERT INTO mbp_heartbeat VALUES (1, 1, to_timestamp(%s)) "
            "ON CONFLICT (id) DO UPDATE SET beat = mbp_heartbeat.beat + 1, at = EXCLUDED.at",
            (wall,),
        )
        if prices:
            rows = [(market, wall, price) for market, price in prices]
            execute_values(
                cursor, "INSERT INTO mbp_quotes (market, at, price_yes, source) VALUES %s", rows,
                "(%s, to_timestamp(%s), %s, 'sample')",
            )  # fmt: skip

    def _count(self, events: list[dict[str, Any]], made: Batch, samples: int) -> None:
        watch, wall = self._watch, self._watch.wall()
        with watch.lock:
            for kind, count in made.types.items():
                watch.events[kind] = watch.events.get(kind, 0) + count
            watch.rejected += len(made.rejected)
            watch.samples += samples
        for event in events:
            watch.on_lag(max(0.0, wall - stamp(event["recorded_at"])))

    def _trace(self, events: list[dict[str, Any]], began: float) -> None:
        """Put a span for each event that is in the database now into the trace that it came from."""
        for event in events:
            about = {"mbp.type": event["type"], "mbp.seq": int(event["seq"])}
            self._tracing.record("int.relay", event["trace_id"], began, about)

    def _caught_up(self, answered: bool) -> None:
        if answered:
            with self._watch.lock:
                self._watch.caught_up = self._watch.monotonic()


def stamp(text: str) -> float:
    """Return Unix seconds of an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp()


def _write(cursor: Cursor, made: Batch, wall: float) -> None:
    for table, rows in made.inserts.items():
        if rows:
            execute_values(cursor, f"INSERT INTO {table} ({COLUMNS[table]}) VALUES %s", rows)  # noqa: S608 - our own names
    if made.markets:
        execute_values(cursor, _MARKETS, list(made.markets.values()))
    if made.rejected:
        execute_values(
            cursor, "INSERT INTO relay_rejected (seq, at, event, error) VALUES %s",
            [(seq, wall, event, why[:2000]) for seq, event, why in made.rejected],
            "(%s, to_timestamp(%s), %s, %s)",
        )  # fmt: skip
