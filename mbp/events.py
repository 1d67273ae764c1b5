"""The platform's events, `mbp.events.v1`: one closed JSON Schema (draft 2020-12) a type, checked by both ends.

Fail-closed: the producer (the engine) does not make a change whose event is not valid, and the consumer puts an event
that is not valid aside instead of applying it. Amounts are decimal strings.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from jsonschema import Draft202012Validator

EventType = Literal[
    "market_created",
    "liquidity_added",
    "trade_executed",
    "resolution_started",
    "resolution_finished",
    "flagged_abuse",
]
TYPES: tuple[EventType, ...] = get_args(EventType)
FAMILY = "mbp.events.v1"
SCHEMAS = Path(__file__).parent / "schemas" / "mbp" / "events" / "v1"


class EventInvalid(Exception):
    """The event is not as its schema says, or of no known type; the text names the place."""


def schema_name(kind: str) -> str:
    """Return the name under which a type's schema is registered: ``mbp.events.v1/trade_executed``."""
    return f"{FAMILY}/{kind}"


@cache
def schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a type; raises :class:`EventInvalid` for a type that there is not."""
    if kind not in TYPES:
        raise EventInvalid(f"there is no event type {kind!r:.80} in {FAMILY}")
    found: dict[str, Any] = json.loads((SCHEMAS / f"{kind}.json").read_text(encoding="utf-8"))
    return found


@cache
def _validator(kind: str) -> Draft202012Validator:
    return Draft202012Validator(schema(kind))


def _has_nul(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_nul, (*value, *value.values())))
    return any(map(_has_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value


def validate(kind: str, data: object) -> None:
    """Check the data of an event; raises :class:`EventInvalid` naming the first thing that is wrong, and its place."""
    error = next(iter(_validator(kind).iter_errors(data)), None)
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path) or "data"
        raise EventInvalid(f"{schema_name(kind)}: {place}: {error.message:.200}")
    if _has_nul(data):
        raise EventInvalid(f"{schema_name(kind)}: data: the character U+0000, which not every store can hold")
    try:
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError) as wrong:
        raise EventInvalid(f"{schema_name(kind)}: data: cannot be written as JSON in UTF-8: {wrong}") from None
