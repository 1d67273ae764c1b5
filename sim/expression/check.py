"""What is wrong with an expression before anything runs: names, types, and clauses that could never fail."""

from __future__ import annotations

from typing import Literal as OneOf

from sim.expression import constant as constants
from sim.expression.found import steps_in
from sim.expression.tree import (
    Binary,
    CallNode,
    Conditional,
    ExpressionError,
    ListNode,
    Literal,
    Name,
    Node,
    Temporal,
    Unary,
    Value,
    error_at,
    spell,
    split_and,
    split_or,
    walk,
)
from sim.expression.values import CALLED, FLIPPED, STRING_TESTS, type_of
from sim.expression.vocabulary import BASELINE, FactInfo, Vocabulary, clause_kind, facts_of, gauges_of, suggest

Where = OneOf["clause", "condition", "argument"]

_ARITY = {"has": 1, "size": 1, "duration": 1, **dict.fromkeys(STRING_TESTS, 2)}
_ANY = "any"


def check(node: Node, vocabulary: Vocabulary, *, where: Where) -> list[ExpressionError]:
    """Return everything that is wrong with `node`, in the order of the text.

    ``clause`` is one part of ``expect`` or ``never`` (split first), ``condition`` is ``steady_state``, ``stop_when``,
    ``effect`` or ``ready``, ``argument`` is a value of ``inject:``, which is known before the run.
    """
    checker = _Checker(vocabulary, where)
    if where == "argument":
        checker.type_of(node)
    else:
        checker.condition(node)
        checker.whole(node)
    return sorted(checker.errors, key=lambda error: (error.offset, error.length))


class _Checker:
    def __init__(self, vocabulary: Vocabulary, where: Where) -> None:
        self._vocabulary = vocabulary
        self._where = where
        self._in_temporal = False
        self.errors: list[ExpressionError] = []

    def _report(self, node: Node, message: str, hint: str | None = None) -> None:
        error = error_at(node, message, hint)
        known = {(e.message, e.offset, e.length) for e in self.errors}
        if (error.message, error.offset, error.length) not in known:
            self.errors.append(error)

    def whole(self, node: Node) -> None:
        """Check what only the whole can tell: the facts it reads, and of what kinds."""
        if not facts_of(node, self._vocabulary):
            if not self.errors:  # an unknown name may well have been meant to be the fact
                self._report(node, "this reads no fact, so it could never fail", "compare a fact")
        elif self._where == "clause":
            try:
                clause_kind(node, self._vocabulary)
            except ExpressionError as error:
                self.errors.append(error)

    def condition(self, node: Node) -> None:
        """Check that `node` is a truth value, and that no operand of it is one for ever."""
        match node:
            case Binary() if node.op in ("&&", "||"):
                for part in split_and(node) if node.op == "&&" else split_or(node):
                    before = len(self.errors)
                    self.condition(part)
                    if len(self.errors) == before and self._is_constant(part) and not self._is_constant(node):
                        self._report(
                            part, "this part reads no fact, so it is the same for ever", "leave it out, or use ?:"
                        )
            case Unary() if node.op == "!":
                self.condition(node.operand)
            case Conditional():
                for part in (node.condition, node.then, node.otherwise):
                    self.condition(part)
            case Temporal():
                self._temporal(node)
            case _:
                found = self.type_of(node)
                if found not in ("bool", _ANY):
                    self._report(node, f"this is {CALLED[found]}, not a condition", "compare it with something")

    def _temporal(self, node: Temporal) -> None:
        before = len(self.errors)
        if self._where != "clause":
            self._report(node, f"{node.word}() stands only in expect and never")
        elif self._in_temporal:
            self._report(node, f"{node.word}() stands inside another always() or at_end()", "they do not nest")
        outer, self._in_temporal = self._in_temporal, True
        self.condition(node.operand)
        self._in_temporal = outer
        facts = facts_of(node.operand, self._vocabulary)
        if not facts and len(self.errors) == before:
            self._report(node, "this reads no fact, so it could never fail", "compare a fact")
        for fact in sorted(facts):
            match self._vocabulary.facts[fact].kind:
                case "event":
                    self._report(
                        node,
                        f"{fact} is an event fact: it happens, it does not hold",
                        "write it without, or under never:",
                    )
                case "state":
                    self._report(
                        node,
                        f"{fact} is a state fact, and {node.word}() is for gauges",
                        "write it without: a state clause must hold until the fault is withdrawn",
                    )
                case _:
                    continue

    def _is_constant(self, node: Node) -> bool:
        return not facts_of(node, self._vocabulary) and not any(
            isinstance(part, Temporal) or (isinstance(part, Name) and part.path == BASELINE) for part in walk(node)
        )

    # types

    def type_of(self, node: Node, gauges: tuple[str, ...] | None = None) -> str:
        """Return the type of `node` (bool, number, text, list, any); `gauges` are those of its comparison."""
        before = len(self.errors)
        found = self._type_of(node, gauges)
        worth = isinstance(node, Binary | Unary | CallNode | Conditional)
        if worth and len(self.errors) == before and self._is_constant(node):
            self._work_out(node)
        return found

    def _type_of(self, node: Node, gauges: tuple[str, ...] | None) -> str:
        match node:
            case Literal():
                return type_of(node.value)
            case Name():
                return self._name(node, gauges)
            case ListNode():
                for item in node.items:
                    self.type_of(item, gauges)
                return "list"
            case Unary() if node.op == "-":
                self._want(node.operand, "number", "-", gauges)
                return "number"
            case Binary() if node.op == "in" or node.op in FLIPPED:
                self._relation(node)
                return "bool"
            case Binary() if node.op not in ("&&", "||"):
                return self._arithmetic(node, gauges)
            case CallNode():
                return self._call(node, gauges)
            case Conditional():
                self.condition(node.condition)
                return _common(self.type_of(node.then, gauges), self.type_of(node.otherwise, gauges))
        self.condition(node)
        return "bool"

    def _work_out(self, node: Node) -> Value | None:
        try:
            return constants.constant(node, self._vocabulary.variables)
        except ExpressionError as error:
            self.errors.append(error)
            return None

    def _name(self, node: Name, gauges: tuple[str, ...] | None) -> str:
        info = self._vocabulary.fact(node)
        variables = self._vocabulary.variables
        if node.path == BASELINE:
            return self._baseline(node, gauges)
        if info is not None and node.path in variables:
            self._report(node, f"{node.path!r} is both a fact and a variable", "rename the variable")
        elif info is not None and self._where == "argument":
            self._report(node, f"{node.path} is a fact: its value is not known before the run")
        elif info is not None and info.kind == "event":
            self._report(
                node, f"{node.path} is an event fact: it has no one value",
                f"compare it, such as {node.path}=='...', or ask has({node.path}) or size({node.path})",
            )  # fmt: skip
            return _ANY
        if info is not None:
            return info.type
        if node.path in variables:
            return type_of(variables[node.path])
        self._unknown(node)
        return _ANY

    def _baseline(self, node: Name, gauges: tuple[str, ...] | None) -> str:
        if BASELINE in self._vocabulary.facts or BASELINE in self._vocabulary.variables:
            self._report(node, "baseline is a word of the language, and here also a fact or a variable", "rename it")
        if self._where == "argument":
            self._report(node, "baseline is not known before the run")
        elif gauges is None or len(gauges) != 1:
            found = f"not {len(gauges)} ({', '.join(gauges)})" if gauges else "not none"
            self._report(
                node, f"baseline needs exactly one gauge in its comparison, {found}", "such as cwv.score>=baseline"
            )
        return "number"

    def _unknown(self, node: Name) -> None:
        facts, variables = self._vocabulary.facts, self._vocabulary.variables
        known = {*variables, *(() if self._where == "argument" else (*facts, BASELINE))}
        parts = node.path.split(".")
        for count in range(len(parts) - 1, 0, -1):
            prefix = ".".join(parts[:count])
            if prefix in known and prefix != BASELINE:
                rest = ".".join(parts[count:])
                self._report(node, f"{prefix} has no member {rest!r}", suggest(node.path, known - {prefix}))
                return
        if self._where == "argument":
            self._report(
                node,
                f"no variable is called {node.path!r}",
                suggest(node.path, known) or f"write '{node.path}' for a text",
            )
            return
        cure = suggest(node.path, known) or (f"known: {', '.join(sorted(known)[:12])}" if facts else None)
        self._report(node, f"no fact or variable is called {node.path!r}", cure)

    def _want(self, node: Node, wanted: str, by: str, gauges: tuple[str, ...] | None) -> None:
        found = self.type_of(node, gauges)
        if found not in (wanted, _ANY):
            self._report(node, f"{by} needs {CALLED[wanted]}, and this is {CALLED[found]}")

    def _arithmetic(self, node: Binary, gauges: tuple[str, ...] | None) -> str:
        # Each side is typed once: twice a level would be 2**depth for a row of operators.
        left, right = self.type_of(node.left, gauges), self.type_of(node.right, gauges)
        if node.op == "+" and "number" not in (left, right):
            joined = {left, right} - {_ANY}
            if not joined:
                return _ANY
            if joined in ({"text"}, {"list"}):
                return joined.pop()
        for side, found in ((node.left, left), (node.right, right)):
            if found not in ("number", _ANY):
                self._report(side, f"{node.op} needs {CALLED['number']}, and this is {CALLED[found]}")
        return "number"

    def _call(self, node: CallNode, gauges: tuple[str, ...] | None) -> str:
        function, args = node.function, node.args
        if function not in _ARITY:
            known = (*_ARITY, "always", "at_end")
            self._report(
                node, f"there is no function {function!r}", suggest(function, known) or f"known: {', '.join(known)}"
            )
            return _ANY
        if len(args) != _ARITY[function]:
            count = _ARITY[function]
            self._report(node, f"{function}() takes {count} argument{'s' * (count > 1)}, not {len(args)}")
            return _ANY
        if function == "has":
            info = self._vocabulary.fact(args[0])
            if info is None and isinstance(args[0], Name):
                self._unknown(args[0])
            elif info is None or self._where == "argument":
                self._report(args[0], "has() needs the name of a fact", "such as has(ticket.owner)")
            return "bool"
        if function == "size":
            found = _ANY if self._may_be_event(args[0]) else self.type_of(args[0], gauges)
            if found not in ("text", "list", _ANY):
                self._report(args[0], f"size() needs a text, a list or an event fact, and this is {CALLED[found]}")
            return "number"
        if function == "duration":
            self._want(args[0], "text", "duration()", gauges)
            return "number"
        if not self._may_be_event(args[0]):
            self._want(args[0], "text", f"{function}()", gauges)
        self._want(args[1], "text", f"{function}()", gauges)
        if function == "matches" and isinstance(args[1], Literal) and isinstance(args[1].value, str):
            self._work_out(CallNode("matches", (Literal("", args[1].span), args[1]), False, args[1].span))
        return "bool"

    def _may_be_event(self, node: Node) -> bool:
        return self._vocabulary.is_event(node) and self._where != "argument"

    # comparisons

    def _relation(self, node: Binary) -> None:
        gauges = gauges_of((node.left, node.right), self._vocabulary)
        sides = [self._side(side, other, node, gauges) for side, other in self._sides(node)]
        if node.op == "in":
            self._member(node, sides[0], sides[1])
        elif _ANY not in sides and sides[0] != sides[1]:
            first, second = (
                self._called(side, kind) for side, kind in zip((node.left, node.right), sides, strict=True)
            )
            self._report(node, f"{first} is compared with {second}: that is never true")
        elif node.op not in ("==", "!=") and sides[0] not in ("number", "text", _ANY):
            self._report(node, f"{CALLED[sides[0]]} has no order: {node.op} needs numbers or texts")
        self._values(node)

    def _sides(self, node: Binary) -> tuple[tuple[Node, Node], tuple[Node, Node]]:
        return (node.left, node.right), (node.right, node.left)

    def _side(self, side: Node, other: Node, node: Binary, gauges: tuple[str, ...]) -> str:
        if node.op == "in" and side is node.right and isinstance(side, ListNode):
            return "list"  # its items are typed one by one, against the left side
        if not self._may_be_event(side):
            return self.type_of(side, gauges if node.op != "in" else ())
        assert isinstance(side, Name)
        if node.op == "in" and side is node.right:
            self._report(side, f"{side.path} is no list", f"write {side.path} == ...")
            return _ANY
        if node.op not in ("==", "!=", "in"):
            self._report(side, f"{side.path} is an event fact: it has no order", "use == != in or a string test")
        elif self._may_be_event(other) and side is node.right:
            self._report(node, "two event facts are compared with each other", "compare each with a value")
        return self._vocabulary.facts[side.path].type

    def _member(self, node: Binary, left: str, right: str) -> None:
        if right not in ("list", _ANY):
            self._report(
                node.right, f"'in' needs a list on its right, and this is {CALLED[right]}", "write [ ] around it"
            )
        if not isinstance(node.right, ListNode):
            return
        if not node.right.items:
            self._report(node.right, "nothing is in an empty list")
        for item in node.right.items:
            before = len(self.errors)
            found = self.type_of(item, ())
            if len(self.errors) == before and _ANY not in (found, left) and found != left:
                self._report(item, f"{self._called(node.left, left)} is never {CALLED[found]}")

    def _called(self, node: Node, kind: str) -> str:
        info = self._vocabulary.fact(node)
        if info is None:
            return CALLED[kind]
        return f"{node.path} ({CALLED[kind]})" if isinstance(node, Name) else CALLED[kind]

    def _values(self, node: Binary) -> None:
        """Refuse a literal that the fact can never have, such as an owner that does not exist."""
        if node.op not in ("==", "!=", "in"):
            return
        for side, other in self._sides(node):
            info = self._vocabulary.fact(side)
            if info is None or not isinstance(side, Name) or not self._is_constant(other):
                continue
            items = other.items if node.op == "in" and isinstance(other, ListNode) else (other,)
            for item in items:
                self._possible(side.path, info, item)

    def _possible(self, fact: str, info: FactInfo, item: Node) -> None:
        try:
            value = constants.constant(item, self._vocabulary.variables)
        except ExpressionError:
            return  # reported where it stands
        for one in value if isinstance(value, tuple) else (value,):
            if info.type != _ANY and type_of(one) != info.type:
                continue
            steps: tuple[Value, ...] = (one,)
            if info.sequence is not None and isinstance(one, str):
                steps = steps_in(one, info.sequence)
            for step in steps:
                self._step(fact, info, item, step)

    def _step(self, fact: str, info: FactInfo, item: Node, step: Value) -> None:
        if step == "" and info.sequence is not None:
            self._report(item, f"an empty step in a sequence of {fact}", "write 'a+b'")
        elif info.values is not None and not any(type(step) is type(v) and step == v for v in info.values):
            known = ", ".join(spell(v) for v in info.values)
            near = suggest(step, [v for v in info.values if isinstance(v, str)]) if isinstance(step, str) else None
            self._report(item, f"{fact} is never {spell(step)}, only {known}", near)


def _common(left: str, right: str) -> str:
    return left if left == right else _ANY
