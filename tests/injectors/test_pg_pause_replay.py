"""`pg.pause_replay` against a real PostgreSQL in recovery. That a real stream waits is in tests/live/test_pg.py."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from injectors import _pg
from injectors.pg import pause_replay
from injectors.pg.pause_replay import injector
from sim.injector import InjectionError
from sim.target import Door
from tests.injectors import postgres_target


def state(server):
    """Return the server's own word."""
    return [word for (word,) in server.rows("SELECT pg_get_wal_replay_pause_state()")]


#: The kill matrix opens all that need the server in one process, one by one.
HOST = "postgres"


@asynccontextmanager
async def fake_target():
    """Yield what the contract test uses: doors, arguments, and whether the replay is paused."""
    server = postgres_target.standby()
    yield {"postgres": Door(url=server.url)}, {}, lambda: state(server)


@pytest.fixture
def server():
    made = postgres_target.standby()
    yield made
    assert state(made) == ["not paused"]


def params(**more):
    return injector.params.model_validate(more)


def refused(site):
    with pytest.raises(InjectionError) as caught:
        asyncio.run(injector.prepare(site, params()))
    return str(caught.value)


def test_it_is_paused_by_the_server_s_word_and_resumed(server):
    """In another process too, and twice; where no primary sends anything the word is all there is."""
    site = postgres_target.site(server)
    before = asyncio.run(injector.prepare(site, params()))
    receipt = json.loads(json.dumps(before.receipt))
    asyncio.run(injector.apply(site, receipt))
    try:
        seen = [asyncio.run(injector.effective(site, receipt)), asyncio.run(injector.gone(site, receipt))]
        said = refused(site)
    finally:
        for _ in range(2):
            asyncio.run(injector.withdraw(site, receipt))
    seen += [asyncio.run(injector.gone(site, receipt)), asyncio.run(injector.effective(site, receipt))]
    assert before.targets == ("the replay of the standby",)
    assert before.prior["state"] == "not paused"
    assert [each.holds for each in seen] == [True, False, True, False]
    assert [each.evidence["state"] for each in seen] == ["paused", "paused", "not paused", "not paused"]
    assert said == "its replay is paused already, by somebody else"


def test_prepare_refuses_what_is_no_standby_or_not_ours_to_pause(server):
    """A primary, and a user without the right, each told so."""
    said = [refused(postgres_target.site(postgres_target.primary()))]
    weak = f"{server.url}&options=-c%20role%3Dpg_monitor"
    said.append(refused(replace(postgres_target.site(server), doors={"postgres": Door(url=weak)})))
    assert said == [
        "the server is not in recovery: only a standby replays",
        "pg_monitor may not pause it: GRANT EXECUTE ON FUNCTION pg_wal_replay_pause(), pg_wal_replay_resume() "
        "TO pg_monitor",
    ]


WAITS = {"standby": True, "state": "paused", "received": "0/2", "replayed": "0/1", "waiting_bytes": 1, "receiver": "s"}


@pytest.mark.parametrize(
    ("changes", "bites", "gone"),
    [
        ({}, True, False),
        ({"waiting_bytes": 0}, False, False),  # nothing waits, so nothing is late
        ({"waiting_bytes": None, "receiver": None}, True, False),
        ({"state": "pause requested"}, False, False),
        ({"state": "not paused"}, False, False),  # what waited still waits
        ({"state": "not paused", "waiting_bytes": 0}, False, True),
        ({"standby": False, "state": None}, False, True),  # promoted
    ],
)
def test_word_and_effect_must_agree(server, monkeypatch, changes, bites, gone):
    """A pause that nobody feels is no effect; one that is over while the backlog stands still is not gone."""
    monkeypatch.setattr(pause_replay, "_state", lambda _: WAITS | changes)
    monkeypatch.setattr(pause_replay, "LOOK_S", 0.0)
    site = postgres_target.site(server)
    seen = asyncio.run(injector.effective(site, {})), asyncio.run(injector.gone(site, {}))
    assert [each.holds for each in seen] == [bites, gone]


def test_a_backlog_that_moves_is_gone_and_no_effect(server, monkeypatch):
    """It need not be at its end."""
    moving = iter([WAITS, WAITS | {"replayed": "0/2"}] * 2)
    monkeypatch.setattr(pause_replay, "_state", lambda _: next(moving) | {"state": "not paused"})
    monkeypatch.setattr(pause_replay, "LOOK_S", 0.0)
    site = postgres_target.site(server)
    assert asyncio.run(injector.gone(site, {})).holds
    assert not asyncio.run(injector.effective(site, {})).holds


def test_a_replay_that_does_not_pause_is_told(server, monkeypatch):
    """It stops between two records; one that is applied for ever is not waited for."""
    monkeypatch.setattr(pause_replay, "PAUSED_S", 0.0)
    monkeypatch.setattr(pause_replay, "_state", lambda _: WAITS | {"state": "pause requested"})
    site = postgres_target.site(server)
    with pytest.raises(InjectionError, match="the replay was not paused within 0 s"):
        asyncio.run(injector.apply(site, {}))
    monkeypatch.undo()
    asyncio.run(injector.withdraw(site, {}))


def test_one_that_was_promoted_has_nothing_to_resume():
    """A server that is no standby any more: withdrawn and gone."""
    site = postgres_target.site(postgres_target.primary())
    asyncio.run(injector.withdraw(site, {}))
    assert asyncio.run(injector.gone(site, {})).holds
    assert asyncio.run(_pg.asked(site, pause_replay._state))["standby"] is False


def began(server):
    """Return when a server was started, as the receipt keeps it."""
    return asyncio.run(_pg.asked(postgres_target.site(server), pause_replay._state))["began"]


def test_a_primary_that_has_the_address_by_now_is_not_the_standby_that_was_paused(server):
    """After a failover the standby may stand still elsewhere: that the address leads to a primary is no end of it."""
    site = postgres_target.site(server)
    receipt = asyncio.run(injector.prepare(site, params())).receipt
    assert receipt["began"] == began(server)
    taken_over = replace(site, doors={"postgres": Door(url=postgres_target.primary().url)})
    asyncio.run(injector.withdraw(taken_over, receipt))
    found = asyncio.run(injector.gone(taken_over, receipt))
    assert (found.holds, found.evidence["started_since"], found.evidence["standby"]) == (False, True, False)


def test_a_standby_that_was_started_since_is_paused_by_somebody_else_or_not_at_all(server):
    """A restart ends our pause; what another one has paused since is left as it is."""
    site = postgres_target.site(server)
    receipt = asyncio.run(injector.prepare(site, params())).receipt
    asyncio.run(injector.apply(site, receipt))
    try:
        older = {**receipt, "began": receipt["began"] - 1}
        asyncio.run(injector.withdraw(site, older))
        assert (state(server), asyncio.run(injector.gone(site, older)).holds) == (["paused"], True)
    finally:
        asyncio.run(injector.withdraw(site, receipt))


def test_one_that_was_promoted_is_the_same(server):
    """It was not started anew for that."""
    primary = postgres_target.primary()
    site = postgres_target.site(primary)
    receipt = {"fault": "r1-0", "began": began(primary)}
    asyncio.run(injector.withdraw(site, receipt))
    assert asyncio.run(injector.gone(site, receipt)).holds


def test_how_long_it_is_held():
    """As asked for, else the default."""
    assert [injector.duration_s(params(duration="3m")), injector.duration_s(params())] == [180.0, None]
