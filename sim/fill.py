"""Fills the holes in a profile's strings: ``${stack.NAME}`` from the running stack, ``${package:NAME}`` from Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

_PACKAGE = re.compile(r"\$\{package:([A-Za-z_][A-Za-z0-9_.]*)\}")

_HOLE = re.compile(r"\$\{stack\.([A-Za-z0-9_]+)\}")


class NotExported(Exception):
    """A profile asks for something that the running stack does not export."""


def fill(value: Any, exports: Mapping[str, str]) -> Any:
    """Return `value` with every ``${stack.NAME}`` in it filled in. Raises `NotExported`."""
    if isinstance(value, str):
        return _HOLE.sub(lambda match: _export(match[1], exports), value)
    if isinstance(value, Mapping):
        return {key: fill(item, exports) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fill(item, exports) for item in value]
    return value


def filled(model: M, exports: Mapping[str, str]) -> M:
    """Return a copy of a profile's part with its holes filled. Raises `NotExported`."""
    return type(model).model_validate(fill(model.model_dump(by_alias=True, exclude_unset=True), exports))


def packaged(value: Any) -> Any:
    """Return `value` with ``${package:NAME}`` replaced by the folder of that package. Raises `RoomMissing`."""
    from sim.rooms import folders

    if isinstance(value, str):
        return _PACKAGE.sub(lambda match: str(folders(match[1])[0]), value)
    if isinstance(value, Mapping):
        return {key: packaged(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [packaged(item) for item in value]
    return value


def _export(name: str, exports: Mapping[str, str]) -> str:
    if name not in exports:
        known = ", ".join(sorted(exports)) or "nothing: no stack is up"
        raise NotExported(f"${{stack.{name}}} is not exported by the running stack (it exports {known})")
    return exports[name]
