"""`docker.restart` against an engine in memory."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from injectors.docker.restart import injector
from tests.injectors import fake_engine
from tests.injectors.fake_engine import Box, Engine, against, refused, story


def fake_target():
    """Yield what the contract test uses: a container whose health check takes a while."""
    return fake_engine.fake(Engine(Box("web", health="healthy", healthy_after=4)), {"container": "web", "grace": 0})


def test_there_and_back():
    """Another life, and gone only when its health check says so again; nothing is started that runs."""
    engine = Engine(Box("web", health="healthy", healthy_after=4))
    told = against(engine, lambda site: story(injector, site, container="web"))
    assert [(holds, each["web"]["health"], each["web"]["started_at"]) for holds, each in told] == [
        (True, "starting", "life 2"),
        (False, "starting", "life 2"),
        (True, "healthy", "life 2"),
    ]
    assert engine.asked == ["restart 7765"]


def test_one_that_did_not_come_back_is_started():
    """A restart that ended with the stop leaves it down; withdrawing puts that right."""
    engine = Engine(box := Box("web"))
    engine.do_restart = lambda box, _: setattr(box, "status", "exited")
    told = against(engine, lambda site: story(injector, site, container="web"))
    assert [(holds, each["web"]["status"]) for holds, each in told] == [
        (True, "exited"), (False, "exited"), (True, "running"),
    ]  # fmt: skip
    assert (engine.asked, box.status) == (["restart 7765", "start 7765"], "running")


@pytest.mark.parametrize("grace", [-1, 6, 0.5, "soon"])
def test_a_grace_out_of_bounds_is_refused(grace):
    """Longer than five seconds would be longer than one call may take."""
    with pytest.raises(ValidationError):
        injector.params(container="web", grace=grace)


def test_one_that_is_removed_when_it_ends_is_refused():
    """As for a kill."""
    engine = Engine(Box("web", auto_remove=True))
    assert "(--rm)" in against(engine, lambda site: refused(injector, site, container="web"))
