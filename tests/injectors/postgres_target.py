"""A real PostgreSQL for the tests of its faults: one server a test run, a table and a consumer each use.

The server is the one of the bundled target's launcher. It starts when the first test asks for it, and ends with us.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import psycopg2
from psycopg2.extras import LogicalReplicationConnection

from injectors import _pg
from mbp._service import StartRefused
from mbp.data.postgres import binaries
from sim.injector import Site
from sim.secret import Secrets
from sim.target import Door
from tests.conftest import missing
from tests.ports import free_port

STARTED_S = 60


def _tied():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)


class Running:
    """One server in a folder of its own."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="sim-pg-"))
        self.folder.chmod(0o755)
        self.port = free_port()
        self.url = f"postgresql://127.0.0.1:{self.port}/mbp?user=mbp"
        try:
            binaries.find()
        except StartRefused as error:
            missing("postgres", str(error))
        self.start()

    def start(self):
        """Start it on the data that are there."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mbp.data.postgres", f"--port={self.port}", f"--data={self.folder / 'data'}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_tied,
            )  # fmt: skip
        self._wait()

    def stop(self):
        """Stop it, its data kept."""
        self.process.terminate()
        self.process.wait(10)

    def _wait(self):
        """Wait until it takes connections."""
        tried = threading.Event()
        for _ in range(STARTED_S * 50):
            with contextlib.suppress(psycopg2.OperationalError):
                self.connect().close()
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()
            tried.wait(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def connect(self, factory=None):
        """Return a connection in autocommit."""
        db = psycopg2.connect(self.url, connection_factory=factory, connect_timeout=3)
        db.autocommit = True
        return db

    def rows(self, query, *given):
        """Ask over a connection of its own."""
        with contextlib.closing(self.connect()) as db, db.cursor() as cursor:
            cursor.execute(query, given or None)
            return cursor.fetchall() if cursor.description is not None else []

    def end(self):
        """End it, and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@cache
def primary():
    """Return the server that takes writes."""
    made = Running()
    atexit.register(made.end)
    return made


@cache
def standby():
    """Return a server in recovery, which waits for a log that never comes."""
    made = Running()
    atexit.register(made.end)
    made.stop()  # it has noted its settings by now, which a standby must not fall below
    (made.folder / "data/pgdata/standby.signal").touch()
    made.start()
    return made


def site(server, fault="r1-0", ttl_s=30.0, **door):
    """Return a site whose door is the server."""
    return Site(fault, "r1", {"postgres": Door(url=server.url, **door)}, Secrets({}), ttl_s=ttl_s)


def locks(server):
    """Return the table locks that sessions hold or wait for here: mode, granted, whose (ours by the role)."""
    found = server.rows(
        "SELECT l.mode, l.granted, a.application_name FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
        "JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'hot' ORDER BY 1, 2"
    )
    return [(mode, granted, name.rpartition("/")[2]) for mode, granted, name in found]


@contextlib.contextmanager
def table(server):
    """Have a table `public.hot`."""
    server.rows("CREATE TABLE hot (id int)")
    try:
        yield
    finally:
        server.rows("DROP TABLE hot")


#: How long a consumer that is to be looked at while it is away waits for that, seconds.
LOOKED_AT_S = 1.0


class Consumer:
    """Reads the slot `feed`; when its connection breaks it comes back, if it `may`; `refused` is what it was told.

    It comes back at once, or (`shows`) when somebody has `found` it away, and after `LOOKED_AT_S` in any case.
    """

    def __init__(self, server, url=None, shows=False):
        self.url = url or server.url
        self.server, self.may, self.stop = server, threading.Event(), threading.Event()
        self.shows, self.missed = shows, threading.Event()
        self.refused = []
        self.streaming = threading.Event()
        self.may.set()
        server.rows("SELECT pg_create_logical_replication_slot('feed', 'test_decoding')")
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.streaming.wait(20), self.refused

    def _run(self):
        while not self.stop.is_set():
            self.may.wait()
            with contextlib.suppress(psycopg2.OperationalError):
                db = psycopg2.connect(self.url, connection_factory=LogicalReplicationConnection, connect_timeout=3)
                try:
                    with contextlib.closing(db.cursor()) as cursor:
                        self._read(db, cursor)
                except psycopg2.Error as error:
                    self.refused.append(str(error).strip())
                finally:
                    db.close()
            self.streaming.clear()
            self.missed.clear()
            if self.shows and not self.stop.is_set():
                self.missed.wait(LOOKED_AT_S)
            self.stop.wait(0.02)

    def found(self):
        """Look who has the slot (`feed`)."""
        if not (there := feed(self.server)):
            self.missed.set()
        return there

    def _read(self, db, cursor):
        cursor.start_replication(slot_name="feed", decode=False)
        self.streaming.set()
        while not self.stop.is_set():
            if cursor.read_message() is None:
                cursor.send_feedback(flush_lsn=cursor.wal_end, force=True)
                select.select([db], [], [], 0.05)

    def end(self):
        """Let it end, and drop its slot."""
        self.stop.set()
        self.may.set()
        self.missed.set()
        self.thread.join(10)
        slots = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'feed' AND active"
        for _ in range(500):
            if not self.server.rows(slots):
                break
            threading.Event().wait(0.01)
        self.server.rows("SELECT pg_drop_replication_slot('feed')")


@contextlib.contextmanager
def consumer(server, url=None, shows=False):
    """Have a slot `feed` with a consumer that streams from it, as the server sees it; `url` is another way to it."""
    made = Consumer(server, url, shows)
    try:
        query = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"
        for _ in range(500):
            if server.rows(query):
                break
            threading.Event().wait(0.01)
        yield made
    finally:
        made.end()


def feed(server):
    """Return who has the slot: nobody, the consumer, or a session of ours by its role."""
    found = server.rows(
        "SELECT coalesce(nullif(a.application_name, ''), 'the consumer') FROM pg_replication_slots s "
        "JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = 'feed'"
    )
    return [name.rpartition("/")[2] for (name,) in found]


@asynccontextmanager
async def shy(server, given):
    """Yield doors, arguments and state of a server whose consumer comes back only when somebody has looked twice."""
    looks, look = [], _pg.senders_back
    with consumer(server) as made:

        def looked(receipt, senders):
            back = look(receipt, senders)
            if not back[0]:
                looks.append(1)
                if len(looks) == 3:
                    made.may.set()
            return back

        made.may.clear()
        _pg.senders_back = looked
        try:
            yield {"postgres": Door(url=server.url)}, given, lambda: feed(server)
        finally:
            _pg.senders_back = look


def us(server):
    """Return the sessions of ours that hold something here."""
    return server.rows("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'sim/%/hold'")


PID = os.getpid()
