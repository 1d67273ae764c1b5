"""The pipeline's SQLite file: its two switches, deploys, merges, and :mod:`mbp._store`'s audit and keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mbp._store import AuditedStore, row_number

Name = Literal["pipeline", "merge"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS switches (
  name TEXT PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, changed_at REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS deploys (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, component TEXT NOT NULL, version TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS merges (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, change TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch: pipeline running or halted, merge gate open or blocked; since when (Unix seconds) and why."""

    state: str
    reason: str
    changed_at: float


class Store(AuditedStore):
    """The one writer of the pipeline's file. The audit has a row for every change and every refusal."""

    PROBE = "UPDATE switches SET state = state WHERE 0"

    def __init__(self, path: Path, now: float) -> None:
        """Open or create the file; a new one begins at rest: the pipeline runs, the merge gate is open."""
        at_rest = "INSERT OR IGNORE INTO switches VALUES (?, ?, '', ?)"
        super().__init__(path, SCHEMA, [(at_rest, ("pipeline", "running", now)), (at_rest, ("merge", "open", now))])

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

    def add_deploy(self, component: str, version: str, at: float) -> int:
        """Record a deploy and return its id; call inside :meth:`transaction`."""
        found = self._db.execute(
            "INSERT INTO deploys (at, component, version) VALUES (?, ?, ?)", (at, component, version)
        )
        return row_number(found)

    def add_merge(self, change: str, at: float) -> int:
        """Record a merge and return its id; call inside :meth:`transaction`."""
        return row_number(self._db.execute("INSERT INTO merges (at, change) VALUES (?, ?)", (at, change)))
