"""Patterns of matches(): the same answers as Python's engine, in bounded time, and a clear refusal of the rest."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.expression.pattern import MAX_COST, PatternError, compile_pattern

ATOMS = st.sampled_from(
    ["a", "b", "-", ".", "^", "$", r"\d", r"\W", r"\s", r"\.", "[ab]", "[^a-c]", r"[\d_]", "[]a]", "[a-]", r"[\]x]"]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(
            st.sampled_from(["({})", "(?:{})"]),
            inner,
            st.sampled_from(["", "*", "+", "?", "*?", "{2}", "{1,}", "{0,2}"]),
        ).map(lambda t: t[0].format(t[1]) + t[2]),
    ),
    max_leaves=6,
)


@given(PATTERNS, st.text("ab1-_. ]", max_size=8))
def test_a_pattern_matches_where_pythons_does(pattern: str, text: str) -> None:
    """On the common subset both engines agree."""
    assert compile_pattern(pattern).search(text) == (re.search(pattern, text, re.ASCII) is not None)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("", "", True),
        ("^$", "", True),
        ("^$", "x", False),
        ("b$", "b\n", False),  # $ is the end of the text and nothing else, as in RE2
        (".", "\n", False),
        ("^π+$", "ππ", True),
        ("(a|b|)c", "c", True),
        ("a{2,3}b", "ab", False),
        (r"\t\n", "\t\n", True),
    ],
)
def test_the_edges_of_the_subset(pattern: str, text: str, expected: bool) -> None:
    """Empty texts, ends, newlines and characters beyond ASCII."""
    assert compile_pattern(pattern).search(text) is expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(a", "missing ) at character 3"),
        ("a)", "unmatched ) at character 2"),
        ("[a", "missing ]"),
        ("*a", "nothing to repeat"),
        ("^*", "nothing to repeat"),
        ("a**", "repetition of a repetition"),
        ("a{1,2}{3}", "repetition of a repetition"),
        ("a{3,2}", "within 0 to 100"),
        ("a{101}", "within 0 to 100"),
        ("a{", "bare {"),
        ("a}", "bare }"),
        ("a]", "bare ]"),
        ("[z-a]", "bad range"),
        (r"[\d-z]", "bad range"),
        (r"[\D]", "negated class"),
        ("[[:alpha:]]", "named classes"),
        (r"(a)\1", "back-references"),
        (r"\b", r"\b is not known"),
        ("a\\", "is not known"),
        ("(?=a)", "(?: )"),
        ("(?P<x>a)", "(?: )"),
        ("(?i)a", "(?: )"),
        ("(" * 20 + ")" * 20, "nested groups"),
        ("((a{100}){100}){100}", "more than 1000 steps"),
        ("((((){100}){100}){100}){100}", "more than 1000 steps"),
        ("a" * 257, "at most 256"),
    ],
)
def test_what_is_outside_the_subset_is_refused(pattern: str, message: str) -> None:
    """Each refusal names what is wrong."""
    with pytest.raises(PatternError, match=re.escape(message)):
        compile_pattern(pattern)


def test_a_pattern_that_ruins_backtracking_engines_is_linear_here() -> None:
    """(a+)+$ and friends end at once; a text beyond the bound is refused before it is searched."""
    text = "a" * 1000 + "b"
    for pattern in ("^(a+)+$", "^(a|a)*$", "^(a*)*c", ".*.*.*.*x"):
        assert compile_pattern(pattern).search(text) is False
    with pytest.raises(PatternError, match="too long for this pattern"):
        compile_pattern("a+").search("a" * MAX_COST)


@given(st.text("ab()[]{}*+?|^$\\.-,:1d", max_size=20), st.text("ab1", max_size=5))
def test_no_pattern_whatever_raises_anything_but_a_pattern_error(pattern: str, text: str) -> None:
    """Whatever is typed compiles and searches, or is refused."""
    try:
        compile_pattern(pattern).search(text)
    except PatternError as error:
        assert str(error)
