"""The warehouse side: a source transaction and the position it ends at become one transaction of the warehouse.

So that a transaction that comes a second time (the consumer died before its feedback was heard) is known and skipped.
A row that is not as it should be goes to the quarantine with the reason, in the same transaction; the rest goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from mbp.data import schema
from mbp.data.cdc.pgoutput import Change, Transaction
from mbp.events import EventInvalid, validate


class RowInvalid(Exception):
    """A row that is not applied; the text says what is wrong with it."""


@dataclass(slots=True)
class Applied:
    """What became of one transaction: rows applied and rows put aside, by table."""

    rows: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)


def lsn_text(lsn: int) -> str:
    """Return a position as PostgreSQL writes it: ``0/16B3748``."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """Return a position from its text."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


class Warehouse:
    """One connection to the schema `wh`. Its methods raise `psycopg2.Error`; then it is to be opened anew."""

    def __init__(self, db: Connection, wall: Callable[[], float]) -> None:
        """Use ``db``, which nobody else uses; ``wall`` gives Unix seconds."""
        self.db, self._wall = db, wall
        self._shapes = schema.shapes(db)
        self._statements: dict[tuple[str, str, tuple[str, ...]], sql.Composed] = {}

    def close(self) -> None:
        """Close the connection."""
        self.db.close()

    def progress(self) -> tuple[int, float | None]:
        """Return the position up to which all is applied, and that commit's time; (0, None) at the beginning."""
        with self.db, self.db.cursor() as cursor:
            cursor.execute(
                "SELECT lsn::text, extract(epoch FROM commit_at)::float8 FROM wh.cdc_progress WHERE slot = %s",
                (schema.SLOT,),
            )
            row = cursor.fetchone()
        return (0, None) if row is None else (lsn_number(row[0]), row[1])

    def apply(self, done: Transaction) -> Applied:
        """Apply a transaction of the source, whole, together with its position."""
        try:
            return self._apply(done, careful=False)
        except (psycopg2.DataError, psycopg2.IntegrityError):
            # A row that the table refuses: once more, each row on its own, so that only that one is put aside.
            return self._apply(done, careful=True)

    def _apply(self, done: Transaction, *, careful: bool) -> Applied:
        result, stamp = Applied(), (done.commit_at, lsn_text(done.end_lsn))
        with self.db, self.db.cursor() as cursor:
            for change in done.changes:
                try:
                    self._check(change)
                    self._one(cursor, change, stamp, careful)
                    result.rows[change.table] += 1
                except (RowInvalid, EventInvalid, psycopg2.DataError, psycopg2.IntegrityError) as error:
                    if isinstance(error, psycopg2.Error) and not careful:
                        raise
                    self._put_aside(cursor, change, stamp, str(error))
                    result.quarantined[change.table] += 1
            cursor.execute(
                "INSERT INTO wh.cdc_progress VALUES (%s, %s, to_timestamp(%s), to_timestamp(%s)) ON CONFLICT (slot) "
                "DO UPDATE SET lsn = EXCLUDED.lsn, commit_at = EXCLUDED.commit_at, applied_at = EXCLUDED.applied_at",
                (schema.SLOT, stamp[1], done.commit_at, self._wall()),
            )
        return result

    def _check(self, change: Change) -> None:
        """Raise :class:`RowInvalid` or `EventInvalid` for what must not come into the warehouse."""
        shape = self._shapes.get(change.table)
        if shape is None or change.schema != "public":
            raise RowInvalid(f"there is no warehouse table for {change.schema}.{change.table}")
        if unknown := sorted(change.values.keys() - shape.columns):
            raise RowInvalid(f"{change.table}.{unknown[0]}: the warehouse does not have this column")
        if change.operation == "delete":
            return
        if change.operation == "insert" and (absent := sorted(shape.columns - change.values.keys())):
            raise RowInvalid(f"{change.table}.{absent[0]}: this column did not come")
        if change.table in schema.WITH_EVENT and "data" in change.values:
            try:
                data = json.loads(change.values["data"] or "null")
            except ValueError as error:
                raise RowInvalid(f"{change.table}.data: not JSON: {error}") from None
            validate(change.values.get("type") or "", data)

    def _one(self, cursor: Cursor, change: Change, stamp: tuple[float, str], careful: bool) -> None:
        if careful:
            cursor.execute("SAVEPOINT row")
        try:
            self._write(cursor, change, stamp)
        except psycopg2.Error:
            if careful:
                cursor.execute("ROLLBACK TO SAVEPOINT row")
            raise

    def _write(self, cursor: Cursor, change: Change, stamp: tuple[float, str]) -> None:
        key = self._shapes[change.table].key
        moved = change.old_key is not None and any(change.old_key.get(name) != change.values.get(name) for name in key)
        if change.operation == "delete" or moved:
            old = change.old_key or {}
            cursor.execute(self._statement("delete", change.table, key), [old.get(name) for name in key])
            if change.operation == "delete":
                return
        names = tuple(change.values)
        values = [*change.values.values(), *stamp]
        if change.operation == "update" and len(names) < len(self._shapes[change.table].columns):
            # What did not change and is stored apart was not sent: the rest of the row is there already.
            cursor.execute(
                self._statement("update", change.table, names), [*values, *(change.values[name] for name in key)]
            )
            if cursor.rowcount == 0:
                raise RowInvalid(f"{change.table}: an update of a row that the warehouse does not have")
            return
        cursor.execute(self._statement("upsert", change.table, names), values)

    def _statement(self, kind: str, table: str, names: tuple[str, ...]) -> sql.Composed:
        known = self._statements.get((kind, table, names))
        if known is not None:
            return known
        key = self._shapes[table].key
        target = sql.Identifier("wh", table)
        marks = [sql.Placeholder()] * len(names)
        stamps = sql.SQL("to_timestamp(%s), %s")
        where = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in key)
        every = [sql.Identifier(name) for name in (*names, "commit_at", "commit_lsn")]
        if kind == "delete":
            made = sql.SQL("DELETE FROM {} WHERE {}").format(target, where)
        elif kind == "update":
            made = sql.SQL("UPDATE {} SET ({}) = ROW ({}, {}) WHERE {}").format(
                target, sql.SQL(", ").join(every), sql.SQL(", ").join(marks), stamps, where
            )
        else:
            made = sql.SQL("INSERT INTO {} ({}) VALUES ({}, {}) ON CONFLICT ({}) DO UPDATE SET {}").format(
                target, sql.SQL(", ").join(every), sql.SQL(", ").join(marks), stamps,
                sql.SQL(", ").join(map(sql.Identifier, key)),
                sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(each) for each in every),
            )  # fmt: skip
        self._statements[(kind, table, names)] = made
        return made

    def _put_aside(self, cursor: Cursor, change: Change, stamp: tuple[float, str], why: str) -> None:
        cursor.execute(
            "INSERT INTO wh.quarantine (at, commit_at, commit_lsn, source, operation, row, error) "
            "VALUES (to_timestamp(%s), to_timestamp(%s), %s, %s, %s, %s, %s)",
            (
                self._wall(), *stamp, f"{change.schema}.{change.table}", change.operation,
                json.dumps({**(change.old_key or {}), **change.values}), why[:2000],
            ),
        )  # fmt: skip
