"""Expressions without facts, worked out at once: the arguments of ``inject:`` and the constant sides of a clause."""

from __future__ import annotations

from collections.abc import Mapping

from sim.expression import values
from sim.expression.tree import (
    Binary,
    CallNode,
    Conditional,
    ExpressionError,
    ListNode,
    Literal,
    Name,
    Node,
    Scalar,
    Unary,
    Value,
    error_at,
)
from sim.expression.values import STRING_TESTS, Fault
from sim.expression.vocabulary import suggest


def constant(node: Node, variables: Mapping[str, Scalar]) -> Value:
    """Return what an expression without facts comes to; a list is a tuple.

    Raises `ExpressionError` at the part that fails: an unknown name, types that do not fit, a division by zero.
    """
    match node:
        case Literal():
            return node.value
        case Name():
            if node.path in variables:
                return variables[node.path]
            raise error_at(node, f"no variable is called {node.path!r}", _cure(node.path, variables))
        case ListNode():
            return tuple(constant(item, variables) for item in node.items)
        case Unary() if node.op == "!":
            return not _truth(node.operand, variables)
        case Conditional():
            return constant(node.then if _truth(node.condition, variables) else node.otherwise, variables)
        case Binary() if node.op in ("&&", "||"):
            left = _truth(node.left, variables)
            return _truth(node.right, variables) if left is (node.op == "&&") else left
    try:
        return _operate(node, variables)
    except Fault as fault:
        raise error_at(node, str(fault)) from fault


def _cure(path: str, variables: Mapping[str, Scalar]) -> str:
    return suggest(path, variables) or f"write '{path}' for a text"


def _truth(node: Node, variables: Mapping[str, Scalar]) -> bool:
    value = constant(node, variables)
    if not isinstance(value, bool):
        raise error_at(node, f"expected a truth value, not {values.describe(value)}")
    return value


def _operate(node: Node, variables: Mapping[str, Scalar]) -> Value:
    match node:
        case Unary():
            return values.negate(constant(node.operand, variables))
        case Binary():
            left, right = constant(node.left, variables), constant(node.right, variables)
            if node.op == "in":
                return values.is_in(left, right)
            if node.op in values.FLIPPED:
                return values.compare(node.op, left, right)
            return values.arithmetic(node.op, left, right)
        case CallNode():
            return _call(node, variables)
    raise error_at(node, "this has no value before the run", "it may stand only in a condition")


def _call(node: CallNode, variables: Mapping[str, Scalar]) -> Value:
    wanted = 2 if node.function in STRING_TESTS else 1
    if node.function not in (*STRING_TESTS, "size", "duration"):
        near = suggest(node.function, (*STRING_TESTS, "size", "duration"))
        raise error_at(node, f"no function {node.function!r} can stand here", near)
    if len(node.args) != wanted:
        raise error_at(node, f"{node.function}() takes {wanted} argument{'s' * (wanted > 1)}, not {len(node.args)}")
    args = [constant(arg, variables) for arg in node.args]
    if node.function == "size":
        return values.size(args[0])
    if node.function == "duration":
        return values.duration(args[0])
    return values.string_test(node.function, args[0], args[1])


__all__ = ["ExpressionError", "constant"]
