"""`docker.signal` against an engine in memory."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from injectors.docker.signal import injector
from tests.injectors import fake_engine
from tests.injectors.fake_engine import Box, Engine, against, refused, story


def fake_target():
    """Yield what the contract test uses: a container of one process."""
    return fake_engine.fake(Engine(Box("web", states=["S"])), {"container": "web"})


def test_there_and_back_where_the_main_process_is_the_work():
    """Every process is stopped, and continued again."""
    engine = Engine(Box("web", states=["S"]))
    assert against(engine, lambda site: story(injector, site, container="web")) == [
        (True, {"web": {"status": "running", "stopped": ["10 T init"], "running_on": []}}),
        (False, {"web": {"status": "running", "stopped": ["10 T init"], "processes": 1}}),
        (True, {"web": {"status": "running", "stopped": [], "processes": 1}}),
    ]
    assert engine.asked == ["kill 7765"] * 3  # SIGSTOP, and SIGCONT twice: harmless to one that runs


def test_an_init_that_stops_alone_is_no_effect():
    """The engine took the signal and calls it running either way; the work goes on, so nothing is proven."""
    told = against(Engine(Box("web")), lambda site: story(injector, site, container="web"))
    assert told == [
        (False, {"web": {"status": "running", "stopped": ["10 T init"], "running_on": ["11 S app"]}}),
        (False, {"web": {"status": "running", "stopped": ["10 T init"], "processes": 2}}),
        (True, {"web": {"status": "running", "stopped": [], "processes": 2}}),
    ]


def test_a_process_that_is_stopped_already_is_foreign():
    """It would be continued by our undoing."""
    engine = Engine(Box("web", states=["S", "T"]))
    told = against(engine, lambda site: refused(injector, site, container="web"))
    assert told == "container web (776562776562) has a stopped process already, and not by us: 11 T app"


def test_one_that_ends_while_it_is_stopped_needs_no_undoing():
    """Neither an error nor a signal to what took its place."""
    engine = Engine(box := Box("web", states=["S"]))

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        await injector.apply(site, receipt)
        box.status = "exited"
        effective = await injector.effective(site, receipt)
        await injector.withdraw(site, receipt)
        return effective, await injector.gone(site, receipt)

    assert [(probe.holds, dict(probe.evidence)) for probe in against(engine, work)] == [
        (False, {"web": {"status": "exited"}}),
        (True, {"web": {"status": "exited"}}),
    ]
    assert engine.asked == ["kill 7765"]


def test_a_signal_that_nothing_takes_back_is_not_for_this():
    """For that there is `docker.kill`."""
    with pytest.raises(ValidationError):
        injector.params(container="web", signal="SIGTERM")
