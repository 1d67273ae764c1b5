"""The decision API's way to PostgreSQL: every wait ends, and what cannot be had is a 503 with Retry-After."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry

from mbp._asgi import ApiError
from mbp.dec import database
from mbp.dec.database import Database
from tests.mbp.engines import running
from tests.mbp.test_dec import Dec


@pytest.fixture
def silent(monkeypatch):
    """A server that takes connections and says nothing, and a patience of 50 ms with it."""
    monkeypatch.setattr(database, "TOTAL_S", 0.05)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"postgresql://mbp@127.0.0.1:{listener.getsockname()[1]}/mbp"


def asked(url, count=1):
    """Ask so many questions at once; return what each was told, and the outcomes counted."""
    registry = CollectorRegistry()

    async def main():
        made = Database(url, "stable", registry)
        told = await asyncio.gather(*(made.ask("SELECT 1", ()) for _ in range(count)), return_exceptions=True)
        await made.close()
        return told

    told = asyncio.run(main())
    samples = {name: registry.get_sample_value("dec_database_requests_total", {"release": "stable", "outcome": name})
               for name in database.OUTCOMES}  # fmt: skip
    assert registry.get_sample_value("dec_database_waiting", {"release": "stable"}) == 0
    return told, {name: int(value) for name, value in samples.items() if value}


def test_a_server_that_says_nothing_is_given_up(silent):
    """Connecting counts: no answer within the time for all of it."""
    (told,), counted = asked(silent)
    assert isinstance(told, ApiError)
    assert (told.status, told.code, told.headers) == (503, "database_unavailable", {"Retry-After": "1"})
    assert told.detail == "the database did not answer within 0.05 s"
    assert counted == {"late": 1}


def test_a_server_that_refuses_is_told_at_once():
    """And a service without a database says that it has none."""
    (refused,), counted = asked("postgresql://mbp@127.0.0.1:1/mbp")
    (none,), _ = asked(None)
    assert [(each.status, each.code) for each in (refused, none)] == [(503, "database_unavailable")] * 2
    assert refused.detail == "the database cannot be asked: OperationalError"
    assert counted == {"failed": 1}


def test_more_than_fit_are_turned_away_and_do_not_wait(silent):
    """Four are asked, sixteen wait, the rest is told to come back: the queue does not grow with the outage."""
    told, counted = asked(silent, 25)
    assert counted == {"late": 20, "busy": 5}
    assert sorted({each.code for each in told}) == ["database_busy", "database_unavailable"]


def test_the_history_says_so_too(tmp_path):
    """The route is counted as the 5xx that it is, and nothing else of the API needs the database."""
    with running(tmp_path) as engine:
        dec = Dec(engine)
        answer = dec.ask("GET", "/v1/markets/m1/history")
        assert (answer.status_code, answer.json()["error"]) == (503, "database_unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert dec.ask("GET", "/v1/markets/m1/history?limit=500").status_code == 422
        assert (dec.count("/v1/markets/{id}/history", "5xx"), dec.ask("GET", "/healthz").status_code) == (1, 200)
