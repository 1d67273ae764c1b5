"""`net.bandwidth` at a small Toxiproxy in this process."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from injectors.net.bandwidth import injector
from tests.injectors import fake_toxiproxy


def fake_target():
    """Yield what the contract test uses: the door, arguments, and the server's own state."""
    return fake_toxiproxy.fake({"rate": 5, "speaks": "http"})


def test_a_narrow_link_is_proven_where_an_answer_is_long_enough():
    """About 500 bytes at 5 KB/s take 100 ms; at 5 MB/s nothing can be seen, and the state has to do."""
    _, slow, state, gone = fake_toxiproxy.used(injector, {"rate": 5, "speaks": "http"})
    _, fast, _, _ = fake_toxiproxy.used(injector, {"rate": 5000, "speaks": "http"})
    assert state == [
        {"name": "r1-1", "type": "bandwidth", "stream": "downstream", "toxicity": 1.0, "attributes": {"rate": 5}}
    ]
    assert (slow.holds, slow.evidence["proven_by"], gone.holds) == (True, "a connection through the link", True)
    assert (fast.holds, fast.evidence["proven_by"][:22]) == (True, "the state as read back")


def test_a_rate_is_a_whole_number():
    """The server takes integers only."""
    with pytest.raises(ValidationError):
        injector.params.model_validate({"link": "db", "rate": 1.5})
