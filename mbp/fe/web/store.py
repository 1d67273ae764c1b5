"""The front end's SQLite file: one row of state, and :mod:`mbp._store`'s audit and keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mbp._store import AuditedStore

Status = Literal["candidate", "stable", "reverted"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS state (
  one INTEGER PRIMARY KEY CHECK (one = 1), status TEXT NOT NULL, version TEXT NOT NULL, changed_at REAL NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class State:
    """Which bundle is served, and the version that was deployed last; `changed_at` is Unix seconds."""

    status: Status
    version: str
    changed_at: float


class Store(AuditedStore):
    """The one writer of the file."""

    PROBE = "UPDATE state SET one = 1"

    def __init__(self, path: Path, now: float) -> None:
        """Open or create the file; a new one begins at rest: the candidate is served."""
        super().__init__(path, SCHEMA, [("INSERT OR IGNORE INTO state VALUES (1, 'candidate', '1', ?)", (now,))])

    def state(self) -> State:
        """Return the state."""
        return State(*self._db.execute("SELECT status, version, changed_at FROM state").fetchone())

    def put_state(self, state: State) -> None:
        """Write the state; call inside :meth:`transaction`."""
        self._db.execute(
            "UPDATE state SET status = ?, version = ?, changed_at = ?", (state.status, state.version, state.changed_at)
        )
