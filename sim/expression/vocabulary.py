"""The names that an expression may use, and what it reads of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sim.expression.tree import Name, Node, Scalar, error_at, walk
from sim.expression.truth import Kind
from sim.expression.values import type_of

#: The one name that is neither a fact nor a variable.
BASELINE = "baseline"


@dataclass(frozen=True, slots=True)
class FactInfo:
    """What is known of a fact before anything is read.

    `values` are all that it can be, null where any is possible (an event fact may have them too: the owners, the
    actions). `sequence` is the ``+`` of a fact whose ``a+b`` means a, then b. With `subject` a null value says that
    the subject does not exist, which is no equality, instead of *no data*, which is unknown.
    """

    kind: Kind
    values: tuple[Scalar, ...] | None = None
    sequence: str | None = None
    subject: str | None = None

    @property
    def type(self) -> str:
        """Return the type of its values: bool, number, text, or any where that cannot be said."""
        if self.kind == "gauge":
            return "number"
        types = {type_of(value) for value in self.values or ()}
        if len(types) == 1:
            return types.pop()
        return "text" if self.kind == "event" and not types else "any"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The facts and the variables of one exercise on one target."""

    facts: Mapping[str, FactInfo]
    variables: Mapping[str, Scalar] = field(default_factory=dict)

    def fact(self, node: Node) -> FactInfo | None:
        """Return the fact that `node` names, or null where it is anything else."""
        return self.facts.get(node.path) if isinstance(node, Name) else None

    def is_event(self, node: Node) -> bool:
        """Return whether `node` is the name of an event fact."""
        info = self.fact(node)
        return info is not None and info.kind == "event"


def suggest(word: str, known: Iterable[str]) -> str | None:
    """Return ``did you mean 'x'?`` for the known word nearest to `word`, or null where none is near."""
    by_lower = {name.lower(): name for name in sorted(known, reverse=True)}
    near = difflib.get_close_matches(word.lower(), sorted(by_lower), n=1, cutoff=0.6)
    return f"did you mean {by_lower[near[0]]!r}?" if near else None


def facts_of(node: Node, vocabulary: Vocabulary) -> frozenset[str]:
    """Return the facts that `node` reads."""
    return frozenset(part.path for part in walk(node) if isinstance(part, Name) and part.path in vocabulary.facts)


def gauges_of(nodes: Iterable[Node], vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return the gauges that the two sides of a comparison read, in alphabetical order."""
    names = frozenset[str]().union(*(facts_of(node, vocabulary) for node in nodes))
    return tuple(sorted(name for name in names if vocabulary.facts[name].kind == "gauge"))


def clause_kind(node: Node, vocabulary: Vocabulary) -> Kind:
    """Return the kind of the facts that a clause reads. Raises `ExpressionError` where there is none, or several."""
    by_kind: dict[Kind, list[str]] = {}
    for name in sorted(facts_of(node, vocabulary)):
        by_kind.setdefault(vocabulary.facts[name].kind, []).append(name)
    if not by_kind:
        raise error_at(node, "this reads no fact, so it could never fail", "compare a fact, such as action=='rollback'")
    if len(by_kind) > 1:
        kinds = " and ".join(f"{kind} ({', '.join(names)})" for kind, names in sorted(by_kind.items()))
        raise error_at(node, f"a clause reads facts of one kind, this one reads {kinds}", "split at &&")
    return next(iter(by_kind))
