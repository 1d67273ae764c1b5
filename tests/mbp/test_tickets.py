"""The executor's tickets: one an alert of a hook that has them, to its owner's queue, closed when it resolves."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mbp.hooks.executor import Executor, build
from mbp.hooks.table import load, parse
from tests.mbp._a110 import LATER, STARTS, alert, delivery

LAG = {"name": "CdcLagHigh", "owner": "DATA"}


class Desk:
    """A ticket system: tickets by number, and every call that came, with its key."""

    def __init__(self):
        self.tickets, self.keys, self.calls, self.answers = {}, {}, [], []

    async def open(self, request: web.Request) -> web.Response:
        key, body = request.headers["Idempotency-Key"], await request.json()
        self.calls.append(("POST", body["assignee"]))
        if self.answers and (status := self.answers.pop(0)) != 201:
            return web.json_response({"error": "no"}, status=status)
        if key in self.keys:
            return web.json_response(self.tickets[self.keys[key]])
        number = self.keys[key] = len(self.tickets) + 1
        self.tickets[number] = {"id": number, "state": "open", **body}
        return web.json_response(self.tickets[number], status=201)

    async def change(self, request: web.Request) -> web.Response:
        number, body = int(request.match_info["id"]), await request.json()
        self.calls.append(("PATCH", body["state"]))
        self.tickets[number]["state"] = body["state"]
        return web.json_response(self.tickets[number])

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/tickets", self.open)
        app.router.add_patch("/tickets/{id}", self.change)
        return app


@asynccontextmanager
async def at_work(folder: Path, url: str | None, table: Any = None) -> Any:
    """Run an executor that knows the ticket system only."""
    urls = {} if url is None else {"sinks": url}
    executor = Executor(folder, table or load(), urls, wall=lambda: 1.7e9, rest=lambda _: 0.0)
    transport = httpx.ASGITransport(build(executor))
    async with executor.working(), httpx.AsyncClient(transport=transport, base_url="http://executor") as http:
        yield executor, http


async def settled(executor: Executor) -> dict[str, int]:
    """Wait until every ticket is as it should be (or given up), and return the counts."""
    async with asyncio.timeout(10):
        while True:
            counts = await executor.desk.do(executor.store.tickets.counts)
            if not counts["pending"]:
                return counts
            await asyncio.sleep(0)


async def send(http: httpx.AsyncClient, *alerts: dict[str, Any]) -> None:
    answer = await http.post("/v1/alerts", content=delivery(*alerts))
    assert answer.status_code == 202, answer.text


def play(folder: Path, story: Any, desk: Desk | None = None, table: Any = None) -> Desk:
    """Run `story(executor, http)` with a ticket system."""
    desk = desk or Desk()

    async def go() -> Desk:
        async with TestServer(desk.app()) as server, at_work(folder, str(server.make_url("")), table) as made:
            await story(*made)
        return desk

    return asyncio.run(go())


def test_an_alert_of_cdc_lag_opens_one_ticket_for_data_and_its_end_closes_it(tmp_path):
    """However often it is delivered; the ticket carries what correlates it."""

    async def story(executor, http):
        for _ in range(3):
            await send(http, alert(**LAG))
        assert await settled(executor) == {"pending": 0, "open": 1, "closed": 0, "dead_letter": 0}
        assert (await http.get("/v1/tickets")).json() == {
            "rows": [{
                "seq": 1, "hook": "cdc_lag", "fingerprint": "00000000000000a1", "wanted": "open", "state": "open",
                "number": 1, "error": "", "at": "2023-11-14T22:13:20.000000Z", "dead": False, "assignee": "data",
                "alertname": "CdcLagHigh", "starts_at": STARTS,
            }],
            "next": 1,
        }  # fmt: skip
        for _ in range(2):
            await send(http, alert("resolved", **LAG))
        assert (await settled(executor))["closed"] == 1
        async with asyncio.timeout(10):
            while 'a110_tickets{state="closed"} 1.0' not in (await http.get("/metrics")).text:
                await asyncio.sleep(0)

    desk = play(tmp_path, story)
    assert desk.tickets == {1: {
        "id": 1, "state": "closed", "title": "cdc_lag: CdcLagHigh is firing", "assignee": "data", "hook": "cdc_lag",
        "owner": "DATA", "alertname": "CdcLagHigh", "fingerprint": "00000000000000a1", "starts_at": STARTS,
    }}  # fmt: skip
    assert desk.calls == [("POST", "data"), ("PATCH", "closed")]


def test_a_hook_without_the_channel_opens_none_and_neither_does_one_that_is_off(tmp_path):
    """The table decides: its channels, and whether the hook acts at all."""
    raw = load().model_dump(by_alias=True, mode="json", exclude_none=True)
    raw["hooks"]["cdc_lag"]["enabled"] = False

    async def story(executor, http):
        await send(http, alert(), alert(**LAG), alert(name="SimCanary"), alert(name="Unknown"))
        assert await settled(executor) == dict.fromkeys(("pending", "open", "closed", "dead_letter"), 0)

    assert play(tmp_path, story, table=parse(json.dumps(raw), "t")).calls == []


def test_the_assignee_is_the_owner_s_queue_in_the_table(tmp_path):
    """Sent elsewhere when the table says so."""
    raw = load().model_dump(by_alias=True, mode="json", exclude_none=True)
    raw["owners"]["DATA"]["tickets"] = "elsewhere"

    async def story(executor, http):
        await send(http, alert(**LAG))
        await settled(executor)

    assert play(tmp_path, story, table=parse(json.dumps(raw), "t")).calls == [("POST", "elsewhere")]


@pytest.mark.parametrize(("starts_at", "tickets", "calls"), [
    (STARTS, 1, [("POST", "data"), ("PATCH", "closed"), ("PATCH", "open")]),
    (LATER, 2, [("POST", "data"), ("PATCH", "closed"), ("POST", "data")]),
])  # fmt: skip
def test_an_alert_that_comes_back_reopens_its_ticket_or_has_a_new_one(tmp_path, starts_at, tickets, calls):
    """The ticket's key is hook, fingerprint and startsAt."""

    async def story(executor, http):
        for each in (alert(**LAG), alert("resolved", **LAG), alert(starts_at=starts_at, **LAG)):
            await send(http, each)
            await settled(executor)

    desk = play(tmp_path, story)
    assert (len(desk.tickets), desk.calls) == (tickets, calls)
    assert desk.tickets[tickets]["state"] == "open"


def test_a_ticket_system_that_is_away_is_asked_again_and_one_that_refuses_is_not(tmp_path):
    """503 twice, then well; a 400 is on the dead letter list with what it said."""
    desk = Desk()
    desk.answers = [503, 429, 201, 400]

    async def story(executor, http):
        await send(http, alert(**LAG))
        assert (await settled(executor))["open"] == 1
        await send(http, alert(starts_at=LATER, **LAG))
        assert await settled(executor) == {"pending": 0, "open": 0, "closed": 1, "dead_letter": 1}
        dead = (await http.get("/v1/tickets?after=1")).json()["rows"][0]
        assert dead["dead"] is True and "/tickets: 400 " in dead["error"]

    play(tmp_path, story, desk)
    assert [call for call in desk.calls if call[0] == "POST"] == [("POST", "data")] * 4


def test_an_executor_that_died_between_call_and_record_opens_no_second_ticket(tmp_path):
    """In the next life the same key goes out again, and the ticket system knows it."""
    desk = Desk()

    async def story(executor, http):
        await send(http, alert(**LAG))
        await settled(executor)
        # What a kill right after the call leaves behind: the ticket is there, the record of it is not.
        await executor.desk.do(lambda: executor.store._db.execute("UPDATE tickets SET state = 'none', number = NULL"))

    async def after(executor, http):
        assert (await settled(executor))["open"] == 1

    play(tmp_path, story, desk)
    play(tmp_path, after, desk)
    assert (len(desk.tickets), desk.calls) == (1, [("POST", "data")] * 2)


def test_an_alert_that_resolved_before_its_ticket_was_open_leaves_a_closed_one(tmp_path):
    """Opened, then closed: the owner can see that there was something."""
    desk = Desk()

    async def go():
        async with at_work(tmp_path, None) as (executor, http):
            await send(http, alert(**LAG), alert("resolved", **LAG))
            assert (await settled(executor))["dead_letter"] == 1
            assert "without the address of sinks" in (await http.get("/v1/tickets")).json()["rows"][0]["error"]

    async def after(executor, http):
        assert (await settled(executor))["closed"] == 1

    asyncio.run(go())
    assert play(tmp_path, after, desk).calls == [("POST", "data"), ("PATCH", "closed")]


def test_an_answer_that_is_no_ticket_is_tried_again(tmp_path):
    """Only a number and a state count as a ticket."""
    desk = Desk()
    answers = [web.json_response([]), web.json_response({"id": "1", "state": "open"})]
    whole = desk.open

    async def odd(request: web.Request) -> web.Response:
        return answers.pop(0) if answers else await whole(request)

    desk.open = odd  # type: ignore[method-assign]

    async def story(executor, http):
        await send(http, alert(**LAG))
        assert (await settled(executor))["open"] == 1

    play(tmp_path, story, desk)
    assert answers == []
