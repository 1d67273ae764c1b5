"""From documents to models: plain words, the right place, everything at once."""

from __future__ import annotations

import pytest

from sim.exercise import ExerciseFile
from sim.problem import InvalidFile
from sim.target import Target
from sim.validation import validate
from sim.yamlfile import parse


def told(text: str, model: type[ExerciseFile] | type[Target]) -> list[str]:
    """Return the headlines and cures of what is wrong with `text`."""
    with pytest.raises(InvalidFile) as caught:
        validate(parse(text, "x"), model, "exercises" if model is ExerciseFile else "")
    return [f"{each.line}:{each.col} {each.where}: {each.message} ({each.hint})" for each in caught.value.problems]


def test_the_two_line_form_is_complete():
    """The seed's form, with a bare string to inject, is valid and keeps its text."""
    text = "exercises:\n  a:\n    inject: x.y(1)\n    expect: action=='b'\n"
    exercise = validate(parse(text), ExerciseFile).exercises["a"]
    assert (exercise.inject, exercise.expect, exercise.repeat) == (("x.y(1)",), "action=='b'", 1)


def test_every_fault_of_a_file_is_told_in_order_with_its_cure():
    """Unknown and missing keys, wrong types and what the reading found stand in one list, from top to bottom."""
    text = """exercises:
  a b:
    inject: {cal: 1}
    expec: "y"
    tags: a
    within: {effect: 5 minutes, act: -1, detct: 3s}
    repeat: "2"
    vars: {N: [1]}
    time: lve
  b:
  c:
    inject: []
    expect: 1
    expect: 2
    title: true
"""
    assert told(text, ExerciseFile) == [
        "2:3 exercises: not a name: 'a b' (it must have the form [A-Za-z][A-Za-z0-9_.-]{0,63})",
        "2:3 a b: the key 'expect' is missing (None)",
        "3:5 a b.inject[0]: the key 'call' is missing (None)",
        "3:14 a b.inject[0]: unknown key 'cal' (did you mean 'call'?)",
        "4:5 a b: unknown key 'expec' (did you mean 'expect'?)",
        "5:11 a b.tags: expected a list, not 'a' (None)",
        "6:22 a b.within.effect: not a duration: '5 minutes' (use 90s, 5m, 24h) (None)",
        "6:38 a b.within.act: -1 is out of range: at least 0 (None)",
        "6:42 a b.within: unknown key 'detct' (did you mean 'detect'?)",
        "7:13 a b.repeat: expected a whole number, not '2' (None)",
        "8:15 a b.vars.N: expected true or false or a number or text, not a list (None)",
        "9:11 a b.time: expected 'live' or 'seeded', not 'lve' (None)",
        "10:3 b: expected a mapping, not nothing (None)",
        "12:13 c.inject: may not be empty (None)",
        "13:13 c.expect: expected text, not 1 (quote it)",
        "14:5 c: duplicate key 'expect', first at line 13, column 5 (None)",
        "15:12 c.title: expected text, not true (quote it)",
    ]


def test_a_profile_is_told_its_faults_in_the_same_way():
    """Secrets written out, facts of the wrong kind and unknown keys deep inside have their own places."""
    text = """target: X
environment: ''
facts:
  a: {kind: event, from: x}
doors: {d: {url: x, auth: hunter2}}
observers: {p: {kind: prom, every: 1x}}
hooks: {h: {alerts: [A], owner: X, ramp: {lest: 3s}}}
"""
    assert told(text, Target) == [
        "1:9 target: not a name: 'X' (it must have the form [a-z0-9][a-z0-9._-]{0,63})",
        "2:14 environment: may not be empty (None)",
        "4:3 facts.a: a fact of kind event needs its stage: detect, act or notify (None)",
        "5:18 doors.d.url: not an address: 'x' (write one of http://, https://, postgresql://, unix://, tcp://, "
        "file://…, or ${stack.NAME}) (None)",
        "5:27 doors.d.auth: a secret stands in a file only by reference: env:NAME or file:PATH (None)",
        "6:36 observers.p.every: not a duration: '1x' (use 90s, 5m, 24h) (None)",
        "7:43 hooks.h.ramp: unknown key 'lest' (did you mean 'least'?)",
    ]


def test_a_finding_about_the_whole_profile_is_placed_where_it_says():
    """A fact that reads from nobody is shown at that fact, though its name has a dot in it."""
    text = "target: x\nenvironment: e\nfacts:\n  alert.to: {kind: event, from: [y], stage: act}\n"
    assert told(text, Target) == ["4:3 facts.alert.to: reads from 'y', which is not among the observers (None)"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1 : an empty file (it needs: exercises)"),
        ("- a\n", "1:1 : expected a mapping, not a list (None)"),
        ("exercises: {}\n", "1:1 : may not be empty (None)"),
    ],
)
def test_a_file_of_the_wrong_shape(text: str, expected: str):
    """An empty file and a list are no files of exercises."""
    assert [line.replace("exercises: may", ": may") for line in told(text, ExerciseFile)] == [expected]


def test_a_flood_of_faults_is_counted():
    """A thousand unknown keys do not become a thousand findings."""
    text = "exercises:\n  a:\n    inject: x()\n    expect: y\n" + "".join(f"    k{n}: 1\n" for n in range(1000))
    lines = told(text, ExerciseFile)
    assert len(lines) == 201
    assert lines[0] == "1:1 : and 800 more faults (None)"
