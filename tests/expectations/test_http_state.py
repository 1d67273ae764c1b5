"""The observer of facts in a JSON answer."""

from __future__ import annotations

import asyncio

import pytest
from fake_http import serve

from expectations.observers.http_state import Config, observer
from sim.observation import CannotLook, Observation, Opening
from sim.secret import Secrets
from sim.target import Fact


def looks(facts, *answers, path="/release", injections=(), served="/release"):
    """Poll once for each answer and return what was seen."""

    async def main():
        async with serve({}) as fake:
            made = {name: Fact.model_validate({"from": "x", **fact}) for name, fact in facts.items()}
            opening = Opening("rel", Config(url=fake.url + path), made, Secrets({}), injections=tuple(injections))
            seen = []
            async with observer.open(opening) as state:
                for answer in answers:
                    fake.routes[f"GET {served}"] = answer
                    seen.append(list(await state.poll()))
        return seen

    return asyncio.run(main())


def state(fact, value):
    return Observation("state", {"fact": fact, "value": value})


def test_states_are_told_at_the_first_look_and_when_they_change():
    """The default place is the last part of the fact's name; a path steps into objects and lists."""
    facts = {
        "release.status": {"kind": "state"},
        "weight": {"kind": "state", "path": "weights.0.stable"},
        "on": {"kind": "state"},
    }
    first = {"status": "candidate", "weights": [{"stable": 0}], "on": 1}
    seen = looks(facts, first, first, {**first, "status": None, "on": True})
    assert seen == [
        [state("release.status", "candidate"), state("weight", 0), state("on", 1)],
        [],
        [state("release.status", None), state("on", True)],
    ]


def test_gauges_are_told_at_each_look_and_null_with_a_reason_when_there_is_no_number():
    """A flag or a text is no number."""
    facts = {"q.depth": {"kind": "gauge"}}
    seen = looks(facts, {"depth": 3}, {"depth": 3}, {"depth": True}, {})
    null = {"fact": "q.depth", "value": None}
    assert seen == [
        [Observation("gauge", {"fact": "q.depth", "value": 3})],
        [Observation("gauge", {"fact": "q.depth", "value": 3})],
        [Observation("gauge", {**null, "reason": "not a number: True"})],
        [Observation("gauge", {**null, "reason": "the answer has nothing at 'depth' (no 'depth')"})],
    ]


@pytest.mark.parametrize("answer", [{}, {"status": {"deep": 1}}, (404, {}), (500, {})])
def test_a_state_that_cannot_be_read_is_blindness(answer):
    """A missing place, no single value, and a 404 of a subject that must exist are no look."""
    with pytest.raises(CannotLook, match="/release"):
        looks({"release.status": {"kind": "state"}}, answer)


def test_the_subject_of_an_injection_that_does_not_exist_is_null():
    """404 is null before the fault and after it; in between the market that carries the id is read."""
    facts = {"market.frozen": {"kind": "state", "subject": "injection"}}
    at = {"path": "/markets/sim-{injection}", "served": "/markets/sim-b"}
    seen = looks(facts, (404, {}), {"frozen": False}, {"frozen": True}, (404, {}), injections=["a", "b"], **at)
    assert seen == [[state("market.frozen", value)] for value in (None, False, True, None)]
    assert looks(facts, {"frozen": True}, injections=[], **at) == [[state("market.frozen", None)]]
    with pytest.raises(CannotLook, match="500"):
        looks(facts, (500, {}), injections=["b"], **at)


@pytest.mark.parametrize(
    ("fact", "path", "says"),
    [
        ({"kind": "state", "subject": "injection"}, "/release", "go together"),
        ({"kind": "state"}, "/m/{injection}", "go together"),
        ({"kind": "gauge", "query": "up"}, "/release", "by path, not by query"),
    ],
)
def test_facts_that_do_not_fit_the_observer_are_refused_when_it_is_opened(fact, path, says):
    """Such a fact could never be read, or would be read of the wrong subject."""
    with pytest.raises(ValueError, match=says):
        looks({"f": fact}, {}, path=path)
