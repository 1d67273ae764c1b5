"""The executor's audit: rows that only grow in number, each carrying the hash of the one before."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Literal

EVENTS = ("accepted", "duplicate", "started", "retry", "succeeded", "failed", "skipped", "dead_letter", "reverted")
Event = Literal[
    "accepted", "duplicate", "started", "retry", "succeeded", "failed", "skipped", "dead_letter", "reverted"
]
GENESIS = "0" * 64
_COLUMNS = (
    "seq", "at", "execution_id", "event", "hook", "action", "target", "alert", "fingerprint", "starts_at", "detail",
    "prev_hash",
)  # fmt: skip

SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (
    seq INTEGER PRIMARY KEY, at TEXT NOT NULL, execution_id TEXT NOT NULL, event TEXT NOT NULL, hook TEXT NOT NULL,
    action TEXT NOT NULL, target TEXT NOT NULL, alert TEXT NOT NULL, fingerprint TEXT NOT NULL,
    starts_at TEXT NOT NULL, detail TEXT NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS audit_keeps BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit rows stay'); END;
CREATE TRIGGER IF NOT EXISTS audit_stays BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit rows stay'); END;
"""


def row_hash(row: Mapping[str, Any]) -> str:
    """Return SHA-256 over the row's columns but `hash`, as JSON with sorted keys and no spaces, in UTF-8."""
    covered = {name: row[name] for name in _COLUMNS}
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def first_break(rows: Iterable[Mapping[str, Any]], prev_hash: str = GENESIS, seq: int = 0) -> int | None:
    """Return the `seq` of the first row that does not follow from the one before, None when the chain holds.

    `prev_hash` and `seq` are those of the row before the first one given.
    """
    for row in rows:
        seq += 1
        if row["seq"] != seq or row["prev_hash"] != prev_hash or row["hash"] != row_hash(row):
            return int(row["seq"])
        prev_hash = row["hash"]
    return None


class Audit:
    """The audit table of one store; to be used inside the store's own transactions, on its thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Use the table in `db`."""
        self._db = db

    def append(self, event: Event, execution: sqlite3.Row, detail: str, at: str) -> None:
        """Append one row about `execution` (a row of the executions table)."""
        last = self._db.execute("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
        row: dict[str, Any] = {
            "seq": 1 if last is None else last["seq"] + 1,
            "at": at,
            "event": event,
            **{
                name: execution[name]
                for name in ("execution_id", "hook", "action", "target", "alert", "fingerprint", "starts_at")
            },
            "detail": detail[:2000],
            "prev_hash": GENESIS if last is None else last["hash"],
        }
        row["hash"] = row_hash(row)
        names = ", ".join(row)
        self._db.execute(f"INSERT INTO audit ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))  # noqa: S608 - our own column names

    def rows(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Return rows with a `seq` above `after`, oldest first."""
        found = self._db.execute("SELECT * FROM audit WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
        return [dict(row) for row in found]

    def last(self) -> int:
        """Return the newest `seq`, 0 when there is none."""
        return int(self._db.execute("SELECT coalesce(max(seq), 0) FROM audit").fetchone()[0])

    def first_break(self) -> int | None:
        """Check the whole chain; see the function of this name."""
        return first_break(self._db.execute("SELECT * FROM audit ORDER BY seq"))

    def coverage(self) -> tuple[int, int]:
        """Return how many executions were decided on, and how many of them have a row here."""
        found = self._db.execute(
            "SELECT count(*), count(seen.execution_id) FROM executions "
            "LEFT JOIN (SELECT DISTINCT execution_id FROM audit) AS seen USING (execution_id) WHERE kind = 'do'"
        ).fetchone()
        return int(found[0]), int(found[1])
