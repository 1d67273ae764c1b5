"""`http.fault` against a small target that implements the fault endpoint, counts, and has metrics."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from pydantic import ValidationError

from injectors.http import fault as module
from injectors.http.fault import injector
from sim.exercise import Exercise
from sim.injector import InjectionError
from sim.resolve import Unresolvable, resolve
from sim.target import Target as Profile
from tests.injectors import fake_door


class Shop(fake_door.Target):
    """A target that reports `counts` of each fault; `series` is what its metrics show, one page a look."""

    def __init__(self):
        super().__init__()
        self.counts, self.series = {"hits": 0, "impacted": 0, "last_hit_at": None}, []

    def came(self, fault, new):
        fault.update(self.counts)

    def routes(self):
        return [web.get("/metrics", self.metrics)]

    async def identity(self, _):
        return web.json_response({}, status=404)  # no part of the endpoint

    async def metrics(self, _):
        if not self.series:
            return web.Response(status=404)
        return web.Response(text=self.series.pop(0) if len(self.series) > 1 else self.series[0])


def page(active, hits, point="shop.checkout"):
    return (
        "# TYPE sim_fault_hits_total counter\n"
        f'sim_fault_active{{point="{point}"}} {active}\nsim_fault_hits_total{{a="b",point="{point}"}} {hits}\n'
        'sim_fault_hits_total{point="other"} 99\n'
    )


GIVEN = {"point": "shop.checkout", "kind": "delay", "params": ["delay_ms=100"]}


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch):
    """Two looks at the metrics need no time between them here."""
    monkeypatch.setattr(module, "APART_S", 0.0)


def fake_target():
    """Yield what the contract test uses: doors, arguments, and the target's own list of faults."""
    return fake_door.fake(Shop(), ("faults",), GIVEN)


def site(url, token=fake_door.TOKEN):
    return fake_door.site_of(token, faults=fake_door.locked(url))


def params(**more):
    return injector.params.model_validate({**GIVEN, **more})


def with_shop(work):
    """Run `work(shop, url)` against a target of its own."""
    return fake_door.against(Shop(), work)


TOLD = {
    "point": "shop.checkout", "kind": "delay", "params": {"delay_ms": 100}, "rate": 1.0, "match": {}, "seed": 0,
}  # fmt: skip
RECEIPT = {**TOLD, "expect_hits": 1, "fault": "r1-0", "run": "r1", "ttl_s": 6.0}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["delay_ms=100", "code = 503"], {"delay_ms": 100, "code": 503}),
        (
            ("how=slow, very", 'id="7"', "on=true", "to=[1, 2]"),
            {"how": "slow, very", "id": "7", "on": True, "to": [1, 2]},
        ),
        ('{"delay_ms": 100, "to": {"a": null}}', {"delay_ms": 100, "to": {"a": None}}),
        ({"delay_ms": 100}, {"delay_ms": 100}),
        (["query=a=b"], {"query": "a=b"}),
        ([], {}),
    ],
)
def test_params_are_pairs_json_or_a_map(written, read):
    """What an expression can carry, and what the long form of an exercise can."""
    given = params(params=written)
    assert given.params == read
    assert injector.params.model_validate(given.model_dump(mode="json")) == given


def test_match_is_texts_only():
    """As the endpoint has it: a number that is to be matched is its text."""
    assert params(match=["tenant=acme", "shard=7"]).match == {"tenant": "acme", "shard": "7"}
    assert params(match='{"shard": "7"}').match == {"shard": "7"}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"params": "delay_ms=100"}, "not JSON"),
        ({"params": "[1]"}, "write ['name=value', …], or JSON of an object"),
        ({"params": ["delay_ms"]}, "'delay_ms' is not 'name=value'"),
        ({"params": ["=1"]}, "'=1' is not 'name=value'"),
        ({"params": [1]}, "1 is not 'name=value'"),
        ({"params": ["a=1", "a=2"]}, "a is given twice"),
        ({"params": 5}, "valid dictionary"),
        ({"match": 5}, "valid dictionary"),
        ({"rate": 0}, "greater than 0"),
        ({"rate": 1.1}, "less than or equal to 1"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"expect_hits": 0}, "greater than or equal to 1"),
        ({"point": ""}, "at least 1 character"),
    ],
)
def test_what_the_endpoint_could_not_be_told_is_refused(wrong, told):
    """Each with what to write instead, where that is not plain."""
    with pytest.raises(ValidationError) as caught:
        params(**wrong)
    assert told in str(caught.value)


PROFILE = {
    "target": "shop", "environment": "e", "identity": {"url": "http://127.0.0.1:1/identity"},
    "doors": {"faults": {"url": "http://127.0.0.1:1"}}, "steady_state": "load < 1",
    "observers": {"eye": {"kind": "http_state", "url": "http://127.0.0.1:1"}},
    "facts": {"load": {"kind": "gauge", "from": "eye"}, "mode": {"kind": "state", "from": "eye", "values": ["a", "b"]}},
}  # fmt: skip


def planned(inject):
    """Return the fault of the plan of one exercise."""
    from sim.catalogue import catalogue

    exercise = Exercise.model_validate({"inject": inject, "expect": "mode=='b'"})
    return resolve("x", exercise, Profile.model_validate(PROFILE), catalogue()).faults[0]


def test_an_exercise_can_say_it_in_both_forms():
    """The short form with a list in an expression, the long one with maps: the same plan, and an error at its place."""
    short = planned("http.fault('shop.checkout', 'delay', params=['delay_ms=100'], rate=0.5, duration='2m')")
    long = planned({"call": "http.fault", "with": {**TOLD, "rate": 0.5, "duration": "2m"}})
    assert short.params == long.params == {**TOLD, "rate": 0.5, "expect_hits": 1, "duration": 120.0}
    with pytest.raises(Unresolvable, match=r"params: 'delay_ms' is not 'name=value'"):
        planned("http.fault('shop.checkout', 'delay', params=['delay_ms'])")


def test_prepare_changes_nothing_and_takes_no_identity():
    """The four routes are enough; a fault elsewhere in the target is not in the way, and noted."""

    async def work(shop, url):
        shop.faults["other"] = {"id": "other", "point": "shop.search"}
        prepared = await injector.prepare(site(url), params())
        assert shop.puts == []
        return prepared, url

    prepared, url = with_shop(work)
    assert prepared.targets == (f"shop.checkout at {url}",)
    assert json.loads(json.dumps(prepared.receipt)) == RECEIPT
    assert prepared.prior == {"faults": [{"id": "other", "point": "shop.search"}]}


def test_prepare_refuses_a_taken_point_and_a_shut_door():
    """A foreign fault at this point, a wrong token, an endpoint that is off: each named, with the cure."""

    async def work(shop, url):
        said = [await fake_door.refused(injector, site(url, "wrong"), params(), url)]
        shop.faults["other"] = {"id": "other", "point": "shop.checkout"}
        said.append(await fake_door.refused(injector, site(url), params(), url))
        shop.open = False
        said.append(await fake_door.refused(injector, site(url), params(), url))
        return said

    assert with_shop(work) == [
        fake_door.UNAUTHORIZED,
        "URL: a fault is already at shop.checkout: {'id': 'other', 'point': 'shop.checkout'}",
        fake_door.OFF,
    ]


def test_apply_and_renewal_are_the_same_one_request():
    """One PUT under the injection's own id, with all that the endpoint takes."""
    body = {**TOLD, "ttl_s": 6.0, "run": "r1"}
    assert fake_door.puts_of(injector, Shop(), site, RECEIPT) == [("r1-0", body)] * 2


@pytest.mark.parametrize(
    ("counts", "wanted", "holds"),
    [
        ({"hits": 0, "impacted": 0}, 1, False),  # in force, and nobody met it
        ({"hits": 5, "impacted": 0}, 1, False),  # met, and its dice spared all
        ({"hits": 5, "impacted": 2}, 3, False),
        ({"hits": 5, "impacted": 3, "last_hit_at": "2026-01-01T00:00:00Z"}, 3, True),
        ({"hits": 3}, 3, True),  # an endpoint that counts no more than that
        ({"hits": True, "impacted": "4"}, 1, False),
        ({}, 1, False),
    ],
)
def test_the_effect_is_what_the_target_says_the_fault_has_met(counts, wanted, holds):
    """In force alone proves nothing."""

    async def work(shop, url):
        shop.counts = counts
        await injector.apply(site(url), RECEIPT)
        return await injector.effective(site(url), {**RECEIPT, "expect_hits": wanted})

    probe = with_shop(work)

    def number(value):
        return value if type(value) is int else None

    shown = {
        "listed": True, "impacted": number(counts.get("impacted")), "hits": number(counts.get("hits")),
        "last_hit_at": counts.get("last_hit_at"), "expect_hits": wanted,
    }  # fmt: skip
    if shown["impacted"] is None and shown["hits"] is None:
        shown["reason"] = "GET /faults reports neither impacted nor hits: nothing shows that the fault was met"
    assert (probe.holds, probe.evidence) == (holds, shown)


def test_a_fault_that_the_target_has_dropped_has_no_effect():
    """Its lease ran out, or somebody ended it."""

    async def work(_, url):
        return await injector.effective(site(url), RECEIPT)

    assert with_shop(work).evidence == {"listed": False}


STILL = "not shown by the target"


@pytest.mark.parametrize(
    ("pages", "others", "holds", "shown"),
    [
        ([], [], True, {"frozen": STILL}),
        (["up 1\n"], [], True, {"frozen": STILL}),
        ([page(0, 7)], [], True, {"frozen": True, "active": 0.0}),
        ([page(0, 7), page(0, 8)], [], False, {"frozen": False, "active": 0.0}),  # off the list, and biting
        ([page(1, 7)], [], False, {"frozen": True, "active": 1.0}),
        ([page(1, 7), page(1, 9)], ["shop.checkout"], True, {"frozen": "another fault is at this point by now"}),
        ([page(0, 7), page(0, 8)], ["shop.search"], False, {"frozen": False, "active": 0.0}),
        ([page(0, 7), "up 1\n"], [], False, {"frozen": "shown at first, and not at the second look"}),
    ],
)
def test_gone_is_off_the_list_and_nothing_met_any_more(pages, others, holds, shown):
    """The list is the control, the metrics of the point are the effect; where there are none the list must do."""

    async def work(shop, url):
        shop.series = pages
        for number, point in enumerate(others):
            shop.faults[str(number)] = {"id": str(number), "point": point}
        return await injector.gone(site(url), RECEIPT)

    probe = with_shop(work)
    assert (probe.holds, probe.evidence) == (holds, {"listed": False, **shown})


def test_a_metric_that_is_no_number_is_told_with_its_place():
    """Neither gone nor a bug of ours."""

    async def work(shop, url):
        shop.series = [page("many", 7)]
        with pytest.raises(InjectionError) as told:
            await injector.gone(site(url), RECEIPT)
        return str(told.value).replace(url, "URL")

    assert with_shop(work) == "GET URL/metrics: sim_fault_active is 'many', no number"


def test_withdraw_can_be_done_any_number_of_times():
    """From the receipt as the journal keeps it; a fault that is listed is not gone."""

    async def work(_, url):
        return await fake_door.held_and_withdrawn(injector, site(url), RECEIPT, site(url))

    assert [(probe.holds, probe.evidence["listed"]) for probe in with_shop(work)] == [
        (True, False), (False, True), (True, False),
    ]  # fmt: skip
