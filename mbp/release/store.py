"""The release controller's SQLite file: one row of state, settings, deploys, and :mod:`mbp._store`'s audit and keys."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mbp._store import AuditedStore, row_number

Gate = Literal["open", "blocked"]
Status = Literal["candidate", "stable", "reverted"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS state (
  one INTEGER PRIMARY KEY CHECK (one = 1), gate TEXT NOT NULL, status TEXT NOT NULL, stable INTEGER NOT NULL,
  candidate INTEGER NOT NULL, gate_reason TEXT NOT NULL, changed_at REAL NOT NULL
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


class Store(AuditedStore):
    """The one writer of the controller's file."""

    PROBE = "UPDATE state SET one = 1"

    def __init__(self, path: Path, now: float) -> None:
        """Open or create the file; a new one begins at rest: gate open, the candidate serves 100 %."""
        self._opened_at = now
        at_rest = "INSERT OR IGNORE INTO state VALUES (1, 'open', 'candidate', 0, 100, '', ?)"
        super().__init__(path, SCHEMA, [(at_rest, (now,))])

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

    def add_deploy(self, version: str, at: float) -> int:
        """Record a deploy and return its id; call inside :meth:`transaction`."""
        return row_number(self._db.execute("INSERT INTO deploys (at, version) VALUES (?, ?)", (at, version)))

    def keep(self, key: str, request: str, answer: dict[str, Any]) -> None:
        """Keep an answer under an idempotency key, with its HTTP status; call inside :meth:`transaction`."""
        status = 201 if request.startswith("deploy ") else 200
        self._db.execute("INSERT INTO keys VALUES (?, ?, ?, ?)", (key, request, status, json.dumps(answer)))
