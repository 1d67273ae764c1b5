"""The strict YAML loader: what it reads, what it refuses, and where it says things stand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.problem import InvalidFile, Problem
from sim.yamlfile import BYTES_MAX, DEPTH_MAX, Document, Mark, load, loads


def faults(text: str) -> list[tuple[int, int, str, str]]:
    """Return what is wrong with `text`: line, column, place, message."""
    with pytest.raises(InvalidFile) as caught:
        loads(text, "x.yaml")
    return [(each.line, each.col, each.where, each.message) for each in caught.value.problems]


def test_plain_scalars_follow_yaml_1_2():
    """Words and times are text, and numbers are numbers, as YAML 1.2 core has it."""
    text = "[NO, on, yes, 10:30, 2026-11-21, 010, 0o17, 0x1F, 1e-9, 1.10, .5, +1, -0, 1_000, 0b1, =, -, .]"
    assert loads(text).data == (
        ["NO", "on", "yes", "10:30", "2026-11-21", 10, 15, 31, 1e-9, 1.1, 0.5, 1, 0, "1_000", "0b1", "=", "-", "."]
    )
    assert loads("[true, True, FALSE, null, Null, ~, '', 'true', \"1\"]").data == (
        [True, True, False, None, None, None, "", "true", "1"]
    )


def test_infinity_and_nan_are_spelled_with_a_dot():
    """`.inf` and `.nan` are numbers; `inf` and `nan` are text."""
    positive, negative, nan, text = loads("[.inf, -.INF, .nan, inf]").data
    assert (positive, negative, math.isnan(nan), text) == (math.inf, -math.inf, True, "inf")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\nb: 3\nb: 4\n", [(2, 1, "", "duplicate key 'a', first at line 1, column 1"),
                                      (4, 1, "", "duplicate key 'b', first at line 3, column 1")]),
        ("a: &x 1\nb: *x\n", [(1, 4, "a", "an anchor (&x) is not allowed"), (2, 4, "b", "an alias is not allowed")]),
        ("a:\n  <<: {b: 1}\n", [(2, 3, "a", "a merge key (<<) is not allowed")]),
        ("a: !!python/object:os.system x\n", [(1, 4, "a", "a tag is not allowed")]),
        ("1: a\n~: b\n[c]: d\n", [(1, 1, "", "a key must be text, not 1"), (2, 1, "", "a key must be text, not ~"),
                                  (3, 1, "", "a key must be text, not a list or a mapping")]),
        ("a: 1\n---\nb: 2\n", [(2, 1, "", "a second document is not allowed")]),
        ("%YAML 1.1\n---\na: 1\n", [(1, 1, "", "a directive is not allowed")]),
        ("a: 1e999\n", [(1, 4, "a", "1e999 is too large for a number (quote it if it is text)")]),
        ('a: "x\\x1b[0m"\n', [(1, 4, "a", "the control character U+001B in a text")]),
        ('a: "\\ud800"\n', [(1, 4, "a", "the control character U+D800 in a text")]),
        ('a: "\\UFFFFFFFF"\n', [(1, 7, "a", "an escape that stands for no character")]),
        ("a: \x1b\nb: \x00\n", [(1, 4, "", "the character U+001B may not stand in a file"),
                                (2, 4, "", "the character U+0000 may not stand in a file")]),
        ("a: x\u2028y\n", [(1, 5, "", "the character U+2028 may not stand in a file")]),
        ("\ufeffa: 1\n", [(1, 1, "", "a byte order mark")]),
        ("a: b: c\n", [(1, 5, "", "not YAML: mapping values are not allowed here")]),
    ],
)  # fmt: skip
def test_every_trap_is_an_error_at_its_place(text: str, expected: list[tuple[int, int, str, str]]):
    """What other loaders take in silence is refused, and all of it is told at once."""
    assert faults(text) == expected


@pytest.mark.parametrize("text", ["[" * 60_000, "{a: " * 15_000, "- " * 30_000, "? " * 30_000])
def test_depth_is_limited_before_anything_is_composed(text: str):
    """Sixty thousand brackets are one clean error, not a crash."""
    [(line, _, _, message)] = faults(text)
    assert (line, message) == (1, f"more than {DEPTH_MAX} levels deep")


def test_the_deepest_allowed_level_is_allowed():
    """Thirty-two levels load; thirty-three do not."""
    assert loads("[" * DEPTH_MAX + "]" * DEPTH_MAX).data is not None
    assert faults("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1))[0][:2] == (1, DEPTH_MAX + 1)


def test_size_is_limited(tmp_path):
    """A file of the largest size loads; one byte more is refused."""
    file = tmp_path / "x.yaml"
    file.write_bytes(b"#" * BYTES_MAX)
    assert load(file).data is None
    file.write_bytes(b"#" * (BYTES_MAX + 1))
    with pytest.raises(InvalidFile, match=r"x\.yaml:1:1: error: larger than 64 KiB"):
        load(file)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a: 1\nb: \xc3\xa9\xff\n", (2, 5, "not UTF-8: byte 0xff")),
        ("a: 1".encode("utf-16"), (1, 1, "not UTF-8 but UTF-16")),
    ],
)
def test_bytes_that_are_not_utf8_are_placed(tmp_path, raw: bytes, expected: tuple[int, int, str]):
    """The place of a bad byte is counted in characters."""
    file = tmp_path / "x.yaml"
    file.write_bytes(raw)
    with pytest.raises(InvalidFile) as caught:
        load(file)
    [problem] = caught.value.problems
    assert (problem.line, problem.col, problem.message) == expected


def test_what_is_no_file_is_an_error(tmp_path):
    """A missing file and a folder are findings, not exceptions of the machine."""
    for path, message in (
        (tmp_path, "a folder, not a file"),
        (tmp_path / "no", "cannot be read: No such file or directory"),
    ):
        with pytest.raises(InvalidFile) as caught:
            load(path, "it")
        assert caught.value.problems == (Problem("it", 1, 1, message),)


def test_marks_of_values_and_keys():
    """A place is that of the value, or of its key; what is not there is where it would belong."""
    document = loads("a:\n  b: [x, yz]\n  'c d': {e: 10}\n")
    assert document.mark(("a", "b", 1)) == Mark(2, 10, 2)
    assert document.mark(("a", "c d", "e")) == Mark(3, 14, 2)
    assert document.mark(("a", "c d"), key=True) == Mark(3, 3, 5)
    assert document.mark(("a", "missing"), key=True) == Mark(1, 1, 1)
    assert document.mark(("a", "c d", "e", 0)) == Mark(3, 14, 2)
    assert (document.has(("a", "b", 2)), document.has(("a", "b", 1))) == (False, True)


@pytest.mark.parametrize(
    ("text", "offset", "length", "expected"),
    [
        ("k: plain text", 6, 4, Mark(1, 10, 4)),
        ("k: 'it''s x'", 5, 1, Mark(1, 11, 1)),
        ('k: "a\\u00e9\\n x"', 4, 1, Mark(1, 15, 1)),
        ("k: é 漢 x", 4, 1, Mark(1, 8, 1)),
        ("k: |\n  one\n    two\n\n  three\n", 11, 5, Mark(5, 3, 5)),
        ("k: |2\n   one\n", 1, 3, Mark(2, 4, 3)),
        ("k: >-\n  one\n  two\n\n  three\n", 8, 5, Mark(5, 3, 5)),
        ("k: one\n   two\n\n   three", 8, 5, Mark(4, 4, 5)),
        ("k: 'one\n\n   two'", 4, 3, Mark(3, 4, 3)),
        ('k: "one \\\n   two"', 4, 3, Mark(2, 4, 3)),
        ("k: abc", 3, 1, Mark(1, 7, 1)),
    ],
)
def test_places_inside_a_text(text: str, offset: int, length: int, expected: Mark):
    """A character of a value is found in the file through quotes, escapes, folding and indentation."""
    assert loads(text).inside(("k",), offset, length) == expected


WORDS = st.text(alphabet="ab \n'\"\\é漢:#", max_size=30)


@given(WORDS, st.sampled_from(["'", '"', "|", ">"]))
def test_a_letter_of_a_value_is_that_letter_in_the_file(value: str, style: str):
    """Whatever the style, the place of a letter holds that letter."""
    import yaml

    text = yaml.safe_dump({"k": value}, default_style=style, allow_unicode=True, width=20)
    document = loads(text)
    assert document.data == {"k": value}
    lines = text.split("\n")
    for offset, char in enumerate(value):
        if char.isalpha():
            mark = document.inside(("k",), offset)
            assert lines[mark.line - 1][mark.col - 1] == char, (text, offset)


def test_a_problem_is_shown_with_its_line_and_a_caret():
    """The caret stands under the place, behind tabs and wide characters too."""
    problem = Problem("x.yaml", 3, 5, "wrong", "a.b", "try c", "\tк漢 bad", 3)
    assert problem.render() == ("x.yaml:3:5: error: a.b: wrong\n    3 | \tк漢 bad\n      | \t    ^^^\n      = try c")


def test_a_problem_cannot_steer_the_terminal():
    """Escape sequences and characters that reorder text are shown as what they are: nothing to be obeyed."""
    problem = Problem("x\x1b.yaml", 1, 1, "bad \x1b[2J\u202e", "w\x07", None, "\x1b[2Jx", 1)
    assert all(char.isprintable() or char == "\n" for char in problem.render())


def test_a_long_line_is_cut_around_the_place():
    """A line of sixty thousand characters is not printed whole."""
    problem = Problem("x", 1, 30_001, "m", source="a" * 30_000 + "B" + "c" * 30_000)
    shown, caret = problem.render().split("\n")[1:]
    assert len(shown) < 140
    assert shown[caret.index("^")] == "B"


def test_an_empty_document_is_nothing():
    """A file without content is a document whose data is None."""
    assert isinstance(loads("# only a comment\n"), Document)
    assert loads("# only a comment\n").data is None
