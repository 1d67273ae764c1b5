"""The tree of an expression: frozen nodes that know where in the text they stand, and how one goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal as OneOf
from typing import TypeAlias

#: One plain value, as a fact, a variable or a literal holds it.
Scalar: TypeAlias = "bool | int | float | str"
#: What an expression without facts comes to: a scalar, or a list (a tuple here) of such values.
Value: TypeAlias = "Scalar | tuple[Value, ...]"
#: Start and end in characters, the end excluded.
Span: TypeAlias = tuple[int, int]

#: Longest text that is read, in characters.
MAX_TEXT = 2048
#: Deepest nesting of brackets, signs and calls.
MAX_NESTING = 32
#: Deepest tree; a row of operators (``a && b && c``) grows by one level each.
MAX_DEPTH = 64


class ExpressionError(Exception):
    """What is wrong with an expression, and where: `offset` and `length` in characters of the text as given.

    `offset` is the text's length when something is missing at the end. `hint` is the cure, where one is known.
    """

    def __init__(self, message: str, offset: int, length: int = 1, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.length = max(1, length)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def error_at(node: Node, message: str, hint: str | None = None) -> ExpressionError:
    """Return the error that points at the whole of `node`."""
    return ExpressionError(message, node.span[0], node.span[1] - node.span[0], hint)


def _nowhere() -> Span:
    return (0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """A number, a text, ``true`` or ``false``. ``1``, ``1.0`` and ``true`` are three different literals."""

    value: Scalar
    span: Span = field(default_factory=_nowhere)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and type(self.value) is type(other.value) and self.value == other.value

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


@dataclass(frozen=True, slots=True)
class Name:
    """A name with its dots: ``alert.to`` is one name. Nothing in this language has members."""

    path: str
    span: Span = field(default_factory=_nowhere, compare=False)


@dataclass(frozen=True, slots=True)
class Unary:
    """``!x`` or ``-x``."""

    op: OneOf["!", "-"]
    operand: Node
    span: Span = field(default_factory=_nowhere, compare=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """Two operands around ``|| && == != < <= > >= in + - * / %``."""

    op: str
    left: Node
    right: Node
    span: Span = field(default_factory=_nowhere, compare=False)


@dataclass(frozen=True, slots=True)
class Conditional:
    """``condition ? then : otherwise``."""

    condition: Node
    then: Node
    otherwise: Node
    span: Span = field(default_factory=_nowhere, compare=False)


@dataclass(frozen=True, slots=True)
class ListNode:
    """``[a, b]``."""

    items: tuple[Node, ...]
    span: Span = field(default_factory=_nowhere, compare=False)


@dataclass(frozen=True, slots=True)
class CallNode:
    """A function: ``size(x)``, or as a method (the receiver is the first argument): ``x.startsWith('a')``."""

    function: str
    args: tuple[Node, ...]
    method: bool = False
    span: Span = field(default_factory=_nowhere, compare=False)


@dataclass(frozen=True, slots=True)
class Temporal:
    """``always(x)``: at every sample from t0 to close; ``at_end(x)``: at close."""

    word: OneOf["always", "at_end"]
    operand: Node
    span: Span = field(default_factory=_nowhere, compare=False)


Node: TypeAlias = Literal | Name | Unary | Binary | Conditional | ListNode | CallNode | Temporal


@dataclass(frozen=True, slots=True)
class Arg:
    """One argument of an injection; `name` is null for a positional one."""

    name: str | None
    node: Node
    span: Span = field(default_factory=_nowhere, compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """What stands in ``inject:``, the name of a kind of fault and its arguments as written."""

    name: str
    args: tuple[Arg, ...]
    name_span: Span = field(default_factory=_nowhere, compare=False)


def children(node: Node) -> tuple[Node, ...]:
    """Return the nodes directly below `node`, from left to right."""
    match node:
        case Unary() | Temporal():
            return (node.operand,)
        case Binary():
            return (node.left, node.right)
        case Conditional():
            return (node.condition, node.then, node.otherwise)
        case ListNode():
            return node.items
        case CallNode():
            return node.args
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """Yield `node` and everything below it, parents first, from left to right."""
    stack = [node]
    while stack:
        here = stack.pop()
        yield here
        stack.extend(reversed(children(here)))


def split_and(node: Node) -> tuple[Node, ...]:
    """Return the parts of `node` between its top-level ``&&``; `node` alone where there is none."""
    return _split(node, "&&")


def split_or(node: Node) -> tuple[Node, ...]:
    """Return the parts of `node` between its top-level ``||``; `node` alone where there is none."""
    return _split(node, "||")


def _split(node: Node, op: str) -> tuple[Node, ...]:
    parts: list[Node] = []
    stack = [node]
    while stack:
        here = stack.pop()
        if isinstance(here, Binary) and here.op == op:
            stack.extend((here.right, here.left))
        else:
            parts.append(here)
    return tuple(parts)


_LEVEL = {"||": 2, "&&": 3, "+": 5, "-": 5, "*": 6, "/": 6, "%": 6}
_RELATION = 4
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t"}


def level(op: str) -> int:
    """Return how tightly a binary operator binds; more is tighter."""
    return _LEVEL.get(op, _RELATION)


def quote(text: str) -> str:
    """Return `text` as a literal of the language."""
    return (
        "'"
        + "".join(_ESCAPES.get(c, c if c.isprintable() or ord(c) > 0xFFFF else f"\\u{ord(c):04x}") for c in text)
        + "'"
    )


def spell(value: object) -> str:
    """Return a plain value as the language writes it; null as ``null``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(spell(item) for item in value) + "]"
    return repr(value)


def unparse(node: Node) -> str:
    """Return the text of `node`, with the brackets it needs and no others: ``parse(unparse(n)) == n``."""
    return _print(node, 0)


def _print(node: Node, least: int) -> str:
    match node:
        case Literal():
            return spell(node.value)
        case Name():
            return node.path
        case ListNode():
            return "[" + ", ".join(_print(item, 0) for item in node.items) + "]"
        case Temporal():
            return f"{node.word}({_print(node.operand, 0)})"
        case CallNode():
            return _print_call(node)
        case Unary():
            text, mine = node.op + _print(node.operand, 7), 7
        case Binary():
            mine = level(node.op)
            left = mine + 1 if mine == _RELATION else mine
            text = f"{_print(node.left, left)} {node.op} {_print(node.right, mine + 1)}"
        case Conditional():
            mine = 1
            text = f"{_print(node.condition, 2)} ? {_print(node.then, 1)} : {_print(node.otherwise, 1)}"
    return f"({text})" if mine < least else text


def _print_call(node: CallNode) -> str:
    args = [_print(arg, 0) for arg in node.args]
    if not node.method:
        return f"{node.function}({', '.join(args)})"
    receiver = node.args[0]
    number = isinstance(receiver, Literal) and not isinstance(receiver.value, str)
    first = f"({args[0]})" if number or isinstance(receiver, Unary | Binary | Conditional) else args[0]
    return f"{first}.{node.function}({', '.join(args[1:])})"
