"""A table that is locked: whoever needs it waits, and nothing fails until somebody's patience ends.

``LOCK TABLE`` in a transaction that is kept open. The lease is the server's: `idle_in_transaction_session_timeout` of
that session, which any statement renews; a runner that dies, hangs or is cut off holds the lock no longer than that.

The door is the server itself, never a pooler: ``postgresql://user@host:port/database``, a password by reference
(``auth: {basic: {user: …, password: env:NAME}}``).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import psycopg2
from psycopg2 import sql
from pydantic import Field

from injectors import _pg
from injectors._pg import Server
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site
from sim.target import Duration, Model

#: How long the lock is waited for, milliseconds; meanwhile everybody else queues up behind us, as under the lock.
WAIT_MS = 5000

#: Mode → the weakest that it keeps out: what the probe asks for (PostgreSQL, table 13.2, conflicting lock modes).
KEEPS_OUT = {
    "ACCESS SHARE": "ACCESS EXCLUSIVE",
    "ROW SHARE": "EXCLUSIVE",
    "ROW EXCLUSIVE": "SHARE",
    "SHARE UPDATE EXCLUSIVE": "SHARE UPDATE EXCLUSIVE",
    "SHARE": "ROW EXCLUSIVE",
    "SHARE ROW EXCLUSIVE": "ROW EXCLUSIVE",
    "EXCLUSIVE": "ROW SHARE",
    "ACCESS EXCLUSIVE": "ACCESS SHARE",
}
#: What stands in a table's way for longer than a moment, whoever asked for it.
_HEAVY = ("AccessExclusiveLock", "ExclusiveLock")

_TABLE = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, current_user::text,
    pg_has_role(current_user, c.relowner, 'USAGE') OR has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)
"""
_LOCKS = """
SELECT l.pid, l.mode, l.granted, coalesce(a.application_name, '') FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation = %s
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.pid <> pg_backend_pid()
ORDER BY l.granted DESC, l.pid
"""

HOLDS = _pg.Holds()


class Params(Model):
    """Which table, how strongly, and for how long at most."""

    table: Annotated[str, Field(min_length=1)] = Field(description="The table, as SQL writes it: orders, sales.orders.")
    mode: Literal[
        "ACCESS EXCLUSIVE", "EXCLUSIVE", "SHARE ROW EXCLUSIVE", "SHARE", "SHARE UPDATE EXCLUSIVE", "ROW EXCLUSIVE",
        "ROW SHARE", "ACCESS SHARE",
    ] = Field(default="ACCESS EXCLUSIVE", description="The lock mode; the default keeps out readers too.")  # fmt: skip
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long it is locked at most, seconds or 90s, 5m."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    def look(server: Server) -> Prepared:
        if server.one("SELECT pg_is_in_recovery()")[0]:
            raise InjectionError("the server is a standby: tables are locked at its primary")
        found = server.rows(_TABLE, params.table)
        if not found:
            raise InjectionError(f"there is no table {params.table!r} in this database, on the search path")
        oid, schema, name, kind, user, may = found[0]
        if kind not in ("r", "p"):
            raise InjectionError(f"{schema}.{name} is no table")
        if not may:
            raise InjectionError(f"{user} may not lock {schema}.{name}: GRANT UPDATE ON {schema}.{name} TO {user}")
        for pid, mode, granted, application in server.rows(_LOCKS, oid):
            if mode in _HEAVY or application.startswith(_pg.PREFIX):
                how = "is locked" if granted else "is about to be locked"
                raise InjectionError(f"{schema}.{name} {how} already: {mode} of pid {pid} ({application or 'no name'})")
        receipt: Receipt = {
            "fault": site.id,
            "schema": schema,
            "table": name,
            "oid": oid,
            "mode": params.mode,
            "ttl_s": site.ttl_s,
        }
        return Prepared(receipt, (f"table {schema}.{name}",), {"locks": []})

    return await _pg.asked(site, look)


async def _apply(site: Site, receipt: Receipt) -> None:
    held = HOLDS.fresh(site)

    def hold() -> None:
        idle_ms = str(max(1, round(float(str(receipt["ttl_s"])) * 1000)))
        settings = {"lock_timeout": str(WAIT_MS), "statement_timeout": str(WAIT_MS + 1000)}
        db = _pg.connect(site, "hold", None, idle_in_transaction_session_timeout=idle_ms, **settings)
        held.take(db)
        try:
            db.autocommit = False
            with db.cursor() as cursor:
                cursor.execute(_statement(receipt, str(receipt["mode"]), wait=True))
        except psycopg2.Error as error:
            held.drop()
            raise InjectionError(f"{_name(receipt)} could not be locked: {' '.join(str(error).split())}") from error

    await asyncio.to_thread(hold)


async def _renew(site: Site, _: Receipt) -> None:
    """Say a word in the session: the server counts its idle time anew."""
    db = HOLDS.open(site)

    def speak() -> None:
        try:
            with db.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error as error:
            raise InjectionError(f"the session of the lock is gone: {' '.join(str(error).split())}") from error

    await asyncio.to_thread(speak)


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The lock is granted to us, and one who asks for the weakest that it keeps out does not get it."""
    return await _pg.asked(site, lambda server: _bites(server, receipt))


def _bites(server: Server, receipt: Receipt) -> Probe:
    """Look at the table's locks, and ask for one; who waits is counted."""
    ours = server.ours()
    locks = server.rows(_LOCKS, receipt["oid"])
    mode = _internal(str(receipt["mode"]))
    granted = any(pid in ours and granted and held == mode for pid, held, granted, _ in locks)
    waiting = [pid for pid, _, granted, _ in locks if not granted and pid not in ours]
    refused = not _free(server, receipt)
    evidence: dict[str, JSON] = {
        "table": _name(receipt),
        "granted": granted,
        "refused": refused,
        "waiting": len(waiting),
    }
    return Probe(granted and refused, evidence)


def _free(server: Server, receipt: Receipt) -> bool:
    """Ask for the weakest lock that the fault keeps out, without waiting, and give it back at once."""
    asked = KEEPS_OUT[str(receipt["mode"])]
    server.rows("BEGIN")
    try:
        server.rows(_statement(receipt, asked, wait=False))
    except psycopg2.errors.LockNotAvailable:
        return False
    except psycopg2.errors.UndefinedTable:
        return True  # it was dropped, or renamed: nobody can be kept out of it
    finally:
        server.rows("ROLLBACK")
    return True


async def _withdraw(site: Site, receipt: Receipt) -> None:
    """End the session at the server, from whatever process; the one that holds it lets go of it too."""
    held = HOLDS.get(site)

    def end(server: Server) -> None:
        if held is not None:
            held.note(lambda: _bites(server, receipt))
        server.end_ours()

    try:
        await _pg.asked(site, end)
    finally:
        if held is not None:
            await asyncio.to_thread(held.drop)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """No session of ours is there, and the table can be had, or is kept from us by others only."""

    def look(server: Server) -> Probe:
        ours = server.ours()
        free = not ours and _free(server, receipt)
        others: list[JSON] = [
            {"pid": pid, "mode": mode, "application": application}
            for pid, mode, granted, application in server.rows(_LOCKS, receipt["oid"])
            if granted and mode in _HEAVY and pid not in ours
        ]
        evidence: dict[str, JSON] = {"table": _name(receipt), "sessions": len(ours), "free": free, "others": others}
        return Probe(not ours and (free or bool(others)), evidence)

    return await _pg.asked(site, look)


async def _held(site: Site, receipt: Receipt) -> Probe:
    """The lock was there when the withdrawal began."""
    return await HOLDS.held(site, receipt)


def _name(receipt: Receipt) -> str:
    return f"{receipt['schema']}.{receipt['table']}"


def _internal(mode: str) -> str:
    """Return a lock mode as `pg_locks` spells it."""
    return "".join(word.capitalize() for word in mode.split()) + "Lock"


def _statement(receipt: Receipt, mode: str, wait: bool) -> sql.Composable:
    if mode not in KEEPS_OUT:
        raise InjectionError(f"not a lock mode: {mode!r}")
    table: Any = sql.Identifier(str(receipt["schema"]), str(receipt["table"]))
    return sql.SQL("LOCK TABLE {} IN {} MODE{}").format(table, sql.SQL(mode), sql.SQL("" if wait else " NOWAIT"))


injector = Injector(
    summary="a table is locked: whoever needs it waits",
    params=Params,
    positional=("table", "mode"),
    doors=(_pg.DOOR,),
    lease="target",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=None,
    duration_s=lambda params: params.duration if isinstance(params, Params) else None,
    renew=_renew,
    held=_held,
)
