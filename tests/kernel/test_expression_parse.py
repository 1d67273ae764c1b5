"""Text to tree and back: the seed's strings, every refusal with its place and cure, and no input that crashes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sim.expression import (
    Arg,
    Binary,
    Call,
    CallNode,
    Conditional,
    ExpressionError,
    ListNode,
    Literal,
    Name,
    Node,
    Temporal,
    Unary,
    constant,
    parse,
    parse_call,
    split_and,
    split_or,
    unparse,
    walk,
)

SEED_CALLS = {
    "engine.swap_sequence(delta_k_ratio=1.5e-9, duration='2m')": {"delta_k_ratio": 1.5e-9, "duration": "2m"},
    "apm.loadtest(rps=N*1.2, duration='10m')": {"rps": 144.0, "duration": "10m"},
    "events.delay('resolution_finished', hours=25)": {None: "resolution_finished", "hours": 25},
    "cdc.delay(p95='+180s', window='10m')": {"p95": "+180s", "window": "10m"},
    "registry.bump_version(incompatible=true)": {"incompatible": True},
    "int.break_contract('mbp.v1')": {None: "mbp.v1"},
    "fe.inp_regress(p75='+80ms', window='24h')": {"p75": "+80ms", "window": "24h"},
}


def eq(left: str, right: str) -> Binary:
    """Return the tree of ``left == 'right'``."""
    return Binary("==", Name(left), Literal(right))


SEED_CLAUSES = {
    "action=='block_release' && alert.to=='DEC/PM'": (eq("action", "block_release"), eq("alert.to", "DEC/PM")),
    "action=='rollback' && error_budget_burn<1": (
        eq("action", "rollback"),
        Binary("<", Name("error_budget_burn"), Literal(1)),
    ),
    "action=='freeze' && notify=='PM/BC'": (eq("action", "freeze"), eq("notify", "PM/BC")),
    "action=='degrade+rollback' && ticket.owner=='DATA'": (
        eq("action", "degrade+rollback"),
        eq("ticket.owner", "DATA"),
    ),
    "action=='block_deploy' && pipeline.status=='halted'": (
        eq("action", "block_deploy"),
        eq("pipeline.status", "halted"),
    ),
    "action=='rollback' && release.status=='reverted'": (eq("action", "rollback"), eq("release.status", "reverted")),
    "action=='rollback_fe' && cwv.score>=baseline": (
        eq("action", "rollback_fe"),
        Binary(">=", Name("cwv.score"), Name("baseline")),
    ),
}


@pytest.mark.parametrize("text", SEED_CALLS)
def test_each_inject_of_the_seed_is_read_as_written(text: str) -> None:
    """The seven inject strings give their names and, with N known, their values."""
    call = parse_call(text)
    values = {arg.name: constant(arg.node, {"N": 120}) for arg in call.args}
    assert (call.name, values) == (text.partition("(")[0], SEED_CALLS[text])
    assert [type(value) for value in values.values()] == [type(value) for value in SEED_CALLS[text].values()]


@pytest.mark.parametrize("text", SEED_CLAUSES)
def test_each_expect_of_the_seed_splits_into_its_clauses(text: str) -> None:
    """The seven expect strings fall into their two clauses, dotted names whole."""
    assert split_and(parse(text)) == SEED_CLAUSES[text]


TREES: dict[str, Node] = {
    "a || b && c": Binary("||", Name("a"), Binary("&&", Name("b"), Name("c"))),
    "a - b - c": Binary("-", Binary("-", Name("a"), Name("b")), Name("c")),
    "a + b * -2": Binary("+", Name("a"), Binary("*", Name("b"), Unary("-", Literal(2)))),
    "!a == b": Binary("==", Unary("!", Name("a")), Name("b")),
    "a ? b : c ? d : e": Conditional(Name("a"), Name("b"), Conditional(Name("c"), Name("d"), Name("e"))),
    "a in [1, 'x', true,]": Binary("in", Name("a"), ListNode((Literal(1), Literal("x"), Literal(True)))),
    "always(a < 1)": Temporal("always", Binary("<", Name("a"), Literal(1))),
    "at_end(a)": Temporal("at_end", Name("a")),
    "a.b.startsWith('x')": CallNode("startsWith", (Name("a.b"), Literal("x")), True),
    "startsWith(a.b, 'x')": CallNode("startsWith", (Name("a.b"), Literal("x"))),
    "('a' + b).size()": CallNode("size", (Binary("+", Literal("a"), Name("b")),), True),
    "duration('5m')": CallNode("duration", (Literal("5m"),)),
    "1.5e-9": Literal(1.5e-9),
    "2E3": Literal(2000.0),
    "0": Literal(0),
    "9223372036854775807": Literal(2**63 - 1),
    r"'\'\"\\\n\té'": Literal("'\"\\\n\té"),
    r'"it\u0027s"': Literal("it's"),
    "  (( a ))\n": Name("a"),
}


@pytest.mark.parametrize("text", TREES)
def test_the_grammar(text: str) -> None:
    """Operators bind and associate as documented, and each form of literal means its value."""
    assert parse(text) == TREES[text]


def test_numbers_and_truth_values_are_different_literals() -> None:
    """1, 1.0 and true are equal in Python and must not be equal trees."""
    assert len({Literal(1), Literal(1.0), Literal(True)}) == 3


def test_spans_point_into_the_text_in_characters() -> None:
    """Every node knows its characters, also behind characters of several bytes."""
    text = "x == 'πέντε' && alert.to in ['a'] || !has(b)"
    assert [text[slice(*node.span)] for node in walk(parse(text))] == [
        text, "x == 'πέντε' && alert.to in ['a']", "x == 'πέντε'", "x", "'πέντε'", "alert.to in ['a']", "alert.to",
        "['a']", "'a'", "!has(b)", "has(b)", "b",
    ]  # fmt: skip
    call = parse_call("cdc.delay('é', p95='+1s')")
    assert (call.name_span, [arg.span for arg in call.args]) == ((0, 9), [(10, 13), (15, 24)])


REFUSED = {
    "action='x'": (6, 1, "not '='", "write =="),
    "action=='x' and b": (12, 3, "'and' is not part", "write &&"),
    "a or b": (2, 2, "'or' is not part", "write ||"),
    "not a": (0, 3, "'not' is not part", "write !"),
    "a not in [1]": (2, 3, "'not' is not part", "write !"),
    "a is 1": (2, 2, "'is' is not part", "write =="),
    "a == True": (5, 4, "'True' is not part", "write true"),
    "a == null": (5, 4, "'null' is not part", "has(fact)"),
    "a & b": (2, 1, "'&' is not part", "write &&"),
    "a | b": (2, 1, "'|' is not part", "write ||"),
    "a === b": (2, 3, "'===' is not part", "write =="),
    "a <> b": (2, 2, "'<>' is not part", "write !="),
    "é && x ≥ 1": (0, 1, "unexpected character 'é'", "a-z"),
    "'é' == x ≥ 1": (9, 1, "'≥' is not part", "write >="),
    "a == ‘x’": (5, 1, "not a quote", "write '"),
    "9**9**9": (1, 2, "powers", "product"),
    "7 // 2": (2, 2, "'//'", "write /"),
    "{'a': 1}": (0, 1, "maps", None),
    "a; b": (1, 1, "statements", None),
    "a # b": (2, 1, "comments", None),
    "${x}": (0, 1, "'$'", "bare name"),
    "f'x'": (0, 2, "f-strings", "plain"),
    "x == rb'x'": (5, 3, "rb-strings", "plain"),
    "'''x'''": (0, 3, "triple-quoted", "plain"),
    "lambda: 1": (0, 6, "'lambda' is not part", "named functions"),
    "__import__('os').system('x')": (0, 10, "two underscores", None),
    "a[0]": (1, 1, "not '['", "indexing"),
    "f(x).y": (5, 1, "member 'y'", "not part"),
    "'abc": (0, 4, "never closed", "put a '"),
    "'a\nb'": (0, 2, "never closed", "put a '"),
    "'a\x07'": (2, 1, "control character U+0007", "\\u0007"),
    "'\ud800'": (1, 1, "half a character", None),
    r"'\N{DOT}'": (1, 2, "\\N is not an escape", "\\uXXXX"),
    r"'\x41'": (1, 2, "\\x is not an escape", "\\uXXXX"),
    r"'\u12'": (1, 4, "four hexadecimal", None),
    r"'\ud83d'": (1, 6, "half a character", "itself"),
    "10_000": (0, 6, "underscores", "digits"),
    "0x10": (0, 4, "decimal", "base ten"),
    "007": (0, 3, "leading zero", None),
    "5.": (0, 2, "not a number", "after the point"),
    ".5": (0, 1, "not '.'", "0.5"),
    "1e999": (0, 5, "too large", None),
    "9223372036854775808": (0, 19, "too large", "9223372036854775807"),
    "burn < 2m": (7, 2, "length of time", "'2m'"),
    "a == +5": (5, 1, "not '+'", "without its sign"),
    "(a": (0, 1, "'(' is never closed", "')'"),
    "a in [1, 2": (5, 1, "'[' is never closed", "']'"),
    "a)": (1, 1, "not ')'", "too many"),
    "a b": (2, 1, "not 'b'", "missing before"),
    "a ==": (4, 1, "the text ends", None),
    "a ? b": (5, 1, "':'", None),
    "1 < 2 < 3": (6, 1, "do not chain", "a < b && b < c"),
    "size(x=1)": (5, 1, "only in an injection", "=="),
    "size(a b)": (7, 1, "',' or ')'", "comma"),
    "f(,)": (2, 1, "not ','", None),
    "5 .size()": (2, 1, "not '.'", None),
    "true.size()": (4, 1, "not '.'", None),
    "x=='" + "\u00a0" * 1000 + "'": (0, 1005, "with its blanks", None),
    "x.always()": (2, 6, "not a method", "always(...)"),
    "always()": (0, 8, "one condition, not 0", None),
    "at_end(a, b)": (0, 12, "one condition, not 2", None),
    "": (0, 1, "nothing is written", "action"),
    " \n ": (0, 3, "nothing is written", "action"),
    "-" * 2000: (31, 1, "32 levels", None),
    "!" * 3000: (2048, 952, "2048 characters", None),
    "(" * 1000: (32, 1, "32 levels", None),
    "[" * 1000: (32, 1, "32 levels", None),
    "f(" * 1000: (64, 1, "32 levels", None),
    "a?" * 1000: (64, 1, "32 levels", None),
    "1" + "+1" * 70: (0, 141, "64 operators", "list"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused_says_where_and_how_to_cure_it(text: str) -> None:
    """Each thing that is not of the language is one error with place, length, name and cure."""
    offset, length, message, hint = REFUSED[text]
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    error = caught.value
    assert (error.offset, error.length) == (offset, length), str(error)
    assert message in error.message
    assert (hint in (error.hint or "")) if hint else True
    assert str(error) == (f"{error.message} ({error.hint})" if error.hint else error.message)


REFUSED_CALLS = {
    "cdc.delay(p95=1, p95=2)": (17, 3, "p95 is given twice"),
    "cdc.delay(p95=1, 'x')": (17, 3, "without a name"),
    "cdc.delay(p95=1 window=2)": (16, 6, "',' or ')'"),
    "cdc.delay(p95=1": (9, 1, "'(' is never closed"),
    "cdc.delay(p95=)": (14, 1, "expected a value"),
    "cdc.delay(p95=5%)": (16, 1, "expected a value"),
    "cdc.delay(p95=+180s)": (15, 4, "length of time"),
    "cdc.delay(*x)": (10, 1, "*arguments"),
    "cdc.delay(**x)": (10, 2, "powers"),
    "cdc.delay(lambda=1)": (10, 6, "cannot name"),
    "cdc.delay": (0, 9, "a fault is called"),
    "cdc.delay()()": (11, 1, "or the end"),
    "cdc.delay() && x": (12, 2, "or the end"),
    "cdc .5(x)": (4, 1, "expected '('"),
    "'x'()": (0, 3, "name of a fault"),
    "f(" + "-" * 100 + "1)": (33, 1, "32 levels"),
    "f(1" + "+1" * 70 + ")": (2, 141, "64 operators"),
}


@pytest.mark.parametrize("text", REFUSED_CALLS)
def test_a_malformed_injection_says_where(text: str) -> None:
    """Duplicates are shown at the second, order and brackets where they go wrong."""
    offset, length, message = REFUSED_CALLS[text]
    with pytest.raises(ExpressionError) as caught:
        parse_call(text)
    error = caught.value
    assert (error.offset, error.length) == (offset, length), str(error)
    assert message in error.message


def test_a_call_takes_positional_and_named_arguments_and_a_trailing_comma() -> None:
    """The call notation keeps the order and the names of its arguments."""
    expected = Call("a.b", (Arg(None, Literal(1)), Arg("x", ListNode((Literal(True),))), Arg("y", Name("N"))))
    assert parse_call("a.b(1, x = [true], y=N,)") == expected


def test_splitting_keeps_the_order_and_stops_at_brackets_of_another_operator() -> None:
    """Top-level rows are flattened whatever their brackets, mixed ones are not."""
    assert [unparse(part) for part in split_and(parse("a && (b && c) && (d || e)"))] == ["a", "b", "c", "d || e"]
    assert [unparse(part) for part in split_or(parse("a || b && c || d"))] == ["a", "b && c", "d"]
    assert split_or(parse("a && b")) == (parse("a && b"),)


WORDS = st.sampled_from(["a", "alert.to", "x1", "_y", "baseline", "in_", "always_"])
LITERALS = st.one_of(
    st.booleans(),
    st.integers(0, 2**63 - 1),
    st.floats(min_value=0, allow_infinity=False, allow_nan=False).map(abs),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
LEAVES = st.one_of(LITERALS.map(Literal), WORDS.map(Name))


def _grow(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    some = st.lists(inner, max_size=3).map(tuple)
    arithmetic = st.sampled_from(["||", "&&", "+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "in"])
    return st.one_of(
        st.builds(Unary, st.sampled_from(["!", "-"]), inner),
        st.builds(Binary, arithmetic, inner, inner),
        st.builds(Conditional, inner, inner, inner),
        st.builds(ListNode, some),
        st.builds(CallNode, st.sampled_from(["size", "has", "matches"]), some),
        st.builds(CallNode, st.sampled_from(["size", "startsWith"]), st.tuples(inner, inner), st.just(True)),
        st.builds(Temporal, st.sampled_from(["always", "at_end"]), inner),
    )


@given(st.recursive(LEAVES, _grow, max_leaves=10))
def test_what_is_printed_reads_back_as_the_same_tree(node: Node) -> None:
    """parse(unparse(n)) == n, and printing is stable."""
    text = unparse(node)
    try:
        again = parse(text)
    except ExpressionError as error:
        assert "levels" in error.message or "longer" in error.message, (text, error)
        return
    assert again == node
    assert unparse(again) == text


PIECES = st.sampled_from(
    [*"()[]?:,.=!<>-+*/%&|'\"\\ \n\t{}#$@é≥\ud800\x00", "==", "&&", "||", "in", "always(", "size(", "has(", "true",
     "a", "alert.to", "1", "1.5e-9", "0x", "1_0", "f'", "'x'", "\\u", "and", "not", "lambda", "__", "baseline"]
)  # fmt: skip


def _read_twice(text: str) -> None:
    tree = parse(text)
    try:
        again = parse(unparse(tree))
    except ExpressionError as error:
        raise AssertionError(f"{text!r} reads, but not as printed") from error
    assert again == tree


@given(st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=60)))
@example("a" * 2049)
@example("9" * 2000)
@example("1e" + "9" * 500)
@example("'" + "\\" * 501)
def test_no_text_whatever_raises_anything_but_an_expression_error(text: str) -> None:
    """Whatever is typed is a tree, which reads again as printed, or an error inside the text."""
    for read in (_read_twice, parse_call):
        try:
            read(text)
        except ExpressionError as error:
            assert 0 <= error.offset <= len(text)
            assert error.length >= 1
            assert error.message
