"""PostgreSQL, relay and CDC consumer as processes, disturbed while trades go through: nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg2
import pytest

from tests.ports import free_port

pytestmark = pytest.mark.live
TABLES = ("mbp_markets", "mbp_quotes", "mbp_resolutions", "mbp_abuse_events", "mbp_trades")
TOKEN = "a-token-of-the-tests"


class Feed:
    """The engine's event feed: a list that grows."""

    def __init__(self):
        self.events, self.lock = [], threading.Lock()
        feed = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                query = parse_qs(urlsplit(self.path).query)
                after, limit = int(query.get("after", ["0"])[0]), int(query.get("limit", ["1"])[0])
                with feed.lock:
                    found = feed.events[after : after + limit] if self.path.startswith("/v1/events") else []
                raw = json.dumps({"rows": found, "next": found[-1]["seq"] if found else after}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_):
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, kind, **data):
        at = "2026-01-02T03:04:05.000006Z"
        with self.lock:
            seq = len(self.events) + 1
            trace = f"{seq:032x}"
            self.events.append({
                "seq": seq, "id": str(uuid.uuid4()), "type": kind, "subject": data["market"], "at": at,
                "recorded_at": at, "trace_id": trace, "schema": f"mbp.events.v1/{kind}", "data": data,
            })  # fmt: skip

    def trade(self, number):
        amount = f"{number}.{number:09d}"
        self.add(
            "trade_executed", market=f"m{number % 7}", swap=number, side="yes", action="buy", amount_in=amount,
            amount_out="1.000000001", fee="0.002", price_yes="0.51", request_id="r", fault=None,
        )  # fmt: skip


class Wire:
    """A TCP proxy that can stall both ways, the connections left open."""

    def __init__(self, port):
        self.target, self.flowing = port, threading.Event()
        self.flowing.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near):
        with near:
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            with far:
                back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
                back.start()
                self._pump(near, far)
                back.join()

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.flowing.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.flowing.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Platform:
    """The three processes over one folder; each can be killed and started again."""

    def __init__(self, folder):
        self.folder, self.feed, self.processes = folder, Feed(), {}
        self.ports = {name: free_port() for name in ("postgres", "relay", "cdc")}
        self.wire = Wire(self.ports["postgres"])
        self.url = f"postgresql://mbp@127.0.0.1:{self.ports['postgres']}/mbp"
        # The server drops a client that says nothing for two seconds.
        self.source = f"postgresql://mbp@127.0.0.1:{self.wire.port}/mbp?options=-c%20wal_sender_timeout%3D2s"
        (folder / "token").write_text(TOKEN)
        self.numbers = 0

    def start(self, name):
        options = {
            "postgres": ["--data", str(self.folder / "data of it")],
            "relay": ["--engine", self.feed.url, "--postgres", self.url],
            "cdc": ["--source", self.source, "--warehouse", self.url, "--silent", "3", "--queue-bytes", "60000"],
        }[name]
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", f"mbp.data.{name}", "--port", str(self.ports[name]), *options],
            env={
                **os.environ,
                "PYTHONFAULTHANDLER": "1",
                "SIM_FAULTS": "1",
                "MBP_FAULT_TOKEN_FILE": str(self.folder / "token"),
            },
        )

    def kill(self, name, number=signal.SIGKILL):
        self.processes[name].send_signal(number)
        self.processes[name].wait(10)

    def stop(self):
        with contextlib.ExitStack() as stack:  # whatever one of them does, all are ended
            stack.callback(self.feed.server.server_close)
            stack.callback(self.feed.server.shutdown)
            stack.callback(self.wire.close)
            for name in self.processes:
                stack.callback(self._ended, name)
            for process in self.processes.values():
                process.terminate()

    def _ended(self, name):
        try:
            self.processes[name].wait(10)
        except subprocess.TimeoutExpired:
            self.kill(name, signal.SIGABRT)  # it writes down where it hangs
            pytest.fail(f"{name} does not end")

    def ask(self, name, path, body=None, method=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[name]}{path}", None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}, method=method,
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.loads(answer.read() or b"null")

    def server_pid(self):
        (server,) = psutil.Process(self.processes["postgres"].pid).children()
        return server.pid

    def sums(self):
        """Return count, sums and a digest of every table, of the source and of the warehouse."""
        with contextlib.closing(psycopg2.connect(self.url, connect_timeout=2)) as db, db.cursor() as cursor:
            db.set_session(isolation_level="REPEATABLE READ", readonly=True)  # all tables as they are at one moment
            found = []
            for schema in ("public", "wh"):
                side = {}
                for table in TABLES:
                    # The source's columns, in both: the warehouse has its own beside them.
                    cursor.execute(
                        "SELECT string_agg(quote_ident(column_name), ', ' ORDER BY column_name) "
                        "FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s",
                        (table,),
                    )
                    columns = cursor.fetchone()[0]
                    cursor.execute(
                        f"SELECT count(*), md5(string_agg(r::text, '|' ORDER BY r::text)) "
                        f"FROM (SELECT {columns} FROM {schema}.{table}) AS r"
                    )
                    side[table] = cursor.fetchone()
                cursor.execute(
                    f"SELECT sum(amount_in), sum(amount_out), sum(fee), count(DISTINCT seq) FROM {schema}.mbp_trades"
                )
                side["sums"] = cursor.fetchone()
                found.append(side)
            cursor.execute("SELECT (SELECT count(*) FROM wh.quarantine), (SELECT count(*) FROM relay_rejected)")
            return found, cursor.fetchone()

    def equal_within(self, seconds):
        """Wait until both sides hold every event of the feed, and compare all there is."""
        trades = [each["data"] for each in self.feed.events if each["type"] == "trade_executed"]
        totals = tuple(sum(Decimal(t[name]) for t in trades) for name in ("amount_in", "amount_out", "fee"))
        deadline, last = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            try:
                last = self.sums()
            except psycopg2.Error as error:
                last = error
            else:
                (source, warehouse), aside = last
                if source == warehouse and source["sums"] == (*totals, len(trades)) and aside == (0, 0):
                    assert source["mbp_trades"][0] == source["mbp_quotes"][0] == len(trades)
                    return
            time.sleep(0.1)
        pytest.fail(f"not equal after {seconds} s: {last}; wanted {totals} of {len(trades)} trades")

    def trade(self, count, every=0.0):
        for _ in range(count):
            self.numbers += 1
            self.feed.trade(self.numbers)
            time.sleep(every)


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    made = Platform(tmp_path_factory.mktemp("cdc"))
    for name in ("postgres", "relay", "cdc"):
        made.start(name)
    made.feed.add(
        "market_created", market="m1", question="q?", reserve="10", price_yes="0.5", closes_at=None, fault=None
    )
    made.feed.add("resolution_started", market="m1", by="rule", reason="due", closes_at=None)
    made.feed.add("flagged_abuse", market="m1", reason="spam")
    made.trade(10)
    made.equal_within(30)
    try:
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def trading(platform, seconds=4.0):
    """Trade fifty times a second while the block runs, at least for so long."""
    done = threading.Event()

    def trade():
        until = time.monotonic() + seconds
        while time.monotonic() < until or not done.is_set():
            platform.trade(1, every=0.02)

    thread = threading.Thread(target=trade)
    thread.start()
    time.sleep(0.7)
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("name", ["cdc", "relay"])
def test_a_killed_process_goes_on_where_it_was(platform, name):
    """Twice, in the middle of the trades: every trade is there once on both sides."""
    with trading(platform):
        for _ in range(2):
            platform.kill(name)
            platform.start(name)
            time.sleep(1.5)
    platform.equal_within(20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["restart", "kill -9"])
def test_a_postgresql_that_goes_and_comes_back_costs_nothing(platform, number):
    """The launcher ended politely (in time, although a consumer reads) or killed; relay and consumer come back."""
    with trading(platform):
        server = platform.server_pid()
        began = time.monotonic()
        platform.kill("postgres", number)
        assert time.monotonic() - began < 5
        platform.start("postgres")
    platform.equal_within(25)
    assert not psutil.pid_exists(server)
    assert platform.processes["postgres"].poll() is None


def test_a_killed_postmaster_ends_its_launcher_and_is_recovered(platform):
    """Its orphans are ended by the next launcher, which starts on the same folder."""
    with trading(platform):
        os.kill(platform.server_pid(), signal.SIGKILL)
        assert platform.processes["postgres"].wait(10) == 1
        platform.start("postgres")
    platform.equal_within(25)


def test_a_stall_both_ways_kills_the_walsender_and_the_slot_is_taken_up_again(platform):
    """Longer than wal_sender_timeout: both ends drop the connection, and nothing is missing afterwards."""
    before = platform.ask("cdc", "/lag")
    with trading(platform):
        platform.wire.flowing.clear()
        deadline = time.monotonic() + 15
        while platform.ask("cdc", "/lag")["streaming"] and time.monotonic() < deadline:
            time.sleep(0.1)
        platform.wire.flowing.set()
    assert before["streaming"]
    platform.equal_within(25)


def test_a_walsender_that_stands_still_is_noticed_and_left(platform):
    """SIGSTOP of the server's process: the consumer says so (age grows, events are silent), and comes back after."""
    with contextlib.closing(psycopg2.connect(platform.url)) as db, db.cursor() as cursor:
        cursor.execute("SELECT active_pid FROM pg_replication_slots")
        pid = cursor.fetchone()[0]
    with trading(platform, seconds=2):
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while platform.ask("cdc", "/lag")["streaming"] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert platform.ask("cdc", "/lag")["freshness_now_s"] > 2
        os.kill(pid, signal.SIGCONT)
    platform.equal_within(25)


def test_the_delay_line_holds_the_whole_stream_and_its_end_applies_it_at_once(platform):
    """Three witnesses agree on the dose; a consumer killed under it loses nothing, and the fault is gone with it."""
    body = {"point": "cdc.apply", "kind": "delay", "params": {"delay_s": 4}, "ttl_s": 30, "run": "r"}
    deadline = time.monotonic() + 10
    while platform.ask("cdc", "/lag")["freshness_now_s"] > 1.5 and time.monotonic() < deadline:
        time.sleep(0.1)
    platform.ask("cdc", "/faults/f1", body, "PUT")
    with trading(platform, seconds=6):
        time.sleep(6)
        lag = platform.ask("cdc", "/lag")
    assert 40_000 < lag["queued_bytes"] < 500_000, "it stops reading when more than the bound waits"
    for witness in ("event_lag_s", "freshness_s", "replay_lag_s"):
        assert abs(lag[witness]["last"] - 4) < 1.5, lag
    platform.ask("cdc", "/faults/f1", method="DELETE")
    platform.equal_within(3)
    platform.ask("cdc", "/faults/f2", body, "PUT")
    platform.trade(50)
    time.sleep(1)
    platform.kill("cdc")
    platform.start("cdc")
    platform.equal_within(15)
    assert platform.ask("cdc", "/faults") == []


def test_rows_that_are_not_as_they_should_be_are_put_aside_and_hold_up_nobody(platform):
    """An event that breaks its schema, a row that the warehouse refuses; a part that was not sent stays as it was."""
    insert = (
        "INSERT INTO mbp_abuse_events (seq, event_id, type, at, recorded_at, data, market, reason) "
        "VALUES (%s, gen_random_uuid(), 'flagged_abuse', now(), now(), %s, 'm1', %s)"
    )
    good = json.dumps({"market": "m1", "reason": "x"})
    with contextlib.closing(psycopg2.connect(platform.url)) as db, db.cursor() as cursor:
        cursor.execute("ALTER TABLE wh.mbp_abuse_events ADD CONSTRAINT no CHECK (reason <> 'refused')")
        db.commit()
        # Stored apart and not compressible: an update of another column does not send it.
        cursor.execute("UPDATE mbp_markets SET question = (SELECT string_agg(gen_random_uuid()::text, '') FROM "
                       "generate_series(1, 2000)) WHERE market = 'm1'")  # fmt: skip
        db.commit()
        cursor.execute("UPDATE mbp_markets SET status = 'closed' WHERE market = 'm1'")
        cursor.execute(insert, (900_001, json.dumps({"market": "m1"}), "invalid"))
        cursor.execute(insert, (900_002, good, "refused"))
        cursor.execute(insert, (900_003, good, "kept"))
        db.commit()
        cursor.execute("DELETE FROM mbp_abuse_events WHERE seq = 900003 RETURNING (SELECT count(*) FROM mbp_markets)")
        db.commit()
        cursor.execute(insert, (900_004, good, "last"))
        db.commit()
        deadline, found = time.monotonic() + 15, []
        while not found and time.monotonic() < deadline:
            time.sleep(0.1)
            cursor.execute("SELECT 1 FROM wh.mbp_abuse_events WHERE seq = 900004")
            found = cursor.fetchall()
            db.rollback()
        cursor.execute("SELECT seq FROM wh.mbp_abuse_events WHERE seq > 900000 ORDER BY seq")
        assert cursor.fetchall() == [(900_004,)]
        cursor.execute(
            "SELECT source, operation, row ->> 'seq', split_part(error, ':', 1) FROM wh.quarantine ORDER BY id"
        )
        assert cursor.fetchall() == [
            ("public.mbp_abuse_events", "insert", "900001", "mbp.events.v1/flagged_abuse"),
            ("public.mbp_abuse_events", "insert", "900002",
             'new row for relation "mbp_abuse_events" violates check constraint "no"\nDETAIL'),
        ]  # fmt: skip
        cursor.execute("SELECT w.status, w.question = m.question, length(w.question) FROM wh.mbp_markets w JOIN "
                       "mbp_markets m USING (market) WHERE market = 'm1'")  # fmt: skip
        assert cursor.fetchone() == ("closed", True, 72_000)
    assert platform.ask("cdc", "/lag")["quarantined"] == 2
