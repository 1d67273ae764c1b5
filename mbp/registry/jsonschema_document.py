"""A JSON Schema document as the compatibility checker reads it: strict, bounded, with its references resolved.

Whatever cannot be read for certain is an error, never an empty schema: who asks whether two schemas are compatible
must be told *no* rather than be told about another schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple
from urllib.parse import unquote

from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import (
    Draft4Validator,
    Draft6Validator,
    Draft7Validator,
    Draft201909Validator,
    Draft202012Validator,
)

Raw = Any
DEPTH = 64  # levels of nesting that a document may have
EXPONENT = 400  # a number of more digits than a double can hold is refused: exact arithmetic on it costs without end

#: `$schema` without scheme, trailing `#` and slash → (order of the draft, who validates it).
_DRAFTS: dict[str, tuple[int, type[Validator]]] = {
    "json-schema.org/draft-04/schema": (4, Draft4Validator),
    "json-schema.org/draft-06/schema": (6, Draft6Validator),
    "json-schema.org/draft-07/schema": (7, Draft7Validator),
    "json-schema.org/draft/2019-09/schema": (19, Draft201909Validator),
    "json-schema.org/draft/2020-12/schema": (20, Draft202012Validator),
}
#: What a document without `$schema` is taken for, as Confluent's registry does.
_DEFAULT = "json-schema.org/draft-07/schema"

#: Keyword → the draft that brought it, the draft that dropped it.
_SINCE = {
    "const": 6, "contains": 6, "propertyNames": 6, "if": 7, "contentEncoding": 7, "contentMediaType": 7,
    "dependentRequired": 19, "dependentSchemas": 19, "minContains": 19, "maxContains": 19, "contentSchema": 19,
    "prefixItems": 20,
}  # fmt: skip
_UNTIL = {"dependencies": 19, "additionalItems": 20}

_ONE = ("additionalItems", "additionalProperties", "contains", "else", "if", "not", "propertyNames", "then",
        "unevaluatedItems", "unevaluatedProperties", "contentSchema", "items")  # fmt: skip
_LIST = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAP = ("properties", "patternProperties", "definitions", "$defs", "dependentSchemas", "dependencies")


class Unreadable(Exception):
    """The text is not a JSON Schema that can be read for certain; the text of the error says why."""


class Undecidable(Exception):
    """The schema can be read, but what it accepts cannot be reasoned about; the text says where and why."""


class Node(NamedTuple):
    """A schema inside its document."""

    raw: Raw
    document: Document

    def key(self) -> object:
        """Return what tells this node from others while its document lives."""
        return self.raw if isinstance(self.raw, bool) else id(self.raw)

    def child(self, raw: Raw) -> Node:
        """Return another schema of the same document."""
        return Node(raw, self.document)


@dataclass(eq=False)
class Document:
    """A whole document: its root, its draft (4, 6, 7, 19, 20), its validator, and its anchors by name."""

    root: Raw
    draft: int
    validator: Validator
    anchors: dict[str, Raw] = field(default_factory=dict)
    own_id: str = ""
    other_bases: bool = False
    text: str = ""

    def node(self) -> Node:
        """Return the root as a node."""
        return Node(self.root, self)

    def knows(self, keyword: str) -> bool:
        """Say whether this draft gives the keyword a meaning; one it does not know constrains nothing."""
        return _SINCE.get(keyword, 0) <= self.draft < _UNTIL.get(keyword, 99)

    def resolve(self, ref: str) -> Node:
        """Return what a reference points to. Raises :class:`Undecidable` for what is not in this document."""
        if self.other_bases:
            raise Undecidable(f"$ref {ref!r}: the document has more than one base ($id inside it)")
        base, _, fragment = ref.partition("#")
        if base not in ("", self.own_id):
            raise Undecidable(f"$ref {ref!r} leads out of the document")
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            if fragment not in self.anchors:
                raise Undecidable(f"$ref {ref!r} leads nowhere")
            return Node(self.anchors[fragment], self)
        found = self.root
        for part in fragment.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and name in found:
                found = found[name]
            elif isinstance(found, list) and re.fullmatch(r"[0-9]{1,9}", name) and int(name) < len(found):
                found = found[int(name)]
            else:
                raise Undecidable(f"$ref {ref!r} leads nowhere")
        if not isinstance(found, dict | bool):
            raise Undecidable(f"$ref {ref!r} does not lead to a schema")
        return Node(found, self)


def subschemas(raw: Raw) -> Iterator[Raw]:
    """Yield the schemas directly inside one, in the order of its keys."""
    if not isinstance(raw, dict):
        return
    for name, value in raw.items():
        if name in _ONE and isinstance(value, dict | bool):
            yield value
        elif name in _LIST and isinstance(value, list):
            yield from (each for each in value if isinstance(each, dict | bool))
        elif name in _MAP and isinstance(value, dict):
            yield from (each for each in value.values() if isinstance(each, dict | bool))


def every(raw: Raw) -> Iterator[Raw]:
    """Yield a schema and all those inside it, references not followed."""
    yield raw
    for each in subschemas(raw):
        yield from every(each)


def canonical(value: Raw) -> str:
    """Return one text for equal JSON: numbers by value, keys sorted, `true` never 1."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_decimal)


def _decimal(value: Any) -> Any:
    if isinstance(value, Decimal):
        return {"\0number": f"{value:f}".rstrip("0")}  # exact; normalize() would round to 28 digits
    raise TypeError(f"not JSON: {type(value).__name__}")


def _number(text: str) -> int | Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise Unreadable(f"not a number: {text[:40]}") from None
    if value and abs(value.adjusted()) > EXPONENT:
        raise Unreadable(f"a number out of bounds: {text[:40]}")
    return int(value) if value == value.to_integral_value() else value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable("a key stands twice in an object")
    return found


def _no_constant(name: str) -> Any:
    raise Unreadable(f"{name} is not JSON")


def _depth(value: Raw, level: int = 1) -> None:
    if level > DEPTH:
        raise Unreadable(f"nested more than {DEPTH} levels deep")
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _depth(each, level + 1)


def load_json(text: str) -> Raw:
    """Return strict JSON: no key twice, no NaN, bounded depth and numbers. Raises :class:`Unreadable`."""
    try:
        found = json.loads(text, parse_float=_number, parse_int=_integer, parse_constant=_no_constant,
                           object_pairs_hook=_pairs)  # fmt: skip
        _depth(found)
    except RecursionError:
        raise Unreadable(f"nested more than {DEPTH} levels deep") from None
    except ValueError as error:
        raise Unreadable(f"not JSON: {error}") from None
    return found


def _integer(text: str) -> int:
    if len(text) > EXPONENT:
        raise Unreadable(f"a number out of bounds: {text[:40]}")
    return int(text)


def load(text: str) -> Document:
    """Return the document in `text`. Raises :class:`Unreadable`: not JSON, no schema, or of a draft nobody knows."""
    root = load_json(text)
    if not isinstance(root, dict | bool):
        raise Unreadable("a JSON Schema is an object, true or false")
    draft, validator = _draft(root)
    try:
        validator.check_schema(root)  # type: ignore[arg-type]  # true and false are schemas too
    except SchemaError as error:
        where = "/".join(str(part) for part in error.absolute_path)
        raise Unreadable(f"not a valid JSON Schema of its draft: at /{where}: {error.message[:200]}") from None
    document = Document(root, draft, validator(root), text=canonical(root))
    _names(document)
    return document


def _draft(root: Raw) -> tuple[int, type[Validator]]:
    named = root.get("$schema", _DEFAULT) if isinstance(root, dict) else _DEFAULT
    plain = re.sub(r"^https?://", "", named).rstrip("#").rstrip("/") if isinstance(named, str) else ""
    if plain not in _DRAFTS:
        raise Unreadable(f"$schema {named!r:.100} is none of the drafts 04, 06, 07, 2019-09, 2020-12")
    return _DRAFTS[plain]


def _names(document: Document) -> None:
    """Note the anchors of a document, its own id, and whether a schema inside it has a base of its own."""
    key = "id" if document.draft == 4 else "$id"
    for raw in every(document.root):
        if not isinstance(raw, dict):
            continue
        named = raw.get(key)
        if raw is document.root:
            document.own_id = named.rstrip("#") if isinstance(named, str) else ""
        elif isinstance(named, str) and named.startswith("#") and document.draft <= 7:
            _anchor(document, named[1:], raw)
        elif isinstance(named, str):
            document.other_bases = True
        if document.draft >= 19 and isinstance(raw.get("$anchor"), str):
            _anchor(document, raw["$anchor"], raw)


def _anchor(document: Document, name: str, raw: Raw) -> None:
    if name in document.anchors:
        raise Unreadable(f"the anchor {name!r} stands twice")
    document.anchors[name] = raw
