"""From a document to a model of it: every finding in plain words, at its place in the file, all at once.

Types are strict: ``"3"`` is no number and ``3`` is no text, or a file would mean something else than it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sim.problem import InvalidFile, Problem, did_you_mean, listing
from sim.yamlfile import Document, Loc, dotted

M = TypeVar("M", bound=BaseModel)

#: More findings than this in one file are counted, not told.
_TOLD_MAX = 200

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
}
_SCALARS = frozenset(("string_type", "int_type", "float_type", "bool_type"))
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def validate(document: Document, model: type[M], under: str = "") -> M:
    """Return `document` as a `model`. Raises `InvalidFile` with everything wrong, what the reading found included.

    `under` is a top-level key that messages leave out of the place (``exercises``).
    """
    result, problems = check(document, model, under)
    if problems or result is None:
        raise InvalidFile(problems)
    return result


def check(document: Document, model: type[M], under: str = "") -> tuple[M | None, tuple[Problem, ...]]:
    """Return `document` as a `model`, None where it cannot be, and everything wrong with it."""
    found = list(document.problems[:_TOLD_MAX])
    result: M | None = None
    if document.data is None:
        found.append(document.problem(document.mark(()), "an empty file", hint=_wanted(model)))
    else:
        result, errors = _validated(document.data, model)
        found += _findings(document, model, (), errors)
    prefix = f"{under}."
    return result, tuple(replace(each, where=each.where.removeprefix(prefix)) for each in found)


def findings(document: Document, model: type[BaseModel], loc: Loc, data: Any) -> list[Problem]:
    """Return what is wrong with `data`, which stands at `loc` (all or some of the keys there), as a `model`."""
    return _findings(document, model, loc, _validated(data, model)[1])


def _findings(document: Document, model: type[BaseModel], base: Loc, errors: Sequence[Any]) -> list[Problem]:
    placed = [{**error, "loc": (*base, *error["loc"])} for error in errors]
    told = _one_per_place(document, placed)
    found = [_problem(document, model, base, error) for error in told[:_TOLD_MAX]]
    if len(told) > _TOLD_MAX:
        found.append(document.problem(document.mark(base), f"and {len(told) - _TOLD_MAX} more faults"))
    return found


def _validated(data: Any, model: type[M]) -> tuple[M | None, list[Any]]:
    """Validate strictly and laxly, and keep what either has to say.

    The strict reading is there to refuse what the lax one would convert: a number given as text, a 1 for true. Its
    other complaints (a tuple that was given as a list) count only where the lax reading complains too.
    """
    result: M | None = None
    lax: list[Any] = []
    try:
        result = model.model_validate(data)
    except ValidationError as error:
        lax = list(error.errors(include_url=False))
    strict: list[Any] = []
    try:
        model.model_validate(_frozen(data), strict=True)
    except ValidationError as error:
        strict = list(error.errors(include_url=False))
    told = {each["loc"] for each in lax}
    kept = [each for each in strict if each["loc"] in told or each["type"] in _SCALARS]
    seen = {each["loc"] for each in kept}
    errors = kept + [each for each in lax if each["loc"] not in seen]
    return (None if errors else result), errors


def _frozen(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _frozen(value) for key, value in data.items()}
    return tuple(_frozen(each) for each in data) if isinstance(data, list) else data


# -- which findings to tell ------------------------------------------------------------------------------------------


def _one_per_place(document: Document, errors: Sequence[Any]) -> list[Any]:
    """Fold what the branches of a union say about one place into one finding.

    Of a union whose branches all refuse the very type, one says what would be right ("text or a mapping"); where one
    branch took the type and minds its content, the others are silent.
    """
    places: dict[Loc, list[Any]] = {}
    for error in errors:
        places.setdefault(_place(document, error["loc"]), []).append(error)
    unions = {place for place, group in places.items() if any(_branch(document, each["loc"]) for each in group)}
    result: list[Any] = []
    for place, group in places.items():
        if place not in unions:
            result += group
            continue
        content = [each for each in group if each["type"] not in _KINDS]
        deeper = any(other != place and other[: len(place)] == place for other in places)
        if content or deeper:
            result += content
        else:
            kinds = dict.fromkeys(_KINDS[each["type"]] for each in group)
            if "a number" in kinds:
                kinds.pop("a whole number", None)
            result.append({**group[0], "type": "union", "ctx": {"expected": " or ".join(kinds)}})
    return result


def _place(document: Document, loc: Loc) -> Loc:
    """Return the part of a finding's `loc` that is in the document; the rest names fields and branches of the model."""
    place: Loc = ()
    for part in loc:
        if document.has((*place, part)):
            place = (*place, part)
    return place


def _branch(document: Document, loc: Loc) -> bool:
    """Say whether `loc` ends in the name of a union's branch."""
    return bool(loc) and isinstance(loc[-1], str) and loc[-1] != "[key]" and not document.has(loc)


# -- what to say -----------------------------------------------------------------------------------------------------


def _problem(document: Document, model: type[BaseModel], base: Loc, error: Mapping[str, Any]) -> Problem:
    loc, kind = tuple(error["loc"]), str(error["type"])
    place = _place(document, loc)
    if kind == "missing":
        hint = _description(_schema_at(model, (*place[len(base) :], loc[-1])))
        mark = document.mark(place, key=True)
        return document.problem(mark, f"the key {loc[-1]!r} is missing", dotted(place), hint)
    if kind == "extra_forbidden":
        known = _keys(model, place[len(base) : -1])
        siblings = document.value(place[:-1])
        free = [each for each in known if not isinstance(siblings, dict) or each not in siblings]
        hint = did_you_mean(place[-1], free, "it takes") or listing(known, "it takes")
        return document.problem(document.mark(place, key=True), f"unknown key {place[-1]!r}", dotted(place[:-1]), hint)
    if loc and loc[-1] == "[key]":
        message = f"not a name: {place[-1]!r}"
        return document.problem(document.mark(place, key=True), message, dotted(place[:-1]), _pattern_hint(error))
    message, hint = _words(error, document.value(place))
    if not place and kind == "value_error":
        place, message = _named_place(document, message)
    value = document.value(place)
    on_key = value is None or (isinstance(value, dict) and kind not in _KINDS)
    return document.problem(document.mark(place, key=on_key), message, dotted(place), hint)


def _words(error: Mapping[str, Any], value: object) -> tuple[str, str | None]:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _KINDS or kind == "union":
        expected = _KINDS[kind] if kind in _KINDS else context["expected"]
        quote = expected == "text" and isinstance(value, bool | int | float)
        return f"expected {expected}, not {_what(value)}", "quote it" if quote else None
    if kind in ("value_error", "assertion_error"):
        return str(context["error"]), None
    if kind == "literal_error":
        allowed = [each.strip("'") for each in str(context["expected"]).replace(" or ", ", ").split(", ")]
        near = did_you_mean(value, allowed) if len(allowed) > 2 else None
        return f"expected {context['expected']}, not {_what(value)}", near
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{_what(value)} is out of range: {words} {context[key]}", None
    if kind in ("too_short", "string_too_short"):
        return ("may not be empty" if context["min_length"] == 1 else f"needs at least {context['min_length']}"), None
    if kind in ("too_long", "string_too_long"):
        return f"too long: at most {context['max_length']}", None
    if kind == "string_pattern_mismatch":
        return f"not a name: {_what(value)}", _pattern_hint(error)
    text = str(error["msg"]).replace("Input should be", "expected")
    return text[:1].lower() + text[1:], None


def _what(value: object) -> str:
    """Return a value of a file as its author would call it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:59] + "…"


def _pattern_hint(error: Mapping[str, Any]) -> str | None:
    pattern = error.get("ctx", {}).get("pattern")
    return f"it must have the form {pattern.strip('^$')}" if pattern else None


def _named_place(document: Document, message: str) -> tuple[Loc, str]:
    """Return the place that a model-wide finding starts with (``facts.action reads from …``), and the rest of it."""
    first, _, rest = message.partition(" ")
    place = _undotted(document, first)
    return (place, rest) if place and rest else ((), message)


def _undotted(document: Document, text: str) -> Loc:
    """Read ``facts.alert.to`` as a place of the document, whose keys may have dots in them; () where it is none."""
    place: Loc = ()
    while text:
        here = document.value(place)
        keys = here if isinstance(here, dict) else {}
        fitting = [key for key in keys if text == key or text.startswith(f"{key}.")]
        if not fitting:
            return ()
        key = max(fitting, key=len)
        place, text = (*place, key), text[len(key) + 1 :]
    return place


# -- what the model would take ---------------------------------------------------------------------------------------


def _wanted(model: type[BaseModel]) -> str | None:
    return listing(
        [field.alias or name for name, field in model.model_fields.items() if field.is_required()], "it needs"
    )


def _keys(model: type[BaseModel], place: Loc) -> list[str]:
    return sorted({key for schema in _schema_at(model, place) for key in schema.get("properties", {})})


def _description(schemas: Iterable[Mapping[str, Any]]) -> str | None:
    return next((str(each["description"]) for each in schemas if "description" in each), None)


@lru_cache(maxsize=16)
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _schema_at(model: type[BaseModel], place: Loc) -> list[Mapping[str, Any]]:
    """Return the JSON schemas that a value at `place` may follow, unions opened."""
    root = _schema(model)
    here = _opened(root, root)
    for part in place:
        deeper: list[Mapping[str, Any]] = []
        for schema in here:
            if isinstance(part, int):
                found = schema.get("items")
            else:
                found = schema.get("properties", {}).get(part) or schema.get("additionalProperties")
                if not found and "patternProperties" in schema:
                    found = next(iter(schema["patternProperties"].values()))
            if isinstance(found, dict):
                deeper += _opened(root, found)
        if not deeper and part == 0:
            continue
        here = deeper
    return here


def _opened(root: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "$ref" in schema:
        return _opened(root, root["$defs"][schema["$ref"].rpartition("/")[2]])
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return [each for branch in branches for each in _opened(root, branch)]
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        return [schema, *_opened(root, schema["items"])]
    return [schema]
