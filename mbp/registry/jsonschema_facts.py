"""What is known of every value that a JSON Schema accepts: the writer's side of a compatibility check.

A schema becomes a list of alternatives (:class:`Facts`), and each value that it accepts satisfies at least one of them.
Facts may say less than the schema does, never more: what is proven from them holds of every such value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from itertools import product
from typing import Any

from mbp.registry.jsonschema_document import Node, Raw, Undecidable, canonical

#: A number is an integer or has a fraction, so that `integer` is a part of `number`.
ALL = frozenset({"null", "boolean", "integer", "fraction", "string", "array", "object"})
_TYPES = {**{name: frozenset({name}) for name in ALL}, "number": frozenset({"integer", "fraction"})}
NUMBERS = _TYPES["number"]
OPAQUE = ("format", "contentEncoding", "contentMediaType", "contentSchema")
_ALTERNATIVES = 128  # past that many, an `anyOf` of the writer is left out of what is known


@dataclass(frozen=True)
class Members:
    """`properties`, `patternProperties` and `additionalProperties` that stand side by side."""

    named: dict[str, Node]
    patterns: dict[str, Node]
    rest: Node


@dataclass(frozen=True)
class Elements:
    """The schemas of the first elements of an array, and that of those behind them."""

    first: tuple[Node, ...]
    rest: Node


@dataclass(frozen=True)
class Contains:
    """At least `least` elements (and at most `most`) match a schema."""

    node: Node
    least: int
    most: int | None


@dataclass(frozen=True)
class Bound:
    """An end of a range of numbers; `open` when the end itself is outside."""

    at: Fraction
    open: bool


@dataclass(frozen=True)
class Facts:
    """One alternative. Every field is a conjunction of what stands in it; the defaults say nothing."""

    types: frozenset[str] = ALL
    enums: tuple[tuple[Raw, ...], ...] = ()
    low: Bound | None = None
    high: Bound | None = None
    multiples: tuple[Fraction, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)  # minLength, maxLength, minItems ... as spelled
    opaque: frozenset[tuple[str, str]] = frozenset()
    patterns: frozenset[str] = frozenset()
    unique: bool = False
    elements: tuple[Elements, ...] = ()
    contains: tuple[Contains, ...] = ()
    members: tuple[Members, ...] = ()
    required: frozenset[str] = frozenset()
    names: tuple[Node, ...] = ()
    needs: tuple[tuple[str, frozenset[str]], ...] = ()
    brings: tuple[tuple[str, Node], ...] = ()
    nots: tuple[Node, ...] = ()

    def least(self, name: str) -> int:
        """Return the largest known lower limit of that name, 0 when none is known."""
        known = self.sizes.get(name, 0)
        return max(known, len(self.required)) if name == "minProperties" else known

    def most(self, name: str) -> int | None:
        """Return the smallest known upper limit of that name, None when none is known."""
        limits = [] if self.sizes.get(name) is None else [self.sizes[name]]
        if name == "maxProperties":
            limits += [len(each.named) for each in self.members if each.rest.raw is False and not each.patterns]
        elif name == "maxItems":
            limits += [len(each.first) for each in self.elements if each.rest.raw is False]
        return min(limits, default=None)


def merge(one: Facts, other: Facts) -> Facts:
    """Return what is known when both are."""
    sizes = dict(one.sizes)
    for name, value in other.sizes.items():
        sizes[name] = value if name not in sizes else (max if name.startswith("min") else min)(value, sizes[name])
    return Facts(
        types=one.types & other.types,
        enums=one.enums + other.enums,
        low=higher(one.low, other.low),
        high=lower(one.high, other.high),
        multiples=one.multiples + other.multiples,
        sizes=sizes,
        opaque=one.opaque | other.opaque,
        patterns=one.patterns | other.patterns,
        unique=one.unique or other.unique,
        elements=one.elements + other.elements,
        contains=one.contains + other.contains,
        members=one.members + other.members,
        required=one.required | other.required,
        names=one.names + other.names,
        needs=one.needs + other.needs,
        brings=one.brings + other.brings,
        nots=one.nots + other.nots,
    )


def higher(one: Bound | None, other: Bound | None) -> Bound | None:
    """Return the stricter of two lower ends."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda bound: (bound.at, bound.open))


def lower(one: Bound | None, other: Bound | None) -> Bound | None:
    """Return the stricter of two upper ends."""
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda bound: (bound.at, not bound.open))


def types_of(value: Raw) -> frozenset[str]:
    """Return the types that a `type` keyword names."""
    named = [value] if isinstance(value, str) else value
    return frozenset().union(*(_TYPES[name] for name in named))


def kind(value: Any) -> str:
    """Return the type of a JSON value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, Decimal):
        return "fraction"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def low_of(raw: dict[str, Any]) -> Bound | None:
    """Return the lower end that a schema sets (draft 4 spells an open end as a flag beside it)."""
    return higher(*_bounds(raw, "minimum", "exclusiveMinimum"))


def high_of(raw: dict[str, Any]) -> Bound | None:
    """Return the upper end that a schema sets."""
    return lower(*_bounds(raw, "maximum", "exclusiveMaximum"))


def _bounds(raw: dict[str, Any], closed: str, exclusive: str) -> tuple[Bound | None, Bound | None]:
    flag = raw.get(exclusive)
    plain = Bound(Fraction(raw[closed]), flag is True) if closed in raw else None
    return plain, Bound(Fraction(flag), True) if flag is not None and not isinstance(flag, bool) else None


def members_of(node: Node) -> Members | None:
    """Return what a schema says of the members of an object, None when it says nothing."""
    raw = node.raw
    if not {"properties", "patternProperties", "additionalProperties"} & set(raw):
        return None
    return Members(
        {name: node.child(each) for name, each in raw.get("properties", {}).items()},
        {name: node.child(each) for name, each in raw.get("patternProperties", {}).items()},
        node.child(raw.get("additionalProperties", True)),
    )


def elements_of(node: Node) -> Elements | None:
    """Return what a schema says of the elements of an array, None when it says nothing."""
    raw = node.raw
    items = raw.get("items")
    if "prefixItems" in raw and node.document.knows("prefixItems"):
        return Elements(tuple(node.child(each) for each in raw["prefixItems"]), node.child(raw.get("items", True)))
    if isinstance(items, list):
        return Elements(tuple(node.child(each) for each in items), node.child(raw.get("additionalItems", True)))
    return None if items is None else Elements((), node.child(items))


def contains_of(node: Node) -> Contains | None:
    """Return what a schema says of some elements of an array, None when it says nothing."""
    raw = node.raw
    if "contains" not in raw or not node.document.knows("contains"):
        return None
    counted = node.document.knows("minContains")
    return Contains(
        node.child(raw["contains"]),
        raw.get("minContains", 1) if counted else 1,
        raw.get("maxContains") if counted else None,
    )


def dependencies_of(node: Node) -> tuple[list[tuple[str, frozenset[str]]], list[tuple[str, Node]]]:
    """Return which members need others beside them, and which bring a schema with them."""
    needs: list[tuple[str, frozenset[str]]] = []
    brings: list[tuple[str, Node]] = []
    for keyword in ("dependencies", "dependentRequired", "dependentSchemas"):
        for name, value in node.raw.get(keyword, {}).items():
            if isinstance(value, list):
                needs.append((name, frozenset(value)))
            elif isinstance(value, str):
                needs.append((name, frozenset({value})))
            else:
                brings.append((name, node.child(value)))
    return needs, brings


class Budget:
    """How many steps a comparison may take: a schema can be written to need more than there is time."""

    def __init__(self, steps: int) -> None:
        """Allow so many steps."""
        self._left = steps

    def spend(self, steps: int = 1) -> None:
        """Take a step, or several. Raises :class:`Undecidable` when none is left."""
        self._left -= steps
        if self._left < 0:
            raise Undecidable("too many alternatives to compare")


def known(nodes: Iterable[Node], budget: Budget) -> list[Facts]:
    """Return the alternatives of a value that all these schemas accept; none at all when there is no such value."""
    found = [Facts()]
    for node in nodes:
        found = _both(found, _alternatives(node, (), budget))
    return found


def _both(one: list[Facts], other: list[Facts]) -> list[Facts]:
    """Return the alternatives when one of each list holds; where they are too many, the second says nothing."""
    if len(one) * len(other) > _ALTERNATIVES:
        return one
    return [merge(a, b) for a, b in product(one, other)]


def _alternatives(node: Node, way: tuple[object, ...], budget: Budget) -> list[Facts]:
    """Return the alternatives of one schema; `way` are the schemas that lead here without looking into the value."""
    budget.spend()
    raw, document = node.raw, node.document
    if isinstance(raw, bool):
        return [Facts()] if raw else []
    if node.key() in way:
        raise Undecidable("references lead round in a circle")
    way = (*way, node.key())
    found = [Facts()]
    if "$ref" in raw:
        found = _alternatives(document.resolve(raw["$ref"]), way, budget)
        if document.draft <= 7:  # there a reference stands for all that is beside it
            return found
    found = _both(found, [_plain(node)])
    for each in raw.get("allOf", ()):
        found = _both(found, _alternatives(node.child(each), way, budget))
    if "anyOf" in raw:
        found = _both(found, [one for each in raw["anyOf"] for one in _alternatives(node.child(each), way, budget)])
    if "oneOf" in raw:
        found = _both(found, _exactly_one(node, way, budget))
    if "if" in raw and document.knows("if") and ("then" in raw or "else" in raw):
        found = _both(found, _conditional(node, way, budget))
    return found


def _exactly_one(node: Node, way: tuple[object, ...], budget: Budget) -> list[Facts]:
    branches = [node.child(each) for each in node.raw["oneOf"]]
    found = []
    for number, branch in enumerate(branches):
        others = tuple(each for at, each in enumerate(branches) if at != number)
        found += [replace(one, nots=one.nots + others) for one in _alternatives(branch, way, budget)]
    return found


def _conditional(node: Node, way: tuple[object, ...], budget: Budget) -> list[Facts]:
    raw = node.raw
    test = node.child(raw["if"])
    then = _alternatives(node.child(raw.get("then", True)), way, budget)
    otherwise = _alternatives(node.child(raw.get("else", True)), way, budget)
    yes = _both(then, _alternatives(test, way, budget))
    return yes + [replace(each, nots=(*each.nots, test)) for each in otherwise]


def _plain(node: Node) -> Facts:
    """Return what the keywords say that need no alternatives; of a draft's own keywords only."""
    raw, document = node.raw, node.document
    needs, brings = dependencies_of(node.child({k: v for k, v in raw.items() if document.knows(k)}))
    members, elements, contains = members_of(node), elements_of(node), contains_of(node)
    enums = [tuple(raw["enum"])] if "enum" in raw else []
    if "const" in raw and document.knows("const"):
        enums.append((raw["const"],))
    return Facts(
        types=types_of(raw["type"]) if "type" in raw else ALL,
        enums=tuple(enums),
        low=low_of(raw),
        high=high_of(raw),
        multiples=(Fraction(raw["multipleOf"]),) if "multipleOf" in raw else (),
        sizes={name: int(raw[name]) for name in SIZES if name in raw},
        opaque=frozenset((name, canonical(raw[name])) for name in OPAQUE if name in raw and document.knows(name)),
        patterns=frozenset([raw["pattern"]] if "pattern" in raw else []),
        unique=raw.get("uniqueItems") is True,
        elements=(elements,) if elements else (),
        contains=(contains,) if contains else (),
        members=(members,) if members else (),
        required=frozenset(raw.get("required", ())),
        names=(node.child(raw["propertyNames"]),) if "propertyNames" in raw and document.knows("propertyNames") else (),
        needs=tuple(needs),
        brings=tuple(brings),
        nots=(node.child(raw["not"]),) if "not" in raw else (),
    )


#: Limits on a count → the types that they limit.
SIZES = {
    "minLength": "string", "maxLength": "string", "minItems": "array", "maxItems": "array",
    "minProperties": "object", "maxProperties": "object",
}  # fmt: skip
