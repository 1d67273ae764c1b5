"""Compatibility of schema versions under the registry's modes, for JSON Schema and Avro alike. Fail-closed.

BACKWARD: the new schema reads what the old one wrote; FORWARD: the old one reads what the new one writes; FULL: both.
`..._TRANSITIVE` compares with every earlier version, the others with the latest only. NONE compares nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from mbp.registry import avro_schema, jsonschema_compat
from mbp.registry.jsonschema_document import canonical, load, load_json

Mode = Literal[
    "NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"
]  # fmt: skip
MODES: tuple[Mode, ...] = get_args(Mode)
Kind = Literal["JSON", "AVRO"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def normal(kind: Kind, text: str) -> str:
    """Return the one text by which equal schemas of a kind are known. Raises :class:`Unreadable`."""
    if kind == "JSON":
        return load(text).text
    avro_schema.parse(text)
    return canonical(load_json(text))


def reads(kind: Kind, reader: str, writer: str) -> list[str]:
    """Return why `reader` may not read what `writer` wrote; empty when it is certain that it can."""
    if kind == "JSON":
        return jsonschema_compat.differences(writer, reader)
    return avro_schema.differences(reader, writer)


def incompatibilities(new: tuple[Kind, str], earlier: Sequence[tuple[Kind, str]], mode: Mode) -> list[str]:
    """Return what a new version breaks; `earlier` are the versions before it, oldest first. Empty when nothing."""
    if mode == "NONE":
        return []
    against = earlier if mode.endswith("_TRANSITIVE") else earlier[-1:]
    found: list[str] = []
    for kind, text in against:
        if kind != new[0]:
            found.append(f"a schema of type {new[0]} cannot follow one of type {kind}")
            continue
        if not mode.startswith("FORWARD"):
            found += [f"the new schema does not read the old: {why}" for why in reads(kind, new[1], text)]
        if not mode.startswith("BACKWARD"):
            found += [f"the old schema does not read the new: {why}" for why in reads(kind, text, new[1])]
    return found
