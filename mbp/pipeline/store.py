"""The pipeline's SQLite file: its two switches, an audit row for every change and every refusal, deploys, keys.

A change, its audit row and its idempotency key are one transaction, in the kernel before the answer is given.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Name = Literal["pipeline", "merge"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS switches (
  name TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, changed_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS audit (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, event TEXT NOT NULL, before TEXT NOT NULL,
  after TEXT NOT NULL, reason TEXT NOT NULL, idempotency_key TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS deploys (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, component TEXT NOT NULL, version TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS merges (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, change TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch: pipeline running or halted, merge gate open or blocked; since when (Unix seconds) and why."""

    state: str
    reason: str
    changed_at: float


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the audit; `before` and `after` are what was changed (both as asked for, of a refusal)."""

    at: float
    event: str
    before: dict[str, Any]
    after: dict[str, Any]
    reason: str
    idempotency_key: str | None


class Store:
    """The one writer of the pipeline's file."""

    def __init__(self, path: Path, now: float) -> None:
        """Open or create the file; a new one begins at rest: the pipeline runs, the merge gate is open."""
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
            for name, state in (("pipeline", "running"), ("merge", "open")):
                self._db.execute("INSERT OR IGNORE INTO switches VALUES (?, ?, '', ?)", (name, state, now))
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
            self._db.execute("UPDATE switches SET state = state WHERE 0")

    def switch(self, name: Name) -> Switch:
        """Return a switch."""
        row = self._db.execute("SELECT state, reason, changed_at FROM switches WHERE name = ?", (name,)).fetchone()
        return Switch(*row)

    def put_switch(self, name: Name, switch: Switch) -> None:
        """Write a switch; call inside :meth:`transaction`."""
        self._db.execute(
            "UPDATE switches SET state = ?, reason = ?, changed_at = ? WHERE name = ?",
            (switch.state, switch.reason, switch.changed_at, name),
        )

    def add_change(self, change: Change) -> None:
        """Append an audit row; call inside :meth:`transaction`."""
        self._db.execute(
            "INSERT INTO audit (at, event, before, after, reason, idempotency_key) VALUES (?, ?, ?, ?, ?, ?)",
            (change.at, change.event, json.dumps(change.before), json.dumps(change.after), change.reason,
             change.idempotency_key),
        )  # fmt: skip

    def changes(self, after: int, limit: int) -> list[tuple[int, Change]]:
        """Return at most `limit` audit rows with seq > `after`, in order."""
        rows = self._db.execute(
            "SELECT seq, at, event, before, after, reason, idempotency_key FROM audit WHERE seq > ? ORDER BY seq "
            "LIMIT ?",
            (after, limit),
        )
        return [
            (seq, Change(at, event, json.loads(before), json.loads(later), reason, key))
            for seq, at, event, before, later, reason, key in rows
        ]

    def add_deploy(self, component: str, version: str, at: float) -> int:
        """Record a deploy and return its id; call inside :meth:`transaction`."""
        found = self._db.execute(
            "INSERT INTO deploys (at, component, version) VALUES (?, ?, ?)", (at, component, version)
        )
        return _number(found)

    def add_merge(self, change: str, at: float) -> int:
        """Record a merge and return its id; call inside :meth:`transaction`."""
        return _number(self._db.execute("INSERT INTO merges (at, change) VALUES (?, ?)", (at, change)))

    def kept(self, key: str) -> tuple[str, dict[str, Any]] | None:
        """Return the request and the answer kept under an idempotency key."""
        row = self._db.execute("SELECT request, answer FROM keys WHERE key = ?", (key,)).fetchone()
        return None if row is None else (row[0], json.loads(row[1]))

    def keep(self, key: str, request: str, answer: dict[str, Any]) -> None:
        """Keep an answer under an idempotency key; call inside :meth:`transaction`."""
        self._db.execute("INSERT INTO keys VALUES (?, ?, ?)", (key, request, json.dumps(answer)))


def _number(cursor: sqlite3.Cursor) -> int:
    if cursor.lastrowid is None:
        raise sqlite3.InternalError("the row got no number")
    return cursor.lastrowid
