"""What faults at a PostgreSQL server share: how they get in, how what they hold is marked, and what stands there.

The door `postgres` is ``postgresql://host:port/database``, with ``?user=NAME`` where nobody asks for a password, or
with `auth`: user and password by reference, authorities and client certificate as paths. It is the server itself: a
pooler would give the statements of one session to several. Every call opens a connection of its own, bounded in all it
does, in a thread; what a fault holds is held by a session whose end the server enforces.

Each connection of ours carries ``sim/INJECTION/PID/ROLE`` as its application name. That is how another process finds
what a dead one has left, how `gone` reads it back, and how one fault notices another.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from time import monotonic, sleep
from typing import Any, TypeVar

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import parse_dsn

from sim.event import JSON
from sim.injector import InjectionError, Probe, Receipt, Site
from sim.secret import SecretMissing

T = TypeVar("T")
Row = tuple[Any, ...]

DOOR = "postgres"
CONNECT_S = 3
#: The longest that one statement may take, milliseconds; with the connecting it stays below what a call may take.
STATEMENT_MS = 4000
#: After so long without an answer of the server's machine a connection is dead, milliseconds.
UNHEARD_MS = 5000
#: How long one withdrawal waits for those who were disturbed to be back, seconds.
BACK_S = 7.0
_LOOK_S = 0.05
#: How long ending a session of ours waits for it to be gone, seconds; whoever looks afterwards sees the rest.
_GONE_S = 1.0
_GONE_LOOK_S = 0.005
#: What every application name of ours begins with.
PREFIX = "sim/"


def mark(fault: str) -> str:
    """Return what the application names of one injection's connections begin with (63 bytes are kept of a name)."""
    return f"{PREFIX}{fault[:36]}/"


def address(site: Site) -> dict[str, Any]:
    """Return the arguments to connect with. Raises `InjectionError` where the door is not there or names no server."""
    door = site.doors.get(DOOR)
    if door is None:
        raise InjectionError(f"the profile opens no door {DOOR!r}: add doors.{DOOR} with its url")
    try:
        if not door.url.startswith(("postgresql://", "postgres://")):
            raise ValueError(f"{door.url!r} is no PostgreSQL: write postgresql://host:port/database")
        found: dict[str, Any] = parse_dsn(door.url)
        if "password" in found:
            raise ValueError("a password stands only in auth, by reference")
        auth = door.auth
        if auth is not None and auth.bearer is not None:
            raise ValueError("PostgreSQL knows no bearer token: use auth.basic")
        if auth is not None and auth.basic is not None:
            found |= {"user": auth.basic.user, "password": site.secrets.resolve(auth.basic.password)}
        if auth is not None and auth.ca is not None:
            found |= {"sslmode": "verify-full", "sslrootcert": auth.ca}
        if auth is not None and auth.certificate is not None:
            found |= {"sslcert": auth.certificate}
        if auth is not None and auth.key is not None:
            if not auth.key.startswith("file:"):
                raise ValueError("auth.key is a file: file:PATH")
            found |= {"sslkey": auth.key.removeprefix("file:")}
    except (ValueError, psycopg2.ProgrammingError, SecretMissing) as error:
        raise InjectionError(f"doors.{DOOR}: {str(error).strip()}") from error
    return found


def connect(site: Site, role: str, factory: type[Connection] | None = None, **settings: str) -> Connection:
    """Open a connection with these settings of the session, in autocommit. Raises `InjectionError`."""
    given = address(site)
    own = " ".join(
        f"-c {name}={value}" for name, value in ({"statement_timeout": str(STATEMENT_MS)} | settings).items()
    )
    given |= {
        "application_name": f"{mark(site.id)}{os.getpid()}/{role}",
        "options": f"{given.get('options', '')} {own}".strip(),
        "connect_timeout": CONNECT_S,
        "keepalives_idle": 2,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "tcp_user_timeout": UNHEARD_MS,
    }
    with _explained(site):
        if factory is not None:  # a replication connection knows no transactions
            stream: Connection = psycopg2.connect(**given, connection_factory=factory)
            return stream
        made: Connection = psycopg2.connect(**given)
        made.autocommit = True
        return made


@contextmanager
def _explained(site: Site) -> Iterator[None]:
    """Turn what the driver raises into an `InjectionError` that says which server it was."""
    try:
        yield
    except psycopg2.Error as error:
        where = site.doors[DOOR].url.partition("?")[0]
        text = " ".join(str(error).split()) or type(error).__name__
        raise InjectionError(site.secrets.redact(f"{where}: {text}")) from error


class Server:
    """One connection, to ask and to act."""

    def __init__(self, site: Site, db: Connection) -> None:
        self.site, self.db = site, db

    def rows(self, query: str | sql.Composable, *given: Any) -> list[Row]:
        """Run one statement and return its rows. Raises `psycopg2.Error`."""
        with self.db.cursor() as cursor:
            cursor.execute(query, given or None)
            return cursor.fetchall() if cursor.description is not None else []

    def one(self, query: str | sql.Composable, *given: Any) -> Row:
        """Return the only row of a statement. Raises `InjectionError` where there is none."""
        found = self.rows(query, *given)
        if len(found) != 1:
            raise InjectionError(f"expected one row, got {len(found)}: {query!s:.100}")
        return found[0]

    def ours(self) -> list[int]:
        """Return the pids of what this injection holds open here, from whatever process; not those that only ask."""
        return [int(pid) for (pid,) in self.rows(_OURS, mark(self.site.id), mark(self.site.id), "%/hold")]

    def end_ours(self) -> None:
        """End what this injection holds open here, and give it a moment to be gone: the server only passes word on."""
        found = self.ours()
        for pid in found:
            self.rows("SELECT pg_terminate_backend(%s)", pid)
        deadline = monotonic() + _GONE_S
        while found and monotonic() < deadline:
            sleep(_GONE_LOOK_S)
            found = self.ours()

    def may_end_others(self, pid: int) -> None:
        """Raise `InjectionError` unless the session `pid`, of somebody else, may be ended by us."""
        user, may = self.one(_MAY_END, pid)
        if not may:
            raise InjectionError(
                f"{user} may not end the session of pid {pid}: GRANT pg_signal_backend TO {user} "
                "(and a superuser's session is ended by a superuser only)"
            )

    def walsenders(self) -> list[dict[str, Any]]:
        """Return who is streaming from this server, but us and backups. Raises `InjectionError` where we may not see.

        `key` is what stays the same when a consumer comes back: its slot, else its name; `began` tells one session
        from the next that is given the same pid.
        """
        names = ("pid", "began", "application", "state", "slot")
        found = [dict(zip(names, row, strict=True)) for row in self.rows(_SENDERS, f"{PREFIX}%")]
        for each in found:
            if each["state"] is None or each["began"] is None:
                raise InjectionError("pg_stat_replication is hidden from this user: GRANT pg_monitor TO it")
            each["key"] = f"slot {each['slot']}" if each["slot"] else f"client {each['application']}"
        return [each for each in found if each["state"] != "backup"]


_OURS = (
    "SELECT pid FROM pg_stat_activity WHERE left(application_name, length(%s)) = %s AND application_name LIKE %s "
    "AND pid <> pg_backend_pid() ORDER BY pid"
)
_MAY_END = """
SELECT current_user, m.rolsuper OR (a.usesysid IS NOT NULL AND NOT o.rolsuper
    AND (pg_has_role(current_user, a.usesysid, 'USAGE') OR pg_has_role(current_user, 'pg_signal_backend', 'USAGE')))
FROM pg_roles m, pg_stat_activity a JOIN pg_roles o ON o.oid = a.usesysid
WHERE m.rolname = current_user AND a.pid = %s
"""
_SENDERS = """
SELECT r.pid, (extract(epoch FROM r.backend_start) * 1000000)::bigint, coalesce(r.application_name, ''), r.state,
    s.slot_name
FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
WHERE coalesce(r.application_name, '') NOT LIKE %s ORDER BY s.slot_name, r.pid
"""


async def asked(site: Site, work: Callable[[Server], T]) -> T:
    """Run `work` in a thread, over a connection of its own. Raises `InjectionError`."""

    def main() -> T:
        db = connect(site, "ask")
        try:
            with _explained(site):
                return work(Server(site, db))
        finally:
            db.close()

    return await asyncio.to_thread(main)


async def until(condition: Callable[[], Any], within_s: float = BACK_S) -> bool:
    """Look until the coroutine that `condition` makes is true, at most so long; return whether it is."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not await condition():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_LOOK_S)
    return True


def senders_back(receipt: Receipt, senders: list[dict[str, Any]]) -> tuple[bool, dict[str, JSON]]:
    """Say whether everyone who streamed when the fault was prepared streams (again), and show who does."""
    listed: Any = receipt["senders"]
    wanted = [str(each["key"]) for each in listed]
    there = [str(each["key"]) for each in senders if each["state"] in ("streaming", "catchup")]
    missing = [key for key in dict.fromkeys(wanted) if there.count(key) < wanted.count(key)]
    shown: list[JSON] = [{name: each[name] for name in ("key", "pid", "state")} for each in senders]
    return not missing, {"streaming": shown, "missing": list(missing)}


class Held:
    """One session that holds a fault, in the process that applied it.

    The session is known here before it holds anything: a withdrawal that comes while it still waits ends it too.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.db: Connection | None = None
        self.cursor: Any = None  # of a replication connection, whose words go through it
        self.over = False
        self.seen: Probe | None = None

    def note(self, look: Callable[[], Probe]) -> None:
        """Look, the first time only, whether the fault holds still; a look that fails keeps nobody from ending it."""
        if self.seen is None:
            try:
                self.seen = look()
            except psycopg2.Error as error:
                self.seen = Probe(False, {"reason": " ".join(str(error).split())})

    def take(self, db: Connection) -> None:
        """Take over an open session. Raises `InjectionError` where the fault is withdrawn already."""
        with self.lock:
            if not self.over:
                self.db = db
                return
        db.close()
        raise InjectionError("withdrawn before it was applied")

    def drop(self) -> None:
        """Close the session, and let none come after."""
        with self.lock:
            self.over = True
            if self.db is not None:
                self.db.close()
                self.db = None


class Holds:
    """The sessions of this process, by injection."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def fresh(self, site: Site) -> Held:
        """Return a place for the session of an injection that begins."""
        self._held[site.id] = Held()
        return self._held[site.id]

    def get(self, site: Site) -> Held | None:
        """Return the place of an injection's session; null in any other process than the one that applied it."""
        return self._held.get(site.id)

    async def held(self, site: Site, _: Receipt) -> Probe:
        """Say whether the fault was there when the withdrawal began: an injector's `held`."""
        held = self._held.get(site.id)
        if held is None or held.seen is None:
            return Probe(False, {"reason": "nobody looked when it was withdrawn"})
        return held.seen

    def open(self, site: Site) -> Connection:
        """Return the session of an injection. Raises `InjectionError` where this process holds none."""
        held = self._held.get(site.id)
        if held is None or held.db is None:
            raise InjectionError("this process holds no session of the fault, so there is nothing to renew")
        return held.db
