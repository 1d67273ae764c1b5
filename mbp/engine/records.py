"""What the engine's file keeps beside markets and swaps: events for others to read, changes, flags, idempotency keys.

All of it is written inside the transaction of the change that it belongs to (`transaction` of the store): either the
change, its event and its audit row are there, or none is.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from mbp import events
from mbp._store import Keys
from mbp.events import EventType

RECORDS = """
CREATE TABLE IF NOT EXISTS events (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, subject TEXT NOT NULL,
  at REAL NOT NULL, recorded_at REAL NOT NULL, trace_id TEXT, data TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS events_subject ON events (subject, seq);
CREATE TABLE IF NOT EXISTS changes (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
  event TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL, reason TEXT NOT NULL, idempotency_key TEXT,
  trace_id TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS changes_kind ON changes (kind, seq);
CREATE TABLE IF NOT EXISTS flags (
  name TEXT PRIMARY KEY, is_on INTEGER NOT NULL, reason TEXT NOT NULL, changed_at REAL NOT NULL
) STRICT;
"""

Kind = Literal["flag", "market"]


@dataclass(frozen=True, slots=True)
class Happening:
    """An event before it is stored; ``at`` is when it happened by its stamp (Unix seconds)."""

    type: EventType
    subject: str
    at: float
    data: dict[str, Any]
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class EventRow:
    """A stored event; ``seq`` is the order of commit."""

    seq: int
    id: str
    recorded_at: float
    event: Happening


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the audit of flags and markets; ``before`` and ``after`` are what was changed."""

    at: float
    kind: Kind
    subject: str
    event: str
    before: dict[str, Any]
    after: dict[str, Any]
    reason: str
    key: str | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class FlagRow:
    """The last change of a flag."""

    name: str
    on: bool
    reason: str
    changed_at: float


class Records(Keys):
    """Reads and writes these tables over the store's one connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Use ``db``, and count the events that are there."""
        self._db = db
        self._pending: Counter[str] = Counter()
        self.counts: Counter[str] = Counter(dict.fromkeys(events.TYPES, 0))
        self.counts.update(dict(db.execute("SELECT type, count(*) FROM events GROUP BY type")))

    def settle(self, committed: bool) -> None:
        """Count what the transaction wrote, or forget it; the store calls this at its end."""
        if committed:
            self.counts.update(self._pending)
        self._pending.clear()

    def add_event(self, event: Happening, recorded_at: float) -> None:
        """Append an event; call inside a transaction. Raises :class:`mbp.events.EventInvalid`, which undoes it all."""
        events.validate(event.type, event.data)
        self._db.execute(
            "INSERT INTO events (id, type, subject, at, recorded_at, trace_id, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                str(uuid.uuid4()),
                event.type,
                event.subject,
                event.at,
                recorded_at,
                event.trace_id,
                json.dumps(event.data, ensure_ascii=False, separators=(",", ":")),
            ),
        )
        self._pending[event.type] += 1

    def events(self, subject: str | None, after: int, limit: int) -> list[EventRow]:
        """Return at most ``limit`` events with seq > ``after``, in order of commit, of one market or of all."""
        where, values = ("", ()) if subject is None else ("AND subject = ?", (subject,))
        query = (
            "SELECT seq, id, recorded_at, type, subject, at, data, trace_id FROM events "  # noqa: S608
            f"WHERE seq > ? {where} ORDER BY seq LIMIT ?"
        )
        return [
            EventRow(seq, name, recorded_at, Happening(kind, subject_, at, json.loads(data), trace_id))
            for seq, name, recorded_at, kind, subject_, at, data, trace_id in self._db.execute(
                query, (after, *values, limit)
            )
        ]

    def add_change(self, change: Change) -> None:
        """Append an audit row; call inside a transaction."""
        self._db.execute(
            "INSERT INTO changes (at, kind, subject, event, before, after, reason, idempotency_key, trace_id) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                change.at,
                change.kind,
                change.subject,
                change.event,
                json.dumps(change.before),
                json.dumps(change.after),
                change.reason,
                change.key,
                change.trace_id,
            ),
        )

    def changes(self, kind: Kind, subject: str | None, after: int, limit: int) -> list[tuple[int, Change]]:
        """Return at most ``limit`` audit rows of a kind with seq > ``after``, in order, of one subject or of all."""
        where, values = ("", ()) if subject is None else ("AND subject = ?", (subject,))
        query = (
            "SELECT seq, at, kind, subject, event, before, after, reason, idempotency_key, trace_id "  # noqa: S608
            f"FROM changes WHERE kind = ? AND seq > ? {where} ORDER BY seq LIMIT ?"
        )
        return [
            (seq, Change(at, kind_, subject_, event, json.loads(old), json.loads(new), reason, key, trace_id))
            for seq, at, kind_, subject_, event, old, new, reason, key, trace_id in self._db.execute(
                query, (kind, after, *values, limit)
            )
        ]

    def flags(self) -> list[FlagRow]:
        """Return every flag that was ever changed."""
        rows = self._db.execute("SELECT name, is_on, reason, changed_at FROM flags")
        return [FlagRow(name, bool(on), reason, changed_at) for name, on, reason, changed_at in rows]

    def put_flag(self, row: FlagRow) -> None:
        """Write a flag as it now stands; call inside a transaction."""
        self._db.execute(
            "INSERT OR REPLACE INTO flags VALUES (?, ?, ?, ?)", (row.name, int(row.on), row.reason, row.changed_at)
        )
