"""A Toxiproxy server as it answers: what it is, its links as they stand, and one bounded call at a time.

Speaks the HTTP API of Toxiproxy 2.7 and newer; `sim proxy` says in its version what it can do beyond that. Every call
has a time-out, for the real server can stop answering for good (it holds a lock while it waits for a connection), and
`GET /version` then still answers: only a list of the proxies says that a server is well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from injectors._http import through
from sim.event import JSON
from sim.injector import InjectionError, Receipt, Site
from sim.wire import Answer

DOOR = "proxy"
READ_S = 2.0
#: The oldest server that is worked with: PATCH came with 2.6, a readable version with 2.7.
OLDEST = (2, 7)
_NUMBERS = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a server is: its version, whether it is `sim proxy` (live counters), and whether it holds leases."""

    version: str
    sim: bool
    leases: bool

    @property
    def name(self) -> str:
        """What to call it in evidence."""
        return f"{'sim proxy' if self.sim else 'Toxiproxy'} {self.version}"


@dataclass(frozen=True, slots=True)
class Link:
    """One proxy of a server, as it was listed."""

    name: str
    listen: str
    upstream: str
    enabled: bool
    toxics: tuple[Mapping[str, Any], ...]
    stats: Mapping[str, Any] | None

    def toxic(self, name: str) -> Mapping[str, Any] | None:
        """Return the toxic of that name, null where there is none."""
        return next((each for each in self.toxics if each.get("name") == name), None)

    @property
    def form(self) -> dict[str, JSON]:
        """What makes the same link again, in a receipt."""
        return {"name": self.name, "listen": self.listen, "upstream": self.upstream, "enabled": self.enabled}


async def ask(
    site: Site,
    method: str,
    path: str,
    *,
    json: JSON = None,
    accept: tuple[int, ...] = (200, 201, 204),
    total_s: float = READ_S,
) -> Answer:
    """Send one request to the server behind the door. Raises `InjectionError`."""
    async with through(site, DOOR, total_s=total_s) as client:
        return await client.ask(method, path, json=json, accept=accept)


def path_of(link: str, *more: str) -> str:
    """Return the path of a link, or of what is below it."""
    return "/".join(["/proxies", *(quote(part, safe="") for part in (link, *more))])


async def kind(site: Site) -> Kind:
    """Return what the server is. Raises `InjectionError` where it is no Toxiproxy, or one too old."""
    found = (await ask(site, "GET", "/version")).json
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(version, str):
        raise InjectionError(f"{address(site)}/version: no Toxiproxy answers there, but {found!r:.100}")
    numbers = _NUMBERS.search(version)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < OLDEST:
        raise InjectionError(f"{address(site)}: Toxiproxy {version} is too old: 2.7 or newer is needed")
    return Kind(version, found.get("sim") is True, found.get("leases") is True)


async def links(site: Site, total_s: float = READ_S) -> dict[str, Link]:
    """Return every link of the server, by name. Raises `InjectionError`, also where it does not answer in time."""
    found = (await ask(site, "GET", "/proxies", total_s=total_s)).json
    if not isinstance(found, dict):
        raise InjectionError(f"GET {address(site)}/proxies: expected an object, got {found!r:.100}")
    return {name: _link(name, each) for name, each in found.items() if isinstance(each, dict)}


async def link(site: Site, name: str, total_s: float = READ_S) -> Link:
    """Return one link. Raises `InjectionError` where there is none of that name; it names those there are."""
    there = await links(site, total_s)
    if name not in there:
        known = ", ".join(sorted(there)) or "none"
        raise InjectionError(f"{address(site)}: no link is called {name!r} (there are: {known})")
    return there[name]


def _link(name: str, found: Mapping[str, Any]) -> Link:
    toxics = found.get("toxics")
    stats = found.get("stats")
    return Link(
        name=name,
        listen=str(found.get("listen", "")),
        upstream=str(found.get("upstream", "")),
        enabled=found.get("enabled") is True,
        toxics=tuple(each for each in toxics if isinstance(each, dict)) if isinstance(toxics, list) else (),
        stats=stats if isinstance(stats, dict) else None,
    )


def address(site: Site) -> str:
    """Return the address of the door, for messages."""
    return site.doors[DOOR].url if DOOR in site.doors else "no door"


def reached_at(site: Site, listen: str) -> tuple[str, int]:
    """Return host and port of a link as seen from here: one that listens everywhere is where its server is."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if host in ("", "0.0.0.0", "::", "::0"):  # noqa: S104 - compared with, not bound to
        host = urlsplit(address(site)).hostname or "127.0.0.1"
    try:
        return host, int(port)
    except ValueError as error:
        raise InjectionError(f"{address(site)}: a link listens at {listen!r}, which is no address") from error


def stands(receipt: Receipt, link: Link) -> bool:
    """Say whether the fault stands in the server's own state, as it was asked for."""
    toxic: Any = receipt["toxic"]
    if toxic is None:
        return not link.enabled
    there = link.toxic(own_name(receipt))
    if there is None or any(there.get(key) != toxic[key] for key in ("type", "stream", "attributes")):
        return False
    chance = there.get("toxicity", 1)  # a real server keeps it as a float of 32 bits
    return isinstance(chance, int | float) and abs(chance - float(toxic["toxicity"])) < 1e-6


def own_name(receipt: Receipt) -> str:
    """Return the name of the fault's own toxic."""
    return str(receipt["fault"])
