"""When a run must end early: its stop condition is true, or nobody can tell any more whether it is."""

from __future__ import annotations

from typing import Any

import pytest

from sim.event import SIM, Event
from sim.judge.ledger import Ledger
from sim.stopping import LOOKS, Stopping
from tests.kernel.scripted import PROFILE, Script, World, planned

#: Two sources, so that one can be blind.
SOURCES = {
    **PROFILE["facts"],
    "queue": {"kind": "gauge", "from": "other", "query": "queue", "worse": "up"},
}


class Bench:
    """A stop condition, and the events that it sees."""

    def __init__(self, text: str | None) -> None:
        more: dict[str, Any] = {"stop_when": text} if text else {}
        observers = {**PROFILE["observers"], "other": {"kind": "prom", "every": 0.25}}
        plan = planned(World(Script()), profile={"facts": SOURCES, "observers": observers}, **more)
        self.ledger, self.asked = Ledger(plan), list[tuple[str, str]]()
        self.stopping = Stopping(plan.stop_when, self.ledger, lambda by, reason: self.asked.append((by, reason)))
        self._seq = 0
        for source in ("prom", "other", "release"):
            self.feed("observer.seeing", source)

    def feed(self, kind: str, source: str = SIM, **data: Any) -> Bench:
        """Take in one event, as the run does: the ledger first."""
        event = Event(self._seq, float(self._seq), 0.0, None, source, kind, data, "")
        self._seq += 1
        self.ledger.feed(event)
        self.stopping.see(event)
        return self

    def sample(self, value: float | None, fact: str = "errors") -> Bench:
        """Take in one sample; null: the source answered, and had no data."""
        return self.feed("gauge", "other" if fact == "queue" else "prom", fact=fact, value=value)

    def t0(self) -> Bench:
        """Begin."""
        self.feed("fault.prepared", fault="f")
        return self.feed("fault.t0", hold_s=60.0)

    def gone(self) -> Bench:
        """The fault is read back gone."""
        return self.feed("fault.gone", fault="f", evidence={})


def test_a_true_condition_asks_for_the_end_once() -> None:
    """The first true sample asks, with the condition and what it read; later ones add nothing."""
    bench = Bench("errors > 0.2").sample(0.1).t0().sample(0.2).sample(0.3).sample(0.9).sample(None)
    assert bench.asked == [("stop_when", "errors > 0.2 is true: 0.3")]


def test_nothing_is_asked_before_t0_nor_after_gone() -> None:
    """Only a fault that may be in can be taken out."""
    bench = Bench("errors > 0.2").sample(0.9).sample(None).feed("observer.blind", "prom", error="x")
    bench.feed("observer.seeing", "prom").sample(0.1)
    assert bench.t0().gone().sample(0.9).feed("observer.blind", "prom", error="x").asked == []


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (0.9, [("stop_when", "errors > 0.2 is true: 0.9")]),
        (0.1, []),
        (None, []),
    ],
)
def test_what_was_read_last_counts_at_t0(value: float | None, asked: list[tuple[str, str]]) -> None:
    """True already when the fault is about to be applied: nothing need be applied. One look without data is no loss."""
    assert Bench("errors > 0.2").sample(value).t0().asked == asked


def test_a_metric_that_gives_no_value_is_lost_after_some_looks() -> None:
    """So many samples in a row without data, not one less, and a value in between begins the count anew."""
    bench = Bench("errors > 0.2").sample(0.1).t0()
    for _ in range(LOOKS - 1):
        bench.sample(None)
    bench.sample(0.1)
    for _ in range(LOOKS - 1):
        bench.sample(None)
    assert bench.asked == []
    bench.sample(None).sample(None)
    assert bench.asked == [("lost", "the stop metric is lost: prom gives no value: never read")]


def test_a_blind_source_is_lost_at_once_and_named() -> None:
    """Blind is three missed polls already."""
    bench = Bench("errors > 0.2").sample(0.1).t0().feed("observer.blind", "prom", error="connection refused")
    assert bench.asked == [("lost", "the stop metric is lost: prom is blind: connection refused")]


def test_a_source_that_is_blind_before_t0_is_lost_at_t0() -> None:
    """No event would tell of it afterwards."""
    bench = Bench("errors > 0.2").sample(0.1).feed("observer.blind", "prom", error="x").t0()
    assert bench.asked == [("lost", "the stop metric is lost: prom is blind: x")]


def test_another_source_may_be_blind() -> None:
    """Only what the condition reads is its metric."""
    bench = Bench("errors > 0.2").sample(0.1).t0().feed("observer.blind", "release", error="x").sample(0.1)
    assert bench.asked == []


KLEENE = [
    ("errors > 0.2 || queue > 5", 0.9, "stop_when"),
    ("errors > 0.2 || queue > 5", 0.1, "lost"),
    ("errors > 0.2 && queue > 5", 0.1, None),
    ("errors > 0.2 && queue > 5", 0.9, "lost"),
]


@pytest.mark.parametrize(("text", "value", "by"), KLEENE)
def test_a_deciding_value_wins_over_a_blind_source(text: str, value: float, by: str | None) -> None:
    """What one source says may decide without the other; where it does not, the blind one is the loss, by name."""
    bench = Bench(text).sample(0.1).sample(9.0, "queue").sample(0.0, "queue").t0()
    bench.sample(value).feed("observer.blind", "other", error="x")
    assert [each[0] for each in bench.asked] == ([by] if by else [])
    if by == "lost":
        assert bench.asked[0][1] == "the stop metric is lost: other is blind: x"


def test_a_blind_source_is_lost_when_the_other_decides_no_more() -> None:
    """Known until now by the one that sees; its next sample makes the other one matter."""
    bench = Bench("errors > 0.2 && queue > 5").sample(0.1).sample(0.0, "queue").t0()
    assert bench.feed("observer.blind", "other", error="x").asked == []
    assert bench.sample(0.9).asked == [("lost", "the stop metric is lost: other is blind: x")]


def test_a_state_without_a_value_is_lost_at_once() -> None:
    """A state is told once a change, so no second look will come; a state that holds stops the run."""
    bench = Bench("gate == 'blocked'").feed("state", "release", fact="gate", value="open").t0()
    bench.feed("state", "release", fact="gate", value=None)
    assert [by for by, _ in bench.asked] == ["lost"]
    bench = Bench("gate == 'blocked'").feed("state", "release", fact="gate", value="open").t0()
    bench.feed("state", "release", fact="gate", value="blocked")
    assert [by for by, _ in bench.asked] == ["stop_when"]


def test_without_a_condition_nothing_stops() -> None:
    """No stop_when in exercise or profile: no metric to lose."""
    assert Bench(None).sample(0.9).t0().feed("observer.blind", "prom", error="x").sample(None).asked == []
