"""What observers that speak HTTP share: their configuration, and a client whose failures mean "cannot look"."""

from __future__ import annotations

from collections.abc import Mapping

from sim.event import JSON
from sim.observation import CannotLook
from sim.secret import Secrets
from sim.target import AnyAuth, Duration, Model
from sim.wire import Client


class HttpConfig(Model):
    """The keys that every observer over HTTP takes. `every` is the time between two looks, in seconds."""

    kind: str
    url: str
    every: Duration = 1.0
    auth: AnyAuth = None


def looker(config: HttpConfig, secrets: Secrets) -> Client:
    """Return a client for the system that `config` names; it raises `CannotLook`."""
    return Client(config.url, config.auth, secrets, CannotLook)


def table(value: JSON, what: str) -> Mapping[str, JSON]:
    """Return `value` if it is an object. Raises `CannotLook` naming `what` was read."""
    if not isinstance(value, dict):
        raise CannotLook(f"{what}: expected an object, got {type(value).__name__}")
    return value


def rows(value: JSON, what: str) -> list[Mapping[str, JSON]]:
    """Return `value` if it is a list of objects. Raises `CannotLook` naming `what` was read."""
    if not isinstance(value, list):
        raise CannotLook(f"{what}: expected a list, got {type(value).__name__}")
    return [table(row, what) for row in value]


def text(row: Mapping[str, JSON], key: str, what: str) -> str:
    """Return the string `row[key]`. Raises `CannotLook` when it is missing or is none."""
    value = row.get(key)
    if not isinstance(value, str):
        raise CannotLook(f"{what}: expected a string at {key!r}, got {value!r:.60}")
    return value


def number(row: Mapping[str, JSON], key: str, what: str) -> int:
    """Return the whole number `row[key]`. Raises `CannotLook` when it is missing or is none."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise CannotLook(f"{what}: expected a whole number at {key!r}, got {value!r:.60}")
    return value


def count(number: int, word: str) -> str:
    """Return `number` of what `word` names, as people say it."""
    return f"{number} {word}{'' if number == 1 else 's'}"
