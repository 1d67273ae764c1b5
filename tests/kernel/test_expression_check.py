"""What is found before anything runs: unknown names, misfits, values that cannot be, clauses that could never fail."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.expression import (
    ExpressionError,
    FactInfo,
    Scalar,
    Vocabulary,
    check,
    clause_kind,
    constant,
    facts_of,
    parse,
    split_and,
)

VOCABULARY = Vocabulary(
    {
        "action": FactInfo("event", sequence="+", values=("rollback", "degrade", "freeze")),
        "alert.to": FactInfo("event", values=("DEC/PM", "SRE")),
        "notify": FactInfo("event"),
        "status": FactInfo("state", values=("candidate", "stable", "reverted")),
        "frozen": FactInfo("state", values=(True, False)),
        "level": FactInfo("state", values=(1, 2.5)),
        "odd": FactInfo("state"),
        "burn": FactInfo("gauge"),
        "cwv.score": FactInfo("gauge"),
        "both": FactInfo("gauge"),
    },
    {"N": 120, "owner": "SRE", "strict": True, "both": 1, "limits.low": 0.5},
)

GOOD_CLAUSES = [
    "action=='degrade+rollback'",
    "action=='degrade + rollback' || action in ['freeze', 'rollback+freeze']",
    "'rollback'==action",
    "!(alert.to=='SRE')",
    "alert.to==owner",
    "notify=='anything'",
    "notify.matches('^PM') && !has(action) && size(action)<=1",
    "status in ['stable', 'reverted']",
    "status.startsWith('re') && size(status) > 3",
    "frozen",
    "!frozen && frozen != true",
    "strict ? frozen : !frozen",
    "frozen == (strict ? true : false)",
    "level == 1 || level in [2.5] || level < 2",
    "odd == 1 || odd == 'x' || odd",
    "burn < 1 && burn < N / 100 + limits.low",
    "always(burn < 1) && at_end(!(cwv.score < 0.5))",
    "cwv.score>=baseline && cwv.score > baseline * 0.9",
    "burn - burn * 2 > baseline",
    "burn < duration('5m') || burn in [1, 2, N]",
    "(burn < 1) == strict",
]


@pytest.mark.parametrize("text", GOOD_CLAUSES)
def test_a_good_clause_has_no_errors(text: str) -> None:
    """What can be judged passes."""
    assert check(parse(text), VOCABULARY, where="clause") == []


VACUOUS = "this reads no fact, so it could never fail"
BAD_CLAUSES: dict[str, list[tuple[str, str, str | None]]] = {
    # text: (the part it points at, message, hint or a piece of it)
    "actoin=='x'": [("actoin", "no fact or variable is called 'actoin'", "did you mean 'action'?")],
    "Alert.To=='SRE'": [("Alert.To", "no fact or variable is called 'Alert.To'", "did you mean 'alert.to'?")],
    "zzz==1": [("zzz", "no fact or variable is called 'zzz'", "known: N, action, alert.to")],
    "frozen || nope == 1": [("nope", "no fact or variable is called 'nope'", None)],
    "alert.to.foo == 'x'": [("alert.to.foo", "alert.to has no member 'foo'", None)],
    "has(actoin)": [("actoin", "no fact or variable is called 'actoin'", "did you mean 'action'?")],
    "action==1": [("action==1", "action (a text) is compared with a number: that is never true", None)],
    "burn=='1'": [("burn=='1'", "burn (a number) is compared with a text: that is never true", None)],
    "burn==true": [("burn==true", "burn (a number) is compared with a truth value: that is never true", None)],
    "frozen==1": [("frozen==1", "frozen (a truth value) is compared with a number: that is never true", None)],
    "frozen<true": [("frozen<true", "a truth value has no order: < needs numbers or texts", None)],
    "alert.to=='DEC/PN'": [("'DEC/PN'", "alert.to is never 'DEC/PN', only 'DEC/PM', 'SRE'", "did you mean 'DEC/PM'?")],
    "alert.to!='DEC/PN'": [("'DEC/PN'", "alert.to is never 'DEC/PN', only 'DEC/PM', 'SRE'", "did you mean 'DEC/PM'?")],
    "action=='degrade+rolback'": [
        ("'degrade+rolback'", "action is never 'rolback', only 'rollback', 'degrade', 'freeze'", "'rollback'?")
    ],
    "action=='degrade+'": [("'degrade+'", "an empty step in a sequence of action", "'a+b'")],
    "status=='revert'": [
        ("'revert'", "status is never 'revert', only 'candidate', 'stable', 'reverted'", "'reverted'?")
    ],
    "status==owner": [("owner", "status is never 'SRE', only 'candidate', 'stable', 'reverted'", None)],
    "status in ['stable', 'x', 3]": [
        ("'x'", "status is never 'x', only 'candidate', 'stable', 'reverted'", None),
        ("3", "status (a text) is never a number", None),
    ],
    "level==3": [("3", "level is never 3, only 1, 2.5", None)],
    "status in []": [("[]", "nothing is in an empty list", None)],
    "status in 'stable'": [("'stable'", "'in' needs a list on its right, and this is a text", "[ ]")],
    "'x' in notify": [("notify", "notify is no list", "notify == ...")],
    "notify": [("notify", "notify is an event fact: it has no one value", "has(notify)")],
    "!notify": [("notify", "notify is an event fact: it has no one value", "has(notify)")],
    "notify+'x'=='y'": [("notify", "notify is an event fact: it has no one value", None)],
    "notify<'x'": [("notify", "notify is an event fact: it has no order", "== != in")],
    "notify==action": [("notify==action", "two event facts are compared with each other", "each with a value")],
    "burn + 1": [("burn + 1", "this is a number, not a condition", "compare")],
    "status": [("status", "this is a text, not a condition", "compare")],
    "burn < 1 && cwv.score": [("cwv.score", "this is a number, not a condition", "compare")],
    "true": [("true", VACUOUS, None)],
    "1 == 1": [("1 == 1", VACUOUS, None)],
    "strict || N > 1": [
        ("strict || N > 1", VACUOUS, None),
    ],
    "always(1 < 2)": [("always(1 < 2)", VACUOUS, None)],
    "frozen || true": [("true", "this part reads no fact, so it is the same for ever", "?:")],
    "frozen && !strict": [("!strict", "this part reads no fact, so it is the same for ever", "?:")],
    "action=='rollback' && burn < 1": [
        (
            "action=='rollback' && burn < 1",
            "a clause reads facts of one kind, this one reads event (action) and gauge (burn)",
            "split at &&",
        )
    ],
    "always(always(burn < 1))": [("always(burn < 1)", "always() stands inside another always() or at_end()", "nest")],
    "always(notify != 'x')": [
        ("always(notify != 'x')", "notify is an event fact: it happens, it does not hold", "never:")
    ],
    "baseline > 1": [("baseline", "baseline needs exactly one gauge in its comparison, not none", "cwv.score")],
    "burn + cwv.score > baseline": [
        ("baseline", "baseline needs exactly one gauge in its comparison, not 2 (burn, cwv.score)", None)
    ],
    "burn in [baseline]": [("baseline", "baseline needs exactly one gauge in its comparison, not none", None)],
    "(burn > 1) == (2 > baseline)": [
        ("baseline", "baseline needs exactly one gauge in its comparison, not none", None)
    ],
    "both < 1": [("both", "'both' is both a fact and a variable", "rename")],
    "foo(burn) < 1": [("foo(burn)", "there is no function 'foo'", "known: has, size")],
    "notify.startWith('x')": [("notify.startWith('x')", "there is no function 'startWith'", "'startsWith'?")],
    "notify.startsWith()": [("notify.startsWith()", "startsWith() takes 2 arguments, not 1", None)],
    "has(burn, burn)": [("has(burn, burn)", "has() takes 1 argument, not 2", None)],
    "has(1) && frozen": [("1", "has() needs the name of a fact", "has(ticket.owner)")],
    "size(burn) > 1": [("burn", "size() needs a text, a list or an event fact, and this is a number", None)],
    "burn.contains('x')": [("burn", "contains() needs a text, and this is a number", None)],
    "status.contains(1)": [("1", "contains() needs a text, and this is a number", None)],
    "status.matches('(x')": [("'(x'", "pattern '(x': missing ) at character 3", None)],
    "burn < duration('5 minutes')": [("duration('5 minutes')", "not a duration: '5 minutes' (use 90s, 5m, 24h)", None)],
    "burn < 1 / 0": [("1 / 0", "division by zero", None)],
    "burn + 'x' < 1": [("'x'", "+ needs a number, and this is a text", None)],
    "-status < 1": [("status", "- needs a number, and this is a text", None)],
    "actoin == 'x' && burn == 'y' && burn < 1 / 0": [
        ("actoin", "no fact or variable is called 'actoin'", None),
        ("burn == 'y'", "burn (a number) is compared with a text: that is never true", None),
        ("1 / 0", "division by zero", None),
    ],
}


@pytest.mark.parametrize("text", BAD_CLAUSES)
def test_everything_wrong_with_a_clause_is_listed_in_place(text: str) -> None:
    """Each error names the part it points at and, where there is one, the cure; none is dropped, none invented."""
    errors = check(parse(text), VOCABULARY, where="clause")
    found = [(text[error.offset : error.offset + error.length], error.message) for error in errors]
    assert found == [(part, message) for part, message, _ in BAD_CLAUSES[text]]
    for error, (_, _, hint) in zip(errors, BAD_CLAUSES[text], strict=True):
        assert hint is None or hint in (error.hint or "")


def test_a_condition_may_mix_kinds_but_knows_no_temporal_words() -> None:
    """steady_state, stop_when, effect and ready are read at one moment."""
    mixed = parse("burn < 1 && status=='stable' && action != 'freeze'")
    assert check(mixed, VOCABULARY, where="condition") == []
    (error,) = check(parse("always(burn < 1)"), VOCABULARY, where="condition")
    assert error.message == "always() stands only in expect and never"
    (error,) = check(parse("1 < 2"), VOCABULARY, where="condition")
    assert error.message == VACUOUS


def test_an_argument_knows_only_variables() -> None:
    """A value of inject: is worked out before the run, so facts and baseline are refused by name."""
    good = ["N*1.2", "'+180s'", "[1, 'a', strict]", "strict && N > 100 ? 'x' : owner", "duration('5m')", "-limits.low"]
    assert [check(parse(text), VOCABULARY, where="argument") for text in good] == [[]] * len(good)
    bad = {
        "burn*2": "burn is a fact: its value is not known before the run",
        "n*2": "no variable is called 'n' (did you mean 'N'?)",
        "degraded": "no variable is called 'degraded' (write 'degraded' for a text)",
        "statuss": "no variable is called 'statuss' (write 'statuss' for a text)",
        "baseline": "baseline is not known before the run",
        "has(burn)": "has() needs the name of a fact (such as has(ticket.owner))",
        "always(strict)": "always() stands only in expect and never",
        "N / (N - 120)": "division by zero",
        "N + 'x'": "+ needs a number, and this is a text",
    }
    assert {text: [str(e) for e in check(parse(text), VOCABULARY, where="argument")] for text in bad} == {
        text: [message] for text, message in bad.items()
    }


def test_a_fact_or_variable_called_baseline_is_refused() -> None:
    """The word of the language cannot be shadowed unseen."""
    vocabulary = Vocabulary({"burn": FactInfo("gauge")}, {"baseline": 1})
    (error,) = check(parse("burn > baseline"), vocabulary, where="clause")
    assert error.message == "baseline is a word of the language, and here also a fact or a variable"


def test_the_kind_and_the_facts_of_a_clause() -> None:
    """A clause is of the kind of its facts; several kinds, or none, are an error."""
    parts = split_and(parse("action=='x' && frozen && always(burn < baseline + N)"))
    assert [clause_kind(part, VOCABULARY) for part in parts] == ["event", "state", "gauge"]
    assert [facts_of(part, VOCABULARY) for part in parts] == [{"action"}, {"frozen"}, {"burn"}]
    for text, hint in (("frozen || burn < 1", "split at &&"), ("N > 1", "compare a fact, such as action=='rollback'")):
        with pytest.raises(ExpressionError) as caught:
            clause_kind(parse(text), VOCABULARY)
        assert (caught.value.offset, caught.value.length, caught.value.hint) == (0, len(text), hint)


CONSTANTS: dict[str, object] = {
    "N*1.2": 144.0, "'+180s'": "+180s", "true": True, "duration('5m')": 300.0, "-5": -5, "1.5e-9": 1.5e-9,
    "7/2": 3.5, "-7 % 3": -1, "7.5 % 2": 1.5, "N % 7": 1, "'a' + 'b'": "ab", "[1] + ['a']": (1, "a"),
    "[[1], true]": ((1,), True),
    "strict ? 1 : nope": 1, "strict || nope": True, "!strict && nope": False, "1 == 1.0": True, "[1] == [1.0]": True,
    "'π' < 'ρ'": True, "size('πέντε')": 5, "size([1, 2])": 2, "'abc'.matches('b')": True, "contains('abc', 'x')": False,
    "2 in [1, 2]": True, "'x' in ['y']": False, "limits.low": 0.5, "9223372036854775807 - 1": 2**63 - 2,
}  # fmt: skip


@pytest.mark.parametrize("text", CONSTANTS)
def test_constants_are_worked_out(text: str) -> None:
    """Values and their types, by the language's own rules."""
    value = constant(parse(text), VOCABULARY.variables)
    assert (value, type(value)) == (CONSTANTS[text], type(CONSTANTS[text]))


@pytest.mark.parametrize(
    ("text", "part", "message"),
    [
        ("1 + M", "M", "no variable is called 'M'"),
        ("2 * (1 / 0)", "1 / 0", "division by zero"),
        ("1.0 % 0", "1.0 % 0", "division by zero"),
        ("9223372036854775807 + 1", "9223372036854775807 + 1", "a whole number of more than 64 bits"),
        ("1e308 * 10", "1e308 * 10", "a number without a value (overflow or NaN)"),
        ("true + 1", "true + 1", "+ needs numbers, not the truth value true"),
        ("1 == true", "1 == true", "cannot compare the number 1 with the truth value true"),
        ("1 == 'x'", "1 == 'x'", "cannot compare the number 1 with the text 'x'"),
        ("[1] < [2]", "[1] < [2]", "a list has no order: < needs numbers or texts"),
        ("1 in ['x']", "1 in ['x']", "cannot compare the number 1 with the text 'x'"),
        ("1 in 'x'", "1 in 'x'", "'in' needs a list on its right, not the text 'x'"),
        ("!1", "1", "expected a truth value, not the number 1"),
        ("1 ? 2 : 3", "1", "expected a truth value, not the number 1"),
        ("size(1)", "size(1)", "size() needs a text, a list or an event fact, not the number 1"),
        (
            "duration('" + "9" * 400 + "d')",
            "duration('" + "9" * 400 + "d')",
            "a number without a value (overflow or NaN)",
        ),
        ("duration(5)", "duration(5)", "duration() needs a text such as '5m', not the number 5"),
        ("matches('a', '(')", "matches('a', '(')", "pattern '(': missing ) at character 2"),
        ("contains(1, 'a')", "contains(1, 'a')", "contains() needs texts, not the number 1"),
        ("size()", "size()", "size() takes 1 argument, not 0"),
        ("sise('x')", "sise('x')", "no function 'sise' can stand here"),
        ("always(true)", "always(true)", "this has no value before the run"),
    ],
)
def test_a_constant_that_cannot_be_worked_out_says_which_part(text: str, part: str, message: str) -> None:
    """The error points at the smallest part that fails."""
    with pytest.raises(ExpressionError) as caught:
        constant(parse(text), VOCABULARY.variables)
    error = caught.value
    assert (text[error.offset : error.offset + error.length], error.message) == (part, message)


def test_a_text_cannot_be_grown_without_bound() -> None:
    """Sums of long variables end at a limit."""
    with pytest.raises(ExpressionError, match="4096"):
        constant(parse("a + a"), {"a": "x" * 3000})


def test_the_check_of_a_long_row_is_not_exponential() -> None:
    """Rows and nests up to the bounds are checked with work that grows with their size, not with 2**depth."""
    texts = [
        "burn < " + "+".join(["1"] * 60),
        "burn < " + "-" * 29 + "1",
        "burn in " + "[1 in " * 29 + "[1]" + "]" * 29,
    ]
    started = time.process_time()
    for text in texts:
        check(parse(text), VOCABULARY, where="clause")
    assert time.process_time() - started < 5


PIECES = st.sampled_from(
    ["action", "alert.to", "burn", "frozen", "odd", "status", "N", "baseline", "nope", "1", "'x'", "true", "[1, 'x']"]
)


def _text(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["&&", "||", "==", "<", "in", "+", "/", "%"])
    functions = st.sampled_from(["!", "-", "has", "size", "always", "at_end", "duration", "foo"])
    return st.one_of(
        st.tuples(inner, operators, inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(functions, inner).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} ? {t[1]} : {t[2]})"),
        st.tuples(inner, inner).map(lambda t: f"matches({t[0]}, {t[1]})"),
    )


@given(st.recursive(PIECES, _text, max_leaves=8), st.sampled_from(["clause", "condition", "argument"]))
def test_what_the_check_passes_has_a_value(text: str, where: str) -> None:
    """No tree makes the check raise; an argument without errors has a constant, or says why at its place."""
    node = parse(text)
    errors = check(node, VOCABULARY, where=where)  # type: ignore[arg-type]
    assert all(0 <= e.offset < e.offset + e.length <= len(text) for e in errors)
    if where == "argument" and not errors:
        value: Scalar | tuple[object, ...] = constant(node, VOCABULARY.variables)
        assert isinstance(value, bool | int | float | str | tuple)
    elif where == "clause" and not errors:
        assert clause_kind(node, VOCABULARY) in ("event", "state", "gauge")
