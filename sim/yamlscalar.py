"""Plain scalars by the YAML 1.2 core schema, and where in the file each character of a scalar stands."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

Plain = None | bool | int | float | str

_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NANS = frozenset((".nan", ".NaN", ".NAN"))
#: The longest spelling of a number; beyond it an int is a way to burn time, not a value.
_DIGITS_MAX = 64

_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_BREAK = re.compile(r"\r\n|\r|\n")
#: A piece of one line of a scalar: for each character of its value, the index in the file's text.
_Piece = tuple[str, list[int]]


def resolve(text: str) -> Plain:
    """Return what an unquoted scalar means in YAML 1.2: ``NO``, ``on``, ``10:30`` are text, ``1e-9`` is a number.

    Raises `ValueError` for a number that no float can hold or that is too long to be meant.
    """
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if not (text[0].isdigit() or text[0] in "+-."):
        return text
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            if len(text) > _DIGITS_MAX:
                raise ValueError(f"a number of {len(text)} characters (at most {_DIGITS_MAX}; quote it if it is text)")
            return int(text if base == 10 else text[2:], base)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if math.isinf(value):
            raise ValueError(f"{text[:_DIGITS_MAX]} is too large for a number (quote it if it is text)")
        return value
    if _INFINITY.fullmatch(text):
        return -math.inf if text[0] == "-" else math.inf
    return math.nan if text in _NANS else text


def source_indices(text: str, start: int, end: int, style: str | None, value: str) -> list[int]:
    """Return for each character of `value` its index in `text`, the scalar standing at ``text[start:end]``.

    `style` is YAML's own: None for plain, a quote, ``|`` or ``>``. A folded line break counts as the place where the
    line before it ends.
    """
    pieces = _block_pieces(text, start, end, value) if style in ("|", ">") else _flow_pieces(text, start, end, style)
    return _align(value, pieces, start)


def _flow_pieces(text: str, start: int, end: int, style: str | None) -> list[_Piece]:
    if style in ("'", '"'):
        start, end = start + 1, max(start + 1, end - 1)
    pieces: list[_Piece] = []
    lines = _lines(text, start, end)
    for number, (first, last) in enumerate(lines):
        if number:
            first = _skip_blank(text, first, last)
        if number < len(lines) - 1:
            last = _line_content_end(text, first, last, style)
        pieces.append(_unescaped(text, first, last, style))
    return pieces


def _line_content_end(text: str, first: int, last: int, style: str | None) -> int:
    """Return where the content of a line ends: before trailing blanks, or before the backslash that joins lines."""
    if style == '"':
        backslashes = last - first - len(text[first:last].rstrip("\\"))
        if backslashes % 2:
            return last - 1
    return first + len(text[first:last].rstrip(" \t"))


def _unescaped(text: str, first: int, last: int, style: str | None) -> _Piece:
    chars: list[str] = []
    indices: list[int] = []
    at = first
    while at < last:
        step = 1
        char = text[at]
        if style == "'" and text.startswith("''", at):
            step = 2
        elif style == '"' and char == "\\":
            match = _ESCAPE.match(text, at, last)
            step = len(match[0]) if match else 1
            char = ""  # any character: what an escape stands for is not compared
        chars.append(char or "\0")
        indices.append(at)
        at += step
    return "".join(chars), indices


def _block_pieces(text: str, start: int, end: int, value: str) -> list[_Piece]:
    """Return the lines below the header, without the indentation that is YAML's own."""
    lines = _lines(text, start, end)[1:]
    firsts = [line for line in value.split("\n") if line.strip(" ")]
    indent = 0
    for first, last in lines:
        if text[first:last].strip(" "):
            shown = firsts[0] if firsts else ""
            indent = (
                len(text[first:last]) - len(shown) if text[first:last].endswith(shown) else _indent(text, first, last)
            )
            break
    return [
        (text[min(first + indent, last) : last], list(range(min(first + indent, last), last))) for first, last in lines
    ]


def _indent(text: str, first: int, last: int) -> int:
    return last - first - len(text[first:last].lstrip(" "))


def _align(value: str, pieces: Sequence[_Piece], start: int) -> list[int]:
    """Lay the lines along the value; what stands between two lines is what folding made of the line break."""
    result: list[int] = []
    for content, indices in pieces:
        if not content.strip(" \t"):
            continue
        at = len(result)
        while at < len(value) and value[at] in " \n" and not _same(value, at, content):
            at += 1
        gap = result[-1] + 1 if result else start
        result += [gap] * (at - len(result))
        result += indices[: len(value) - at]
    last = result[-1] + 1 if result else start
    return (result + [last] * (len(value) - len(result)))[: len(value)]


def _same(value: str, at: int, content: str) -> bool:
    part = value[at : at + len(content)]
    return len(part) == len(content) and all(mine in (theirs, "\0") for mine, theirs in zip(content, part, strict=True))


def _lines(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the [first, last) spans of the lines of ``text[start:end]``."""
    spans = []
    at = start
    for match in _BREAK.finditer(text, start, end):
        spans.append((at, match.start()))
        at = match.end()
    return [*spans, (at, end)]


def _skip_blank(text: str, first: int, last: int) -> int:
    while first < last and text[first] in " \t":
        first += 1
    return first
