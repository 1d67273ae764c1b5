"""What faults at a fault door share, `injectors/_faults.py` and `injectors/_engine.py`, where no one fault shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from aiohttp import web

from injectors import _engine
from injectors._faults import Leased
from injectors._http import through
from sim.injector import InjectionError
from tests.injectors import fake_door

FAULT = Leased(door="door", point="a.point", kind="a_kind", params=("dose",))


def site(url, injection="r1-0"):
    return replace(fake_door.site_of(door=fake_door.locked(url)), id=injection)


def test_a_receipt_is_enough_for_the_whole_life_whatever_the_id():
    """An id is quoted on its way; only the named params go to the door; the fault's own cannot hide who it is."""

    async def work(target, url):
        here = site(url, "r1/0 ü?")
        receipt = FAULT.receipt(here, dose=3, site="s", fault="another")
        await FAULT.put(here, receipt)
        async with through(here, "door") as client:
            found = [await FAULT.holds(client, receipt)]
            await FAULT.delete(here, receipt)
            return receipt, target.puts, [*found, await FAULT.holds(client, receipt)]

    assert fake_door.against(fake_door.Target(), work) == (
        {"fault": "r1/0 ü?", "run": "r1", "ttl_s": 6.0, "dose": 3, "site": "s"},
        [("r1/0 ü?", {"point": "a.point", "kind": "a_kind", "params": {"dose": 3}, "ttl_s": 6.0, "run": "r1"})],
        [True, False],
    )


def test_a_door_is_taken_by_the_same_id_or_by_what_the_fault_says():
    """Of others the prior state only tells."""

    async def work(target, url):
        told = []
        target.faults["x"] = {"id": "x"}
        async with through(site(url), "door") as client:
            for injection, taken in (("r1-0", False), ("x", False), ("r1-0", True)):
                try:
                    told.append(await FAULT.stood(client, site(url, injection), "in the way", lambda _, it=taken: it))
                except InjectionError as error:
                    told.append(str(error).replace(url, "URL"))
        return told

    refused = "URL: a fault is already in the way: {'id': 'x'}"
    assert fake_door.against(fake_door.Target(), work) == [
        {"identity": fake_door.IDENTITY, "faults": [{"id": "x"}]},
        refused,
        refused,
    ]


class Odd(fake_door.Target):
    """An engine whose answers have another form than they should."""

    def routes(self):
        return [web.get("/v1/markets/{id}", self.odd), web.get("/rows", self.odd)]

    async def odd(self, _):
        return web.json_response("odd")


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda engine: _engine.status(engine, "m"), "GET URL/v1/markets/m: expected an object, got 'odd'"),
        (lambda engine: _engine.rows(engine, "/rows", "m"), "GET URL/rows: expected a list of rows, got 'odd'"),
    ],
)
def test_an_engine_that_answers_in_another_form_is_an_error(ask, told):
    """Neither a market that is absent nor one without rows."""

    async def work(_, url):
        async with through(site(url), "door") as engine:
            with pytest.raises(InjectionError) as caught:
                await ask(engine)
        return str(caught.value).replace(url, "URL")

    assert fake_door.against(Odd(), work) == told


def test_a_fault_that_nobody_renews_goes_by_itself():
    """At the door of these tests as at the platform's: the kill matrix counts on it."""

    async def work(target, url):
        receipt = FAULT.receipt(site(url), dose=3)
        await FAULT.put(site(url), receipt)
        await FAULT.put(site(url), {**receipt, "ttl_s": 0.0})
        async with through(site(url), "door") as client:
            return await FAULT.holds(client, receipt), target.faults, target.leases

    assert fake_door.against(fake_door.Target(), work) == (False, {}, {})
