"""The release controller's SQLite file: one row of state, an audit row for every change, deploys, idempotency keys.

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

Gate = Literal["open", "blocked"]
Status = Literal["candidate", "stable", "reverted"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS state (
  one INTEGER PRIMARY KEY CHECK (one = 1), gate TEXT NOT NULL, status TEXT NOT NULL, stable INTEGER NOT NULL,
  candidate INTEGER NOT NULL, gate_reason TEXT NOT NULL, changed_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS audit (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, event TEXT NOT NULL, before TEXT NOT NULL,
  after TEXT NOT NULL, reason TEXT NOT NULL, idempotency_key TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS deploys (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, version TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS settings (
  name TEXT PRIMARY KEY, value TEXT NOT NULL, reason TEXT NOT NULL, changed_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS keys (
  key TEXT PRIMARY KEY, request TEXT NOT NULL, status INTEGER NOT NULL, answer TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class State:
    """What the controller holds; weights are percent and sum to 100."""

    gate: Gate
    status: Status
    stable: int
    candidate: int
    gate_reason: str
    changed_at: float


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that can be switched beside gate and status; ``value`` is plain JSON."""

    value: dict[str, Any]
    reason: str
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


@dataclass(frozen=True, slots=True)
class Kept:
    """What was answered under an idempotency key, and to what."""

    request: str
    status: int
    answer: dict[str, Any]


class Store:
    """The one writer of the controller's file."""

    def __init__(self, path: Path, now: float) -> None:
        """Open or create the file; a new one begins at rest: gate open, the candidate serves 100 %."""
        self._opened_at = now
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO state VALUES (1, 'open', 'candidate', 0, 100, '', ?)", (now,))
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
        row = self._db.execute("SELECT gate, status, stable, candidate, gate_reason, changed_at FROM state").fetchone()
        return State(*row)

    def put_state(self, state: State) -> None:
        """Write the state; call inside :meth:`transaction`."""
        self._db.execute(
            "UPDATE state SET gate = ?, status = ?, stable = ?, candidate = ?, gate_reason = ?, changed_at = ?",
            (state.gate, state.status, state.stable, state.candidate, state.gate_reason, state.changed_at),
        )

    def setting(self, name: str, at_rest: dict[str, Any]) -> Setting:
        """Return a setting; one that was never set is at rest since the file was opened."""
        row = self._db.execute("SELECT value, reason, changed_at FROM settings WHERE name = ?", (name,)).fetchone()
        return Setting(at_rest, "", self._opened_at) if row is None else Setting(json.loads(row[0]), row[1], row[2])

    def put_setting(self, name: str, setting: Setting) -> None:
        """Write a setting; call inside :meth:`transaction`."""
        self._db.execute(
            "INSERT OR REPLACE INTO settings VALUES (?, ?, ?, ?)",
            (name, json.dumps(setting.value), setting.reason, setting.changed_at),
        )

    def add_change(self, change: Change) -> None:
        """Append an audit row; call inside :meth:`transaction`."""
        self._db.execute(
            "INSERT INTO audit (at, event, before, after, reason, idempotency_key) VALUES (?, ?, ?, ?, ?, ?)",
            (
                change.at,
                change.event,
                json.dumps(change.before),
                json.dumps(change.after),
                change.reason,
                change.idempotency_key,
            ),
        )

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

    def add_deploy(self, version: str, at: float) -> int:
        """Record a deploy and return its id; call inside :meth:`transaction`."""
        cursor = self._db.execute("INSERT INTO deploys (at, version) VALUES (?, ?)", (at, version))
        if cursor.lastrowid is None:
            raise sqlite3.InternalError("the deploy got no number")
        return cursor.lastrowid

    def kept(self, key: str) -> Kept | None:
        """Return what was answered under an idempotency key."""
        row = self._db.execute("SELECT request, status, answer FROM keys WHERE key = ?", (key,)).fetchone()
        return None if row is None else Kept(row[0], row[1], json.loads(row[2]))

    def keep(self, key: str, kept: Kept) -> None:
        """Keep an answer under an idempotency key; call inside :meth:`transaction`."""
        self._db.execute(
            "INSERT INTO keys VALUES (?, ?, ?, ?)", (key, kept.request, kept.status, json.dumps(kept.answer))
        )
