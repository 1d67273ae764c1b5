"""`pg.hold_slot` against a real PostgreSQL and a consumer that fights for its slot."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from pydantic import ValidationError

from injectors import _pg
from injectors.pg import hold_slot
from injectors.pg.hold_slot import injector
from sim.injector import InjectionError
from sim.target import Door
from tests.injectors import postgres_target

#: The kill matrix opens all that need the server in one process, one by one.
HOST = "postgres"


@asynccontextmanager
async def fake_target():
    """Yield what the contract test uses: doors, arguments, and who has the slot."""
    server = postgres_target.primary()
    with postgres_target.consumer(server):
        yield {"postgres": Door(url=server.url)}, {"slot": "feed"}, lambda: postgres_target.feed(server)


@pytest.fixture
def server():
    made = postgres_target.primary()
    yield made
    assert postgres_target.us(made) == []


@pytest.fixture
def consumer(server):
    with postgres_target.consumer(server) as made:
        yield made


def params(slot="feed", **more):
    return injector.params.model_validate({"slot": slot, **more})


def prepared(site, slot="feed", **more):
    return asyncio.run(injector.prepare(site, params(slot, **more)))


def refused(site, slot="feed", **more):
    with pytest.raises(InjectionError) as caught:
        prepared(site, slot, **more)
    return str(caught.value)


def confirmed(server):
    return server.rows("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'feed'")


def test_the_consumer_is_told_that_its_slot_is_active_and_finds_its_place_again(server, consumer):
    """It comes back at once, and loses; nothing is confirmed meanwhile; it streams when we are gone."""
    site = postgres_target.site(server)
    before = prepared(site)
    receipt = json.loads(json.dumps(before.receipt))
    with postgres_target.table(server):
        server.rows("INSERT INTO hot SELECT generate_series(1, 5000)")
        asyncio.run(injector.apply(site, receipt))
        place = confirmed(server)
        seen = [asyncio.run(injector.effective(site, receipt)), asyncio.run(injector.gone(site, receipt))]
        asyncio.run(injector.renew(site, receipt))
        for _ in range(500):
            if consumer.refused:
                break
            server.rows("SELECT 1")
        assert confirmed(server) == place
        asyncio.run(injector.withdraw(site, receipt))
    seen.append(asyncio.run(injector.gone(site, receipt)))
    assert before.targets == ("slot feed",)
    assert (receipt["options"], before.prior["limit_bytes"]) == ({}, None)
    assert 'replication slot "feed" is active for PID' in consumer.refused[-1]
    kept = seen[0].evidence["kept_bytes"]
    assert (seen[0].holds, seen[0].evidence) == (
        True, {"slot": "feed", "held": True, "refused": True, "kept_bytes": kept},
    )  # fmt: skip
    assert kept > 0
    assert [each.holds for each in seen] == [True, False, True]
    assert [each.evidence["sessions"] for each in seen[1:]] == [1, 0]
    assert asyncio.run(injector.held(site, receipt)).holds
    assert asyncio.run(injector.effective(site, receipt)).evidence["held"] is False


def test_the_lease_is_the_server_s(server, consumer):
    """A word renews it; nobody speaks any more, and the server gives the slot back by itself."""
    site = postgres_target.site(server, ttl_s=0.3)
    receipt = prepared(site).receipt
    asyncio.run(injector.apply(site, receipt))
    asyncio.run(injector.renew(site, receipt))
    for _ in range(5000):
        if asyncio.run(injector.gone(site, receipt)).holds:
            break
    assert postgres_target.feed(server) == ["the consumer"]
    for told in ("slot feed is held by us no more", "this process holds no session of the fault"):
        with pytest.raises(InjectionError, match=told):
            asyncio.run(injector.renew(site, receipt))
    asyncio.run(injector.withdraw(site, receipt))
    assert not asyncio.run(injector.held(site, receipt)).holds
    assert not asyncio.run(injector.held(replace(site, id="never"), receipt)).holds


def test_it_lets_go_when_the_log_on_the_disk_gets_too_much(server, consumer):
    """At the next renewal; the run is told, and it did not hold."""
    site = postgres_target.site(server)
    receipt = prepared(site).receipt
    asyncio.run(injector.apply(site, receipt))
    with pytest.raises(InjectionError, match=r"slot feed keeps \d+ bytes, more than at_most: it was let go"):
        asyncio.run(injector.renew(site, receipt | {"at_most": 1}))
    asyncio.run(injector.withdraw(site, receipt))
    assert not asyncio.run(injector.held(site, receipt)).holds


def test_a_slot_that_cannot_be_won_is_told(server, consumer, monkeypatch):
    """A consumer that is always first: nothing of ours is left in its way."""
    site = postgres_target.site(server)
    receipt = prepared(site).receipt
    monkeypatch.setattr(hold_slot, "WIN_S", -1.0)
    rows = _pg.Server.rows
    monkeypatch.setattr(
        _pg.Server,
        "rows",
        lambda self, query, *given: [] if "active_pid FROM" in str(query) else rows(self, query, *given),
    )
    with pytest.raises(InjectionError, match=r'slot feed could not be held: replication slot "feed" is active'):
        asyncio.run(injector.apply(site, receipt))
    monkeypatch.undo()
    assert asyncio.run(injector.gone(site, receipt)).holds


def test_prepare_refuses_what_would_hit_nobody_or_too_much(server, monkeypatch):
    """No such slot, nobody there, held already, of another kind or database; and the two traps of the log's size."""
    site, said = postgres_target.site(server), [refused(postgres_target.site(server), "other")]
    server.rows("SELECT pg_create_physical_replication_slot('disk')")
    server.rows("SELECT pg_create_logical_replication_slot('idle', 'pgoutput')")
    try:
        said += [refused(site, "disk"), refused(site, "idle")]
        elsewhere = replace(site, doors={"postgres": Door(url=server.url.replace("/mbp?", "/template1?"))})
        said.append(refused(elsewhere, "idle"))
        with contextlib.closing(_pg.connect(site, "ask")) as db:
            with pytest.raises(InjectionError) as caught:
                hold_slot._options(_pg.Server(site, db), "idle")
            said.append(str(caught.value))
            server.rows('CREATE PUBLICATION "a,b"')
            assert hold_slot._options(_pg.Server(site, db), "idle")["publication_names"] == '"a,b"'
            server.rows('DROP PUBLICATION "a,b"')
    finally:
        server.rows("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    with postgres_target.consumer(server):
        receipt = prepared(site).receipt
        asyncio.run(injector.apply(site, receipt))
        said.append(refused(postgres_target.site(server, "r2-0")))
        asyncio.run(injector.withdraw(site, receipt))
    said.append(refused(postgres_target.site(postgres_target.standby())))
    pid = said[5].rpartition("pid ")[2]
    assert said == [
        "there is no slot 'other' (there are: none)",
        "slot disk is physical: a lasting logical one can be held",
        "nobody reads slot idle, so holding it would hit nobody",
        "slot idle is of database mbp, and doors.postgres opens template1",
        "slot idle is of pgoutput, and this database has no publication",
        f"slot feed is held already: by sim/r1-0/{postgres_target.PID}/hold (pid {pid}",
        "the server is a standby: slots are held at its primary",
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ((-1, 1 << 20, 1, "u", True), None),
        ((64 << 20, 1 << 20, 1, "u", True), 64 << 20),
        ((17 << 20, 1 << 20, 1, "u", True), "max_slot_wal_keep_size (17825792 bytes) would invalidate slot feed for "
         "good: at_most must be 15728640 or less"),
        ((-1, 1 << 20, 0, "u", True), "every walsender that max_wal_senders allows is taken: none is left to hold "
         "the slot"),
        ((-1, 1 << 20, 1, "u", False), "u may not read a slot: ALTER ROLE u REPLICATION"),
    ],
)  # fmt: skip
def test_the_server_s_own_limits(row, told):
    """Unlimited, wide enough, too narrow; no walsender left; no right to it."""

    class Told:
        def one(self, _):
            return row

    given = params(at_most="16MB")
    if not isinstance(told, str):
        assert hold_slot._room(Told(), given, 5) == told
        with pytest.raises(InjectionError, match="slot feed keeps 16777216 bytes already"):
            hold_slot._room(Told(), given, 16 << 20)
        return
    with pytest.raises(InjectionError) as caught:
        hold_slot._room(Told(), given, 5)
    assert str(caught.value) == told


def test_sizes_and_lengths():
    """Sizes as PostgreSQL writes them; a limit below a megabyte would end every hold at once."""
    assert [params(at_most=size).at_most for size in ("2MB", "1 GB", "2048kB", 1 << 20)] == [
        2 << 20, 1 << 30, 2 << 20, 1 << 20,
    ]  # fmt: skip
    assert (params().at_most, injector.duration_s(params(duration="3m")), injector.duration_s(params())) == (
        256 << 20, 180.0, None,
    )  # fmt: skip
    for wrong in ("10B", "much", 5, True):
        with pytest.raises(ValidationError):
            params(at_most=wrong)
