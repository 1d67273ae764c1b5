"""The decoder of PostgreSQL's own logical replication output, pgoutput version 1: bytes in, transactions out. Pure.

Only what our publication can send is understood (no streaming of open transactions, no two-phase commit); anything
else is an error, for a change that is skipped is a change that is lost.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Literal

#: PostgreSQL counts microseconds from 2000-01-01 in UTC.
EPOCH_S = 946_684_800

Operation = Literal["insert", "update", "delete"]


class Undecodable(Exception):
    """The stream is not pgoutput as we speak it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row's change. `values` are texts, None for NULL.

    A column that was not sent (unchanged, and stored apart) is absent.
    """

    operation: Operation
    schema: str
    table: str
    values: dict[str, str | None]
    old_key: dict[str, str | None] | None = None


@dataclass(slots=True)
class Transaction:
    """A committed transaction of the source. `end_lsn` is the position to confirm, `commit_at` Unix seconds."""

    xid: int
    commit_at: float
    end_lsn: int = 0
    size: int = 0  # bytes on the wire
    changes: list[Change] = field(default_factory=list)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 1

    def take(self, form: str) -> tuple[int, ...]:
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise Undecodable(f"message {self.data[:1]!r} ends too early")
        found = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return found

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise Undecodable(f"message {self.data[:1]!r} ends in the middle of a name")
        found = self.data[self.at : end]
        self.at = end + 1
        return _decoded(found)

    def blob(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise Undecodable(f"message {self.data[:1]!r} ends in the middle of a value")
        self.at += size
        return self.data[self.at - size : self.at]

    def mark(self) -> bytes:
        return self.blob(1)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Undecodable(f"a text that is not UTF-8: {error}") from None


@dataclass(frozen=True, slots=True)
class _Relation:
    schema: str
    name: str
    columns: tuple[str, ...]
    key: frozenset[str]


class Decoder:
    """Puts messages together; `feed` returns a transaction when its commit has come."""

    def __init__(self) -> None:
        """Begin a stream: relations are announced anew on every connection."""
        self._relations: dict[int, _Relation] = {}
        self.open: Transaction | None = None

    def feed(self, data: bytes) -> Transaction | None:
        """Take one message. Raises :class:`Undecodable`."""
        kind, reader = data[:1], _Reader(data)
        if kind == b"B":
            _, stamp, xid = reader.take("!qqI")
            self.open = Transaction(xid, stamp / 1e6 + EPOCH_S)
        elif kind == b"R":
            number, relation = _relation(reader)
            self._relations[number] = relation
        elif kind in (b"I", b"U", b"D"):
            self._opened(kind).changes.append(self._change(kind, reader))
        elif kind == b"C":
            done = self._opened(kind)
            _, _, end, stamp = reader.take("!bqqq")
            done.end_lsn, done.commit_at, done.size = end, stamp / 1e6 + EPOCH_S, done.size + len(data)
            self.open = None
            return done
        elif kind not in (b"O", b"Y"):  # an origin or a type says nothing that we need
            raise Undecodable(f"a message of the unknown kind {kind!r}")
        if self.open is not None:
            self.open.size += len(data)
        return None

    def _opened(self, kind: bytes) -> Transaction:
        if self.open is None:
            raise Undecodable(f"message {kind!r} outside of a transaction")
        return self.open

    def _change(self, kind: bytes, reader: _Reader) -> Change:
        (number,) = reader.take("!I")
        relation = self._relations.get(number)
        if relation is None:
            raise Undecodable(f"a change of relation {number}, which was not announced")
        old: dict[str, str | None] | None = None
        mark = reader.mark()
        if mark in (b"K", b"O"):
            old = {name: value for name, value in _row(reader, relation).items() if name in relation.key}
            if kind == b"D":
                return Change("delete", relation.schema, relation.name, {}, old)
            mark = reader.mark()
        if mark != b"N" or kind == b"D":
            raise Undecodable(f"message {kind!r} with a part of the unknown kind {mark!r}")
        operation: Operation = "insert" if kind == b"I" else "update"
        return Change(operation, relation.schema, relation.name, _row(reader, relation), old)


def _relation(reader: _Reader) -> tuple[int, _Relation]:
    (number,) = reader.take("!I")
    schema, name = reader.text(), reader.text()
    _, count = reader.take("!bh")
    columns, key = [], set()
    for _ in range(count):
        (flags,) = reader.take("!b")
        columns.append(reader.text())
        reader.take("!Ii")
        if flags & 1:
            key.add(columns[-1])
    return number, _Relation(schema or "pg_catalog", name, tuple(columns), frozenset(key))


def _row(reader: _Reader, relation: _Relation) -> dict[str, str | None]:
    (count,) = reader.take("!h")
    if count != len(relation.columns):
        raise Undecodable(f"a row of {relation.name} with {count} columns, announced were {len(relation.columns)}")
    found: dict[str, str | None] = {}
    for name in relation.columns:
        mark = reader.mark()
        if mark == b"n":
            found[name] = None
        elif mark == b"t":
            (size,) = reader.take("!i")
            found[name] = _decoded(reader.blob(size))
        elif mark != b"u":
            raise Undecodable(f"a value of {relation.name}.{name} of the unknown kind {mark!r}")
    return found
