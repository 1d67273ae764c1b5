"""The reaper beside a proxy server that keeps no leases: it resets the whole server when nobody beats for a fault.

A target may open the door `reaper`: ``PUT /heartbeat/{id}`` with ``{"ttl_s"}`` arms and renews, ``DELETE`` ends it in
order. Where the profile opens no such door nothing is asked.
"""

from __future__ import annotations

from urllib.parse import quote

from injectors._http import through
from sim.injector import Site

DOOR = "reaper"


async def beat(site: Site) -> None:
    """Arm the reaper for this fault, or renew it. Raises `InjectionError`: without it no fault is brought in."""
    if DOOR in site.doors:
        async with through(site, DOOR) as client:
            await client.ask("PUT", _path(site), json={"ttl_s": site.ttl_s})


async def end(site: Site) -> None:
    """Let the reaper forget this fault, which was withdrawn. Raises `InjectionError`."""
    if DOOR in site.doors:
        async with through(site, DOOR) as client:
            await client.ask("DELETE", _path(site), accept=(200, 204, 404))


def _path(site: Site) -> str:
    return f"/heartbeat/{quote(site.id, safe='')}"
