"""`cdc.delay` against a small consumer that keeps the fault contract and tells its lag."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from pydantic import ValidationError

from injectors.cdc.delay import injector
from tests.injectors import fake_door


def seen(last, p95=None, count=10):
    """Return one witness as the consumer shows it."""
    return {"count": count, "min": last, "p95": last if p95 is None else p95, "max": last, "last": last}


class Consumer(fake_door.Target):
    """The consumer's door and its three witnesses."""

    def __init__(self):
        super().__init__()
        self.lag = {"window_s": 10.0, "slot_active": True, "streaming": True, "queued": 0, "freshness_now_s": 0.4}
        self.witnesses(seen(0.002), seen(0.4), seen(0.9))

    def witnesses(self, event, fresh, replay):
        self.lag |= {"event_lag_s": event, "freshness_s": fresh, "replay_lag_s": replay}

    def routes(self):
        return [web.get("/lag", self.shown)]

    async def shown(self, request):
        return web.json_response(self.lag)


def fake_target():
    """Yield what the contract test uses: doors, arguments, and the consumer's own list of faults."""
    return fake_door.fake(Consumer(), ("cdc",), {"p95": "+180s", "window": "10m"})


def site(url, token=fake_door.TOKEN):
    return fake_door.site_of(token, cdc=fake_door.locked(url))


def params(p95="+180s", **more):
    return injector.params.model_validate({"p95": p95, **more})


def with_consumer(work):
    """Run `work(consumer, url)` against a consumer of its own."""
    return fake_door.against(Consumer(), work)


RECEIPT = {"fault": "r1-0", "delay_s": 180.0, "run": "r1", "ttl_s": 6.0}
BODY = {"point": "cdc.apply", "kind": "delay", "params": {"delay_s": 180.0}, "ttl_s": 6.0, "run": "r1"}


def test_the_seed_s_block_is_understood():
    """p95 is the delay, window the longest hold."""
    given = params("+180s", window="10m")
    assert (given.p95, injector.duration_s(given), injector.duration_s(params(180))) == (180.0, 600.0, None)


@pytest.mark.parametrize("wrong", [0, "-5s", "2h", "much", None, True])
def test_a_delay_out_of_bounds_is_refused(wrong):
    """Above 0 and up to an hour, as the consumer takes it."""
    with pytest.raises(ValidationError):
        params(wrong)


def test_prepare_changes_nothing_and_notes_how_it_stood():
    """The receipt is plain JSON with all that undoing needs; prior holds the faults and the lag."""

    async def work(consumer, url):
        prepared = await injector.prepare(site(url), params())
        assert consumer.puts == []
        return prepared, consumer.lag

    prepared, lag = with_consumer(work)
    assert prepared.targets == ("the CDC consumer",)
    assert json.loads(json.dumps(prepared.receipt)) == RECEIPT
    assert prepared.prior == {"identity": fake_door.IDENTITY, "faults": [], "lag": lag}


def test_prepare_refuses_what_it_cannot_do_cleanly():
    """A foreign fault, a stream that stands still, a shut door, a wrong token: each named, with the cure."""

    async def work(consumer, url):
        def refused(token=fake_door.TOKEN):
            return fake_door.refused(injector, site(url, token), params(), url)

        said = [await refused("wrong")]
        consumer.faults["other"] = {"id": "other"}
        said.append(await refused())
        consumer.faults.clear()
        consumer.lag["streaming"] = False
        said.append(await refused())
        consumer.lag = []
        said.append(await refused())
        consumer.open = False
        said.append(await refused())
        return said

    assert with_consumer(work) == [
        fake_door.UNAUTHORIZED,
        "URL: a fault is already there: {'id': 'other'}",
        "URL: the consumer is not streaming, so nothing could be delayed",
        "GET URL/lag: expected an object, got []",
        fake_door.OFF,
    ]


def test_apply_and_renewal_are_the_same_one_request():
    """One PUT under the injection's own id, with the lease asked for."""
    assert fake_door.puts_of(injector, Consumer(), site, RECEIPT) == [("r1-0", BODY)] * 2


FULL = seen(180.1)


@pytest.mark.parametrize(
    ("witnesses", "agree"),
    [
        ((FULL, FULL, FULL), ["event_lag_s", "freshness_s", "replay_lag_s"]),
        ((seen(177.0), seen(183.0), FULL), ["event_lag_s", "freshness_s", "replay_lag_s"]),
        ((seen(176.9), FULL, FULL), ["freshness_s", "replay_lag_s"]),
        ((FULL, seen(183.1), FULL), ["event_lag_s", "replay_lag_s"]),
        ((FULL, FULL, seen(0.9)), ["event_lag_s", "freshness_s"]),
        ((seen(None, count=0), FULL, FULL), ["freshness_s", "replay_lag_s"]),  # a silent witness is none
        ((seen(180.0, count=1), FULL, FULL), ["freshness_s", "replay_lag_s"]),
        ((FULL, seen(0.5, p95=180.0), FULL), ["event_lag_s", "replay_lag_s"]),  # over already
        ((FULL, FULL, None), ["event_lag_s", "freshness_s"]),
        ((FULL, {"count": "many"}, {"count": 9, "p95": True, "last": "180"}), ["event_lag_s"]),
    ],
)
def test_the_effect_is_proven_by_three_witnesses_that_agree(witnesses, agree):
    """Each within three seconds of the dose, measured; one that is silent or says otherwise, and nothing is proven."""

    async def work(consumer, url):
        consumer.witnesses(*witnesses)
        await injector.apply(site(url), RECEIPT)
        return await injector.effective(site(url), RECEIPT)

    probe = with_consumer(work)
    assert probe.holds is (len(agree) == 3)
    assert probe.evidence == {
        "dose_s": 180.0,
        "tolerance_s": 3.0,
        "agree": agree,
        "window_s": 10.0,
        **dict(zip(("event_lag_s", "freshness_s", "replay_lag_s"), witnesses, strict=True)),
        "slot_active": True,
        "streaming": True,
        "queued": 0,
    }


@pytest.mark.parametrize(("dose", "lag", "there"), [(2.0, 0.4, False), (2.0, 1.8, True), (3.0, 0.9, False)])
def test_a_small_dose_is_not_proven_by_the_lag_at_rest(dose, lag, there):
    """What was there before the fault proves nothing, however close it is to what was asked for."""

    async def work(consumer, url):
        consumer.witnesses(seen(lag), seen(lag), seen(lag))
        return await injector.effective(site(url), {**RECEIPT, "delay_s": dose})

    assert with_consumer(work).holds is there


def test_withdraw_can_be_done_any_number_of_times_and_gone_waits_for_the_backlog():
    """The fault is off the list at once; it is gone when what it held was applied."""

    async def work(consumer, url):
        await injector.apply(site(url), RECEIPT)
        consumer.lag |= {"freshness_now_s": 180.2, "queued": 700}
        found = [await injector.gone(site(url), RECEIPT)]
        for _ in range(2):
            await injector.withdraw(site(url), json.loads(json.dumps(RECEIPT)))
        found.append(await injector.gone(site(url), RECEIPT))
        consumer.lag |= {"freshness_now_s": 0.7, "queued": 0}
        found.append(await injector.gone(site(url), RECEIPT))
        consumer.lag["freshness_now_s"] = None
        return [*found, await injector.gone(site(url), RECEIPT)]

    assert [(probe.holds, dict(probe.evidence)) for probe in with_consumer(work)] == [
        (False, {"fault_listed": True, "freshness_s": 180.2, "queued": 700}),
        (False, {"fault_listed": False, "freshness_s": 180.2, "queued": 700}),
        (True, {"fault_listed": False, "freshness_s": 0.7, "queued": 0}),
        (False, {"fault_listed": False, "freshness_s": None, "queued": 0}),
    ]


def test_the_signal_in_virtual_time_rises_second_by_second_and_stays_at_the_dose():
    """For each of the four tables: nothing newer comes until the delay is over."""
    signals = injector.signal(params("+2s", window="4s"))
    tables = ["mbp_markets", "mbp_quotes", "mbp_resolutions", "mbp_abuse_events"]
    assert [(each.metric, each.labels["table"]) for each in signals] == [("cdc_freshness_seconds", t) for t in tables]
    assert {each.points for each in signals} == {((0.0, 0.0), (1.0, 1.0), (2.0, 2.0), (3.0, 2.0), (4.0, 2.0))}
