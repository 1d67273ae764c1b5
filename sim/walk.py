"""Finds what stands at a place in JSON."""

from __future__ import annotations

from typing import Any


def walk(data: Any, path: str) -> list[Any]:
    """Return what stands in `data` at `path`: keys and indexes joined by dots, ``*`` for each of a list or mapping."""
    found = [data]
    for key in path.split("."):
        found = [inner for item in found for inner in _step(item, key)]
    return found


def _step(item: Any, key: str) -> list[Any]:
    if key == "*":
        return list(item.values()) if isinstance(item, dict) else item if isinstance(item, list) else []
    if isinstance(item, dict):
        return [item[key]] if key in item else []
    if isinstance(item, list) and key.isdecimal():
        return [item[int(key)]] if int(key) < len(item) else []
    return []
