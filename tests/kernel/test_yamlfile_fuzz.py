"""Thousands of broken files: the loader and the models either take them or say what is wrong and where."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sim.exercise import ExerciseFile
from sim.problem import InvalidFile
from sim.target import Target
from sim.validation import validate
from sim.yamlfile import parse

EXERCISE = b"""exercises:
  a: {inject: 'x.y(1)', expect: "action=='b'", tags: [d3, n], within: {effect: 5m, act: 3}}
  b:
    inject:
      - call: x.y
        with: {a: [1, 2.5, true, ~]}
    expect: >-
      action=='\xc3\xa9'
      && x < 1e-9
    vars: {N: 120}
"""
PROFILE = b"""target: t
environment: sim-local
observers: {p: {kind: prometheus, url: '${stack.prom}', every: 250ms}}
facts:
  action: {kind: event, stage: act, from: p, sequence: '+'}
  burn: {kind: gauge, from: [p], query: "rate(x[5m])", worse: up}
owners: {DEC/PM: {slack: '#dec'}}
hooks:
  h: {faults: [x.y], alerts: [A], owner: DEC/PM, actions: [{name: z, effect: "a=='b'", reversal: on_resolved}]}
"""
PIECES = (
    *(bytes([byte]) for byte in b"[]{}:,-?&*!|>'\"%@`#\t\n\r \\~<=.01x\x00\x1b\xff\xc3"),
    *(b"<<: ", b"- ", b": ", b"\n  ", b"\\UFFFFFFFF", b"\\x", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xed\xa0\x80"),
    *(b"---\n", b"...\n", b"&a ", b"*a", b"!!int ", b"1e999", b"0x", b"null", b"{" * 40, b"[" * 40, b"9" * 5000),
)  # fmt: skip


def mutated(base: bytes, chance: random.Random) -> bytes:
    """Return `base` with a few cuts, copies and insertions."""
    raw = bytearray(base)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(raw) + 1)
        end = min(len(raw), at + chance.randint(0, 30))
        match chance.randrange(4):
            case 0:
                del raw[at:end]
            case 1:
                raw[at:at] = chance.choice(PIECES)
            case 2:
                raw[at:end] = chance.choice(PIECES)
            case 3:
                other = chance.randrange(len(raw) + 1)
                raw[other:other] = raw[at:end]
    return bytes(raw)


def survives(raw: bytes, model: type[ExerciseFile] | type[Target]) -> bool:
    """Say whether `raw` is taken; if not, every finding has a place in the file and can be shown."""
    text = raw.decode("utf-8", "surrogateescape")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    try:
        validate(parse(text, "fuzz.yaml"), model)
    except InvalidFile as error:
        for problem in error.problems:
            assert 1 <= problem.line <= len(lines), problem
            assert 1 <= problem.col <= len(lines[problem.line - 1]) + 1, problem
            assert problem.message
            assert "pydantic" not in problem.render() and "http" not in problem.render()
        assert str(error)
        return False
    return True


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(0)
@given(st.integers(0, 2**32))
def test_no_mutated_file_crashes_the_loader(seed: int):
    """Two mutations of each kind of file a seed: taken, or refused with places."""
    chance = random.Random(seed)
    for _ in range(2):
        survives(mutated(EXERCISE, chance), ExerciseFile)
        survives(mutated(PROFILE, chance), Target)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:-?[]{},&*!|>'\"%@#~\n \t\\<.0", max_size=60))
def test_no_short_text_crashes_the_loader(text: str):
    """Any heap of YAML's own signs is taken, or refused with places."""
    survives(text.encode(), ExerciseFile)


def test_the_unbroken_files_are_taken():
    """The files that are mutated are sound, so that a mutation is what breaks them."""
    assert survives(EXERCISE, ExerciseFile)
    assert survives(PROFILE, Target)
