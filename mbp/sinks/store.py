"""What the receivers got, in SQLite: every message as it came in, and the tickets with their state."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbp._service import wall_text
from mbp._store import transaction
from mbp.hooks._http import connect

_SCHEMA = """
CREATE TABLE IF NOT EXISTS received (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, channel TEXT NOT NULL, address TEXT NOT NULL,
    payload TEXT NOT NULL, raw BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS received_channel ON received (channel, seq);
CREATE TABLE IF NOT EXISTS tickets (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, state TEXT NOT NULL,
    created_at TEXT NOT NULL, changed_at TEXT NOT NULL, body TEXT NOT NULL);
"""


class KeyReused(Exception):
    """The idempotency key was used before, for another body."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: `payload` is its JSON as shown, `raw` the bytes as they came in."""

    channel: str
    address: str
    payload: dict[str, Any]
    raw: bytes


class Store:
    """All of it. Its methods are called on one thread only; `wall` gives Unix seconds."""

    def __init__(self, folder: Path, wall: Callable[[], float]) -> None:
        """Open or create the store in `folder`. Raises `sqlite3.Error`."""
        self._db = connect(folder / "sinks.sqlite", _SCHEMA)
        self._wall = wall

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def check(self) -> None:
        """Raise `sqlite3.Error` unless the store can be written to."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("ROLLBACK")

    def counts(self) -> dict[str, int]:
        """Return how many messages each channel has."""
        return {row[0]: row[1] for row in self._db.execute("SELECT channel, count(*) FROM received GROUP BY channel")}

    def keep(self, messages: Sequence[Message]) -> list[int]:
        """Store the messages, all or none, and return their `seq`."""
        with transaction(self._db):
            return [self._insert(each) for each in messages]

    def _insert(self, message: Message) -> int:
        cursor = self._db.execute(
            "INSERT INTO received (at, channel, address, payload, raw) VALUES (?, ?, ?, ?, ?)",
            (wall_text(self._wall()), message.channel, message.address, json.dumps(message.payload), message.raw),
        )
        return int(cursor.lastrowid or 0)

    def received(self, after: int, channel: str | None, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return messages with a `seq` above `after`, oldest first, and where to go on."""
        with transaction(self._db):
            rows = self._db.execute(
                "SELECT seq, at, channel, address, payload FROM received WHERE seq > ? AND (? IS NULL OR channel = ?) "
                "ORDER BY seq LIMIT ?",
                (after, channel, channel, limit),
            ).fetchall()
            # A page that is not full has seen everything: the cursor may go past other channels' rows.
            following = rows[-1]["seq"] if len(rows) == limit else self._last()
        return [{**dict(row), "payload": json.loads(row["payload"])} for row in rows], following

    def last(self) -> int:
        """Return the `seq` of the newest message, 0 when there is none."""
        return self._last()

    def _last(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(seq), 0) FROM received").fetchone()[0])

    def open_ticket(self, key: str, body: dict[str, Any], raw: bytes) -> tuple[dict[str, Any], bool]:
        """Open a ticket and return it with True; for a key seen before the ticket as it is now, with False.

        Raises `KeyReused` when the key came with another body.
        """
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with transaction(self._db):
            known = self._db.execute("SELECT * FROM tickets WHERE key = ?", (key,)).fetchone()
            if known is not None:
                if known["digest"] != digest:
                    raise KeyReused(f"Idempotency-Key {key!r} came before with another body (ticket {known['id']})")
                return _ticket(known), False
            now = wall_text(self._wall())
            cursor = self._db.execute(
                "INSERT INTO tickets (key, digest, state, created_at, changed_at, body) VALUES (?, ?, 'open', ?, ?, ?)",
                (key, digest, now, now, json.dumps(body)),
            )
            shown = _ticket(self._db.execute("SELECT * FROM tickets WHERE id = ?", (cursor.lastrowid,)).fetchone())
            self._insert(Message("tickets", str(body["assignee"]), shown, raw))
        return shown, True

    def set_ticket(self, number: int, state: str, raw: bytes) -> dict[str, Any] | None:
        """Set a ticket's state and return it, None when there is none; the state it has already is no change."""
        with transaction(self._db):
            row = self._db.execute("SELECT * FROM tickets WHERE id = ?", (number,)).fetchone()
            if row is None:
                return None
            if row["state"] != state:
                self._db.execute(
                    "UPDATE tickets SET state = ?, changed_at = ? WHERE id = ?",
                    (state, wall_text(self._wall()), number),
                )
                row = self._db.execute("SELECT * FROM tickets WHERE id = ?", (number,)).fetchone()
                shown = _ticket(row)
                self._insert(Message("tickets", str(shown["assignee"]), shown, raw))
            return _ticket(row)

    def tickets(self, state: str | None, limit: int) -> list[dict[str, Any]]:
        """Return tickets, newest first."""
        rows = self._db.execute(
            "SELECT * FROM tickets WHERE ? IS NULL OR state = ? ORDER BY id DESC LIMIT ?", (state, state, limit)
        )
        return [_ticket(row) for row in rows]

    def ticket(self, number: int) -> dict[str, Any] | None:
        """Return one ticket, None when there is none with this number."""
        row = self._db.execute("SELECT * FROM tickets WHERE id = ?", (number,)).fetchone()
        return None if row is None else _ticket(row)


def _ticket(row: sqlite3.Row) -> dict[str, Any]:
    own = {"id": row["id"], "state": row["state"], "created_at": row["created_at"], "changed_at": row["changed_at"]}
    return {**json.loads(row["body"]), **own}
