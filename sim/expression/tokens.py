"""Text to tokens. What other languages have and this one has not is refused by its name, with the cure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal as OneOf

from sim.expression.tree import MAX_TEXT, ExpressionError, Scalar

_MAX_INT = 2**63 - 1
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORD_TAIL = re.compile(r"[A-Za-z0-9_.]+")
_HEX = re.compile(r"^[0-9A-Fa-f]+")
_SPACE = " \t\r\n"
_OPERATORS = ("&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ",", ".", "=")
_BRACKETS = "()[]"
_SIMPLE_ESCAPES = {"\\": "\\", "'": "'", '"': '"', "n": "\n", "t": "\t"}

#: What begins with these characters is of another language: its name here, and the cure.
_FOREIGN = (
    ("===", "'===' is not part of this language", "write =="),
    ("!==", "'!==' is not part of this language", "write !="),
    ("**", "powers (**) are not part of this language", "write the product, such as 9 * 9"),
    ("//", "'//' is not part of this language", "write / to divide; there are no comments"),
    ("<>", "'<>' is not part of this language", "write !="),
    ("=>", "'=>' is not part of this language", "write >= to compare"),
    (":=", "assignments (:=) are not part of this language", None),
    ("=~", "'=~' is not part of this language", "write matches(text, 'pattern')"),
    ("&", "'&' is not part of this language", "write && for both"),
    ("|", "'|' is not part of this language", "write || for either"),
    ("^", "'^' is not part of this language", None),
    ("~", "'~' is not part of this language", "write ! to negate"),
    ("{", "maps ({...}) are not part of this language", None),
    ("}", "maps ({...}) are not part of this language", None),
    (";", "statements (;) are not part of this language", "write one expression"),
    ("#", "comments (#) are not part of this language", "put the comment in the YAML file"),
    ("$", "'$' is not part of this language", "write a variable by its bare name"),
    ("@", "'@' is not part of this language", None),
    ("`", "backticks are not part of this language", "write ' or \" around a text"),
    ("\\", "a backslash stands only inside a text", None),
    ("≤", "'≤' is not part of this language", "write <="),
    ("≥", "'≥' is not part of this language", "write >="),
    ("≠", "'≠' is not part of this language", "write !="),
    *((quote, f"{quote} is not a quote of this language", "write ' or \"") for quote in "‘’“”«»"),
)


@dataclass(frozen=True, slots=True)
class Token:
    """One word of the text. `text` is as written, `value` what a number or a text stands for."""

    kind: OneOf["name", "number", "string", "op", "end"]
    text: str
    start: int
    end: int
    value: Scalar | None = None


def tokenize(text: str) -> tuple[Token, ...]:
    """Return the tokens of `text`, the last of kind ``end``. Raises `ExpressionError` at the first that is none."""
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"longer than {MAX_TEXT} characters", MAX_TEXT, len(text) - MAX_TEXT)
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        if text[at] in _SPACE:
            at += 1
            continue
        token = _token(text, at)
        tokens.append(token)
        at = token.end
    tokens.append(Token("end", "", len(text), len(text)))
    return tuple(tokens)


def _token(text: str, at: int) -> Token:
    char = text[at]
    if char in "'\"":
        return _string(text, at)
    if char in "0123456789":
        return _number(text, at)
    if match := _NAME.match(text, at):
        return _name(text, match)
    for start, message, hint in _FOREIGN:
        if text.startswith(start, at) and not (start in "&|" and text.startswith(start * 2, at)):
            raise ExpressionError(message, at, len(start), hint)
    for op in (*_OPERATORS, *_BRACKETS):
        if text.startswith(op, at):
            return Token("op", op, at, at + len(op))
    shown = repr(char) if char.isprintable() else f"U+{ord(char):04X}"
    hint = "a name is of the letters a-z and A-Z, digits and _" if char.isalpha() else None
    raise ExpressionError(f"unexpected character {shown}", at, 1, hint)


def _name(text: str, match: re.Match[str]) -> Token:
    word, start, end = match[0], match.start(), match.end()
    if text[end : end + 1] in ("'", '"'):
        what = f"{word}-strings" if len(word) <= 2 else f"a text with {word!r} before its quote"
        verb = "are" if len(word) <= 2 else "is"
        raise ExpressionError(
            f"{what} {verb} not part of this language", start, end - start + 1, "write a plain '...' text"
        )
    if word.startswith("__"):
        raise ExpressionError(f"no name begins with two underscores: {word}", start, end - start)
    return Token("name", word, start, end)


def _number(text: str, at: int) -> Token:
    match = _NUMBER.match(text, at)
    assert match is not None  # the caller saw a digit
    written, end = match[0], match.end()
    if tail := _WORD_TAIL.match(text, end):
        _refuse_tail(written, tail[0], at, tail.end() - at)
    if len(written) > 1 and written[0] == "0" and written[1].isdigit():
        raise ExpressionError(f"a number has no leading zero: {written}", at, end - at, "write it without the zero")
    if match[1] or match[2]:
        number: int | float = float(written)
        if number == float("inf"):
            raise ExpressionError(f"number too large: {written}", at, end - at)
    else:
        # Checked before int(): converting thousands of digits is refused by Python itself, with an error of its own.
        if len(written) > len(str(_MAX_INT)) or int(written) > _MAX_INT:
            raise ExpressionError(
                f"number too large: {written[:24]}", at, end - at, f"the largest whole number is {_MAX_INT}"
            )
        number = int(written)
    return Token("number", written, at, end, number)


def _refuse_tail(written: str, tail: str, at: int, length: int) -> None:
    whole = written + tail
    if tail[0] == "_":
        raise ExpressionError(f"a number has no underscores: {whole}", at, length, "write only its digits")
    if written == "0" and tail[0] in "xXoObB":
        raise ExpressionError(f"a number is decimal, not {whole}", at, length, "write it in base ten")
    if tail[0] == ".":
        raise ExpressionError(f"not a number: {whole}", at, length, "write digits after the point, such as 5.0")
    if re.fullmatch(r"(ms|s|m|h|d)(\d+(ms|s|m|h|d))*", tail):
        raise ExpressionError(
            f"a length of time is a text: {whole}", at, length, f"write '{whole}' or duration('{whole}')"
        )
    raise ExpressionError(f"not a number: {whole}", at, length, f"write '{whole}' for a text")


def _string(text: str, at: int) -> Token:
    quote = text[at]
    if text.startswith(quote * 3, at):
        raise ExpressionError("triple-quoted texts are not part of this language", at, 3, "write a plain '...' text")
    parts: list[str] = []
    here = at + 1
    while here < len(text) and text[here] not in (quote, "\n", "\r"):
        if text[here] == "\\":
            part, here = _escape(text, here)
            parts.append(part)
            continue
        _refuse_unprintable(text[here], here)
        parts.append(text[here])
        here += 1
    if here >= len(text) or text[here] != quote:
        raise ExpressionError("this text is never closed", at, here - at, f"put a {quote} at its end")
    return Token("string", text[at : here + 1], at, here + 1, "".join(parts))


def _refuse_unprintable(char: str, at: int) -> None:
    code = ord(char)
    if 0xD800 <= code <= 0xDFFF:
        raise ExpressionError(f"half a character (U+{code:04X}) in a text", at)
    if char != "\t" and (code < 0x20 or code == 0x7F):
        raise ExpressionError(f"control character U+{code:04X} in a text", at, 1, f"write \\u{code:04x}")


def _escape(text: str, at: int) -> tuple[str, int]:
    kind = text[at + 1 : at + 2]
    if kind in _SIMPLE_ESCAPES:
        return _SIMPLE_ESCAPES[kind], at + 2
    if kind == "u":
        digits = "".join(_HEX.findall(text[at + 2 : at + 6])[:1])
        if len(digits) < 4:
            raise ExpressionError("\\u needs four hexadecimal digits", at, 2 + len(digits), "such as \\u00e9")
        code = int(digits, 16)
        if 0xD800 <= code <= 0xDFFF:
            raise ExpressionError(f"\\u{digits} is half a character", at, 6, "write the character itself")
        return chr(code), at + 6
    raise ExpressionError(
        f"\\{kind} is not an escape of this language", at, 1 + len(kind), "there are \\\\ \\' \\\" \\n \\t and \\uXXXX"
    )
