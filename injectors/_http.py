"""What injectors that speak HTTP share: a client for a door of the profile, whose failures are `InjectionError`."""

from __future__ import annotations

from sim.event import JSON
from sim.injector import InjectionError, Site
from sim.secret import SecretMissing
from sim.wire import TOTAL_S, Client


def through(site: Site, name: str, *, total_s: float = TOTAL_S) -> Client:
    """Return a client for the door `name`, each of whose requests may take `total_s` seconds.

    Raises `InjectionError` when the door is not there or cannot be opened.
    """
    door = site.doors.get(name)
    if door is None:
        raise InjectionError(f"the profile opens no door {name!r}: add doors.{name} with its url")
    try:
        return Client(door.url, door.auth, site.secrets, InjectionError, total_s=total_s)
    except (ValueError, SecretMissing) as error:
        raise InjectionError(f"doors.{name}: {error}") from error


def objects(value: JSON, key: str, what: str) -> list[dict[str, JSON]]:
    """Return the objects in a list, or in the list that an object holds at `key`. Raises `InjectionError`."""
    listed = value.get(key) if isinstance(value, dict) else value
    if not isinstance(listed, list):
        raise InjectionError(f"{what}: expected a list of {key}, got {value!r:.100}")
    found = [each for each in listed if isinstance(each, dict)]
    if len(found) != len(listed):
        raise InjectionError(f"{what}: expected objects in {key}, got {value!r:.100}")
    return found
