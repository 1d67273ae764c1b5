"""The one small language of ``inject:``, ``expect:``, ``never:``, ``steady_state:``, ``stop_when:``, ``effect:`` and
``ready:``: a named subset of CEL with four values, ``always(x)``, ``at_end(x)``, ``baseline``, and calls for faults.

Text → `parse` / `parse_call` → tree → `check` against a `Vocabulary` → `evaluate` against what was seen → why.
Nothing is executed and nothing of Python is reachable; text, nesting, depth, steps and patterns are bounded.
"""

from __future__ import annotations

from sim.expression.check import check
from sim.expression.constant import constant
from sim.expression.evaluate import evaluate
from sim.expression.parse import parse, parse_call
from sim.expression.tree import (
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
    Scalar,
    Temporal,
    Unary,
    Value,
    split_and,
    split_or,
    unparse,
    walk,
)
from sim.expression.truth import Environment, Explanation, Kind, Reading, Truth, Witness, and_, not_, or_
from sim.expression.vocabulary import FactInfo, Vocabulary, clause_kind, facts_of

__all__ = [
    "Arg", "Binary", "Call", "CallNode", "Conditional", "Environment", "Explanation", "ExpressionError", "FactInfo",
    "Kind", "ListNode", "Literal", "Name", "Node", "Reading", "Scalar", "Temporal", "Truth", "Unary", "Value",
    "Vocabulary", "Witness", "and_", "check", "clause_kind", "constant", "evaluate", "facts_of", "not_", "or_",
    "parse", "parse_call", "split_and", "split_or", "unparse", "walk",
]  # fmt: skip
