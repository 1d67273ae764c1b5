"""`net.slicer` at a small Toxiproxy in this process."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from injectors.net.slicer import injector
from tests.injectors import fake_toxiproxy


def fake_target():
    """Yield what the contract test uses: the door, arguments, and the server's own state."""
    return fake_toxiproxy.fake({"average_size": 64})


def test_crumbs_are_asked_for_in_microseconds():
    """No look shows them; the state is read back, and the link opens."""
    given = {"average_size": 64, "size_variation": 16, "delay": "2ms"}
    _, effect, state, gone = fake_toxiproxy.used(injector, given)
    assert state[0]["attributes"] == {"average_size": 64, "size_variation": 16, "delay": 2000}
    assert (effect.holds, effect.evidence["proven_by"][:22], gone.holds) == (True, "the state as read back", True)


def test_no_piece_is_empty():
    """The variation is less than the size."""
    with pytest.raises(ValidationError):
        injector.params.model_validate({"link": "db", "average_size": 64, "size_variation": 64})
