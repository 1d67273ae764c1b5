"""`net.slow_close` at a small Toxiproxy in this process."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from injectors.net.slow_close import injector
from tests.injectors import fake_toxiproxy


def fake_target():
    """Yield what the contract test uses: the door, arguments, and the server's own state."""
    return fake_toxiproxy.fake({"delay": "60ms", "speaks": "http"})


def test_the_end_comes_late_and_the_answer_does_not():
    """The look's connection is answered as before, and ended later by the dose."""
    _, effect, state, gone = fake_toxiproxy.used(injector, {"delay": "80ms", "speaks": "http"})
    seen = effect.evidence["looks"][0]
    assert (state[0]["type"], state[0]["attributes"]) == ("slow_close", {"delay": 80})
    assert (effect.holds, gone.holds, seen["ended_ms"] - seen["first_byte_ms"] > 70) == (True, True, True)


def test_some_delay_is_needed():
    """None is no fault."""
    with pytest.raises(ValidationError):
        injector.params.model_validate({"link": "db", "delay": 0})
