"""The warehouse side: a source transaction and the position it ends at become one transaction of the warehouse.

So that a transaction that comes a second time (the consumer died before its feedback was heard) is known and skipped.
A row that is not as it should be goes to the quarantine with the reason, in the same transaction; the rest goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from mbp.data import schema
from mbp.data.cdc.pgoutput import Change, Transaction
from mbp.events import EventInvalid, validate

#: A statement and its values.
Statement = tuple[str, Sequence[Any]]


class RowInvalid(Exception):
    """A row that is not applied; the text says what is wrong with it."""


class _OneByOne(Exception):
    """Not to be sent in one go with the others."""


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
        self._statements: dict[tuple[str, str, tuple[str, ...]], str] = {}

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

    def apply(self, due: Sequence[Transaction]) -> list[Applied]:
        """Apply transactions of the source in order, each whole, together with the position of the last."""
        try:
            return self._at_once(due)
        except (psycopg2.DataError, psycopg2.IntegrityError, _OneByOne):
            # A row that the table refuses: once more, each row on its own, so that only that one is put aside.
            return [self._one_by_one(each) for each in due]

    def _at_once(self, due: Sequence[Transaction]) -> list[Applied]:
        """Apply all in one trip to the server: a backlog is gone quickly also where the machine is busy."""
        results, texts = [], []
        with self.db, self.db.cursor() as cursor:
            for done in due:
                result, stamp = Applied(), (done.commit_at, lsn_text(done.end_lsn))
                for change in done.changes:
                    try:
                        self._check(change)
                        texts += [cursor.mogrify(*each) for each in self._writes(change, stamp)]
                        result.rows[change.table] += 1
                    except (RowInvalid, EventInvalid) as error:
                        texts.append(cursor.mogrify(*self._aside(change, stamp, str(error))))
                        result.quarantined[change.table] += 1
                results.append(result)
            texts.append(cursor.mogrify(*self._progress(due[-1])))
            cursor.execute(b";\n".join(texts))
        return results

    def _one_by_one(self, done: Transaction) -> Applied:
        result, stamp = Applied(), (done.commit_at, lsn_text(done.end_lsn))
        with self.db, self.db.cursor() as cursor:
            for change in done.changes:
                cursor.execute("SAVEPOINT row")
                try:
                    self._check(change)
                    self._write(cursor, change, stamp)
                    result.rows[change.table] += 1
                except (RowInvalid, EventInvalid, psycopg2.DataError, psycopg2.IntegrityError) as error:
                    cursor.execute("ROLLBACK TO SAVEPOINT row")
                    cursor.execute(*self._aside(change, stamp, str(error)))
                    result.quarantined[change.table] += 1
            cursor.execute(*self._progress(done))
        return result

    def _progress(self, done: Transaction) -> Statement:
        return (
            "INSERT INTO wh.cdc_progress VALUES (%s, %s, to_timestamp(%s), to_timestamp(%s)) ON CONFLICT (slot) "
            "DO UPDATE SET lsn = EXCLUDED.lsn, commit_at = EXCLUDED.commit_at, applied_at = EXCLUDED.applied_at",
            (schema.SLOT, lsn_text(done.end_lsn), done.commit_at, self._wall()),
        )

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
                validate(change.values.get("type") or "", data)
            except ValueError as error:
                raise RowInvalid(f"{change.table}.data: not JSON: {error}") from None
            except RecursionError:  # it would stop the stream for ever: on the next connection it comes again
                raise RowInvalid(f"{change.table}.data: nested too deep") from None

    def _writes(self, change: Change, stamp: tuple[float, str]) -> list[Statement]:
        """Return what writes a change; raises :class:`_OneByOne` where the answer must be looked at."""
        table, key = change.table, self._shapes[change.table].key
        old = change.old_key or {}
        moved = change.old_key is not None and any(old.get(name) != change.values.get(name) for name in key)
        found: list[Statement] = []
        if change.operation == "delete" or moved:
            found.append((self._statement("delete", table, key), [old.get(name) for name in key]))
        if change.operation != "delete":
            if self._partial(change):
                raise _OneByOne
            names = tuple(change.values)
            found.append((self._statement("upsert", table, names), [*change.values.values(), *stamp]))
        return found

    def _partial(self, change: Change) -> bool:
        """Say whether a part of the row was not sent: it did not change, and is stored apart."""
        return change.operation == "update" and len(change.values) < len(self._shapes[change.table].columns)

    def _write(self, cursor: Cursor, change: Change, stamp: tuple[float, str]) -> None:
        if not self._partial(change):
            for each in self._writes(change, stamp):
                cursor.execute(*each)
            return
        # The rest of the row is there already, under the key that it had.
        old = {**change.values, **(change.old_key or {})}
        where = [old.get(name) for name in self._shapes[change.table].key]
        values = [*change.values.values(), *stamp, *where]
        cursor.execute(self._statement("update", change.table, tuple(change.values)), values)
        if cursor.rowcount == 0:
            raise RowInvalid(f"{change.table}: an update of a row that the warehouse does not have")

    def _statement(self, kind: str, table: str, names: tuple[str, ...]) -> str:
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
        text = made.as_string(self.db)
        self._statements[(kind, table, names)] = text
        return text

    def _aside(self, change: Change, stamp: tuple[float, str], why: str) -> Statement:
        return (
            "INSERT INTO wh.quarantine (at, commit_at, commit_lsn, source, operation, row, error) "
            "VALUES (to_timestamp(%s), to_timestamp(%s), %s, %s, %s, %s, %s)",
            (
                self._wall(), *stamp, f"{change.schema}.{change.table}", change.operation,
                json.dumps({**(change.old_key or {}), **change.values}), why[:2000],
            ),
        )  # fmt: skip
