"""The file of proxies that ``sim proxy`` begins with, and proxies given on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from injectors._proxy import address
from injectors._proxy.body import ApiError
from injectors._proxy.registry import Wanted
from sim.refusal import Refusal, Usage


def load(path: Path) -> list[Any]:
    """Return the proxies of a file: a JSON array as for ``POST /populate``.

    Raises `Refusal` (exit code 3) with the place and the cure.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path}: cannot be read: {error}") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise Refusal(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # a number may be too long to be one
        why = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise Refusal(f"{path}: not JSON that can be used: {why}") from error
    if not isinstance(value, list):
        raise Refusal(
            f"{path}: expected a JSON array of proxies, such as"
            ' [{"name": "db", "listen": "127.0.0.1:5433", "upstream": "127.0.0.1:5432"}]'
        )
    check(value, str(path))
    return value


def check(proxies: list[Any], origin: str) -> None:
    """Raise `Refusal` where a proxy cannot be made as it is written; says which, and what would be right."""
    names: dict[str, int] = {}
    for index, each in enumerate(proxies):
        place = f"{origin}: [{index}]"
        try:
            wanted = Wanted(each)
            wanted.check()
            if wanted.listen:
                address.split(wanted.listen)
            address.split(wanted.upstream)
        except ApiError as error:
            raise Refusal(f"{place}{_name(each)}: {error.text.removeprefix('bad request body: ')}") from error
        except address.AddressError as error:
            raise Refusal(f"{place}{_name(each)}: {error}; write host:port, such as 127.0.0.1:5432") from error
        if (first := names.setdefault(wanted.name, index)) != index:
            raise Refusal(
                f"{place}: the name {wanted.name!r} is [{first}]'s already; give each proxy a name of its own"
            )


def given(text: str) -> dict[str, str]:
    """Return the proxy that ``NAME=LISTEN=UPSTREAM`` stands for. Raises `Usage` (exit code 2)."""
    parts = text.split("=")
    if len(parts) != 3 or not all(parts):
        raise Usage(f"--proxy {text}: expected NAME=LISTEN=UPSTREAM, such as db=127.0.0.1:5433=127.0.0.1:5432")
    for each in parts[1:]:
        try:
            address.split(each)
        except address.AddressError as error:
            raise Usage(f"--proxy {text}: {error}; write host:port") from error
    return dict(zip(("name", "listen", "upstream"), parts, strict=True))


def _name(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else None
    return f" {name!r}" if isinstance(name, str) and name else ""
