"""`net.limit_data` at a small Toxiproxy in this process."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from injectors.net.limit_data import injector
from tests.injectors import fake_toxiproxy


def fake_target():
    """Yield what the contract test uses: the door, arguments, and the server's own state."""
    return fake_toxiproxy.fake({"bytes": 100, "speaks": "http"})


def test_an_answer_that_is_longer_is_cut_short():
    """Of an answer of some 480 bytes 100 come; a limit beyond it cannot be seen."""
    _, effect, state, gone = fake_toxiproxy.used(injector, {"bytes": 100, "speaks": "http"})
    _, beyond, _, _ = fake_toxiproxy.used(injector, {"bytes": 10_000, "speaks": "http"})
    assert (state[0]["type"], state[0]["attributes"]) == ("limit_data", {"bytes": 100})
    assert (effect.holds, effect.evidence["looks"][0]["bytes"], gone.holds) == (True, 100, True)
    assert (beyond.holds, beyond.evidence["proven_by"][:22]) == (True, "the state as read back")


def test_less_than_nothing_is_refused():
    """Bytes count up from 0."""
    with pytest.raises(ValidationError):
        injector.params.model_validate({"link": "db", "bytes": -1})
