"""Avro schemas, read and compared by the `avro` package, and two rules beside it that the package leaves out.

A field's default is a value of its type: whoever reads data without the field has it filled in, or fails. And data that
can be read as another decimal, or as a time in another unit, is read wrong (`logicalType`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import avro.schema
from avro.compatibility import (
    ReaderWriterCompatibilityChecker,
    SchemaCompatibilityResult,
    SchemaCompatibilityType,
    SchemaIncompatibilityType,
    incompatible,
    merge,
)
from avro.errors import AvroException, IgnoredLogicalType

from mbp.registry.jsonschema_document import Unreadable, load_json

_WRONG = (AvroException, ValueError, TypeError, KeyError, AttributeError, RecursionError)


def parse(text: str) -> Any:
    """Return the schema. Raises :class:`Unreadable`."""
    load_json(text)  # bounded and strict before the Avro parser sees it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IgnoredLogicalType)  # one that is not known means nothing, as Avro has it
            schema = avro.schema.parse(text, validate_enum_symbols=True)
        _check_defaults(schema, set())
    except _WRONG as error:
        raise Unreadable(f"not an Avro schema: {error}") from None
    return schema


def differences(reader: str, writer: str) -> list[str]:
    """Return why `reader` may not read what `writer` wrote; empty when it is certain that it can."""
    try:
        found = _Checker().get_compatibility(parse(reader), parse(writer))
    except Unreadable as error:
        return [f"unreadable: {error}"]
    except _WRONG as error:
        return [f"undecidable: {type(error).__name__}: {error}"]
    if found.compatibility == SchemaCompatibilityType.compatible:
        return []
    places = [f"{place}: {message}" for place, message in zip(found.locations, found.messages, strict=False)]
    return places or ["the reader cannot read what the writer wrote"]


class _Checker(ReaderWriterCompatibilityChecker):
    """Avro's own checker, which looks at what values mean as well."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def calculate_compatibility(self, reader: Any, writer: Any, location: list[str]) -> SchemaCompatibilityResult:
        """Compare one place of both; it is called anew for each place below."""
        found = super().calculate_compatibility(reader, writer, location)
        now, was = _meaning(reader), _meaning(writer)
        if now is None or was is None or now == was:
            return found
        text = f"reader takes for {now} what the writer wrote as {was}"
        return merge(found, incompatible(SchemaIncompatibilityType.type_mismatch, text, location))


def _meaning(schema: Any) -> str | None:
    """Return what the values of a schema stand for, None when they stand for themselves."""
    props: Mapping[str, Any] = schema.props
    name = props.get("logicalType")
    if name == "decimal":
        return f"decimal({props.get('precision')}, {props.get('scale', 0)})"
    return None if name is None else str(name)


# -- defaults ----------------------------------------------------------------------------------------------------------


def _check_defaults(schema: Any, seen: set[int]) -> None:
    """Raise :class:`ValueError` for a field whose default is no value of its type."""
    if id(schema) in seen:
        return
    seen.add(id(schema))
    below: list[Any] = []
    if schema.type == "array":
        below = [schema.items]
    elif schema.type == "map":
        below = [schema.values]
    elif schema.type in ("union", "error_union"):
        below = list(schema.schemas)
    elif schema.type in ("record", "error"):
        for field in schema.fields:
            if field.has_default and not _is_of(field.type, field.default):
                raise ValueError(f"the default of {schema.fullname}.{field.name} is no value of its type")
            below.append(field.type)
    for each in below:
        _check_defaults(each, seen)


def _whole(bits: int) -> Callable[[Any, Any], bool]:
    return lambda _, value: type(value) is int and -(1 << bits) <= value < 1 << bits


def _number(_: Any, value: Any) -> bool:
    return type(value) in (int, float)


def _bytes(_: Any, value: Any) -> bool:
    return isinstance(value, str) and all(ord(letter) < 256 for letter in value)  # one character stands for one byte


def _record(schema: Any, value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_of(field.type, value[field.name]) if field.name in value else field.has_default for field in schema.fields
    )


def _array(schema: Any, value: Any) -> bool:
    return isinstance(value, list) and all(_is_of(schema.items, each) for each in value)


def _map(schema: Any, value: Any) -> bool:
    return isinstance(value, dict) and all(_is_of(schema.values, each) for each in value.values())


_KINDS: dict[str, Callable[[Any, Any], bool]] = {
    "null": lambda _, value: value is None,
    "boolean": lambda _, value: isinstance(value, bool),
    "int": _whole(31),
    "long": _whole(63),
    "float": _number,
    "double": _number,
    "string": lambda _, value: isinstance(value, str),
    "bytes": _bytes,
    "fixed": lambda schema, value: _bytes(schema, value) and len(value) == schema.size,
    "enum": lambda schema, value: isinstance(value, str) and value in schema.symbols,
    "array": _array,
    "map": _map,
    "record": _record,
    "error": _record,
    "union": lambda schema, value: bool(schema.schemas) and _is_of(schema.schemas[0], value),  # the first, as Avro says
    "error_union": lambda schema, value: bool(schema.schemas) and _is_of(schema.schemas[0], value),
}


def _is_of(schema: Any, value: Any) -> bool:
    """Say whether a JSON value stands for a value of a schema, as defaults do."""
    return _KINDS[str(schema.type)](schema, value)
