"""The decision API's way to PostgreSQL: a few connections in threads of their own, every wait bounded on our side.

libpq waits as long as the other side likes once a connection is open: a slow or black-holed network has no time-out of
the server. So each connection is used without blocking, and whoever waits longer than `TOTAL_S` for connecting and
answering together gives up and closes it. What cannot be had is a 503 with Retry-After, never a queue that grows.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from psycopg2.extensions import POLL_OK, POLL_READ

from mbp._asgi import ApiError

TOTAL_S = 1.0
THREADS, WAITING = 4, 16
OUTCOMES = ("ok", "late", "failed", "busy")
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_RETRY = {"Retry-After": "1"}

Rows = list[tuple[Any, ...]]


class Late(Exception):
    """The database did not answer in time."""


class _Connection:
    """One connection, used by one thread at a time."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url, self._clock = url, clock
        self._db: Any = None

    def ask(self, sql: str, values: Sequence[object], until: float) -> Rows:
        """Return the rows. A kept connection that turns out to be broken is replaced once: it is only read here.

        Raises `Late` and `psycopg2.Error`; the connection is closed then.
        """
        kept = self._db is not None
        try:
            return self._asked(sql, values, until)
        except psycopg2.Error:
            self.close()
            if not kept:
                raise
        except BaseException:
            self.close()
            raise
        try:
            return self._asked(sql, values, until)
        except BaseException:
            self.close()
            raise

    def _asked(self, sql: str, values: Sequence[object], until: float) -> Rows:
        if self._db is None:
            options = f"-c statement_timeout={round(TOTAL_S * 1000)} -c default_transaction_read_only=on"
            self._db = psycopg2.connect(self._url, async_=1, options=options, application_name="dec")
            self._wait(until)
        with self._db.cursor() as cursor:
            cursor.execute(sql, tuple(values))
            self._wait(until)
            found: Rows = cursor.fetchall()
            return found

    def _wait(self, until: float) -> None:
        while (state := self._db.poll()) != POLL_OK:
            left_s = until - self._clock()
            file = [self._db.fileno()]
            read, write = (file, []) if state == POLL_READ else ([], file)
            if left_s <= 0 or not any(select.select(read, write, [], left_s)):
                raise Late

    def close(self) -> None:
        """Let go of the connection; the next question opens another."""
        if self._db is not None:
            self._db.close()
            self._db = None


class Database:
    """Asks PostgreSQL. `url` None: the service has no database, and says so with each question."""

    def __init__(
        self, url: str | None, release: str, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make the series; nothing is opened before the first question."""
        self._url, self._clock = url, clock
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="database")
        self._idle: list[_Connection] = []
        self._asked = 0
        outcomes = Counter(
            "dec_database_requests", "Questions to PostgreSQL, by outcome.", ["release", "outcome"], registry=registry
        )
        self._outcomes = {name: outcomes.labels(release, name) for name in OUTCOMES}
        self._seconds = Histogram(
            "dec_database_seconds", "Seconds that a question to PostgreSQL took, answered or not.", ["release"],
            buckets=_BUCKETS, registry=registry,
        ).labels(release)  # fmt: skip
        waiting = Gauge("dec_database_waiting", "Questions to PostgreSQL in hand.", ["release"], registry=registry)
        waiting.labels(release).set_function(lambda: self._asked)

    async def ask(self, sql: str, values: Sequence[object]) -> Rows:
        """Return the rows of a read. Raises `ApiError`: 503 with Retry-After, whatever stood in the way."""
        if self._asked >= THREADS + WAITING:
            self._outcomes["busy"].inc()
            raise ApiError(503, "database_busy", f"{self._asked} questions wait for the database already", _RETRY)
        began, outcome = self._clock(), "failed"
        self._asked += 1
        try:
            rows = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._work, sql, values, began + TOTAL_S
            )
            outcome = "ok"
            return rows
        except Late:
            outcome = "late"
            text = f"the database did not answer within {TOTAL_S:g} s"
            raise ApiError(503, "database_unavailable", text, _RETRY) from None
        except psycopg2.Error as error:
            text = f"the database cannot be asked: {type(error).__name__}"
            raise ApiError(503, "database_unavailable", text, _RETRY) from error
        finally:
            self._asked -= 1
            self._outcomes[outcome].inc()
            self._seconds.observe(self._clock() - began)

    def _work(self, sql: str, values: Sequence[object], until: float) -> Rows:
        if self._url is None:
            raise psycopg2.OperationalError("no database is configured")
        if self._clock() >= until:
            raise Late
        connection = self._idle.pop() if self._idle else _Connection(self._url, self._clock)
        try:
            return connection.ask(sql, values, until)
        finally:
            self._idle.append(connection)

    async def close(self) -> None:
        """Wait for what is being asked (it is bounded), and close every connection."""
        await asyncio.to_thread(self._threads.shutdown)
        while self._idle:
            self._idle.pop().close()
