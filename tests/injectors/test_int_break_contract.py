"""`int.break_contract` against a small platform: a candidate with a fault door, and a public entry before it."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from pydantic import ValidationError

from injectors.int.break_contract import injector
from sim.injector import Signal
from sim.target import Door
from tests.injectors import fake_door

QUOTE = {"amount_out": "1.9", "fee": "0.002", "price_after": "0.5"}
BROKEN = {"amount_out": 1.9, "price_after": "0.5"}
MARKETS = [
    {"id": "young", "status": "open", "opened_at": "2026-02", "fault": None, "frozen": False},
    {"id": "resident", "status": "open", "opened_at": "2026-01", "fault": None, "frozen": False},
    {"id": "sim-x", "status": "open", "opened_at": "2025-01", "fault": "x", "frozen": False},
    {"id": "cold", "status": "open", "opened_at": "2025-01", "fault": None, "frozen": True},
    {"id": "old", "status": "closed", "opened_at": "2024-01", "fault": None, "frozen": False},
]


class Platform(fake_door.Target):
    """The candidate and, at the same address, the public entry that passes everything to `serving`."""

    def __init__(self):
        super().__init__()
        self.quotes, self.serving = [], "candidate"
        self.markets, self.broken, self.deaf = [dict(each) for each in MARKETS], BROKEN, False

    def routes(self):
        return [web.post("/v1/quotes", self.quote), web.get("/v1/markets", self.listed)]

    async def quote(self, request):
        body = await request.json()
        self.quotes.append(body["market"])
        if not any(each["id"] == body["market"] and each["status"] == "open" for each in self.markets):
            return web.json_response({"error": "market_closed"}, status=409)
        direct = "Authorization" in request.headers or not self.token
        release = "candidate" if direct else self.serving
        spoilt = bool(self.faults) and release == "candidate" and not self.deaf
        return web.json_response(self.broken if spoilt else QUOTE, headers={"x-mbp-release": release})

    async def listed(self, _):
        return web.json_response({"markets": self.markets})


def fake_target():
    """Yield what the contract test uses: doors, arguments, and the candidate's own list of faults."""
    return fake_door.fake(Platform(), ("dec_candidate", "api"), {"contract": "mbp.v1"})


def site(url, token=fake_door.TOKEN, **doors):
    return fake_door.site_of(token, **{"dec_candidate": fake_door.locked(url), "api": Door(url=url), **doors})


def params(**more):
    return injector.params.model_validate({"contract": "mbp.v1", **more})


def with_platform(work):
    """Run `work(platform, url)` against a platform of its own."""
    return fake_door.against(Platform(), work)


RECEIPT = {
    "fault": "r1-0",
    "contract": "mbp.v1",
    "change": "retype_and_drop",
    "market": "resident",
    "form": {"amount_out": "text", "fee": "text", "price_after": "text"},
    "run": "r1",
    "ttl_s": 6.0,
}


@pytest.mark.parametrize("given", [{"contract": "mbp.v2"}, {"change": "rot13"}, {"duration": "0s"}, {"more": 1}])
def test_what_it_cannot_break_is_refused(given):
    """One contract, the named changes, a hold time above 0."""
    with pytest.raises(ValidationError):
        params(**given)


def test_prepare_changes_nothing_and_keeps_the_form_of_an_answer():
    """The oldest market that is open, no fault's and not frozen is asked; the receipt holds all that undoing needs."""

    async def work(platform, url):
        platform.faults["x"] = {"id": "x", "point": "other"}
        platform.deaf = True
        prepared = await injector.prepare(site(url), params())
        return prepared, platform.puts, platform.quotes

    prepared, puts, quotes = with_platform(work)
    assert (puts, quotes) == ([], ["resident"])
    assert prepared.targets == ("answers of candidate under mbp.v1",)
    assert json.loads(json.dumps(prepared.receipt)) == RECEIPT
    assert prepared.prior == {
        "identity": fake_door.IDENTITY,
        "faults": [{"id": "x", "point": "other"}],
        "form": RECEIPT["form"],
    }


def test_prepare_refuses_what_it_cannot_do_cleanly():
    """A wrong token, a foreign fault, a shut endpoint, another release in front and no market are each named."""

    async def work(platform, url):
        def refused(**changes):
            return fake_door.refused(injector, site(url, **changes), params(), url)

        said = [await refused(token="wrong"), await refused(api=None)]
        platform.faults["other"] = {"id": "other", "point": "dec.answer"}
        said.append(await refused())
        platform.faults.clear()
        platform.serving = "stable"
        said.append(await refused())
        platform.markets = []
        said.append(await refused())
        platform.open = False
        said.append(await refused())
        return said

    token, api, fault, release, market, shut = with_platform(work)
    assert token == fake_door.UNAUTHORIZED
    assert api == "the profile opens no door 'api': add doors.api with its url"
    assert fault.startswith("URL: a fault is already on dec.answer: ")
    assert release.startswith("POST URL/v1/quotes: answered by 'stable', not by the candidate: ")
    assert market == "GET URL/v1/markets: no open market to ask a quote of"
    assert shut == fake_door.OFF


def test_apply_and_renewal_are_the_same_one_request():
    """One PUT under the injection's own id, with the lease asked for."""
    body = {
        "point": "dec.answer",
        "kind": "mutate",
        "params": {"contract": "mbp.v1", "change": "retype_and_drop"},
        "ttl_s": 6.0,
        "run": "r1",
    }
    assert fake_door.puts_of(injector, Platform(), site, RECEIPT) == [("r1-0", body)] * 2


@pytest.mark.parametrize(
    ("answer", "serving", "holds", "violations"),
    [
        (BROKEN, "candidate", True, ["amount_out is number, was text", "fee is absent, was text"]),
        (BROKEN, "stable", False, []),  # the rollback came first: no consumer meets the fault
        (QUOTE, "candidate", False, []),
        ({**QUOTE, "new": 1}, "candidate", False, []),  # what is new breaks nobody
        ([], "candidate", True, [f"{name} is absent, was text" for name in sorted(QUOTE)]),
        ({**QUOTE, "fee": None}, "candidate", True, ["fee is null, was text"]),
    ],
)
def test_the_effect_is_a_consumers_own_call(answer, serving, holds, violations):
    """It holds when the candidate answers the public entry in another form than before, and only then."""

    async def work(platform, url):
        platform.faults["r1-0"] = {"id": "r1-0"}
        platform.broken, platform.serving = answer, serving
        return await injector.effective(site(url), RECEIPT)

    probe = with_platform(work)
    assert (probe.holds, probe.evidence["violations"], probe.evidence["release"]) == (holds, violations, serving)


def test_withdraw_can_be_done_any_number_of_times_from_the_receipt_alone_and_is_read_back():
    """In a fresh site, as another process has it, without the public entry: gone before, not during, gone after."""

    async def work(platform, url):
        return await fake_door.held_and_withdrawn(injector, site(url), RECEIPT, site(url, api=None))

    before, during, after = with_platform(work)
    assert (before.holds, during.holds, after.holds) == (True, False, True)
    broken = ["amount_out is number, was text", "fee is absent, was text"]
    assert during.evidence == {"fault_listed": True, "violations": broken}
    assert after.evidence == {"fault_listed": False, "violations": []}


def test_a_candidate_that_still_answers_otherwise_is_not_gone():
    """That the fault is not on the list is not enough; and a market that ended is no excuse not to look."""

    async def work(platform, url):
        platform.faults["other"] = {"id": "other"}
        next(each for each in platform.markets if each["id"] == "resident")["status"] = "closed"
        return await injector.gone(site(url), RECEIPT), platform.quotes

    probe, quotes = with_platform(work)
    assert (probe.holds, probe.evidence["fault_listed"], quotes) == (False, False, ["resident", "young"])


def test_the_signal_in_virtual_time_is_the_probes_verdict():
    """Kept, violated from the next round of the probe, kept again at the end."""
    assert injector.signal(params(duration="60s")) == (
        Signal("int_contract_status", {"contract": "mbp.v1"}, ((0.0, 1.0), (3.0, 0.0), (60.0, 1.0))),
    )
    assert [injector.duration_s(params(duration=each)) for each in ("2m", None)] == [120.0, None]
