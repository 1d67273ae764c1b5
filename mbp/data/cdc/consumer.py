"""The consumer: reads the slot's stream, applies what is due, confirms what was applied, and comes back when it broke.

Runs on a thread of its own. The position that goes back to PostgreSQL is only ever one that is committed in the
warehouse, so whatever dies, nothing is lost; and the warehouse knows its position, so nothing is applied twice.
"""

from __future__ import annotations

import logging
import os
import re
import select
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import Any, cast

from psycopg2.extras import LogicalReplicationConnection, ReplicationCursor

from mbp._trace import Tracing
from mbp.data import schema
from mbp.data.cdc.line import Line
from mbp.data.cdc.pgoutput import Decoder, Transaction
from mbp.data.cdc.state import State
from mbp.data.cdc.warehouse import Warehouse

FEEDBACK_S = 0.75  # a client that says nothing for wal_sender_timeout is dropped; replay_lag is as old as the last word
ASK_AFTER_S = 2.0  # silence of the server after which it is asked for an answer
SILENT_S = 10.0  # silence after which the connection counts as dead
REST_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_TRACE_ID = re.compile(r"[0-9a-f]{32}")

log = logging.getLogger("mbp.data.cdc")


class Silent(Exception):
    """The server says nothing any more although it was asked."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Monotonic seconds and Unix seconds."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]


class Consumer:
    """One slot, from `source` into `warehouse` (two URLs of one database, unless something stands in between)."""

    def __init__(self, source: str, warehouse: str, line: Line, state: State, clocks: Clocks,
                 silent_s: float = SILENT_S, tracing: Tracing | None = None) -> None:  # fmt: skip
        """Nothing is opened before :meth:`run`."""
        self._tracing = tracing or Tracing("cdc")
        self._source, self._warehouse, self._line, self._state, self._clocks = source, warehouse, line, state, clocks
        self._silent_s = silent_s
        self._stop = Event()
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waker, False)

    def wake(self) -> None:
        """Let it look again at what is due; called when a fault came or went."""
        try:
            os.write(self._waker, b"!")
        except BlockingIOError:
            log.debug("it is being woken already")

    def stop(self) -> None:
        """End :meth:`run` soon."""
        self._stop.set()
        self.wake()

    def run(self) -> None:
        """Consume until stopped; every failure is said, waited out, and tried again from the confirmed position."""
        failures = 0
        while not self._stop.is_set():
            began = self._clocks.monotonic()
            try:
                self._session()
            except Exception as error:  # noqa: BLE001 - whatever broke it, the stream is taken up again
                why = f"{type(error).__name__}: {str(error).strip()}"
                self._state.lost(why)
                failures = 0 if self._clocks.monotonic() - began > SILENT_S else failures + 1
                log.warning("the stream broke (%s); again in %.1f s", why, rest := REST_S[min(failures, 4)])
                self._stop.wait(rest)

    def _session(self) -> None:
        self._line.clear()
        schema.migrate(self._warehouse)
        warehouse = Warehouse(schema.connect(self._warehouse), self._clocks.wall)
        try:
            schema.check_slot(warehouse.db)
            position, newest = warehouse.progress()
            stream = schema.connect(self._source, LogicalReplicationConnection)
            try:
                with closing(cast(ReplicationCursor, stream.cursor())) as cursor:
                    options = {"proto_version": "1", "publication_names": schema.PUBLICATION}
                    cursor.start_replication(
                        slot_name=schema.SLOT,
                        decode=False,
                        start_lsn=position,
                        options=options,
                    )
                    self._state.resumed(newest)
                    _Session(self, cursor, warehouse, position).run()
            finally:
                stream.close()
        finally:
            warehouse.close()


def traces(done: Transaction) -> dict[str, list[str]]:
    """Return the traces that the rows of a commit came from, each with the tables of its rows."""
    found: dict[str, list[str]] = {}
    for change in done.changes:
        trace_id = change.values.get("trace_id") or ""
        if _TRACE_ID.fullmatch(trace_id):  # a row that somebody wrote by hand may say anything
            found.setdefault(trace_id, []).append(change.table)
    return found


class _Session:
    """One life of the connection."""

    def __init__(self, owner: Consumer, cursor: ReplicationCursor, warehouse: Warehouse, position: int) -> None:
        self._owner, self._warehouse, self._position = owner, warehouse, position
        self._cursor: Any = cursor  # its types say less than it can
        self._line, self._state, self._clocks = owner._line, owner._state, owner._clocks
        self._decoder = Decoder()
        self._heard = self._said = self._clocks.monotonic()

    def run(self) -> None:
        while not self._owner._stop.is_set():
            self._read()
            if self._apply() or self._clocks.monotonic() - self._said >= FEEDBACK_S:
                self._feed_back()
            self._wait()

    def _read(self) -> None:
        """Read what has come, as long as there is room."""
        while not self._line.full or self._decoder.open is not None:
            message = self._cursor.read_message()
            if message is None:
                return
            done = self._decoder.feed(message.payload)
            if done is not None and done.end_lsn > self._position:
                self._line.put(done)

    def _apply(self) -> bool:
        """Apply what is due; say whether anything was. It pauses for feedback when there is much."""
        until, some = self._clocks.monotonic() + FEEDBACK_S, False
        while (due := self._line.due(self._clocks.wall())) and self._clocks.monotonic() < until:
            began = self._clocks.wall()
            results = self._warehouse.apply(due)
            self._position = due[-1].end_lsn
            self._line.done(len(due))
            for done, result in zip(due, results, strict=True):
                self._state.applied(done.commit_at, result)
                self._trace(done, began)
            some = True
        return some

    def _trace(self, done: Transaction, began: float) -> None:
        """Put a span into each trace that the rows of an applied commit came from."""
        for trace_id, names in traces(done).items():
            about: dict[str, str | float] = {
                "mbp.tables": " ".join(names),
                "mbp.commit_age_s": round(began - done.commit_at, 3),
            }
            self._owner._tracing.record("data.apply", trace_id, began, about)

    def _feed_back(self) -> None:
        """Say how far all is applied; when nothing waits, that is as far as the server says that it has sent."""
        if not len(self._line) and self._decoder.open is None:
            self._position = max(self._position, self._cursor.wal_end)
        now = self._clocks.monotonic()
        if self._line.full:
            self._heard = now  # we do not listen, so silence says nothing
        silence = now - self._heard
        if silence > self._owner._silent_s:
            raise Silent(f"nothing came for {silence:.0f} s")
        self._cursor.send_feedback(
            write_lsn=self._position, flush_lsn=self._position, apply_lsn=self._position,
            reply=silence > ASK_AFTER_S, force=True,
        )  # fmt: skip
        self._said = now

    def _wait(self) -> None:
        """Wait for a message, for a commit to become due, for the next feedback, or to be woken."""
        due_s = self._line.wait_s(self._clocks.wall())
        left_s = max(0.0, self._said + FEEDBACK_S - self._clocks.monotonic())
        wait_s = left_s if due_s is None else min(left_s, due_s)
        files: list[int] = [self._owner._woken]
        if not self._line.full:
            files.append(self._cursor.fileno())
        ready, _, _ = select.select(files, [], [], wait_s)
        if self._owner._woken in ready:
            os.read(self._owner._woken, 4096)
        if len(ready) > (self._owner._woken in ready):
            self._heard = self._clocks.monotonic()
