"""`docker.cpu` against an engine in memory."""

from __future__ import annotations

import pytest

from injectors.docker.cpu import injector
from tests.injectors import fake_engine
from tests.injectors.fake_engine import Box, Engine, against, refused, story


def fake_target():
    """Yield what the contract test uses."""
    return fake_engine.fake(Engine(Box("web")), {"container": "web", "cpus": 0.1})


NONE = {"NanoCpus": 0, "CpuQuota": 0, "CpuPeriod": 0}
FREE = {"cpus": None, "cpus_before": None, "periods_held_back_between_two_looks": 0}

LIMITS = [
    (NONE, {**NONE, "CpuQuota": -1}, FREE),  # 0 would be ignored: -1 undoes
    ({**NONE, "CpuQuota": 100000, "CpuPeriod": 50000},) * 2 + ({"cpus": 2.0, "cpus_before": 2.0},),
    ({**NONE, "NanoCpus": 1500000000},) * 2 + ({"cpus": 1.5, "cpus_before": 1.5},),
]


@pytest.mark.parametrize(("before", "after", "gone"), LIMITS)
def test_there_and_back_in_the_words_in_which_it_was_set(before, after, gone):
    """No limit, a quota, or NanoCpus (which takes no quota): each is put back as it was."""
    engine = Engine(box := Box("web", limit=dict(before)))
    told = against(engine, lambda site: story(injector, site, container="web", cpus=0.1))
    assert told[0] == (True, {"web": {"cpus": 0.1, "periods_held_back": 1, "status": "running"}})
    assert told[1][0] is False
    assert told[2] == (True, {"web": gone})
    assert box.limit == after
    assert engine.asked == ["update 7765"] * 2


def test_one_that_wants_no_more_than_it_gets_is_not_starved():
    """The limit is there, and the kernel holds nothing back: not proven."""
    told = against(Engine(Box("web", busy=False)), lambda site: story(injector, site, container="web"))
    assert told[0] == (False, {"web": {"cpus": 0.1, "periods_held_back": 0, "status": "running"}})


def test_what_was_held_back_before_proves_nothing():
    """The counter counts from before the fault; another life begins at zero."""
    engine = Engine(box := Box("web", limit={**NONE, "NanoCpus": 2000000000}, periods=40))

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web", cpus=0.1))).receipt
        await injector.apply(site, receipt)
        box.busy = False
        found = [await injector.effective(site, receipt)]
        box.started()
        box.periods = 3
        return [*found, await injector.effective(site, receipt)]

    found = against(engine, work)
    assert [(probe.holds, probe.evidence["web"]["periods_held_back"]) for probe in found] == [(False, 0), (True, 3)]


def test_a_limit_that_is_as_low_already_is_refused():
    """Nothing would change, and what was there is not ours."""
    engine = Engine(Box("web", limit={**NONE, "NanoCpus": 100000000}))
    told = against(engine, lambda site: refused(injector, site, container="web", cpus=0.1))
    assert told == "container web (776562776562) may use 0.1 processors already, and 0.1 are asked for"


def test_a_limit_off_the_books_that_still_holds_back_is_not_gone():
    """The engine says that there is none, and the kernel counts on."""
    engine = Engine(Box("web", unbooked=True))

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        return await injector.gone(site, receipt)

    probe = against(engine, work)
    assert (probe.holds, probe.evidence["web"]["periods_held_back_between_two_looks"]) == (False, 1)
