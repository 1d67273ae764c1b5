"""`net.blackhole` at a small Toxiproxy in this process."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from injectors.net.blackhole import injector
from tests.injectors import fake_toxiproxy


def fake_target():
    """Yield what the contract test uses: the door, arguments, and the server's own state."""
    return fake_toxiproxy.fake({"speaks": "http"})


def test_a_link_that_swallows_answers_nothing():
    """It opens, and no byte comes."""
    _, effect, state, gone = fake_toxiproxy.used(injector, {"after": "1s", "speaks": "http"})
    assert (state[0]["type"], state[0]["attributes"]) == ("timeout", {"timeout": 1000})
    assert (effect.holds, effect.evidence["looks"][0]["first_byte_ms"], gone.holds) == (True, None, True)


def test_never_is_the_default():
    """0 keeps the connections open until the fault is over; less is nonsense."""
    with pytest.raises(ValidationError):
        injector.params.model_validate({"link": "db", "after": -1})
    assert injector.params.model_validate({"link": "db"}).after == 0.0
