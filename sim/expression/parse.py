"""Tokens to a tree, by recursive descent: one grammar for conditions and for the call of ``inject:``.

From the loosest to the tightest: ``?:``, ``||``, ``&&``, one relation (``== != < <= > >= in``, which do not chain),
``+ -``, ``* / %``, ``! -``, then methods. A comma may stand after the last of several arguments or items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal as OneOf
from typing import NoReturn, TypeVar

from sim.expression.tokens import Token, tokenize
from sim.expression.tree import (
    MAX_DEPTH,
    MAX_NESTING,
    MAX_TEXT,
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
    Span,
    Temporal,
    Unary,
    children,
    unparse,
)

_RELATIONS = ("==", "!=", "<=", ">=", "<", ">", "in")
_TEMPORAL: dict[str, OneOf["always", "at_end"]] = {"always": "always", "at_end": "at_end"}
#: Words that mean something elsewhere: what to write here.
_FOREIGN_WORDS = {
    "and": "write && for both",
    "or": "write || for either",
    "not": "write ! to negate, such as !(a in b)",
    "is": "write == to compare",
    "if": "write condition ? a : b",
    "else": "write condition ? a : b",
    "True": "write true",
    "False": "write false",
    "None": "ask has(fact) whether something was read",
    "null": "ask has(fact) whether something was read",
    "lambda": "there are only the named functions",
    "for": "on an event fact == already means: some event",
    "import": "there are only the named functions",
}
_RESERVED = frozenset({"true", "false", "in", *_FOREIGN_WORDS})
_Item = TypeVar("_Item")


def parse(text: str) -> Node:
    """Return the tree of a condition or of one argument. Raises `ExpressionError` at the first thing wrong."""
    parser = _Parser(text)
    node = parser.expression()
    parser.finish()
    _bound(node)
    return node


def parse_call(text: str) -> Call:
    """Return the call that an ``inject:`` is: ``cdc.delay(p95='+180s', window='10m')``. Raises `ExpressionError`."""
    parser = _Parser(text)
    call = parser.injection()
    parser.finish()
    for arg in call.args:
        _bound(arg.node)
    return call


def _bound(root: Node) -> None:
    """Refuse a tree too deep for all that later walks it by recursion, or too long to be read again as printed."""
    stack = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise ExpressionError(
                f"more than {MAX_DEPTH} operators in a row",
                root.span[0],
                root.span[1] - root.span[0],
                "a list is shorter: fact in ['a', 'b']",
            )
        stack.extend((child, depth + 1) for child in children(node))
    # Plans keep expressions as printed, which may be longer than as written: what is read once must read again.
    if len(unparse(root)) > MAX_TEXT:
        message = f"longer than {MAX_TEXT} characters when written with its blanks"
        raise ExpressionError(message, root.span[0], root.span[1] - root.span[0])


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = tokenize(text)
        self._at = 0
        self._nesting = 0
        if self._tokens[0].kind == "end":
            raise ExpressionError(
                "nothing is written here", 0, len(text), "write a condition such as action=='rollback'"
            )

    # tokens

    @property
    def _here(self) -> Token:
        return self._tokens[self._at]

    def _peek(self) -> Token:
        return self._tokens[min(self._at + 1, len(self._tokens) - 1)]

    def _take(self) -> Token:
        token = self._here
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _is(self, *ops: str) -> bool:
        token = self._here
        return token.text in ops and (token.kind == "op" or (token.text == "in" and token.kind == "name"))

    def _last_end(self) -> int:
        return self._tokens[self._at - 1].end

    def finish(self) -> None:
        """Refuse whatever follows a complete expression."""
        if self._here.kind != "end":
            self._refuse("expected an operator or the end")

    def _refuse(self, expected: str, opened: Token | None = None) -> NoReturn:
        token = self._here
        length = token.end - token.start
        if token.kind == "end":
            if opened is not None:
                closing = {"(": ")", "[": "]"}[opened.text]
                raise ExpressionError(
                    f"{opened.text!r} is never closed", opened.start, 1, f"put a {closing!r} at its end"
                )
            before = self._tokens[self._at - 1]
            hint = "write '5%' or 0.05" if before.text == "%" else None
            raise ExpressionError(f"{expected}, but the text ends", token.start, 1, hint)
        if token.kind == "name" and token.text in _FOREIGN_WORDS:
            hint = _FOREIGN_WORDS[token.text]
            raise ExpressionError(f"{token.text!r} is not part of this language", token.start, length, hint)
        raise ExpressionError(f"{expected}, not {token.text!r}", token.start, length, self._cure(token, opened))

    def _cure(self, token: Token, opened: Token | None) -> str | None:
        before = self._tokens[self._at - 1] if self._at else None
        if token.text == "=":
            return "write == to compare"
        if before is not None and before.text == "%" and token.text in (")", ","):
            return "write '5%' or 0.05"
        if token.text == "+":
            return "write a positive number without its sign, or '+180s' for a text"
        if token.text == "[":
            return "indexing is not part of this language"
        if token.text == ".":
            return "write 0.5 for a number; only a fact or a variable has a dotted name"
        if opened is not None and token.kind in ("name", "number", "string"):
            return "is a comma missing before it?"
        if token.text in (")", "]"):
            return "is there one too many, or something missing before it?"
        if before is not None and token.kind in ("name", "number", "string"):
            return "is an operator such as && missing before it?"
        return None

    # grammar

    def expression(self) -> Node:
        """Read ``a ? b : c`` or anything that binds tighter."""
        self._deeper()
        node = self._row(2)
        if self._is("?"):
            self._take()
            then = self.expression()
            if not self._is(":"):
                self._refuse("expected ':' and the other case")
            self._take()
            otherwise = self.expression()
            node = Conditional(node, then, otherwise, (node.span[0], otherwise.span[1]))
        self._nesting -= 1
        return node

    def _deeper(self) -> None:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            token = self._here
            raise ExpressionError(f"nested more than {MAX_NESTING} levels deep", token.start, token.end - token.start)

    def _row(self, tightness: int) -> Node:
        if tightness > 6:
            return self._unary()
        ops = {2: ("||",), 3: ("&&",), 4: _RELATIONS, 5: ("+", "-"), 6: ("*", "/", "%")}[tightness]
        node = self._row(tightness + 1)
        while self._is(*ops):
            op = self._take().text
            right = self._row(tightness + 1)
            node = Binary(op, node, right, (node.span[0], right.span[1]))
            if tightness == 4 and self._is(*_RELATIONS):
                token = self._here
                raise ExpressionError(
                    "comparisons do not chain", token.start, token.end - token.start, "write a < b && b < c"
                )
        return node

    def _unary(self) -> Node:
        if not self._is("!", "-"):
            return self._methods()
        self._deeper()
        token = self._take()
        operand = self._unary()
        self._nesting -= 1
        return Unary("!" if token.text == "!" else "-", operand, (token.start, operand.span[1]))

    def _methods(self) -> Node:
        first = self._here
        start = first.start
        node = self._primary()
        if self._is(".") and (first.kind == "number" or first.text in ("true", "false")):
            self._refuse("expected an operator or the end")
        while self._is(".") and self._peek().kind == "name":
            self._take()
            method = self._take()
            if not self._is("("):
                raise ExpressionError(
                    f"nothing here has a member {method.text!r}",
                    method.start,
                    method.end - method.start,
                    "members of values are not part of this language",
                )
            if method.text in _TEMPORAL:
                raise ExpressionError(
                    f"{method.text} is not a method",
                    method.start,
                    method.end - method.start,
                    f"write {method.text}(...)",
                )
            args = self._plain_args()
            node = CallNode(method.text, (node, *args), True, (start, self._last_end()))
        if self._is("["):
            self._refuse("expected an operator or the end")
        return node

    def _primary(self) -> Node:
        token = self._here
        span = (token.start, token.end)
        if token.kind in ("number", "string"):
            self._take()
            assert token.value is not None
            return Literal(token.value, span)
        if self._is("("):
            self._take()
            node = self.expression()
            if not self._is(")"):
                self._refuse("expected ')' or an operator", token)
            self._take()
            return node
        if self._is("["):
            items = self._items("[", "]", self.expression)
            return ListNode(items, (token.start, self._last_end()))
        if token.kind == "name" and token.text in ("true", "false"):
            self._take()
            return Literal(token.text == "true", span)
        if token.kind != "name" or token.text in _RESERVED:
            self._refuse("expected a value")
        return self._name_or_function()

    def _path(self) -> tuple[str, Span]:
        """Read a dotted name, but leave a last ``.word(`` to be a method."""
        first = self._take()
        path, end = first.text, first.end
        while self._is(".") and self._peek().kind == "name":
            after = self._tokens[min(self._at + 2, len(self._tokens) - 1)]
            if after.text == "(" and after.kind == "op":
                break
            self._take()
            part = self._take()
            path, end = f"{path}.{part.text}", part.end
        return path, (first.start, end)

    def _name_or_function(self) -> Node:
        path, span = self._path()
        if not self._is("("):
            return Name(path, span)
        args = self._plain_args()
        whole = (span[0], self._last_end())
        if path not in _TEMPORAL:
            return CallNode(path, args, False, whole)
        if len(args) != 1:
            raise ExpressionError(f"{path} takes one condition, not {len(args)}", whole[0], whole[1] - whole[0])
        return Temporal(_TEMPORAL[path], args[0], whole)

    def _plain_args(self) -> tuple[Node, ...]:
        return self._items("(", ")", self._plain_arg)

    def _plain_arg(self) -> Node:
        if self._here.kind == "name" and self._peek().text == "=" and self._peek().kind == "op":
            token = self._here
            raise ExpressionError(
                f"{token.text}= stands only in an injection",
                token.start,
                token.end - token.start,
                "write == to compare",
            )
        return self.expression()

    def _items(self, opening: str, closing: str, read: Callable[[], _Item]) -> tuple[_Item, ...]:
        opened = self._take()
        assert opened.text == opening
        items: list[_Item] = []
        while not self._is(closing):
            items.append(read())
            if self._is(closing):
                break
            if not self._is(","):
                self._refuse(f"expected ',' or {closing!r}", opened)
            self._take()
        self._take()
        return tuple(items)

    # inject:

    def injection(self) -> Call:
        """Read ``name(arguments)``."""
        token = self._here
        if token.kind != "name" or token.text in _RESERVED:
            self._refuse("expected the name of a fault, such as cdc.delay(...)")
        start, path = token.start, self._take().text
        while self._is(".") and self._peek().kind == "name":
            self._take()
            path = f"{path}.{self._take().text}"
        span = (start, self._last_end())
        if not self._is("("):
            if self._here.kind == "end":
                raise ExpressionError(f"a fault is called: {path}(...)", span[0], span[1] - span[0], f"write {path}()")
            self._refuse(f"expected '(' after {path}")
        args = self._items("(", ")", self._arg)
        _refuse_twice(args)
        return Call(path, args, span)

    def _arg(self) -> Arg:
        token = self._here
        name = None
        if self._is("*"):
            raise ExpressionError("*arguments are not part of this language", token.start, 1, "write each argument out")
        if token.kind == "name" and self._peek().kind == "op" and self._peek().text == "=":
            if token.text in _RESERVED:
                raise ExpressionError(f"{token.text!r} cannot name an argument", token.start, token.end - token.start)
            name = token.text
            self._take()
            self._take()
        node = self.expression()
        return Arg(name, node, (token.start, self._last_end()))


def _refuse_twice(args: tuple[Arg, ...]) -> None:
    seen: set[str] = set()
    for arg in args:
        start, end = arg.span
        if arg.name is None:
            if seen:
                raise ExpressionError(
                    "an argument without a name stands after one with a name",
                    start,
                    end - start,
                    "put it first, or give its name",
                )
        elif arg.name in seen:
            raise ExpressionError(f"argument {arg.name} is given twice", start, len(arg.name))
        else:
            seen.add(arg.name)
