"""`net.reset` at a small Toxiproxy in this process."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from injectors.net.reset import injector
from tests.injectors import fake_toxiproxy


def fake_target():
    """Yield what the contract test uses: the door, arguments, and the server's own state."""
    return fake_toxiproxy.fake({})


def test_a_reset_is_seen_by_a_connection_that_asks_nothing():
    """Opened, and reset at once."""
    _, effect, state, gone = fake_toxiproxy.used(injector, {})
    assert (state[0]["type"], state[0]["attributes"]) == ("reset_peer", {"timeout": 0})
    assert (effect.holds, effect.evidence["looks"][0]["end"], gone.holds) == (True, "reset", True)


def test_it_comes_soon_or_nobody_could_wait_for_it():
    """At most five seconds, for the probe waits that long."""
    with pytest.raises(ValidationError):
        injector.params.model_validate({"link": "db", "after": "6s"})
