"""`pg.drop_walsender` against a real PostgreSQL and a consumer that comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager

import pytest
from pydantic import ValidationError

from injectors import _pg
from injectors.pg.drop_walsender import injector
from sim.injector import InjectionError
from sim.target import Door
from tests.injectors import postgres_target

#: The kill matrix opens all that need the server in one process, one by one.
HOST = "postgres"


@asynccontextmanager
async def fake_target():
    """Yield what the contract test uses: doors, arguments, and who has the slot."""
    async with postgres_target.shy(postgres_target.primary(), {"slot": "feed"}) as given:
        yield given


@asynccontextmanager
async def apart_target():
    """Yield the same for an injector in another process: the consumer comes back by itself, once it was missed."""
    server = postgres_target.primary()
    with postgres_target.consumer(server, shows=True) as made:
        yield {"postgres": Door(url=server.url)}, {"slot": "feed"}, made.found


@pytest.fixture
def server():
    return postgres_target.primary()


@pytest.fixture
def consumer(server):
    with postgres_target.consumer(server) as made:
        yield made


def params(**more):
    return injector.params.model_validate(more)


def prepared(site, **more):
    return asyncio.run(injector.prepare(site, params(**more)))


def pid(server):
    """Return the walsender of the slot."""
    found = server.rows("SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'feed'")
    return found[0][0]


def test_it_is_gone_when_the_consumer_streams_again(server, consumer):
    """Ended once: away at first, back as another session, and nothing of ours is left."""
    site, old = postgres_target.site(server), pid(server)
    before = prepared(site)
    receipt = json.loads(json.dumps(before.receipt))
    assert before.targets == ("the walsender of slot feed",)
    assert [(each["key"], each["pid"], each["state"]) for each in receipt["senders"]] == [
        ("slot feed", old, "streaming")
    ]
    consumer.may.clear()
    asyncio.run(injector.apply(site, receipt))
    seen = [asyncio.run(injector.effective(site, receipt)), asyncio.run(injector.gone(site, receipt))]
    consumer.may.set()
    asyncio.run(injector.withdraw(site, receipt))
    seen.append(asyncio.run(injector.gone(site, receipt)))
    new = pid(server)
    assert [(each.holds, each.evidence) for each in seen] == [
        (True, {"ended": 1, "left": [], "streaming": [], "missing": ["slot feed"]}),
        (False, {"streaming": [], "missing": ["slot feed"]}),
        (True, {"streaming": [{"key": "slot feed", "pid": new, "state": "streaming"}], "missing": []}),
    ]
    assert new != old


def test_again_and_again(server, consumer, monkeypatch):
    """Whoever came back is ended again, until the run lets go."""
    site = postgres_target.site(server)
    receipt = prepared(site, every="100ms").receipt
    seen, sleep = [], asyncio.sleep

    async def turn(seconds):
        seen.append(pid(server))
        if len(seen) > 200 or len({each for each in seen if each}) > 3:
            raise asyncio.CancelledError
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", turn)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(injector.drive(site, receipt))
    assert len({each for each in seen if each}) > 3
    monkeypatch.undo()
    asyncio.run(injector.drive(site, receipt | {"every_s": None}))  # once only: there is nothing to drive


def test_a_session_that_is_another_by_now_is_left_alone(server, consumer):
    """The same pid, another beginning."""
    site, old = postgres_target.site(server), pid(server)
    receipt = prepared(site, slot="feed").receipt
    receipt["senders"][0]["began"] -= 1
    asyncio.run(injector.apply(site, receipt))
    assert pid(server) == old


def test_prepare_refuses_what_it_cannot_do(server):
    """Nobody streams; somebody does whom we may not end, or not even see."""
    site, said = postgres_target.site(server), []

    def refused(**more):
        with pytest.raises(InjectionError) as caught:
            prepared(site, **more)
        said.append(str(caught.value))

    refused(slot="feed")
    with postgres_target.consumer(server), contextlib.closing(_pg.connect(site, "ask")) as db:
        refused(slot="other")
        ask = _pg.Server(site, db)
        try:
            ask.rows("CREATE ROLE weak")
            ask.rows("SET ROLE weak")
            sender = pid(server)
            for act in (ask.walsenders, lambda: ask.may_end_others(sender)):
                with pytest.raises(InjectionError) as caught:
                    act()
                said.append(str(caught.value))
        finally:
            ask.rows("RESET ROLE")
            ask.rows("DROP ROLE weak")
    refused()
    assert said == [
        "nobody streams from slot feed",
        "nobody streams from slot other",
        "pg_stat_replication is hidden from this user: GRANT pg_monitor TO it",
        f"weak may not end the session of pid {sender}: GRANT pg_signal_backend TO weak "
        "(and a superuser's session is ended by a superuser only)",
        "nobody streams from this server",
    ]


def test_all_that_streamed_must_be_back():
    """Two of one name: one that is back is not both; whoever came beside them does not count."""
    key = {"key": "client app", "pid": 1, "state": "streaming"}
    receipt = {"senders": [key, key, {**key, "key": "slot a"}]}
    seen = [{**key, "pid": 2}, {**key, "key": "slot a", "state": "startup"}, {**key, "key": "slot b"}]
    back, shown = _pg.senders_back(receipt, seen)
    assert (back, shown) == (False, {"streaming": seen, "missing": ["client app", "slot a"]})
    assert _pg.senders_back(receipt, [key, key, {**key, "key": "slot a", "state": "catchup"}])[0]


def test_how_often_and_how_long():
    """Ten times a second at most; as long as asked for, else the default."""
    assert [injector.duration_s(params(duration="3m")), injector.duration_s(params())] == [180.0, None]
    with pytest.raises(ValidationError):
        params(every="50ms")
