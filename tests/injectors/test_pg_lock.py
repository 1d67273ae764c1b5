"""`pg.lock` against a real PostgreSQL: held, noticed, leased, withdrawn from anywhere, and not mistaken for others'."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import replace

import psycopg2
import pytest

from injectors import _pg
from injectors.pg import lock
from injectors.pg.lock import KEEPS_OUT, injector
from sim.injector import InjectionError
from sim.secret import Secrets
from sim.target import Door
from tests.injectors import postgres_target

#: The kill matrix opens all that need the server in one process, one by one.
HOST = "postgres"


@asynccontextmanager
async def fake_target():
    """Yield what the contract test uses: doors, arguments, and the locks on the table as the server lists them."""
    server = postgres_target.primary()
    with postgres_target.table(server):
        doors = {"postgres": Door(url=server.url)}
        yield doors, {"table": "hot"}, lambda: postgres_target.locks(server)


@pytest.fixture
def server():
    made = postgres_target.primary()
    with postgres_target.table(made):
        yield made
    assert postgres_target.us(made) == []


def params(table="hot", **more):
    return injector.params.model_validate({"table": table, **more})


def prepared(site, table="hot", **more):
    return asyncio.run(injector.prepare(site, params(table, **more)))


def refused(site, table="hot", **more):
    with pytest.raises(InjectionError) as caught:
        prepared(site, table, **more)
    return str(caught.value)


@contextlib.contextmanager
def locked(site, receipt):
    """Have the fault in."""
    asyncio.run(injector.apply(site, receipt))
    try:
        yield
    finally:
        asyncio.run(injector.withdraw(site, receipt))


def test_whoever_needs_the_table_waits_and_then_does_not(server):
    """The lock is the server's own word; the probe is refused; one who waits is counted, and goes on afterwards."""
    site = postgres_target.site(server)
    before = prepared(site)
    receipt = json.loads(json.dumps(before.receipt))
    waiting = psycopg2.connect(server.url, async_=True)
    psycopg2.extras.wait_select(waiting)
    cursor = waiting.cursor()
    with locked(site, receipt):
        seen = [asyncio.run(injector.effective(site, receipt)), asyncio.run(injector.gone(site, receipt))]
        cursor.execute("SELECT count(*) FROM hot")
        query = "SELECT 1 FROM pg_locks WHERE NOT granted"
        for _ in range(500):
            if server.rows(query):
                break
        seen.append(asyncio.run(injector.effective(site, receipt)))
    psycopg2.extras.wait_select(waiting)
    seen += [asyncio.run(injector.gone(site, receipt)), asyncio.run(injector.held(site, receipt))]
    waiting.close()
    own = {"table": "public.hot"}
    assert before.targets == ("table public.hot",)
    assert [(each.holds, each.evidence) for each in seen] == [
        (True, own | {"granted": True, "refused": True, "waiting": 0}),
        (False, own | {"sessions": 1, "free": False, "others": []}),
        (True, own | {"granted": True, "refused": True, "waiting": 1}),
        (True, own | {"sessions": 0, "free": True, "others": []}),
        (True, own | {"granted": True, "refused": True, "waiting": 1}),
    ]


@pytest.mark.parametrize("mode", KEEPS_OUT)
def test_every_mode_is_held_and_proven_by_what_it_keeps_out(server, mode):
    """The weakest lock that the mode keeps out is refused; one step weaker is not."""
    site = postgres_target.site(server)
    receipt = prepared(site, mode=mode).receipt
    assert asyncio.run(injector.effective(site, receipt)).holds is False
    with locked(site, receipt):
        assert asyncio.run(injector.effective(site, receipt)).holds is True
        assert {held for held, _, _ in postgres_target.locks(server)} == {lock._internal(mode)}


def test_the_lease_is_the_server_s(server):
    """A word renews it; nobody speaks any more, and the server ends the session by itself."""
    site = postgres_target.site(server, ttl_s=0.2)
    receipt = prepared(site).receipt
    asyncio.run(injector.apply(site, receipt))
    asyncio.run(injector.renew(site, receipt))
    for _ in range(5000):
        if not postgres_target.us(server):
            break
    assert postgres_target.locks(server) == []
    assert asyncio.run(injector.gone(site, receipt)).holds
    with pytest.raises(InjectionError, match="the session of the lock is gone: "):
        asyncio.run(injector.renew(site, receipt))
    asyncio.run(injector.withdraw(site, receipt))
    assert asyncio.run(injector.held(site, receipt)).holds is False, "it ran out before it was withdrawn"
    with pytest.raises(InjectionError, match="this process holds no session of the fault"):
        asyncio.run(injector.renew(site, receipt))


def test_a_withdrawal_waits_until_the_session_is_gone(server, monkeypatch):
    """Word to a session is not its end: a server that is slow to end it is waited for, for a moment."""
    site = postgres_target.site(server)
    receipt = prepared(site).receipt
    asyncio.run(injector.apply(site, receipt))
    ((pid,),) = server.rows("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'sim/%/hold'")
    os.kill(pid, signal.SIGSTOP)
    waits = []
    monkeypatch.setattr(_pg, "sleep", lambda seconds: waits.append(os.kill(pid, signal.SIGCONT)))
    try:
        asyncio.run(injector.withdraw(site, receipt))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert waits
    assert postgres_target.us(server) == []


def test_a_withdrawal_that_comes_first_keeps_it_out(server):
    """What is on its way when the fault is withdrawn is closed before it holds anything."""
    site = postgres_target.site(server)
    receipt = prepared(site).receipt
    held = lock.HOLDS.fresh(site)
    held.drop()
    with pytest.raises(InjectionError, match="withdrawn before it was applied"):
        held.take(_pg.connect(site, "hold"))
    assert asyncio.run(injector.gone(site, receipt)).holds


def test_a_table_that_is_never_free_is_told(server, monkeypatch):
    """Somebody's long transaction: we do not wait for ever, and leave nothing in the queue."""
    monkeypatch.setattr(lock, "WAIT_MS", 50)
    site = postgres_target.site(server)
    receipt = prepared(site).receipt
    with contextlib.closing(psycopg2.connect(server.url)) as other, other.cursor() as cursor:
        cursor.execute("INSERT INTO hot VALUES (1)")
        with pytest.raises(InjectionError, match=r"public.hot could not be locked: .*lock timeout"):
            asyncio.run(injector.apply(site, receipt))
        assert postgres_target.us(server) == []
        cursor.execute("LOCK TABLE hot")
        gone = asyncio.run(injector.gone(site, receipt))
        said = refused(site)
        pid = other.get_backend_pid()
    others = [{"pid": pid, "mode": "AccessExclusiveLock", "application": ""}]
    assert (gone.holds, gone.evidence) == (
        True, {"table": "public.hot", "sessions": 0, "free": False, "others": others},
    )  # fmt: skip
    assert said == f"public.hot is locked already: AccessExclusiveLock of pid {pid} (no name)"
    assert asyncio.run(injector.held(replace(site, id="never"), receipt)).holds is False


def test_a_look_that_fails_keeps_nobody_from_ending_it(server, monkeypatch):
    """Whether it held cannot be said then; that it ends can."""
    site = postgres_target.site(server)
    receipt = prepared(site).receipt

    def broken(*_):
        raise psycopg2.errors.QueryCanceled("canceling statement")

    with locked(site, receipt):
        monkeypatch.setattr(lock, "_bites", broken)
    monkeypatch.undo()
    held = asyncio.run(injector.held(site, receipt))
    assert (held.holds, held.evidence) == (False, {"reason": "canceling statement"})
    assert asyncio.run(injector.gone(site, receipt)).holds


def test_another_fault_of_ours_is_noticed(server):
    """By its application name, whatever the mode."""
    site = postgres_target.site(server)
    with locked(site, prepared(site, mode="ROW SHARE").receipt):
        said = refused(postgres_target.site(server, "r2-0"))
    assert said.startswith("public.hot is locked already: RowShareLock of pid ")
    assert said.endswith(f"(sim/r1-0/{postgres_target.PID}/hold)")


def test_prepare_refuses_what_it_cannot_lock(server):
    """No such table, a view, no right to it, a standby; each with the cure."""
    site = postgres_target.site(server)
    server.rows("CREATE VIEW shown AS SELECT 1")
    server.rows("CREATE ROLE weak")
    weak = replace(site, doors={"postgres": Door(url=f"{server.url}&options=-c%20role%3Dweak")})
    try:
        said = [refused(site, "nowhere"), refused(site, "shown"), refused(site, "a.b.c")]
        with pytest.raises(InjectionError) as caught:
            asyncio.run(injector.prepare(weak, params()))
        said.append(str(caught.value))
    finally:
        server.rows("DROP VIEW shown")
        server.rows("DROP ROLE weak")
    said.append(refused(postgres_target.site(postgres_target.standby())))
    where = f"postgresql://127.0.0.1:{server.port}/mbp: "
    assert [each.replace(where, "URL: ") for each in said[:3]] == [
        "there is no table 'nowhere' in this database, on the search path",
        "public.shown is no table",
        'URL: cross-database references are not implemented: "a.b.c"',
    ]
    assert said[3:] == [
        "weak may not lock public.hot: GRANT UPDATE ON public.hot TO weak",
        "the server is a standby: tables are locked at its primary",
    ]


@pytest.mark.parametrize(
    ("door", "told"),
    [
        ({"url": "http://127.0.0.1:1"}, "'http://127.0.0.1:1' is no PostgreSQL: write postgresql://host:port/database"),
        ({"url": "postgresql://h/db?password=x"}, "a password stands only in auth, by reference"),
        ({"url": "postgresql://h/db?nonsense=1"}, 'invalid dsn: invalid URI query parameter: "nonsense"'),
        ({"url": "postgresql://h/db", "auth": "env:TOKEN"}, "PostgreSQL knows no bearer token: use auth.basic"),
        ({"url": "postgresql://h/db", "auth": {"key": "env:KEY"}}, "auth.key is a file: file:PATH"),
        (
            {"url": "postgresql://h/db", "auth": {"basic": {"user": "u", "password": "env:NONE"}}},
            "environment variable NONE is not set (wanted by 'env:NONE')",
        ),
    ],
)
def test_a_door_that_is_none(door, told):
    """Each told with the key that is wrong."""
    site = replace(postgres_target.Site("r1-0", "r1", {}, Secrets({})), doors={"postgres": Door.model_validate(door)})
    with pytest.raises(InjectionError) as caught:
        _pg.address(site)
    assert str(caught.value) == f"doors.postgres: {told}"


def test_a_door_with_all_its_keys():
    """User and password by reference, certificates as paths, whatever the address says of the user."""
    auth = {
        "basic": {"user": "sim", "password": "env:PW"}, "ca": "ca.pem", "certificate": "me.pem", "key": "file:me.key",
    }  # fmt: skip
    door = Door.model_validate({"url": "postgresql://db:5433/app?user=other", "auth": auth})
    site = postgres_target.Site("r1-0", "r1", {"postgres": door}, Secrets({"PW": "the secret"}))
    assert _pg.address(site) == {
        "host": "db", "port": "5433", "dbname": "app", "user": "sim", "password": "the secret",
        "sslmode": "verify-full", "sslrootcert": "ca.pem", "sslcert": "me.pem", "sslkey": "me.key",
    }  # fmt: skip


def test_a_server_that_is_not_there_is_named_without_its_secrets():
    """And a profile without the door says what to add."""
    site = postgres_target.Site("r1-0", "r1", {}, Secrets({}))
    with pytest.raises(InjectionError, match=r"the profile opens no door 'postgres': add doors.postgres with its url"):
        asyncio.run(injector.prepare(site, params()))
    port = postgres_target.free_port()
    nobody = replace(site, doors={"postgres": Door(url=f"postgresql://127.0.0.1:{port}/mbp?user=mbp")})
    with pytest.raises(InjectionError, match=rf"^postgresql://127.0.0.1:{port}/mbp: connection to server .* refused"):
        asyncio.run(injector.prepare(nobody, params()))


def test_how_long_it_is_held_and_what_is_no_mode():
    """As asked for, else the default; a mode that the receipt should not have is not run as SQL."""
    assert [injector.duration_s(params(duration="3m")), injector.duration_s(params())] == [180.0, None]
    with pytest.raises(InjectionError, match="not a lock mode"):
        lock._statement({"schema": "s", "table": "t"}, "SHARE; DROP TABLE t", wait=True)
