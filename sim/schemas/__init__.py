"""The JSON Schemas (2020-12) of what people write, for editors: committed, and held to the models by a test."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from sim.duration import seconds
from sim.exercise import ExerciseFile
from sim.target import Target

KINDS: Mapping[str, type[BaseModel]] = MappingProxyType({"exercise": ExerciseFile, "target": Target})

_DURATION = {
    "description": "a length of time: 250ms, 90s, 5m, 1h30m, or a number of seconds",
    "anyOf": [
        {"type": "string", "pattern": r"^\+?([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"},
        {"type": "number", "minimum": 0},
    ],
}
_REFERENCE = {"type": "string", "pattern": "^(env|file):.+$"}


def committed(kind: str) -> str:
    """Return the committed schema of `kind` (``exercise``, ``target``) as it lies in the package."""
    return files(__name__).joinpath(f"{kind}.schema.json").read_text(encoding="utf-8")


def generate(kind: str) -> str:
    """Return the schema of `kind` made from the models now."""
    schema = KINDS[kind].model_json_schema(schema_generator=_AsWritten)
    schema = {"$schema": GenerateJsonSchema.schema_dialect, **_tidy(schema)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


class _AsWritten(GenerateJsonSchema):
    """Describes what may stand in the file, where a validator turns that into something else."""

    def function_before_schema(self, schema: Any) -> JsonSchemaValue:
        function: Callable[..., Any] = schema["function"]["function"]
        if function is seconds:
            return dict(_DURATION)
        inner = self.generate_inner(schema["schema"])
        if inner.get("type") == "array":  # one thing may stand for the list of itself alone
            return {"anyOf": [inner["items"], inner]}
        if "auth" in getattr(function, "__name__", ""):  # a bare reference is a bearer token
            return {"anyOf": [_REFERENCE, inner]}
        return inner


def _tidy(value: Any) -> Any:
    """Return a schema without the titles that only repeat a name, and without what is no JSON Schema."""
    if isinstance(value, list):
        return [_tidy(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "anyOf" in value and "minLength" in value:  # said of the list that the one thing becomes
        arrays = [{**each, "minItems": value["minLength"]} if "items" in each else each for each in value["anyOf"]]
        value = {**{key: item for key, item in value.items() if key != "minLength"}, "anyOf": arrays}
    return {
        key: {name: _tidy(each) for name, each in item.items()} if key in ("properties", "$defs") else _tidy(item)
        for key, item in value.items()
        if not (key == "title" and isinstance(item, str)) and key not in ("ge", "le")
    }
