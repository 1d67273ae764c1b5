"""Four values over what was seen: some and none, order, current values, and what is never taken for good news."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.expression import (
    Explanation,
    FactInfo,
    Reading,
    Scalar,
    Temporal,
    Truth,
    Vocabulary,
    Witness,
    evaluate,
    parse,
    unparse,
)
from sim.expression.evaluate import MAX_STEPS

T, F, P, U = Truth.TRUE, Truth.FALSE, Truth.PENDING, Truth.UNKNOWN

VOCABULARY = Vocabulary(
    {
        "action": FactInfo("event", sequence="+"),
        "alert.to": FactInfo("event"),
        "status": FactInfo("state", values=("stable", "reverted")),
        "frozen": FactInfo("state", values=(True, False), subject="injection"),
        "odd": FactInfo("state"),
        "burn": FactInfo("gauge"),
        "score": FactInfo("gauge"),
    },
    {"N": 120, "limit": 0.5, "owner": "SRE", "strict": True},
)


class Seen:
    """An environment of plain tables."""

    def __init__(
        self,
        readings: Mapping[str, Reading],
        baselines: Mapping[str, Witness] | None = None,
        temporal: Mapping[str, Truth] | None = None,
    ) -> None:
        self._readings, self._baselines, self._temporal = readings, baselines or {}, temporal or {}

    def reading(self, fact: str) -> Reading:
        return self._readings[fact]

    def variable(self, name: str) -> Scalar:
        return VOCABULARY.variables[name]

    def baseline(self, fact: str) -> Witness | None:
        return self._baselines.get(fact)

    def temporal(self, node: Temporal) -> Truth:
        return self._temporal[unparse(node)]


def events(*values: Scalar | None, settled: bool = False, seeing: bool = True) -> Reading:
    """Return a reading of events 10, 11, ... at 1.0 s, 2.0 s, ..."""
    witnesses = tuple(Witness(value, 10 + n, 1.0 + n) for n, value in enumerate(values))
    return Reading("event", witnesses, settled, seeing)


def current(value: Scalar | None, kind: str = "state") -> Reading:
    """Return the reading of a current value, seen as event 5 at 3.0 s."""
    return Reading("gauge" if kind == "gauge" else "state", (Witness(value, 5, 3.0),))


def judge(text: str, readings: Mapping[str, Reading] | None = None, **more: Mapping[str, object]) -> Explanation:
    """Evaluate `text` over `readings`."""
    return evaluate(parse(text), Seen(readings or {}, **more), VOCABULARY)  # type: ignore[arg-type]


def truth(text: str, **readings: Reading) -> Truth:
    """Return what `text` comes to; alert.to is given as alert_to."""
    return judge(text, {name.replace("alert_to", "alert.to"): reading for name, reading in readings.items()}).truth


OPEN, DONE, BLIND, DONE_BLIND = (False, True), (True, True), (False, False), (True, False)

EVENTS = [
    # text, values, (pending, settled, blind, settled and blind)
    ("action=='rollback'", [], (P, F, P, U)),
    ("action=='rollback'", ["freeze"], (P, F, P, U)),
    ("action=='rollback'", ["freeze", "rollback"], (T, T, T, T)),
    ("'rollback'==action", ["rollback"], (T, T, T, T)),
    ("action!='rollback'", [], (P, T, P, U)),
    ("action!='rollback'", ["freeze"], (P, T, P, U)),
    ("action!='rollback'", ["freeze", "rollback"], (F, F, F, F)),
    ("!(action=='rollback')", ["freeze"], (P, T, P, U)),
    ("!(action=='rollback')", ["rollback"], (F, F, F, F)),
    ("!!(action=='rollback')", [], (P, F, P, U)),
    ("action in ['a', 'rollback']", ["freeze"], (P, F, P, U)),
    ("action in ['a', 'rollback']", ["freeze", "rollback"], (T, T, T, T)),
    ("!(action in ['a', 'b'])", ["b"], (F, F, F, F)),
    ("action.startsWith('roll')", ["freeze", "rollback_fe"], (T, T, T, T)),
    ("startsWith(action, 'roll')", ["freeze"], (P, F, P, U)),
    ("action.endsWith('_fe')", ["rollback_fe"], (T, T, T, T)),
    ("action.contains('back')", ["rollback"], (T, T, T, T)),
    ("action.matches('^roll(back)?$')", ["rollback"], (T, T, T, T)),
    ("action.matches('^back')", ["rollback"], (P, F, P, U)),
    ("!action.contains('x')", ["rollback"], (P, T, P, U)),
    ("has(action)", [], (P, F, P, U)),
    ("has(action)", ["x"], (T, T, T, T)),
    ("!has(action)", [], (P, T, P, U)),
    ("size(action)==1", ["x"], (P, T, P, U)),
    ("size(action)==1", ["x", "y"], (F, F, F, F)),
    ("size(action)!=1", ["x", "y"], (T, T, T, T)),
    ("size(action)>=1", ["x"], (T, T, T, T)),
    ("size(action)>1", ["x"], (P, F, P, U)),
    ("1>=size(action)", ["x"], (P, T, P, U)),
    ("size(action)<2", ["x", "y"], (F, F, F, F)),
    ("size(action) in [1, 2]", ["x"], (P, T, P, U)),
    ("size(action)+1==2", ["x"], (P, T, P, U)),
    ("action=='degrade+rollback'", ["degrade"], (P, F, P, U)),
    ("action=='degrade+rollback'", ["rollback", "degrade"], (P, F, P, U)),
    ("action=='degrade+rollback'", ["degrade", "freeze", "rollback"], (T, T, T, T)),
    ("action=='degrade + rollback'", ["degrade+rollback"], (T, T, T, T)),
    ("action=='a+a'", ["a"], (P, F, P, U)),
    ("action=='b+c'", ["a+b", "c+d"], (T, T, T, T)),
    ("action=='rollback'", ["degrade+rollback"], (T, T, T, T)),
    ("action!='degrade+rollback'", ["degrade", "rollback"], (F, F, F, F)),
    ("action in ['x', 'degrade+rollback']", ["degrade", "rollback"], (T, T, T, T)),
    ("action=='x'", [None], (P, F, P, U)),
    ("has(action)", [None], (P, F, P, U)),
    ("action==(strict ? 'a' : 'b')", ["a"], (T, T, T, T)),
    ("action==owner", ["SRE"], (T, T, T, T)),
]


@pytest.mark.parametrize(("text", "values", "expected"), EVENTS)
def test_event_facts_mean_some_and_none(text: str, values: list[str], expected: tuple[Truth, ...]) -> None:
    """A match decides at once; its absence only when settled, and then only if the source was seeing."""
    found = tuple(
        truth(text, action=events(*values, settled=settled, seeing=seeing))
        for settled, seeing in (OPEN, DONE, BLIND, DONE_BLIND)
    )
    assert found == expected


def test_a_fact_without_sequence_does_not_take_a_plus_apart() -> None:
    """Only a fact with sequence '+' orders its steps; elsewhere 'a+b' is a plain text."""
    assert truth("alert.to=='a+b'", alert_to=events("a", "b", settled=True)) is F
    assert truth("alert.to=='a+b'", alert_to=events("a+b")) is T
    assert truth("alert.to=='a'", alert_to=events("a+b", settled=True)) is F


CURRENT = [
    ("status=='reverted'", "status", "reverted", T),
    ("status=='reverted'", "status", "stable", F),
    ("status!='reverted'", "status", "stable", T),
    ("status in ['x', 'stable']", "status", "stable", T),
    ("status.matches('t.b')", "status", "stable", T),
    ("status < 'zzz'", "status", "stable", T),
    ("size(status)==6", "status", "stable", T),
    ("status + 'x' == 'stablex'", "status", "stable", T),
    ("frozen", "frozen", True, T),
    ("!frozen", "frozen", True, F),
    ("frozen==true", "frozen", False, F),
    ("frozen ? strict : false", "frozen", True, T),
    ("(frozen ? 1 : 2) == 2", "frozen", False, T),
    ("(frozen == true) == false", "frozen", False, T),
    ("has(frozen)", "frozen", False, T),
    ("burn<1", "burn", 0.99, T),
    ("burn<1", "burn", 1, F),
    ("1>burn", "burn", 0.5, T),
    ("burn==1", "burn", 1.0, T),
    ("burn*100/4-1 > N % 7", "burn", 1, T),
    ("-burn < -limit", "burn", 0.6, T),
    ("burn < 1/2", "burn", 0.4, T),
    ("burn < duration('5m')", "burn", 299, T),
    ("burn > 5", "burn", math.inf, T),
    ("burn in [1, 2]", "burn", 2.0, T),
    ("burn==1 || burn==2", "burn", 2, T),
    # what is not there, or does not fit, is no news at all
    ("burn<1", "burn", None, U),
    ("!(burn<1)", "burn", None, U),
    ("burn<1", "burn", math.nan, U),
    ("burn!=1", "burn", math.nan, U),
    ("burn+0==burn", "burn", math.nan, U),
    ("burn==1", "burn", True, U),
    ("burn<1", "burn", "0", U),
    ("burn in ['x']", "burn", 1, U),
    ("burn/0 > 1", "burn", 1, U),
    ("burn%0 == 1", "burn", 1, U),
    ("burn*9223372036854775807 > 1", "burn", 3, U),
    ("burn*1e308 > 1", "burn", 100.0, U),
    ("odd", "odd", "text", U),
    ("odd == 1", "odd", "1", U),
    ("odd < true", "odd", True, U),
    ("odd.contains('1')", "odd", 1, U),
    ("odd.matches('(')", "odd", "x", U),
    ("size(odd) == 1", "odd", 1, U),
    ("odd == nobody", "odd", 1, U),
    ("nothing(odd)", "odd", 1, U),
    ("has(odd)", "odd", None, F),
    ("burn == baseline", "burn", 1, U),
    ("burn + score > baseline", "burn", 1, U),
    # an absent subject is equal to nothing
    ("frozen", "frozen", None, F),
    ("frozen==true", "frozen", None, F),
    ("frozen==false", "frozen", None, F),
    ("frozen in [true, false]", "frozen", None, F),
    ("has(frozen)", "frozen", None, F),
    ("!frozen", "frozen", None, T),
    ("frozen!=true", "frozen", None, T),
]


@pytest.mark.parametrize(("text", "fact", "value", "expected"), CURRENT)
def test_states_and_gauges_are_compared_by_their_current_value(
    text: str, fact: str, value: Scalar | None, expected: Truth
) -> None:
    """Current values compare across whole and broken numbers; no data, misfits and faults are unknown."""
    readings = {"score": current(1.0, "gauge"), fact: current(value, VOCABULARY.facts[fact].kind)}
    assert judge(text, readings).truth is expected


@pytest.mark.parametrize(
    ("settled", "seeing", "expected"), [(False, True, P), (False, False, P), (True, True, U), (True, False, U)]
)
def test_a_value_never_read_is_pending_and_then_unknown(settled: bool, seeing: bool, expected: Truth) -> None:
    """No value of a state or gauge is ever false."""
    reading = Reading("gauge", (), settled, seeing)
    assert [truth(text, burn=reading) for text in ("burn<1", "!(burn<1)", "burn+1<2", "has(burn)")] == [expected] * 4


def test_baseline_is_the_sample_of_the_one_gauge_in_the_comparison() -> None:
    """baseline takes its gauge from the comparison, and its event is among the reasons."""
    found = evaluate(
        parse("score >= baseline * 0.9"),
        Seen({"score": current(0.95, "gauge")}, {"score": Witness(1.0, 2, 0.5)}),
        VOCABULARY,
    )
    assert found == Explanation("score >= baseline * 0.9", T, ">= 0.9", "0.95", 3.0, (2, 5))


def test_temporal_words_are_answered_by_the_environment() -> None:
    """always() is what the environment has folded, explained by the value now."""
    found = judge("always(burn < 1)", {"burn": current(0.4, "gauge")}, temporal={"always(burn < 1)": P})
    inner = Explanation("burn < 1", T, "< 1", "0.4", 3.0, (5,))
    assert found == Explanation("always(burn < 1)", P, "at every sample: < 1", "now 0.4", 3.0, (5,), (inner,))


EXPLAINED = [
    ("action=='b'", events("a", "b", "b"),
     Explanation("action == 'b'", T, "an event == 'b'", "'a', 'b' so far", 2.0, (11,))),
    ("action=='b'", events("a", settled=True), Explanation("action == 'b'", F, "an event == 'b'", "'a'")),
    ("action=='b'", events(settled=True, seeing=False),
     Explanation("action == 'b'", U, "an event == 'b'", "nothing (its source was blind)")),
    ("action!='b'", events("b"), Explanation("action != 'b'", F, "no event == 'b'", "'b' so far", 1.0, (10,))),
    ("action=='a+b'", events("a", "x", "b", settled=True),
     Explanation("action == 'a+b'", T, "an event == 'a+b'", "'a', 'x', 'b'", 3.0, (10, 12))),
    ("has(action)", events(), Explanation("has(action)", P, "an event", "nothing so far")),
    ("action=='z'", events(*"abcdefghij", settled=True),
     Explanation("action == 'z'", F, "an event == 'z'", "'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and 2 more")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reading", "expected"), EXPLAINED)
def test_an_evaluation_explains_itself(text: str, reading: Reading, expected: Explanation) -> None:
    """Clause, expected, actual, when and which events."""
    assert judge(text, {"action": reading}) == expected


def test_a_row_explains_its_parts_and_is_decided_by_those_that_count() -> None:
    """A false && names only its false parts as the reason; JSON carries all of it."""
    found = judge("frozen && burn < 1", {"frozen": current(True), "burn": current(2, "gauge")})
    parts = (Explanation("frozen", T, "true", "true", 3.0, (5,)), Explanation("burn < 1", F, "< 1", "2", 3.0, (5,)))
    assert found == Explanation("frozen && burn < 1", F, "all of them", "burn < 1: 2", 3.0, (5,), parts)
    shared = {"at": 3.0, "because": [5]}
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == {
        "text": "frozen && burn < 1", "truth": "false", "expected": "all of them", "actual": "burn < 1: 2", **shared,
        "parts": [
            {"text": "frozen", "truth": "true", "expected": "true", "actual": "true", **shared, "parts": []},
            {"text": "burn < 1", "truth": "false", "expected": "< 1", "actual": "2", **shared, "parts": []},
        ],
    }  # fmt: skip


def test_what_is_shown_of_a_long_text_is_cut() -> None:
    """A source that answers with a novel does not put it into every explanation."""
    found = judge("odd == 'x' || odd == 'y'", {"odd": current("n" * 5000)})
    assert [part.actual for part in found.parts] == ["'" + "n" * 196 + "..."] * 2


def test_a_row_is_decided_when_its_deciding_part_is() -> None:
    """&& is true at its last part and false at its first false one; || the other way round."""
    seen = {"action": events("a", "b", settled=True)}
    assert judge("action=='a' && action=='b'", seen).at == 2.0
    assert judge("action!='a' && action!='b'", seen).at == 1.0
    assert judge("action=='b' || action=='a'", seen).at == 1.0
    assert judge("action=='b' || action=='x'", seen).because == (11,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("burn/0 > 1", "division by zero"),
        ("odd < 1", "cannot compare the text 'x' with the number 1"),
        ("odd", "expected a truth value, not the text 'x'"),
        ("nobody == 1", "nothing is called 'nobody' here"),
        ("alert.to < 'x'", "alert.to is an event fact: it has no order"),
        ("burn >= baseline", "no baseline of burn"),
        ("baseline == 1", "baseline needs exactly one gauge in its comparison"),
        ("alert.to + 'x' == 'y'", "alert.to is an event fact: it has no one value"),
    ],
)
def test_unknown_has_a_reason(text: str, reason: str) -> None:
    """What cannot be worked out says why."""
    found = judge(text, {"burn": current(1, "gauge"), "odd": current("x"), "alert.to": events("x")})
    assert (found.truth, found.actual) == (U, reason)


def test_an_evaluation_gives_up_after_its_steps() -> None:
    """A pattern over very many events ends as unknown, in bounded work."""
    many = events(*["ab" * 50] * 20_000, settled=True)
    found = judge("action.matches('(a|b)*c')", {"action": many})
    assert (found.truth, found.actual) == (U, f"given up after {MAX_STEPS} steps")


NAMES = st.sampled_from(["a", "b", "c", "a+b"])
POSITIVE = st.recursive(
    st.one_of(
        NAMES.map(lambda name: f"action=='{name}'"),
        st.tuples(NAMES, NAMES).map(lambda pair: f"action in ['{pair[0]}', '{pair[1]}']"),
        NAMES.map(lambda name: f"action.startsWith('{name[0]}')"),
        st.integers(0, 4).map(lambda count: f"size(action) >= {count}"),
        st.just("has(action)"),
    ),
    lambda inner: st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=4,
)


@given(POSITIVE, st.booleans(), st.lists(st.sampled_from("abc"), max_size=6), st.booleans(), st.data())
def test_what_is_decided_stays_decided(
    text: str, negated: bool, values: list[str], seeing: bool, data: st.DataObject
) -> None:
    """More events and the deadline never turn a settled truth into another, also under a negation."""
    text = f"!({text})" if negated else text
    cut = data.draw(st.integers(0, len(values)))
    early = truth(text, action=events(*values[:cut], seeing=seeing))
    late = truth(text, action=events(*values, seeing=seeing))
    final = truth(text, action=events(*values, settled=True, seeing=seeing))
    for before, after in ((early, late), (early, final), (late, final)):
        assert before in (P, U) or after is before
    assert final is not P
    if seeing:
        assert U not in (early, late, final)
    if not negated:
        assert early is not F
        assert late is not F


@given(
    st.sampled_from([text for text, *_ in EVENTS] + [text for text, *_ in CURRENT]),
    st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)), max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_no_value_whatever_makes_an_evaluation_raise(
    text: str, values: list[Scalar | None], settled: bool, seeing: bool
) -> None:
    """Whatever a source answers is a truth with an explanation that is JSON."""
    witnesses = tuple(Witness(value, n, float(n)) for n, value in enumerate(values))
    readings = {
        name: Reading(info.kind, witnesses if info.kind == "event" else witnesses[-1:], settled, seeing)
        for name, info in VOCABULARY.facts.items()
    }
    json.dumps(judge(text, readings).to_json(), allow_nan=False)
