"""What services that keep something share: one SQLite file a service, an audit of its changes, idempotency keys.

A change, its audit row and its idempotency key are one transaction, in the kernel before the answer is given: WAL with
``synchronous=NORMAL``, so a ``kill -9`` loses nothing that was answered.

A service makes its own store of :class:`Store`, or of :class:`AuditedStore` when what it does is audited and done once
a key; :meth:`AuditedStore.once` is the way in for every change. The routes that go with it are in :mod:`mbp._routes`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mbp._asgi import ApiError
from mbp._service import wall_text

AUDIT = """
CREATE TABLE IF NOT EXISTS audit (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, event TEXT NOT NULL, before TEXT NOT NULL,
  after TEXT NOT NULL, reason TEXT NOT NULL, idempotency_key TEXT
) STRICT;
"""
KEYS = """
CREATE TABLE IF NOT EXISTS keys (key TEXT PRIMARY KEY, request TEXT NOT NULL, answer TEXT NOT NULL) STRICT;
"""


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Run a block as one write transaction: all of it or nothing. Raises sqlite3.Error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk ends it by itself
            db.execute("ROLLBACK")
        raise


def row_number(cursor: sqlite3.Cursor) -> int:
    """Return the number that the row just inserted got."""
    if cursor.lastrowid is None:
        raise sqlite3.InternalError("the row got no number")
    return cursor.lastrowid


class Store:
    """The one writer of a SQLite file. What changes it is called inside :meth:`transaction`."""

    PROBE: ClassVar[str]  # a statement of the service's own that writes and changes nothing

    def __init__(self, path: Path, schema: str, at_rest: Iterable[tuple[str, tuple[Any, ...]]] = ()) -> None:
        """Open or create the file: ``schema`` is a script, ``at_rest`` the statements that fill a new file.

        Both run at every start, so both leave alone what is there. Raises sqlite3.Error.
        """
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._check()
            self._db.executescript(schema)
            for statement, values in at_rest:
                self._db.execute(statement, values)
        except sqlite3.Error:
            self._db.close()
            raise

    def _check(self) -> None:
        """Raise sqlite3.Error for a file that this service is not to write to; called before the first write."""

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block as one transaction: all of it or nothing. Raises sqlite3.Error."""
        with transaction(self._db):
            yield

    def probe(self) -> None:
        """Raise sqlite3.Error when the file does not take a write."""
        with self.transaction():
            self._db.execute(self.PROBE)


class Keys:
    """What was answered under idempotency keys: the table ``keys`` (:data:`KEYS`) of the connection ``_db``."""

    _db: sqlite3.Connection

    def kept(self, key: str) -> tuple[str, dict[str, Any]] | None:
        """Return the request that a key stands for, and its answer."""
        row = self._db.execute("SELECT request, answer FROM keys WHERE key = ?", (key,)).fetchone()
        return None if row is None else (row[0], json.loads(row[1]))

    def keep(self, key: str, request: str, answer: dict[str, Any]) -> None:
        """Keep an answer under a key; call inside a transaction."""
        self._db.execute("INSERT INTO keys (key, request, answer) VALUES (?, ?, ?)", (key, request, json.dumps(answer)))


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the audit; ``before`` and ``after`` are what was changed (``after``: what was asked, if refused)."""

    at: float  # wall, Unix seconds
    event: str
    before: dict[str, Any]
    after: dict[str, Any]
    reason: str
    idempotency_key: str | None


def difference(old: object, new: object, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ``before`` and ``after`` of a change: of these attributes, those that differ. Both empty: no change."""
    changed = [name for name in names if getattr(old, name) != getattr(new, name)]
    return {name: getattr(old, name) for name in changed}, {name: getattr(new, name) for name in changed}


class AuditedStore(Store, Keys):
    """A store whose changes are audited, and done once an idempotency key."""

    def __init__(self, path: Path, schema: str, at_rest: Iterable[tuple[str, tuple[Any, ...]]] = ()) -> None:
        """Open or create the file; the two tables of this class come with it."""
        super().__init__(path, schema + AUDIT + KEYS, at_rest)

    def add_change(self, change: Change) -> int:
        """Append an audit row and return its number; call inside :meth:`transaction`."""
        before, after = json.dumps(change.before), json.dumps(change.after)
        return row_number(
            self._db.execute(
                "INSERT INTO audit (at, event, before, after, reason, idempotency_key) VALUES (?, ?, ?, ?, ?, ?)",
                (change.at, change.event, before, after, change.reason, change.idempotency_key),
            )
        )

    def audit(self, after: int, limit: int) -> dict[str, Any]:
        """Return at most ``limit`` audit rows with seq > ``after``, in order, as they are answered."""
        found = self._db.execute(
            "SELECT seq, at, event, before, after, reason, idempotency_key FROM audit WHERE seq > ? ORDER BY seq "
            "LIMIT ?",
            (after, limit),
        )
        rows = [
            {
                "seq": seq,
                "at": wall_text(at),
                "event": event,
                "before": json.loads(before),
                "after": json.loads(later),
                "reason": reason,
                "idempotency_key": key,
            }
            for seq, at, event, before, later, reason, key in found
        ]
        return {"rows": rows, "next": rows[-1]["seq"] if rows else after}

    def answered(self, key: str | None, request: str) -> dict[str, Any] | None:
        """Return what a request was answered under its key, None when it was not (or has no key).

        Raises :class:`ApiError` (409 ``idempotency_key_reused``) when the key stands for another request.
        """
        kept = None if key is None else self.kept(key)
        if kept is not None and kept[0] != request:
            raise ApiError(409, "idempotency_key_reused", f"the key was used for another request: {kept[0]}")
        return None if kept is None else kept[1]

    def once(self, key: str | None, request: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do ``work`` in one transaction, or give the answer that its idempotency key already got.

        Refusals (what ``work`` raises) are not kept: what was refused may be asked again under the same key. A caller
        that holds the state in memory reads it again afterwards, also when this raises: the commit may have failed.
        Raises as :meth:`answered`, and sqlite3.Error.
        """
        kept = self.answered(key, request)
        if kept is not None:
            return kept
        with self.transaction():
            answer = work()
            if key is not None:
                self.keep(key, request, answer)
        return answer
