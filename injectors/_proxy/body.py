"""What came in a request, read as Toxiproxy reads it: Go's JSON rules, and Toxiproxy's error texts.

Go's decoder takes the first JSON value and ignores what follows, matches field names without case, takes ``null`` as
"leave the default", and refuses fractions and strings for integers (``encoding/json``).
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

Object = dict[str, Any]

_LEAST, _MOST = -(2**63), 2**63 - 1


class ApiError(Exception):
    """A request that is answered with an error: `text` and the HTTP `status`."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.text, self.status = text, status


def bad(text: str) -> ApiError:
    """Return the error for a body that cannot be used."""
    return ApiError(f"bad request body: {text}", 400)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"invalid character {name[0]!r} looking for beginning of value")


_DECODER = json.JSONDecoder(parse_constant=_constant)


def decode(raw: bytes) -> Any:
    """Return the first JSON value in `raw`. Raises `ApiError` 400."""
    text = raw.decode("utf-8", "replace").lstrip(" \t\r\n")
    if not text:
        raise bad("EOF")
    try:
        return _DECODER.raw_decode(text)[0]
    except (ValueError, RecursionError) as error:
        raise bad(str(error) or "nested too deeply") from error


def as_object(value: Any, what: str) -> Object:
    """Return the fields of a JSON object, their names in lower case; ``null`` has none. Raises `ApiError` 400."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad(f"json: cannot unmarshal {kind(value)} into Go value of type {what}")
    return {str(key).lower(): each for key, each in value.items()}


def as_list(value: Any, what: str) -> list[Any]:
    """Return a JSON array; ``null`` is an empty one. Raises `ApiError` 400."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise bad(f"json: cannot unmarshal {kind(value)} into Go value of type {what}")
    return value


def text(fields: Object, key: str, default: str) -> str:
    """Return a string field. Raises `ApiError` 400."""
    value = fields.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise _wrong(value, key, "string")
    return value


def flag(fields: Object, key: str, default: bool) -> bool:
    """Return a true-or-false field. Raises `ApiError` 400."""
    value = fields.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong(value, key, "bool")
    return value


def whole(fields: Object, key: str, default: int) -> int:
    """Return an int64 field that is not negative (Toxiproxy lets negative ones pass). Raises `ApiError` 400."""
    value = fields.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not _LEAST <= value <= _MOST:
        raise _wrong(value, key, "int64")
    if value < 0:
        raise bad(f"{key} must not be negative, got {value}")
    return value


def number(fields: Object, key: str, default: float, least: float, most: float) -> float:
    """Return a number field between `least` and `most`, both allowed. Raises `ApiError` 400."""
    value = fields.get(key)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(value, key, "float32")
    if not least <= value <= most:
        raise bad(f"{key} must be from {least:g} to {most:g}, got {value!s:.40}")
    return float(value)


def kind(value: Any) -> str:
    """Return what Go calls a JSON value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    names: dict[type, str] = {str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _wrong(value: Any, key: str, wanted: str) -> ApiError:
    shown = f"number {value}" if kind(value) == "number" and wanted == "int64" else kind(value)
    return bad(f"json: cannot unmarshal {shown} into Go struct field .{key} of type {wanted}")
