"""The engine's SQLite file: markets as they stand, one row for every swap, and :mod:`mbp.engine.records`.

WAL with ``synchronous=NORMAL``: a commit is in the kernel before the answer is given, so a ``kill -9`` loses nothing
that was answered (a power cut may; that is not the threat here). Checkpoints, which do wait for the disk, are left to
:meth:`Store.checkpoint` on another thread. Integers beyond 64 bits are kept as decimal text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbp import _store
from mbp._trace import child
from mbp.engine.cpmm import Action, Pool, Side
from mbp.engine.records import RECORDS, Records

VERSION = 2  # of the file; markets of version 1 had no life beyond open and closed

PRAGMAS = "PRAGMA wal_autocheckpoint=0; PRAGMA foreign_keys=ON;"
SCHEMA = """
CREATE TABLE IF NOT EXISTS markets (
  id TEXT PRIMARY KEY, question TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('open', 'resolving', 'resolved', 'closed')),
  yes TEXT NOT NULL, no TEXT NOT NULL, sets TEXT NOT NULL, yes_out TEXT NOT NULL, no_out TEXT NOT NULL,
  liquidity TEXT NOT NULL, fees TEXT NOT NULL, swaps INTEGER NOT NULL, breaches INTEGER NOT NULL,
  fault TEXT, opened_at REAL NOT NULL, closed_at REAL, frozen INTEGER NOT NULL, closes_at REAL,
  resolution_started_at REAL, resolved_at REAL, outcome TEXT CHECK (outcome IN ('yes', 'no'))
) STRICT;
CREATE INDEX IF NOT EXISTS markets_live ON markets (opened_at) WHERE status IN ('open', 'resolving');
CREATE TABLE IF NOT EXISTS swaps (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, market TEXT NOT NULL REFERENCES markets (id),
  side TEXT NOT NULL, action TEXT NOT NULL, amount_in TEXT NOT NULL, amount_out TEXT NOT NULL, fee TEXT NOT NULL,
  k_before TEXT NOT NULL, k_after TEXT NOT NULL, breach INTEGER NOT NULL, fault TEXT, request_id TEXT NOT NULL,
  idempotency_key TEXT UNIQUE, trace_id TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS swaps_market ON swaps (market, seq);
"""


@dataclass(frozen=True, slots=True)
class Market:
    """One market as it stands."""

    id: str
    question: str
    status: str
    pool: Pool
    swaps: int
    breaches: int
    fault: str | None  # the fault that opened it
    opened_at: float  # wall, Unix seconds
    closed_at: float | None = None
    frozen: bool = False
    closes_at: float | None = None  # when its resolution starts by itself
    resolution_started_at: float | None = None
    resolved_at: float | None = None
    outcome: Side | None = None

    @property
    def live(self) -> bool:
        """Whether its life is not over: it may be traded, unless it is frozen."""
        return self.status in ("open", "resolving")


@dataclass(frozen=True, slots=True)
class SwapRow:
    """One audited swap; ``seq`` is 0 until it is stored."""

    seq: int
    at: float
    market: str
    side: Side
    action: Action
    amount_in: int
    amount_out: int
    fee: int
    k_before: int
    k_after: int
    breach: bool
    fault: str | None
    request_id: str
    idempotency_key: str | None = None
    trace_id: str | None = None  # of the request that made it


_MARKET = (
    "id, question, status, yes, no, sets, yes_out, no_out, liquidity, fees, swaps, breaches, fault, opened_at, "
    "closed_at, frozen, closes_at, resolution_started_at, resolved_at, outcome"
)
_SWAP = (
    "seq, at, market, side, action, amount_in, amount_out, fee, k_before, k_after, breach, fault, request_id, "
    "idempotency_key, trace_id"
)


class Store(_store.Store):
    """The one writer of the engine's file."""

    PROBE = "UPDATE markets SET status = status WHERE id = ''"

    def __init__(self, path: Path) -> None:
        """Open or create the file; raises sqlite3.DatabaseError when it is not one of ours."""
        self.path = path
        self._rehearsing = False
        super().__init__(path, PRAGMAS + SCHEMA + RECORDS + _store.KEYS)
        try:
            self.records = Records(self._db)
        except sqlite3.Error:
            self.close()
            raise

    def _check(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and version != VERSION:
            raise sqlite3.DatabaseError(
                f"{self.path} has version {version or 1}, this engine writes version {VERSION}: give it another --data"
            )
        self._db.execute(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Run a block of which nothing stays: whatever its transactions write is rolled back at its end."""
        self._db.execute("BEGIN IMMEDIATE")
        self._rehearsing = True
        try:
            yield
        finally:
            self._rehearsing = False
            self.records.settle(committed=False)
            self._db.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block as one transaction: all of it or nothing. Every one that a request asks for ends in the audit."""
        if self._rehearsing:
            yield
            return
        with child("audit.write"):
            try:
                with super().transaction():
                    yield
            except BaseException:
                self.records.settle(committed=False)
                raise
            self.records.settle(committed=True)

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file, over a connection of its own: call it off the event loop."""
        with closing(sqlite3.connect(self.path, timeout=1.0)) as db:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def live_markets(self) -> list[Market]:
        """Return the markets that are open or being resolved, oldest first."""
        where = "status IN ('open', 'resolving') ORDER BY opened_at, id"
        return [_market(row) for row in self._db.execute(f"SELECT {_MARKET} FROM markets WHERE {where}")]  # noqa: S608

    def recent_markets(self, limit: int) -> list[Market]:
        """Return at most ``limit`` markets, open ones first, newest first within each."""
        rank = "CASE status WHEN 'open' THEN 0 WHEN 'resolving' THEN 1 ELSE 2 END"
        query = f"SELECT {_MARKET} FROM markets ORDER BY {rank}, opened_at DESC, id LIMIT ?"  # noqa: S608
        return [_market(row) for row in self._db.execute(query, (limit,))]

    def market(self, market_id: str) -> Market | None:
        """Return one market, open or closed."""
        row = self._db.execute(f"SELECT {_MARKET} FROM markets WHERE id = ?", (market_id,)).fetchone()  # noqa: S608
        return None if row is None else _market(row)

    def put_market(self, market: Market) -> None:
        """Write a market as it now stands; call inside :meth:`transaction`."""
        pool = market.pool
        amounts = (pool.yes, pool.no, pool.sets, pool.yes_out, pool.no_out, pool.liquidity, pool.fees)
        values = (
            market.id,
            market.question,
            market.status,
            *map(str, amounts),
            market.swaps,
            market.breaches,
            market.fault,
            market.opened_at,
            market.closed_at,
            int(market.frozen),
            market.closes_at,
            market.resolution_started_at,
            market.resolved_at,
            market.outcome,
        )
        marks = ", ".join("?" * len(values))
        update = ", ".join(f"{name} = excluded.{name}" for name in _MARKET.split(", ")[1:])
        self._db.execute(
            f"INSERT INTO markets ({_MARKET}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {update}",  # noqa: S608
            values,
        )

    def add_swap(self, row: SwapRow) -> int:
        """Append an audit row and return its seq; call inside :meth:`transaction`."""
        values = (
            row.at,
            row.market,
            row.side,
            row.action,
            str(row.amount_in),
            str(row.amount_out),
            str(row.fee),
            str(row.k_before),
            str(row.k_after),
            int(row.breach),
            row.fault,
            row.request_id,
            row.idempotency_key,
            row.trace_id,
        )
        names = _SWAP.removeprefix("seq, ")
        marks = ", ".join("?" * len(values))
        return _store.row_number(self._db.execute(f"INSERT INTO swaps ({names}) VALUES ({marks})", values))  # noqa: S608

    def swap_by_key(self, key: str) -> SwapRow | None:
        """Return the swap that was made under an idempotency key."""
        row = self._db.execute(f"SELECT {_SWAP} FROM swaps WHERE idempotency_key = ?", (key,)).fetchone()  # noqa: S608
        return None if row is None else _swap(row)

    def swaps(self, market: str | None, after: int, limit: int) -> list[SwapRow]:
        """Return at most ``limit`` audit rows with seq > ``after``, in order, of one market or of all."""
        where, values = ("", ()) if market is None else ("AND market = ?", (market,))
        query = f"SELECT {_SWAP} FROM swaps WHERE seq > ? {where} ORDER BY seq LIMIT ?"  # noqa: S608
        return [_swap(row) for row in self._db.execute(query, (after, *values, limit))]


def _market(row: tuple[Any, ...]) -> Market:
    yes, no, sets, yes_out, no_out, liquidity, fees = map(int, row[3:10])
    return Market(
        id=row[0],
        question=row[1],
        status=row[2],
        pool=Pool(yes=yes, no=no, sets=sets, yes_out=yes_out, no_out=no_out, liquidity=liquidity, fees=fees),
        swaps=int(row[10]),
        breaches=int(row[11]),
        fault=row[12],
        opened_at=float(row[13]),
        closed_at=row[14],
        frozen=bool(row[15]),
        closes_at=row[16],
        resolution_started_at=row[17],
        resolved_at=row[18],
        outcome=row[19],
    )


def _swap(row: tuple[str, ...]) -> SwapRow:
    return SwapRow(
        seq=int(row[0]),
        at=float(row[1]),
        market=row[2],
        side="yes" if row[3] == "yes" else "no",
        action="buy" if row[4] == "buy" else "sell",
        amount_in=int(row[5]),
        amount_out=int(row[6]),
        fee=int(row[7]),
        k_before=int(row[8]),
        k_after=int(row[9]),
        breach=bool(row[10]),
        fault=row[11],
        request_id=row[12],
        idempotency_key=row[13],
        trace_id=row[14],
    )
