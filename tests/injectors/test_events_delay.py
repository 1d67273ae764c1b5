"""`events.delay` against a small engine that keeps the fault contract."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from pydantic import ValidationError

from injectors.events.delay import injector
from sim.injector import InjectionError, Signal
from tests.injectors import fake_door

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Engine(fake_door.Target):
    """Faults, markets and events in memory; its clock stands still."""

    def __init__(self):
        super().__init__()
        self.markets, self.events, self.moves, self.age = {}, [], True, None

    def routes(self):
        return [
            web.get("/v1/markets/{id}", self.market),
            web.get("/v1/markets/{id}/resolution", self.resolution),
            web.get("/v1/events", self.feed),
        ]

    def happen(self, kind, market, at=NOW):
        self.events.append(
            {
                "seq": len(self.events) + 1,
                "type": kind,
                "subject": market,
                "at": at.isoformat(),
                "recorded_at": NOW.isoformat(),
            }
        )

    def came(self, fault, new):
        market = fault["market"] = f"sim-{fault['id']}"
        if new:
            self.markets[market] = "resolving"
            self.age = fault["params"]["hours"] if self.moves else 0.0
            self.happen("market_created", market, NOW - timedelta(hours=self.age))
            self.happen("resolution_started", market, NOW - timedelta(hours=self.age))

    def went(self, fault):
        self.markets[fault["market"]] = "resolved"
        self.happen("resolution_finished", fault["market"])

    async def market(self, request):
        status = self.markets.get(request.match_info["id"])
        if status is None:
            return web.json_response({"error": "market_not_found"}, status=404)
        return web.json_response({"id": request.match_info["id"], "status": status})

    async def resolution(self, request):
        return web.json_response({"market": request.match_info["id"], "age_hours": self.age})

    async def feed(self, request):
        after = int(request.query["after"])
        rows = [e for e in self.events if e["seq"] > after and e["subject"] == request.query["market"]][:2]
        return web.json_response({"rows": rows, "next": rows[-1]["seq"] if rows else after})


ARGUMENTS = {"event": "resolution_finished", "hours": 25}


def fake_target():
    """Yield what the contract test uses: doors, arguments, and the engine's own list of faults."""
    return fake_door.fake(Engine(), ("engine",), ARGUMENTS)


def site(url, token=fake_door.TOKEN):
    return fake_door.site_of(token, engine=fake_door.locked(url))


def params(**changes):
    return injector.params.model_validate({**ARGUMENTS, **changes})


def with_engine(work):
    """Run `work(engine, url)` against an engine of its own."""
    return fake_door.against(Engine(), work)


RECEIPT = {
    "fault": "r1-0",
    "market": "sim-r1-0",
    "event": "resolution_finished",
    "hours": 25.0,
    "run": "r1",
    "ttl_s": 6.0,
}


@pytest.mark.parametrize(
    "changes",
    [{"hours": 0}, {"hours": 241}, {"hours": "much"}, {"hours": None}, {"event": "trade_executed"}, {"more": 1}],
)
def test_a_dose_out_of_bounds_is_refused(changes):
    """More than 0 and at most 240 hours, and of the one event that can be held."""
    with pytest.raises(ValidationError):
        params(**changes)


def test_the_hours_are_a_dose_and_no_hold():
    """25 hours late is not held for 25 hours: the default hold holds."""
    assert injector.duration_s(params()) is None


def test_prepare_changes_nothing_and_names_what_will_be_hit():
    """The receipt is plain JSON with all that undoing needs; prior is the list of faults."""

    async def work(engine, url):
        engine.faults["x"] = {"id": "x", "market": "sim-x"}
        prepared = await injector.prepare(site(url), params())
        assert (engine.puts, engine.markets, engine.events) == ([], {}, [])
        return prepared

    prepared = with_engine(work)
    assert prepared.targets == ("resolution_finished of market sim-r1-0",)
    assert json.loads(json.dumps(prepared.receipt)) == RECEIPT
    assert prepared.prior == {
        "identity": fake_door.IDENTITY,
        "faults": [{"id": "x", "market": "sim-x"}],
    }


def test_prepare_refuses_what_it_cannot_do_cleanly():
    """A foreign fault or market, a shut endpoint, a wrong token: each is named, with the cure."""

    async def work(engine, url):
        def refused(**changes):
            return fake_door.refused(injector, site(url, **changes), params(), url)

        said = [await refused(token="wrong")]
        engine.faults["other"] = {"id": "other", "market": "sim-r1-0"}
        said.append(await refused())
        engine.faults.clear()
        engine.markets["sim-r1-0"] = "resolved"
        said.append(await refused())
        engine.open = False
        said.append(await refused())
        return said

    token, fault, market, shut = with_engine(work)
    assert token == fake_door.UNAUTHORIZED
    assert fault.startswith("URL: a fault is already on market sim-r1-0: ")
    assert market == "URL: market sim-r1-0 is already there; it must be the fault's own"
    assert shut == fake_door.OFF


def test_apply_and_renewal_are_the_same_one_request():
    """One PUT under the injection's own id, with the lease asked for."""
    body = {
        "point": "events.delay",
        "kind": "hold",
        "params": {"event": "resolution_finished", "hours": 25.0},
        "ttl_s": 6.0,
        "run": "r1",
    }
    assert fake_door.puts_of(injector, Engine(), site, RECEIPT) == [("r1-0", body)] * 2


def test_the_effect_is_proven_by_the_stamps_and_by_the_engines_own_count():
    """Started 25 hours before it was recorded, 25 hours old, not finished."""

    async def work(engine, url):
        await injector.apply(site(url), RECEIPT)
        return await injector.effective(site(url), RECEIPT)

    probe = with_engine(work)
    assert (probe.holds, probe.evidence) == (
        True,
        {
            "market": "sim-r1-0",
            "hours": 25.0,
            "started_hours_before_recorded": 25.0,
            "age_hours_by_the_engine": 25.0,
            "resolution_finished_events": 0,
        },
    )


@pytest.mark.parametrize("lack", ["nothing there", "not moved", "young", "no count", "finished", "started twice"])
def test_what_is_not_late_is_no_effect(lack):
    """A fault that is listed and does nothing is not proven."""

    async def work(engine, url):
        engine.moves = lack != "not moved"
        if lack != "nothing there":
            await injector.apply(site(url), RECEIPT)
        if lack == "young":
            engine.age = 24.9
        if lack == "no count":
            engine.age = None
        if lack == "finished":
            engine.happen("resolution_finished", "sim-r1-0")
        if lack == "started twice":
            engine.happen("resolution_started", "sim-r1-0")
        return await injector.effective(site(url), RECEIPT)

    assert with_engine(work).holds is False


@pytest.mark.parametrize("stamp", ["yesterday", None])
def test_an_event_without_a_usable_stamp_is_an_error(stamp):
    """Nothing is proven from nonsense, and nothing disproven."""

    async def work(engine, url):
        await injector.apply(site(url), RECEIPT)
        engine.events[1]["at"] = stamp
        await injector.effective(site(url), RECEIPT)

    with pytest.raises(InjectionError, match="an event without a usable at"):
        with_engine(work)


def test_withdraw_can_be_done_any_number_of_times_from_the_receipt_alone_and_is_read_back():
    """In a fresh site, as another process has it: gone before, not during, and gone after: the event has come."""

    async def work(engine, url):
        return await fake_door.held_and_withdrawn(injector, site(url), RECEIPT, site(url))

    before, during, after = with_engine(work)
    assert [(probe.holds, dict(probe.evidence)) for probe in (before, during, after)] == [
        (True, {"fault_listed": False, "market_status": "absent", "resolution_finished_events": 0}),
        (False, {"fault_listed": True, "market_status": "resolving", "resolution_finished_events": 0}),
        (True, {"fault_listed": False, "market_status": "resolved", "resolution_finished_events": 1}),
    ]


@pytest.mark.parametrize("trace", ["listed", "still waiting", "event twice", "no event"])
def test_a_fault_that_left_a_trace_is_not_gone(trace):
    """Listed, its market still unresolved, or its event not there exactly once."""

    async def work(engine, url):
        await injector.apply(site(url), RECEIPT)
        await injector.withdraw(site(url), RECEIPT)
        if trace == "listed":
            engine.faults["r1-0"] = {"id": "r1-0", "market": "sim-r1-0"}
        if trace == "still waiting":
            engine.markets["sim-r1-0"] = "resolving"
        if trace == "event twice":
            engine.happen("resolution_finished", "sim-r1-0")
        if trace == "no event":
            engine.events.pop()
        return await injector.gone(site(url), RECEIPT)

    assert with_engine(work).holds is False


def test_the_signal_in_virtual_time_is_an_age_that_grows():
    """From the dose on, by the clock."""
    (series,) = injector.signal(params())
    assert (series.metric, series.labels) == ("res_sla_hours", {"market": "sim-virtual"})
    assert isinstance(series, Signal)
    assert (series.points[0], series.points[-1]) == ((0.0, 25.0), (300.0, 25.0 + 300 / 3600))
