"""`net.cut` at a small Toxiproxy in this process."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from injectors.net.cut import injector
from tests.injectors import fake_toxiproxy


def fake_target():
    """Yield what the contract test uses: the door, arguments, and the server's own state."""
    return fake_toxiproxy.fake({})


#: `sim proxy` drops the fault by itself.
REAL_LEASE = "target"


def real_target():
    """Yield the same of `sim proxy`."""
    return fake_toxiproxy.served({})


@pytest.mark.parametrize("sim", [False, True])
def test_a_cut_link_refuses(sim):
    """Cut, seen refused by a connection of our own, and enabled again."""
    _, effect, state, gone = fake_toxiproxy.used(injector, {"duration": "20s"}, sim)
    assert (state, effect.holds, effect.evidence["looks"][0]["end"]) == (["cut"], True, "refused")
    assert (gone.holds, gone.evidence["did"], gone.evidence["enabled"]) == (True, ["link enabled"], True)


def test_it_holds_as_long_as_asked():
    """`duration` is the hold; nothing shorter than some time is one."""
    assert injector.duration_s(injector.params.model_validate({"link": "db", "duration": "20s"})) == 20.0
    with pytest.raises(ValidationError):
        injector.params.model_validate({"link": "db", "duration": 0})
