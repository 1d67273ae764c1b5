"""`net.latency` at a small Toxiproxy in this process."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from injectors.net.latency import injector
from tests.injectors import fake_toxiproxy


def fake_target():
    """Yield what the contract test uses: the door, arguments, and the server's own state."""
    return fake_toxiproxy.fake({"latency": "40ms", "speaks": "http"})


#: `sim proxy` drops the fault by itself.
REAL_LEASE = "target"


def real_target():
    """Yield the same of `sim proxy`."""
    return fake_toxiproxy.served({"latency": "40ms", "speaks": "http"})


TOXIC = {"name": "r1-1", "stream": "downstream", "toxicity": 1.0, "type": "latency"}


@pytest.mark.parametrize("speaks", ["http", "postgres"])
def test_a_slow_link_is_proven_by_a_question(speaks):
    """The toxic stands as asked for, and the answer comes later than before, by the dose."""
    prepared, effect, state, gone = fake_toxiproxy.used(injector, {"latency": "60ms", "speaks": speaks})
    assert state == [TOXIC | {"attributes": {"latency": 60, "jitter": 0}}]
    assert (effect.holds, effect.evidence["proven_by"], gone.holds) == (True, "a connection through the link", True)
    assert effect.evidence["looks"][0]["first_byte_ms"] - effect.evidence["before"]["first_byte_ms"] >= 54
    assert gone.evidence["did"] == ["toxic removed"]
    assert prepared.receipt["leased"] is False


def test_a_link_that_is_only_opened_shows_the_state_or_the_counters():
    """Nothing is seen from outside: a real server's state is read back, `sim proxy` has counted who was touched."""
    _, stock, _, _ = fake_toxiproxy.used(injector, {"latency": "60ms"})
    _, counted, _, _ = fake_toxiproxy.used(injector, {"latency": "60ms"}, sim=True)
    assert (stock.holds, stock.evidence["proven_by"][:22]) == (True, "the state as read back")
    assert (counted.holds, counted.evidence["proven_by"][:18]) == (True, "the server's count")
    assert counted.evidence["impacted"] == 1


def test_one_in_some_is_looked_for_in_several():
    """Where a toxic hits only some connections five are opened; the jitter is asked for as given."""
    given = {"latency": "60ms", "jitter": "10ms", "toxicity": 0.5, "stream": "upstream", "speaks": "http"}
    _, effect, state, gone = fake_toxiproxy.used(injector, given)
    own = {"stream": "upstream", "toxicity": 0.5, "attributes": {"latency": 60, "jitter": 10}}
    assert (state, len(effect.evidence["looks"]), effect.holds, gone.holds) == ([TOXIC | own], 5, True, True)


@pytest.mark.parametrize(
    "wrong", [{"latency": 0}, {"latency": "2h"}, {"latency": "1s", "jitter": "2s"}, {"latency": 1, "toxicity": 0}]
)
def test_nonsense_is_refused(wrong):
    """No dose, one beyond an hour, data that would arrive before it was sent, a chance of nothing."""
    with pytest.raises(ValidationError):
        injector.params.model_validate({"link": "db", **wrong})
