"""The registry's SQLite file: schemas by content, versions by subject, compatibility levels.

A schema has one id for ever, whatever subjects it stands in; ids are not used twice. Every change is one transaction.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from mbp import _store
from mbp.registry.compatibility import Kind, Mode

SCHEMA = """
PRAGMA foreign_keys=ON;
CREATE TABLE IF NOT EXISTS schemas (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, text TEXT NOT NULL, hash TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE IF NOT EXISTS versions (
  subject TEXT NOT NULL, version INTEGER NOT NULL, schema INTEGER NOT NULL REFERENCES schemas (id),
  deleted INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (subject, version)
) STRICT;
CREATE TABLE IF NOT EXISTS levels (subject TEXT PRIMARY KEY, level TEXT NOT NULL) STRICT;
"""
GLOBAL = ""  # no subject has an empty name


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a subject with its schema; `deleted` when it was soft-deleted."""

    subject: str
    version: int
    id: int
    kind: Kind
    text: str
    hash: str
    deleted: bool


def content_hash(kind: Kind, normal: str) -> str:
    """Return the hash by which equal schemas are one; `normal` is the schema's normal text."""
    return hashlib.sha256(f"{kind}\n{normal}".encode()).hexdigest()


_SELECT = """
SELECT v.subject, v.version, s.id, s.kind, s.text, s.hash, v.deleted FROM versions v JOIN schemas s ON s.id = v.schema
"""


class Store(_store.Store):
    """The one writer of the registry's file. All methods that change it are called inside :meth:`transaction`."""

    PROBE = "UPDATE levels SET level = level WHERE 0"

    def __init__(self, path: Path) -> None:
        """Open or create the file."""
        super().__init__(path, SCHEMA)

    def subjects(self, deleted: bool = False) -> list[str]:
        """Return the names of subjects with a version, by name; with `deleted`, also of those soft-deleted whole."""
        found = self._db.execute(
            "SELECT DISTINCT subject FROM versions WHERE deleted <= ? ORDER BY subject", (int(deleted),)
        )
        return [name for (name,) in found]

    def versions(self, subject: str, deleted: bool = False) -> list[Version]:
        """Return a subject's versions, oldest first; with `deleted`, the soft-deleted ones as well."""
        found = self._db.execute(
            f"{_SELECT} WHERE v.subject = ? AND v.deleted <= ? ORDER BY v.version",
            (subject, int(deleted)),
        )
        return [_version(row) for row in found]

    def schema(self, number: int) -> tuple[Kind, str] | None:
        """Return the schema with that id, if a version (also a soft-deleted one) still uses it."""
        row = self._db.execute(
            "SELECT kind, text FROM schemas s WHERE id = ? AND EXISTS (SELECT 1 FROM versions v WHERE v.schema = s.id)",
            (number,),
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def uses(self, number: int, deleted: bool = False) -> list[tuple[str, int]]:
        """Return where the schema with that id stands: subject and version."""
        return self._db.execute(
            "SELECT subject, version FROM versions WHERE schema = ? AND deleted <= ? ORDER BY subject, version",
            (number, int(deleted)),
        ).fetchall()

    def known(self, hashed: str) -> int | None:
        """Return the id of the schema with that content, None when there never was one."""
        row = self._db.execute("SELECT id FROM schemas WHERE hash = ?", (hashed,)).fetchone()
        return None if row is None else int(row[0])

    def add(self, subject: str, kind: Kind, text: str, hashed: str) -> int:
        """Add a version to a subject and return the id of its schema."""
        number = self.known(hashed)
        if number is None:
            values = (kind, text, hashed)
            number = _store.row_number(
                self._db.execute("INSERT INTO schemas (kind, text, hash) VALUES (?, ?, ?)", values)
            )
        self._db.execute(
            "INSERT INTO versions (subject, version, schema) SELECT ?, coalesce(max(version), 0) + 1, ? "
            "FROM versions WHERE subject = ?",
            (subject, number, subject),
        )
        return number

    def soft_delete(self, subject: str, version: int) -> None:
        """Mark a version as deleted."""
        self._db.execute("UPDATE versions SET deleted = 1 WHERE subject = ? AND version = ?", (subject, version))

    def delete(self, subject: str, version: int) -> None:
        """Remove a version; its number may be given again, the id of its schema never to another."""
        self._db.execute("DELETE FROM versions WHERE subject = ? AND version = ?", (subject, version))

    def level(self, subject: str = GLOBAL) -> Mode | None:
        """Return the compatibility level set for a subject (or for all), None when none is."""
        row = self._db.execute("SELECT level FROM levels WHERE subject = ?", (subject,)).fetchone()
        return None if row is None else row[0]

    def set_level(self, subject: str, level: Mode | None) -> None:
        """Set the compatibility level of a subject (or of all), or unset it."""
        self._db.execute("DELETE FROM levels WHERE subject = ?", (subject,))
        if level is not None:
            self._db.execute("INSERT INTO levels VALUES (?, ?)", (subject, level))


def _version(row: tuple[str, int, int, Kind, str, str, int]) -> Version:
    return Version(*row[:6], bool(row[6]))
