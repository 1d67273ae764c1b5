"""`engine.swap_sequence` against a small engine that keeps the fault contract."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from fractions import Fraction

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from injectors.engine import swap_sequence
from injectors.engine.swap_sequence import injector
from sim.clock import run_virtual
from sim.injector import InjectionError, Signal
from sim.target import Door
from tests.injectors import fake_door

AUDIT = "/v1/audit/swaps"


class Engine(fake_door.Target):
    """Markets, faults and an audit in memory; `api` is the public door of the same platform."""

    def __init__(self):
        super().__init__()
        self.markets, self.rows, self.swaps, self.lame = {}, [], [], False

    def routes(self):
        return [
            web.get("/v1/markets/{id}", self.market),
            web.get(AUDIT, self.audit),
            web.post("/v1/swaps", self.swap),
        ]

    def came(self, fault, new):
        self.markets.setdefault(fault["params"]["market"], "open")

    def went(self, fault):
        self.markets[fault["params"]["market"]] = "closed"

    def row(self, market, fault, before, after):
        self.rows.append(
            {
                "seq": len(self.rows) + 1,
                "market": market,
                "fault": fault,
                "k_before": before,
                "k_after": after,
                "breach": True,
            }
        )

    async def market(self, request):
        status = self.markets.get(request.match_info["id"])
        if status is None:
            return web.json_response({"error": "market_not_found"}, status=404)
        return web.json_response({"id": request.match_info["id"], "status": status})

    async def audit(self, request):
        after = int(request.query["after"])
        rows = [r for r in self.rows if r["seq"] > after and r["market"] == request.query["market"]][:2]
        return web.json_response({"rows": rows, "next": rows[-1]["seq"] if rows else after})

    async def swap(self, request):
        body = await request.json()
        self.swaps.append(body)
        if self.lame:
            return web.json_response({"error": "no"}, status=503)
        fault = next((f["id"] for f in self.faults.values() if f["params"]["market"] == body["market"]), None)
        self.row(body["market"], fault, "1000000", "999999.9985")
        return web.json_response(self.rows[-1], status=201)


def fake_target():
    """Yield what the contract test uses: doors, arguments, and the engine's own list of faults."""
    return fake_door.fake(Engine(), ("engine", "api"), {"delta_k_ratio": 1.5e-9})


def site(url, token=fake_door.TOKEN, **doors):
    return fake_door.site_of(token, **{"engine": fake_door.locked(url), "api": Door(url=url), **doors})


def params(ratio="1.5e-9", **more):
    return injector.params.model_validate({"delta_k_ratio": ratio, **more})


def with_engine(work):
    """Run `work(engine, url)` against an engine of its own."""
    return fake_door.against(Engine(), work)


RECEIPT = {"fault": "r1-0", "market": "sim-r1-0", "delta_k_ratio": "1.5e-9", "run": "r1", "ttl_s": 6.0}


@pytest.mark.parametrize(
    ("written", "exact"),
    [
        ("1.5e-9", "1.5E-9"),
        (1.5e-9, "1.5E-9"),
        (1e-3, "0.001"),
        (" 0.0000000015 ", "1.5E-9"),
        (Decimal("1E-9"), "1E-9"),
    ],
)
def test_the_dose_is_taken_as_it_is_written(written, exact):
    """1.5e-9 is exactly that decimal, from a number or from text."""
    assert params(written).delta_k_ratio == Decimal(exact)


@pytest.mark.parametrize("written", [0, -1e-9, "0.0011", "much", True, None, "NaN", "inf", "1." + "1" * 40 + "e-9", []])
def test_a_dose_out_of_bounds_is_refused(written):
    """Nothing but a decimal above 0 and up to 1e-3."""
    with pytest.raises(ValidationError):
        params(written)


@given(st.decimals(min_value=Decimal("1e-12"), max_value=Decimal("1e-3"), allow_nan=False, places=15).filter(bool))
def test_the_dose_survives_the_way_through_the_plan(ratio):
    """Written to the plan as JSON and read again it is the same number."""
    dumped = json.loads(json.dumps(params(str(ratio)).model_dump(mode="json")))
    assert injector.params.model_validate(dumped).delta_k_ratio == ratio


def test_the_hold_time_is_the_duration_that_was_asked_for():
    """Text and numbers; none asked for is none."""
    assert [injector.duration_s(params(duration=d)) for d in ("2m", 30, None)] == [120.0, 30.0, None]
    with pytest.raises(ValidationError):
        params(duration="0s")


def test_prepare_changes_nothing_and_names_what_will_be_hit():
    """The receipt is plain JSON with all that undoing needs; prior is the list of faults."""

    async def work(engine, url):
        other = {"id": "x", "params": {"market": "sim-x"}}
        engine.faults["x"] = other
        prepared = await injector.prepare(site(url), params())
        assert (engine.puts, engine.swaps, engine.markets) == ([], [], {})
        return prepared

    prepared = with_engine(work)
    assert prepared.targets == ("market sim-r1-0",)
    assert json.loads(json.dumps(prepared.receipt)) == RECEIPT
    assert prepared.prior == {
        "identity": fake_door.IDENTITY,
        "faults": [{"id": "x", "params": {"market": "sim-x"}}],
    }


def test_prepare_refuses_what_it_cannot_do_cleanly():
    """A foreign fault or market, a shut endpoint, a wrong token and a missing door are named, with the cure."""

    async def work(engine, url):
        def refused(**changes):
            return fake_door.refused(injector, site(url, **changes), params(), url)

        nowhere = Door.model_construct(url="nowhere", auth=None)
        said = [await refused(token="wrong"), await refused(api=None), await refused(engine=nowhere)]
        engine.faults["other"] = {"id": "other", "params": {"market": "sim-r1-0"}}
        said.append(await refused())
        engine.faults.clear()
        engine.markets["sim-r1-0"] = "closed"
        said.append(await refused())
        engine.open = False
        said.append(await refused())
        return said

    token, api, nowhere, fault, market, shut = with_engine(work)
    assert token == fake_door.UNAUTHORIZED
    assert api == "the profile opens no door 'api': add doors.api with its url"
    assert nowhere == "doors.engine: 'nowhere' is not a URL: write http://host:port"
    assert fault.startswith("URL: a fault is already on market sim-r1-0: ")
    assert market == "URL: market sim-r1-0 is already there; it must be the fault's own"
    assert shut == fake_door.OFF


def test_apply_and_renewal_are_the_same_one_request():
    """One PUT under the injection's own id, with the lease asked for."""
    body = {
        "point": "engine.swap",
        "kind": "mutate",
        "params": {"market": "sim-r1-0", "delta_k_ratio": "1.5e-9"},
        "ttl_s": 6.0,
        "run": "r1",
    }
    assert fake_door.puts_of(injector, Engine(), site, RECEIPT) == [("r1-0", body)] * 2


@pytest.mark.parametrize(
    ("fault", "before", "after", "holds"),
    [
        ("r1-0", "1000000000", "999999998.5", True),
        ("r1-0", "1000000000", "1000000001.000001", True),
        ("r1-0", "1000000000", "999999999", False),  # exactly the limit, though the server calls it a breach
        ("r1-0", "1/3", "1/3", False),
        ("other", "1000000000", "1", False),
        (None, "1000000000", "1", False),
    ],
)
def test_the_effect_is_proven_by_exact_arithmetic_on_the_audit(fault, before, after, holds):
    """Only swaps under this very fault count, and only strictly beyond the limit; the server's flag is not asked."""

    async def work(engine, url):
        for _ in range(3):
            engine.row("sim-r1-0", "r1-0", "7", "7")
        engine.row("sim-r1-0", fault, before, after)
        return await injector.effective(site(url), RECEIPT)

    probe = with_engine(work)
    assert probe.holds is holds
    assert probe.evidence["beyond_limit"] == int(holds)
    assert probe.evidence["audited_swaps"] == (4 if fault == "r1-0" else 3)


@pytest.mark.parametrize("row", [("0", "1"), ("x", "1")])
def test_an_audit_without_usable_numbers_is_an_error(row):
    """Nothing is proven from nonsense, and nothing disproven."""

    async def work(engine, url):
        engine.row("sim-r1-0", "r1-0", *row)
        await injector.effective(site(url), RECEIPT)

    with pytest.raises(InjectionError, match="without usable k_before and k_after"):
        with_engine(work)


def test_withdraw_can_be_done_any_number_of_times_from_the_receipt_alone_and_is_read_back():
    """In a fresh site, as another process has it: not gone before, gone after, and gone again."""

    async def work(engine, url):
        engine.row("sim-r1-0", "r1-0", "1", "2")
        return await fake_door.held_and_withdrawn(injector, site(url), RECEIPT, site(url, api=None))

    before, during, after = with_engine(work)
    assert (before.holds, before.evidence["market_status"]) == (True, "absent")
    assert (during.holds, during.evidence["fault_listed"]) == (False, True)
    assert after.holds
    assert after.evidence == {"fault_listed": False, "market_status": "closed", "hits": 1, "new_hits": 0}


@pytest.mark.parametrize("trace", ["open market", "new hits", "listed"])
def test_a_fault_that_left_a_trace_is_not_gone(trace, monkeypatch):
    """The market still takes swaps, swaps still come under the fault, or the fault is still on the list."""

    async def work(engine, url):
        engine.markets["sim-r1-0"] = "open" if trace == "open market" else "closed"
        if trace == "listed":
            engine.faults["r1-0"] = {"id": "r1-0", "params": {"market": "sim-r1-0"}}
        if trace == "new hits":
            audit = swap_sequence._audited

            async def growing(client, receipt):
                found = await audit(client, receipt)
                engine.row("sim-r1-0", "r1-0", "1", "2")
                return found

            monkeypatch.setattr(swap_sequence, "_audited", growing)
        return await injector.gone(site(url), RECEIPT)

    assert with_engine(work).holds is False


class Api:
    """The public door in virtual time: answers after `takes_s`, or fails."""

    def __init__(self, takes_s=0.0, fails=False):
        self.takes_s, self.fails, self.sent, self.base_url = takes_s, fails, [], ""

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None

    async def ask(self, method, path, *, json, accept):
        self.sent.append((asyncio.get_running_loop().time(), json["side"]))
        await asyncio.sleep(self.takes_s)
        if self.fails:
            raise InjectionError("POST /v1/swaps: 503")


def drive(monkeypatch, api, for_s):
    """Drive for so many virtual seconds; return what became of the swaps just before the end."""
    monkeypatch.setattr(swap_sequence, "through", lambda site, name: api)

    async def main():
        start = asyncio.get_running_loop().time()
        task = asyncio.create_task(injector.drive(site("http://unused"), RECEIPT))
        await asyncio.sleep(for_s)
        driven = swap_sequence._driven["r1-0"]
        found = (driven.answered, driven.failed, driven.last_error)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert swap_sequence._driven == {}
        return start, found

    return run_virtual(main())


def test_swaps_are_sent_four_a_second_and_keep_the_pool_balanced(monkeypatch):
    """On an absolute schedule, yes and no in turn; when it ends nothing runs on."""
    api = Api(takes_s=0.4)
    start, found = drive(monkeypatch, api, 2.1)
    assert [(round(at - start, 3), side) for at, side in api.sent] == [
        (n * 0.25, "no" if n % 2 else "yes") for n in range(9)
    ]
    assert found == (7, 0, None)


def test_failed_swaps_are_counted_and_do_not_end_the_traffic(monkeypatch):
    """The target refusing swaps shows in the evidence."""
    api = Api(fails=True)
    _, found = drive(monkeypatch, api, 1.1)
    assert (len(api.sent), found) == (5, (0, 5, "POST /v1/swaps: 503"))


def test_a_target_that_does_not_answer_is_not_flooded(monkeypatch):
    """At most eight swaps are under way; what cannot be sent is counted as failed."""
    api = Api(takes_s=100.0)
    _, found = drive(monkeypatch, api, 3.1)
    assert len(api.sent) == 8
    assert found == (0, 5, "8 swaps are still without an answer")


def test_failures_of_our_own_traffic_stand_in_the_evidence():
    """A fault that is not proven because no swap went through says so."""

    async def work(engine, url):
        engine.lame = True
        task = asyncio.create_task(injector.drive(site(url), RECEIPT))
        while not engine.swaps or not swap_sequence._driven["r1-0"].failed:
            await asyncio.sleep(0)
        probe = await injector.effective(site(url), RECEIPT)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert {key: engine.swaps[0][key] for key in ("market", "side", "action")} == {
            "market": "sim-r1-0",
            "side": "yes",
            "action": "buy",
        }
        return probe

    probe = with_engine(work)
    assert (probe.holds, probe.evidence["swaps_answered"]) == (False, 0)
    assert '503 {"error": "no"}' in probe.evidence["last_error"]


def test_the_signal_in_virtual_time_is_a_rising_counter_and_flat_at_a_half_dose():
    """One more breach a swap from 0 at the opening; at the limit none."""
    assert injector.signal(params(duration="2s")) == (
        Signal("amm_invariant_error_total", {"market": "sim-virtual"}, ((0.0, 0.0), (1.0, 4.0), (2.0, 8.0))),
    )
    (half,) = injector.signal(params("1e-9", duration="2s"))
    assert {value for _, value in half.points} == {0.0}
    assert Fraction(params("1e-9").delta_k_ratio) == swap_sequence.LIMIT
