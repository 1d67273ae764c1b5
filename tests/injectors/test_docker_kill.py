"""`docker.kill` against an engine in memory."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from injectors.docker.kill import injector
from tests.injectors import fake_engine
from tests.injectors.fake_engine import Box, Engine, against, refused, story


def fake_target():
    """Yield what the contract test uses."""
    return fake_engine.fake(Engine(Box("web")), {"container": "web"})


def real_target():
    """Yield the same of a container at a real engine."""
    return fake_engine.real({})


def life(status, code, begun, **more):
    """Return the evidence of one look."""
    told = {"status": status, "health": None, "exit_code": code, "restarts": 0}
    return {"web": {**told, "started_at": f"life {begun}", "started_before": "life 1", **more}}


def test_there_and_back():
    """Dead until it is started again; the second withdrawal starts nothing."""
    engine = Engine(Box("web"))
    assert against(engine, lambda site: story(injector, site, container="web")) == [
        (True, life("exited", 137, 1, started_again=False)),
        (False, life("exited", 137, 1)),
        (True, life("running", 0, 2)),
    ]
    assert engine.asked == ["kill 7765", "start 7765"]


def test_a_restart_policy_may_be_quicker_than_the_look():
    """Another life is proof enough of the end of the first; there is nothing left to start."""
    engine = Engine(Box("web", policy=True))
    assert against(engine, lambda site: story(injector, site, container="web")) == [
        (True, life("running", 0, 2, started_again=True)),
        (True, life("running", 0, 2)),
        (True, life("running", 0, 2)),
    ]
    assert engine.asked == ["kill 7765"]


def test_one_that_survives_the_signal_is_not_proven_to_be_hit():
    """A milder signal can be ignored: no effect, and nothing to undo."""
    engine = Engine(Box("web", obeys=False))
    told = against(engine, lambda site: story(injector, site, container="web", signal="SIGTERM"))
    assert [holds for holds, _ in told] == [False, True, True]


def test_it_is_gone_when_it_is_as_healthy_as_before():
    """Running is not enough where a health check said more; an unhealthy one is not waited for."""
    engine = Engine(box := Box("web", health="healthy", healthy_after=4))

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        await injector.apply(site, receipt)
        engine.do_start(box, None)
        found = [await injector.gone(site, receipt)]
        await injector.withdraw(site, receipt)
        found.append(await injector.gone(site, receipt))
        box.health = "unhealthy"
        await injector.withdraw(site, receipt)
        found.append(await injector.gone(site, receipt))
        return [(probe.holds, probe.evidence["web"]["health"]) for probe in found]

    assert against(engine, work) == [(False, "starting"), (True, "healthy"), (False, "unhealthy")]


def test_what_the_engine_started_meanwhile_is_started():
    """A 304, or an error while it runs by now, is no failure; an error while it does not is one."""
    engine = Engine(box := Box("web"))

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        await injector.apply(site, receipt)
        engine.fails["start"] = (500, "no space left")
        with pytest.raises(fake_engine.InjectionError, match="start web: 500 no space left"):
            await injector.withdraw(site, receipt)
        box.status = "running"
        await injector.withdraw(site, receipt)

    against(engine, work)


def test_one_that_is_removed_when_it_ends_is_refused():
    """Nothing could bring it back."""
    why = "container web (776562776562) is removed when it ends (--rm): nothing could bring it back"
    engine = Engine(Box("web", auto_remove=True))
    assert against(engine, lambda site: refused(injector, site, container="web")) == why


def test_a_signal_that_only_stops_is_not_for_this():
    """For that there is another kind of fault."""
    with pytest.raises(ValidationError):
        injector.params(container="web", signal="SIGSTOP")
