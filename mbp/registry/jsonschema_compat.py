"""Whether a reader's JSON Schema accepts whatever a writer's accepts, proven keyword by keyword.

The answer *compatible* is a proof; what cannot be proven is incompatible, with the place and the reason. So a wrong
answer can only be a refusal too many. Content models are taken strictly, as the specification has them: an object
that does not forbid other members may hold any, so a property added to an open model is a breaking change.
Semantics: JSON Schema draft 04, 06, 07, 2019-09 and 2020-12. `format` and the `content...` keywords are taken for
constraints on both sides, known to be kept only where the writer has the very same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

from mbp.registry import jsonschema_objects as objects
from mbp.registry.jsonschema_document import Document, Node, Raw, Undecidable, Unreadable, canonical, every, load
from mbp.registry.jsonschema_facts import (
    ALL,
    NUMBERS,
    OPAQUE,
    SIZES,
    Bound,
    Budget,
    Facts,
    high_of,
    kind,
    known,
    low_of,
    merge,
    types_of,
)

STEPS = 5_000
MESSAGES = 20
_UNREASONED = ("unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef")

#: Where in the reader's schema it is, and what is not kept there.
Reason = str
Rule = Callable[["Check", Facts, Node, str], Iterator[Reason]]


def differences(writer: str, reader: str) -> list[Reason]:
    """Return why `reader` may refuse what `writer` accepts; empty when it is proven that it accepts all of it.

    Both are texts of JSON Schemas. What cannot be read or decided is a reason too. At most 20 are returned.
    """
    try:
        old, new = load(writer), load(reader)
    except Unreadable as error:
        return [f"unreadable: {error}"]
    return compare(old, new)


def compare(old: Document, new: Document) -> list[Reason]:
    """Return as :func:`differences` does, for documents that were read already."""
    if old.draft == new.draft and old.text == new.text:
        return []
    if old.draft != new.draft and 4 in (old.draft, new.draft) and (_whole(old.root) or _whole(new.root)):
        return ["undecidable: to draft 04 1.0 is no integer, to the later ones it is"]
    try:
        return Check(old, new).subset((old.node(),), new.node(), "")[:MESSAGES]
    except Undecidable as error:
        return [f"undecidable: {error}"]
    except RecursionError:
        return ["undecidable: nested too deep"]
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
        # A reference may lead to what no meta-schema looked at, and a draft does not check keywords of another.
        return [f"undecidable: not as a schema is: {error!r:.200}"]


def _whole(raw: Raw) -> bool:
    """Say whether a schema asks for an integer anywhere (also where it is no schema: a reference may lead there)."""
    return '"integer"' in canonical(raw)


class Check:
    """One comparison. Proofs are by induction on the size of the value: a pair that is met again deeper inside the
    value may be taken for proven, one that is met again at the same place may not.
    """

    def __init__(self, old: Document, new: Document) -> None:
        """Compare nodes of these two documents."""
        self.same_document = old.draft == new.draft and old.text == new.text
        self.budget = Budget(STEPS)
        self._open: dict[object, int] = {}
        self._done: dict[object, list[Reason]] = {}
        self._leant: set[object] = set()
        self._kept: list[tuple[Node, ...]] = []  # keys are identities: what they stand for must live as long
        self._depth = 0

    def subset(self, writers: tuple[Node, ...], reader: Node, path: str) -> list[Reason]:
        """Return why a value that all `writers` accept may be refused by `reader`; empty when none can be."""
        if reader.raw is True or any(writer.raw is False for writer in writers):
            return []
        if any(self._equal(writer, reader) for writer in writers):
            return []
        key = (frozenset((id(each.document), each.key()) for each in writers), (id(reader.document), reader.key()))
        if key in self._done:
            return self._done[key]
        if key in self._open:
            if self._open[key] == self._depth:
                raise Undecidable("references lead round in a circle")
            self._leant.add(key)
            return []
        self.budget.spend()
        self._kept.append((*writers, reader))
        outer, self._leant = self._leant, set()
        self._open[key] = self._depth
        try:
            found = self._found(known(writers, self.budget), reader, path)
        finally:
            del self._open[key]
        self._leant.discard(key)
        if not self._leant or found:
            self._done[key] = found
        self._leant |= outer
        return found

    def deeper(self, writers: tuple[Node, ...], reader: Node, path: str) -> list[Reason]:
        """Do the same for a value inside the value that was spoken of until now."""
        self._depth += 1
        try:
            return self.subset(writers, reader, path)
        finally:
            self._depth -= 1

    def _found(self, alternatives: list[Facts], reader: Node, path: str) -> list[Reason]:
        found: dict[Reason, None] = {}
        for facts in alternatives:
            if not self.empty(facts):
                found.update(dict.fromkeys(self.implied(facts, reader, path)))
        return list(found)

    def _equal(self, writer: Node, reader: Node) -> bool:
        if writer.document.draft != reader.document.draft or canonical(writer.raw) != canonical(reader.raw):
            return False
        if isinstance(writer.raw, bool) or self.same_document:
            return True
        own = [name for each in every(writer.raw) if isinstance(each, dict) for name in each]
        return not any(name in ("$ref", *_UNREASONED) for name in own)

    # -- one alternative of the writer ---------------------------------------------------------------------------

    def implied(self, facts: Facts, reader: Node, path: str) -> list[Reason]:
        """Return why a value of which `facts` hold may be refused by `reader`."""
        self.budget.spend()
        raw = reader.raw
        if isinstance(raw, bool):
            return [] if raw or self.empty(facts) else [f"{path or '/'}: nothing is accepted"]
        if self._values_accepted(facts, reader):
            return []
        found: list[Reason] = []
        for keyword, rule in RULES.items():
            if keyword in raw:
                found += rule(self, facts, reader, path)
        return found + [f"{path}/{name}: cannot be reasoned about" for name in _UNREASONED if name in raw]

    def followed(self, facts: Facts, target: Node, path: str) -> list[Reason]:
        """Do as :meth:`implied` does for what a reference leads to. Raises :class:`Undecidable` for a circle."""
        key = (id(facts), id(target.document), target.key())
        if key in self._open:
            raise Undecidable("references lead round in a circle")
        self._open[key] = self._depth
        try:
            return self.implied(facts, target, path)
        finally:
            del self._open[key]

    def empty(self, facts: Facts) -> bool:
        """Say whether it is certain that of no value these facts hold."""
        self.budget.spend()
        if _apart(facts.enums):
            return True
        if not (facts.types - _impossible(facts)):
            return True
        if facts.types <= {"object"} and any(self._never(facts, name) for name in facts.required):
            return True
        for number, each in enumerate(facts.nots):
            rest = replace(facts, nots=facts.nots[:number] + facts.nots[number + 1 :])
            if not self.implied(rest, each, ""):
                return True
        return False

    def _never(self, facts: Facts, name: str) -> bool:
        """Say whether it is certain that no object of which the facts hold has that member."""
        nodes = tuple(node for each in facts.members for node in objects.at(each, name, self.budget))
        return all(_apart(each.enums) for each in known(nodes, self.budget))

    def and_also(self, facts: Facts, nodes: tuple[Node, ...]) -> list[Facts]:
        """Return the alternatives when `facts` hold and all `nodes` accept the value as well."""
        return [merge(facts, each) for each in known(nodes, self.budget)]

    def _values_accepted(self, facts: Facts, reader: Node) -> bool:
        """Say whether the writer lists all its values and the reader accepts each."""
        if not facts.enums or len(min(facts.enums, key=len)) > 256:
            return False
        for each in every(reader.raw):
            if isinstance(each, dict) and {*OPAQUE, *_UNREASONED, "$ref", "pattern", "patternProperties"} & set(each):
                return False
        if reader.document.draft == 4 and _whole(reader.raw):  # 1.0 is in the list where 1 is, and is no integer there
            return False
        validator = reader.document.validator.evolve(schema=reader.raw)
        try:
            return any(all(validator.is_valid(value) for value in values) for values in facts.enums)
        except (ArithmeticError, TypeError, RecursionError):  # the validator does not get on with it: no proof
            return False


def _apart(enums: tuple[tuple[Raw, ...], ...]) -> bool:
    """Say whether two lists of the only possible values have none in common."""
    texts = [set(map(canonical, values)) for values in enums]
    return any(one.isdisjoint(other) for one, other in combinations(texts, 2)) or set() in texts


def _impossible(facts: Facts) -> frozenset[str]:
    """Return the types of which no value can be: its limits leave nothing between them."""
    found: set[str] = set()
    for low, high, name in (
        ("minLength", "maxLength", "string"), ("minItems", "maxItems", "array"),
        ("minProperties", "maxProperties", "object"),
    ):  # fmt: skip
        most = facts.most(high)
        if most is not None and facts.least(low) > most:
            found.add(name)
    if facts.low and facts.high:
        gap = facts.low.at > facts.high.at or (facts.low.at == facts.high.at and (facts.low.open or facts.high.open))
        found |= NUMBERS if gap else set()
    return frozenset(found)


# -- a rule for each keyword of the reader ---------------------------------------------------------------------------


def _ref(check: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    yield from check.followed(facts, reader.document.resolve(reader.raw["$ref"]), path)


def _type(_: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    wanted = types_of(reader.raw["type"])
    sure = wanted - {"integer"} if reader.document.draft == 4 and "fraction" not in wanted else wanted
    listed = any({kind(value) for value in values} <= sure for values in facts.enums)
    if not (facts.types - _impossible(facts)) <= wanted and not listed:
        yield f"{path}/type: {_spelled(facts.types)} became {_spelled(wanted)}"


def _spelled(types: frozenset[str]) -> str:
    if types == ALL:
        return "any type"
    named = {"number" if "fraction" in types and name in NUMBERS else name for name in types}
    return " or ".join(sorted(named)) or "no type"


def _enum(_: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    keyword = "enum" if "enum" in reader.raw else "const"
    wanted = set(map(canonical, reader.raw["enum"] if keyword == "enum" else [reader.raw["const"]]))
    if (facts.types == {"null"} and "null" in wanted) or (facts.types == {"boolean"} and {"true", "false"} <= wanted):
        return
    if not any(set(map(canonical, values)) <= wanted for values in facts.enums):
        yield f"{path}/{keyword}: other values were possible"


def _const(check: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    yield from _enum(check, facts, reader.child({"const": reader.raw["const"]}), path)


def _low(_: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    wanted, held = low_of(reader.raw), facts.low
    if wanted is None or not facts.types & NUMBERS:
        return
    if held is None or (wanted.at, wanted.open) > (held.at, held.open):
        yield f"{path}/minimum: {_end(held)} became {_end(wanted)}"


def _high(_: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    wanted, held = high_of(reader.raw), facts.high
    if wanted is None or not facts.types & NUMBERS:
        return
    if held is None or (wanted.at, not wanted.open) < (held.at, not held.open):
        yield f"{path}/maximum: {_end(held)} became {_end(wanted)}"


def _end(bound: Bound | None) -> str:
    if bound is None:
        return "none"
    return f"{bound.at}{' (itself outside)' if bound.open else ''}"


def _multiple(_: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    wanted = Fraction(reader.raw["multipleOf"])
    held = [*facts.multiples, *([Fraction(1)] if "fraction" not in facts.types else [])]
    if facts.types & NUMBERS and not any((each / wanted).denominator == 1 for each in held):
        yield f"{path}/multipleOf: not every number was a multiple of {wanted}"


def _size(keyword: str) -> Rule:
    def rule(_: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
        wanted = int(reader.raw[keyword])
        if SIZES[keyword] not in facts.types:
            return
        if keyword.startswith("min"):
            if facts.least(keyword) < wanted:
                yield f"{path}/{keyword}: {facts.least(keyword)} became {wanted}"
        elif (most := facts.most(keyword)) is None or most > wanted:
            yield f"{path}/{keyword}: {'none' if most is None else most} became {wanted}"

    return rule


def _pattern(_: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    if "string" in facts.types and reader.raw["pattern"] not in facts.patterns:
        yield f"{path}/pattern: {reader.raw['pattern']!r:.60} was not asked for"


def _opaque(keyword: str) -> Rule:
    def rule(_: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
        if (keyword, canonical(reader.raw[keyword])) not in facts.opaque:
            yield f"{path}/{keyword}: {canonical(reader.raw[keyword])[:60]} was not asked for"

    return rule


def _all_of(check: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    for number, each in enumerate(reader.raw["allOf"]):
        yield from check.implied(facts, reader.child(each), f"{path}/allOf/{number}")


def _split(facts: Facts) -> list[Facts]:
    """Return one alternative a type, where the writer names its types; a reader's branch may serve only one."""
    if facts.types == ALL or len(facts.types) < 2:
        return [facts]
    return [replace(facts, types=frozenset({name})) for name in sorted(facts.types)]


def _any_of(check: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    branches = [reader.child(each) for each in reader.raw["anyOf"]]
    if any(not check.implied(facts, branch, path) for branch in branches):
        return
    for part in _split(facts):
        if all(check.implied(part, branch, path) for branch in branches):
            yield f"{path}/anyOf: no branch accepts all that was accepted"
            return


def _one_of(check: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    branches = [reader.child(each) for each in reader.raw["oneOf"]]
    for part in _split(facts):
        accepting = [number for number, branch in enumerate(branches) if not check.implied(part, branch, path)]
        if not any(_alone(check, part, branches, number) for number in accepting):
            yield f"{path}/oneOf: no branch, or more than one, accepts what was accepted"
            return


def _alone(check: Check, facts: Facts, branches: list[Node], chosen: int) -> bool:
    others = [branch for number, branch in enumerate(branches) if number != chosen]
    return all(check.empty(each) for other in others for each in check.and_also(facts, (other,)))


def _not(check: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    if not all(check.empty(each) for each in check.and_also(facts, (reader.child(reader.raw["not"]),))):
        yield f"{path}/not: what was accepted may be forbidden"


def _if(check: Check, facts: Facts, reader: Node, path: str) -> Iterator[Reason]:
    test = reader.child(reader.raw["if"])
    for each in check.and_also(facts, (test,)):
        if "then" in reader.raw and not check.empty(each):
            yield from check.implied(each, reader.child(reader.raw["then"]), f"{path}/then")
    other = replace(facts, nots=(*facts.nots, test))
    if "else" in reader.raw and not check.empty(other):
        yield from check.implied(other, reader.child(reader.raw["else"]), f"{path}/else")


RULES: dict[str, Rule] = {
    "$ref": _ref,
    "type": _type,
    "enum": _enum,
    "const": _const,
    "minimum": _low,
    "exclusiveMinimum": _low,
    "maximum": _high,
    "exclusiveMaximum": _high,
    "multipleOf": _multiple,
    **{keyword: _size(keyword) for keyword in SIZES},
    "pattern": _pattern,
    **{keyword: _opaque(keyword) for keyword in OPAQUE},
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    **objects.RULES,
}
