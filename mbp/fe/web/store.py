"""The front end's SQLite file: one row of state, an audit row for every change, deploys, idempotency keys.

A change, its audit row and its idempotency key are one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Status = Literal["candidate", "stable", "reverted"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS state (
  one INTEGER PRIMARY KEY CHECK (one = 1), status TEXT NOT NULL, version TEXT NOT NULL, changed_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS audit (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, event TEXT NOT NULL, before TEXT NOT NULL,
  after TEXT NOT NULL, reason TEXT NOT NULL, idempotency_key TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class State:
    """Which bundle is served, and the version that was deployed last; `changed_at` is Unix seconds."""

    status: Status
    version: str
    changed_at: float


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the audit; ``before`` and ``after`` are what was changed."""

    at: float
    event: str
    before: dict[str, Any]
    after: dict[str, Any]
    reason: str
    idempotency_key: str | None


class Store:
    """The one writer of the file."""

    def __init__(self, path: Path, now: float) -> None:
        """Open or create the file; a new one begins at rest: the candidate is served."""
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO state VALUES (1, 'candidate', '1', ?)", (now,))
        except sqlite3.Error:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block as one transaction: all of it or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def probe(self) -> None:
        """Raise sqlite3.Error when the file does not take a write."""
        with self.transaction():
            self._db.execute("UPDATE state SET one = 1")

    def state(self) -> State:
        """Return the state."""
        return State(*self._db.execute("SELECT status, version, changed_at FROM state").fetchone())

    def put_state(self, state: State) -> None:
        """Write the state; call inside :meth:`transaction`."""
        self._db.execute(
            "UPDATE state SET status = ?, version = ?, changed_at = ?", (state.status, state.version, state.changed_at)
        )

    def add_change(self, change: Change) -> int:
        """Append an audit row and return its number; call inside :meth:`transaction`."""
        before, after = json.dumps(change.before), json.dumps(change.after)
        values = (change.at, change.event, before, after, change.reason, change.idempotency_key)
        (seq,) = self._db.execute(
            "INSERT INTO audit (at, event, before, after, reason, idempotency_key) VALUES (?, ?, ?, ?, ?, ?) "
            "RETURNING seq",
            values,
        ).fetchone()
        return int(seq)

    def changes(self, after: int, limit: int) -> list[tuple[int, Change]]:
        """Return at most ``limit`` audit rows with seq > ``after``, in order."""
        rows = self._db.execute(
            "SELECT seq, at, event, before, after, reason, idempotency_key FROM audit WHERE seq > ? ORDER BY seq "
            "LIMIT ?",
            (after, limit),
        )
        return [
            (seq, Change(at, event, json.loads(before), json.loads(later), reason, key))
            for seq, at, event, before, later, reason, key in rows
        ]

    def kept(self, key: str) -> tuple[str, dict[str, Any]] | None:
        """Return the request and the answer that were kept under an idempotency key."""
        row = self._db.execute("SELECT request, answer FROM keys WHERE key = ?", (key,)).fetchone()
        return None if row is None else (row[0], json.loads(row[1]))

    def keep(self, key: str, request: str, answer: dict[str, Any]) -> None:
        """Keep an answer under an idempotency key; call inside :meth:`transaction`."""
        self._db.execute("INSERT INTO keys VALUES (?, ?, ?)", (key, request, json.dumps(answer)))
