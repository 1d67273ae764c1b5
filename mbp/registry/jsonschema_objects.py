"""The rules of the compatibility checker for what stands inside objects and arrays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Protocol

from mbp.registry.jsonschema_document import Node, Undecidable
from mbp.registry.jsonschema_facts import (
    Budget,
    Contains,
    Elements,
    Facts,
    Members,
    contains_of,
    dependencies_of,
    elements_of,
    members_of,
)

_CHOICES = 64
#: A repetition of a repetition, or a back reference: matching it may take time without end.
_WILD = re.compile(r"[)\]}*+?][*+{]|\\[1-9]|\\k|\(\?")
_MATCHED = 256  # characters of a pattern or a name that are still matched
_MATCHES_A_STEP = 16
_TRIED = 1_000_000  # ways that a pattern may be tried on a name, counted from above


class Checker(Protocol):
    """What the rules here need of a comparison."""

    budget: Budget

    def deeper(self, writers: tuple[Node, ...], reader: Node, path: str) -> list[str]:
        """Return why `reader` may refuse what all `writers` accept, a value inside the one at hand."""

    def implied(self, facts: Facts, reader: Node, path: str) -> list[str]:
        """Return why `reader` may refuse a value of which the facts hold."""

    def empty(self, facts: Facts) -> bool:
        """Say whether it is certain that of no value these facts hold."""

    def and_also(self, facts: Facts, nodes: tuple[Node, ...]) -> list[Facts]:
        """Return the alternatives when `facts` hold and all `nodes` accept the value as well."""


def matches(pattern: str, name: str) -> bool:
    """Say whether a pattern matches a name anywhere. Raises :class:`Undecidable` for one that is not plain."""
    # Each repetition may begin to end at any place of the name, each choice doubles the ways, and all of it may begin
    # anywhere: what is bounded so is bounded in time.
    ways = (len(name) + 1) ** (1 + sum(map(pattern.count, "*+{"))) * 2 ** sum(map(pattern.count, "?|"))
    if max(len(pattern), len(name)) > _MATCHED or _WILD.search(pattern) or ways > _TRIED:
        raise Undecidable(f"the pattern {pattern!r:.60} is not plain enough to be matched with names")
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise Undecidable(f"the pattern {pattern!r:.60}: {error}") from None


def at(members: Members, name: str, budget: Budget) -> tuple[Node, ...]:
    """Return the schemas that a member of that name must satisfy."""
    budget.spend(len(members.patterns) // _MATCHES_A_STEP)
    found = [node for pattern, node in members.patterns.items() if matches(pattern, name)]
    if name in members.named:
        found.append(members.named[name])
    return tuple(found) or (members.rest,)


def _choices(members: Members, matching: str | None, without: frozenset[str]) -> list[Node]:
    """Return the schemas of which one at least holds for a member that no `properties` names.

    `matching` is a pattern that its name matches, `without` are patterns that it does not match.
    """
    if matching in members.patterns:
        return [members.patterns[matching]]
    return [members.rest, *(node for pattern, node in members.patterns.items() if pattern not in without)]


def _unnamed(facts: Facts, matching: str | None, without: frozenset[str]) -> list[tuple[Node, ...]]:
    """Return, one for each way a name may fall, the schemas that hold for a member that nothing names."""
    lists = [_choices(each, matching, without) for each in facts.members]
    size = 1
    for number, each in enumerate(lists):
        size *= len(each)
        if size > _CHOICES:  # what the other groups say is left out: less is known, nothing wrong
            lists = lists[:number]
            break
    return list(product(*lists))


def properties(check: Checker, facts: Facts, reader: Node, path: str) -> Iterator[str]:
    """Judge `properties`, `patternProperties` and `additionalProperties` as the one constraint that they are."""
    wanted = members_of(reader)
    if wanted is None or "object" not in facts.types:
        return
    names = {name for each in (*facts.members, wanted) for name in each.named}
    for name in sorted(names):
        held = tuple(node for each in facts.members for node in at(each, name, check.budget))
        for node in at(wanted, name, check.budget):
            yield from check.deeper(held, node, f"{path}/properties/{name}")
    for pattern, node in wanted.patterns.items():
        for held in _unnamed(facts, pattern, frozenset()):
            yield from check.deeper(held, node, f"{path}/patternProperties/{pattern}")
    for held in _unnamed(facts, None, frozenset(wanted.patterns)):
        yield from check.deeper(held, wanted.rest, f"{path}/additionalProperties")


def _grouped(
    first: str, others: tuple[str, ...], rule: Callable[..., Iterator[str]]
) -> dict[str, Callable[..., Iterator[str]]]:
    """Return a rule for keywords that are one constraint, so that it is judged once."""

    def once(keyword: str) -> Callable[..., Iterator[str]]:
        def judged(check: Checker, facts: Facts, reader: Node, path: str) -> Iterator[str]:
            leading = next(each for each in (first, *others) if each in reader.raw)
            return rule(check, facts, reader, path) if keyword == leading else iter(())

        return judged

    return {keyword: once(keyword) for keyword in (first, *others)}


def required(_: Checker, facts: Facts, reader: Node, path: str) -> Iterator[str]:
    """Judge `required`."""
    if "object" in facts.types:
        for name in sorted(set(reader.raw["required"]) - facts.required):
            yield f"{path}/required: {name!r:.60} was not required"


def property_names(check: Checker, facts: Facts, reader: Node, path: str) -> Iterator[str]:
    """Judge `propertyNames`: by what is known of the names, or of each where the object is closed."""
    if "object" not in facts.types:
        return
    wanted = reader.child(reader.raw["propertyNames"])
    text = reader.child({"type": "string"})
    for each in facts.members:
        if each.rest.raw is False and not each.patterns:
            listed = reader.child({"type": "string", "enum": list(each.named)})
            if not check.deeper((listed,), wanted, path):
                return
    yield from check.deeper((*facts.names, text), wanted, f"{path}/propertyNames")


def dependencies(check: Checker, facts: Facts, reader: Node, path: str) -> Iterator[str]:
    """Judge `dependencies`, `dependentRequired` and `dependentSchemas`: what holds once that member is there."""
    if "object" not in facts.types:
        return
    needs, brings = dependencies_of(reader)
    for name, others in needs:
        held = facts.required.union(*(more for each, more in facts.needs if each == name), {name})
        for missing in sorted(others - held):
            yield f"{path}/dependencies/{name}: {missing!r:.60} was not needed beside it"
    for name, node in brings:
        there = replace(facts, types=facts.types & {"object"}, required=facts.required | {name})
        also = tuple(held for each, held in facts.brings if each == name)
        for one in check.and_also(there, also):
            if not check.empty(one):
                yield from check.implied(one, node, f"{path}/dependencies/{name}")


def _element(elements: Elements, index: int) -> Node:
    return elements.first[index] if index < len(elements.first) else elements.rest


def items(check: Checker, facts: Facts, reader: Node, path: str) -> Iterator[str]:
    """Judge `items`, `prefixItems` and `additionalItems`, place by place."""
    wanted = elements_of(reader)
    if wanted is None or "array" not in facts.types:
        return
    most = facts.most("maxItems")
    last = max(len(each.first) for each in (*facts.elements, wanted))
    for index in range(last + 1):
        if most is not None and index >= most:
            return
        held = tuple(_element(each, index) for each in facts.elements)
        where = f"{path}/items/{index}" if index < last else f"{path}/items"
        yield from check.deeper(held, _element(wanted, index), where)


def contains(check: Checker, facts: Facts, reader: Node, path: str) -> Iterator[str]:
    """Judge `contains` with its limits."""
    wanted = contains_of(reader) or Contains(reader.child(reader.raw["contains"]), 1, None)
    if "array" not in facts.types:
        return
    enough = wanted.least == 0 or any(
        each.least >= wanted.least and not check.deeper((each.node,), wanted.node, path) for each in facts.contains
    )
    if not enough and facts.least("minItems") >= wanted.least:
        rows = [tuple(_element(each, index) for each in facts.elements) for index in range(_places(facts) + 1)]
        enough = not any(check.deeper(held, wanted.node, path) for held in rows)
    if not enough:
        yield f"{path}/contains: nothing says that an element matches"
    if wanted.most is not None:
        most = facts.most("maxItems")
        few = (most is not None and most <= wanted.most) or any(
            each.most is not None and each.most <= wanted.most and not check.deeper((wanted.node,), each.node, path)
            for each in facts.contains
        )
        if not few:
            yield f"{path}/maxContains: nothing says that so few elements match"


def _places(facts: Facts) -> int:
    return max((len(each.first) for each in facts.elements), default=0)


def unique(_: Checker, facts: Facts, reader: Node, path: str) -> Iterator[str]:
    """Judge `uniqueItems`."""
    most = facts.most("maxItems")
    if reader.raw["uniqueItems"] and "array" in facts.types and not facts.unique and (most is None or most > 1):
        yield f"{path}/uniqueItems: elements could be equal"


RULES: dict[str, Callable[..., Iterator[str]]] = {
    **_grouped("properties", ("patternProperties", "additionalProperties"), properties),
    "required": required,
    "propertyNames": property_names,
    **_grouped("dependencies", ("dependentRequired", "dependentSchemas"), dependencies),
    **_grouped("prefixItems", ("items", "additionalItems"), items),
    "contains": contains,
    "uniqueItems": unique,
}
