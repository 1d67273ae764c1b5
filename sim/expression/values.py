"""What the operators and functions do with plain values. Whatever they cannot do is a `Fault`, never a guess.

Two choices differ from CEL, on purpose: whole and broken numbers mix (``N*1.2``), and ``/`` always gives a broken
number, so that ``ratio < 1/100`` does not compare with zero.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from sim.duration import seconds
from sim.expression.pattern import PatternError, compile_pattern
from sim.expression.tree import Value, spell

_MOST = 2**63 - 1
_LONGEST_RESULT = 4096
_LONGEST_SHOWN = 200
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
#: The same relation with its sides exchanged.
FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
STRING_TESTS = ("startsWith", "endsWith", "contains", "matches")


class Fault(Exception):
    """An operation that has no result: values that do not fit, a division by zero, a bad pattern."""


def type_of(value: object) -> str:
    """Return which of the language's types a plain value has: bool, number, text, list or null."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "null" if value is None else "list"


#: The types as they stand in a message.
CALLED = {"bool": "a truth value", "number": "a number", "text": "a text", "list": "a list", "null": "nothing"}


def describe(value: object) -> str:
    """Return a value for a message: ``the text 'x'``."""
    if isinstance(value, tuple):
        return "a list"
    return f"{CALLED[type_of(value)].replace('a ', 'the ', 1)} {clip(spell(value))}"


def clip(text: str) -> str:
    """Return `text`, cut short where it is too long for a message."""
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


def compare(op: str, left: Value, right: Value) -> bool:
    """Return what ``left op right`` is. Raises `Fault` for types that cannot be compared."""
    kinds = type_of(left), type_of(right)
    if kinds[0] != kinds[1]:
        raise Fault(f"cannot compare {describe(left)} with {describe(right)}")
    if any(isinstance(side, float) and math.isnan(side) for side in (left, right)):
        raise Fault("no data (NaN)")
    if op in ("==", "!="):
        return _equal(left, right) is (op == "==")
    if kinds[0] not in ("number", "text"):
        raise Fault(f"{CALLED[kinds[0]]} has no order: {op} needs numbers or texts")
    return _ORDER[op](left, right)


def _equal(left: Value, right: Value) -> bool:
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(compare("==", a, b) for a, b in zip(left, right, strict=True))
    return left == right


def is_in(value: Value, items: Value) -> bool:
    """Return whether some item equals `value`. Raises `Fault` if none does and one is of another type."""
    if not isinstance(items, tuple):
        raise Fault(f"'in' needs a list on its right, not {describe(items)}")
    misfit: Fault | None = None
    for item in items:
        try:
            if compare("==", value, item):
                return True
        except Fault as fault:
            misfit = fault
    if misfit is not None:
        raise misfit
    return False


def arithmetic(op: str, left: Value, right: Value) -> Value:
    """Return ``left op right`` for ``+ - * / %``. Raises `Fault`; a whole result has at most 64 bits."""
    if op == "+" and isinstance(left, str) and isinstance(right, str):
        return _short(left + right)
    if op == "+" and isinstance(left, tuple) and isinstance(right, tuple):
        return left + right
    a, b = _number(op, left), _number(op, right)
    if op in "/%" and b == 0:
        raise Fault("division by zero")
    try:
        return _in_range(_calculate(op, a, b))
    except OverflowError as error:
        raise Fault(f"{spell(left)} {op} {spell(right)} is too large") from error


def _calculate(op: str, a: int | float, b: int | float) -> int | float:
    if op == "+":
        return a + b
    if op == "-":
        return a - b
    if op == "*":
        return a * b
    if op == "/":
        return a / b
    # As in CEL the remainder has the sign of the dividend.
    if isinstance(a, int) and isinstance(b, int):
        return int(math.copysign(1, a)) * (abs(a) % abs(b))
    return math.fmod(a, b)


def _short(text: str) -> str:
    if len(text) > _LONGEST_RESULT:
        raise Fault(f"a text of more than {_LONGEST_RESULT} characters")
    return text


def _number(op: str, value: Value) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Fault(f"{op} needs numbers, not {describe(value)}")
    return value


def _in_range(value: int | float) -> int | float:
    if isinstance(value, int) and not -_MOST - 1 <= value <= _MOST:
        raise Fault("a whole number of more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise Fault("a number without a value (overflow or NaN)")
    return value


def negate(value: Value) -> Value:
    """Return ``-value``. Raises `Fault`."""
    return _in_range(-_number("-", value))


def size(value: Value) -> int:
    """Return the number of code points of a text or of items of a list. Raises `Fault`."""
    if isinstance(value, str | tuple):
        return len(value)
    raise Fault(f"size() needs a text, a list or an event fact, not {describe(value)}")


def duration(value: Value) -> float:
    """Return a length of time such as ``'5m'`` in seconds. Raises `Fault`."""
    if not isinstance(value, str):
        raise Fault(f"duration() needs a text such as '5m', not {describe(value)}")
    try:
        return float(_in_range(seconds(value)))
    except ValueError as error:
        raise Fault(str(error)) from error


def string_test(function: str, value: Value, wanted: Value) -> bool:
    """Return what ``startsWith``, ``endsWith``, ``contains`` or ``matches`` says of two texts. Raises `Fault`."""
    for side in (value, wanted):
        if not isinstance(side, str):
            raise Fault(f"{function}() needs texts, not {describe(side)}")
    assert isinstance(value, str) and isinstance(wanted, str)
    if function == "startsWith":
        return value.startswith(wanted)
    if function == "endsWith":
        return value.endswith(wanted)
    if function == "contains":
        return wanted in value
    try:
        return compile_pattern(wanted).search(value)
    except PatternError as error:
        raise Fault(str(error)) from error


def steps_of(function: str, value: Value, wanted: Value) -> int:
    """Return how many steps a string test may cost at most, for the bound on a whole evaluation."""
    if function != "matches" or not isinstance(value, str) or not isinstance(wanted, str):
        return 1
    try:
        return compile_pattern(wanted).cost(value)
    except PatternError:
        return 1
