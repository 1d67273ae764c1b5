"""A container's place in a network is taken away: it runs on, and reaches and is reached by nobody there.

What the engine forgets on a disconnect (aliases, fixed addresses, links, driver options) is in the receipt, is given
back on the connect, and is compared afterwards. An address that the engine chose may be another one then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from injectors._docker import looks
from injectors._docker.chosen import OnContainers, chosen, duration_s, each, prepared, probed
from injectors._docker.engine import DOOR, Container, Engine, settled
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site

Place = dict[str, Any]


class Params(OnContainers):
    """Which network: all that the container is in, if none is named."""

    network: Annotated[str, Field(min_length=1, pattern=r"^\S+$")] | None = Field(
        default=None,
        description="The network's name, or the last part of it after an underscore as Compose's files have it; "
        "without it every network that the container is in.",
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    async with Engine(site) as engine:
        found = await chosen(engine, params)
        rows: list[tuple[Container, dict[str, JSON]]] = []
        for one in found:
            networks: dict[str, JSON] = {name: _place(one, one.networks[name]) for name in _meant(one, params.network)}
            seen = looks.interfaces(engine, one)
            ports: dict[str, JSON] = {port: list[JSON](hosts) for port, hosts in _ports(one).items()}
            interfaces: JSON = None if seen is None else list[JSON](seen)
            rows.append((one, {"networks": networks, "interfaces": interfaces, "ports": ports}))
        return prepared(site, rows)


def _meant(container: Container, network: str | None) -> list[str]:
    """Return the networks that are meant. Raises `InjectionError` where the container is in none of that name."""
    mode = str(container.host.get("NetworkMode", ""))
    if mode in ("host", "none") or mode.startswith("container:"):
        raise InjectionError(f"{container} has no network of its own (network mode {mode}): there is nothing to cut")
    there = list(container.networks)
    meant = there if network is None else [name for name in there if name == network]
    if not meant and network is not None:
        meant = [name for name in there if name.endswith(f"_{network}")]
    if not meant or (network is not None and len(meant) > 1):
        asked = "any network" if network is None else f"one network {network!r}"
        raise InjectionError(f"{container} is not in {asked} (it is in: {', '.join(sorted(there)) or 'none'})")
    return sorted(meant)


def _place(container: Container, told: Mapping[str, Any]) -> Place:
    """Return what a place in a network is made of that the engine would not make up by itself; no empty parts."""
    fixed = told.get("IPAMConfig") or {}
    # The engine adds the short id to the aliases by itself, on every connect.
    aliases = sorted({str(each) for each in told.get("Aliases") or ()} - {container.id[:12]})
    parts = {
        "id": str(told.get("NetworkID", "")),
        "aliases": aliases,
        "ipv4": fixed.get("IPv4Address"),
        "ipv6": fixed.get("IPv6Address"),
        "link_local": list(fixed.get("LinkLocalIPs") or ()),
        "links": sorted(told.get("Links") or ()),
        "options": dict(told.get("DriverOpts") or {}),
    }
    return {name: part for name, part in parts.items() if part}


def _ports(container: Container) -> dict[str, list[str]]:
    """Return the ports that are published, each with the host's port where the container asks for a certain one."""
    published = (container.raw.get("NetworkSettings") or {}).get("Ports") or {}
    asked = container.host.get("PortBindings") or {}
    return {
        port: sorted(str(each.get("HostPort") or "any") for each in asked.get(port) or ())
        for port, hosts in sorted(published.items())
        if hosts
    }


async def _apply(site: Site, receipt: Receipt) -> None:
    async def one(engine: Engine, victim: dict[str, Any]) -> None:
        for name, place in victim["networks"].items():
            await _disconnect(engine, victim, name, place)

    await each(site, receipt, one)


async def _disconnect(engine: Engine, victim: Mapping[str, Any], name: str, place: Place) -> None:
    await settled(
        engine,
        victim["id"],
        lambda: engine.ask(
            f"disconnect {victim['name']} from {name}",
            lambda api: api.disconnect_container_from_network(victim["id"], place["id"]),
        ),
        lambda now: name not in now.networks,
    )


async def _connect(engine: Engine, victim: Mapping[str, Any], name: str, place: Place) -> None:
    await settled(
        engine,
        victim["id"],
        lambda: engine.ask(
            f"connect {victim['name']} to {name}",
            lambda api: api.connect_container_to_network(
                victim["id"],
                place["id"],
                aliases=place.get("aliases"),
                ipv4_address=place.get("ipv4"),
                ipv6_address=place.get("ipv6"),
                link_local_ips=place.get("link_local"),
                links=[link.partition(":")[::2] for link in place["links"]] if "links" in place else None,
                driver_opt=place.get("options"),
            ),
        ),
        lambda now: name in now.networks,
    )


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """Neither the container nor the network knows of the other, and the interface is gone where that can be seen."""

    async def look(engine: Engine, victim: dict[str, Any], found: Container) -> tuple[bool, dict[str, JSON]]:
        still = sorted(name for name in victim["networks"] if name in found.networks)
        members = [name for name, place in victim["networks"].items() if await _member(engine, victim, place)]
        before, now = victim["interfaces"], looks.interfaces(engine, found)
        lost = None if before is None or now is None else len(before) - len(now)
        evidence: dict[str, JSON] = {
            "cut_from": sorted(victim["networks"]),
            "still_in": list[JSON](still),
            "member_of": list[JSON](members),
            "interfaces_before": before,
            "interfaces": None if now is None else list[JSON](now),
        }
        return not still and not members and lost in (None, len(victim["networks"])), evidence

    return await probed(site, receipt, look, removed=False)


async def _member(engine: Engine, victim: Mapping[str, Any], place: Place) -> bool:
    network = await engine.ask(f"inspect network {place['id'][:12]}", lambda api: api.inspect_network(place["id"]))
    return victim["id"] in (network.get("Containers") or {})


async def _withdraw(site: Site, receipt: Receipt) -> None:
    async def one(engine: Engine, victim: dict[str, Any]) -> None:
        found = await engine.inspect(victim["id"])
        if found is None:
            return
        wrong = []
        for name, place in victim["networks"].items():
            try:
                await _back(engine, victim, found, name, place)
            except InjectionError as error:  # one network may be gone: that is no reason to stay out of the others
                wrong.append(str(error))
        if wrong:
            raise InjectionError("; ".join(wrong))

    await each(site, receipt, one)


async def _back(engine: Engine, victim: Mapping[str, Any], found: Container, name: str, place: Place) -> None:
    there = found.networks.get(name)
    if there is not None and _place(found, there) == place:
        return
    if there is not None:  # connected by somebody, without what it had: a connect alone would be refused
        await _disconnect(engine, victim, name, place)
    await _connect(engine, victim, name, place)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """Every place is as it was, and so are interfaces and published ports where the container runs."""

    async def look(engine: Engine, victim: dict[str, Any], found: Container) -> tuple[bool, dict[str, JSON]]:
        there = {name: _place(found, told) for name, told in found.networks.items() if name in victim["networks"]}
        addresses: dict[str, JSON] = {name: found.networks[name].get("IPAddress") for name in there}
        evidence: dict[str, JSON] = {"status": found.status, "networks": dict(there), "addresses": addresses}
        holds = there == victim["networks"]
        if found.running:
            before, now = victim["interfaces"], looks.interfaces(engine, found)
            ports = _ports(found)
            holds &= before is None or now is None or len(before) == len(now)
            holds &= ports == victim["ports"]
            evidence |= {
                "interfaces": None if now is None else list[JSON](now),
                "ports": {port: list[JSON](hosts) for port, hosts in ports.items()},
            }
        return holds, evidence

    return await probed(site, receipt, look, removed=True)


injector = Injector(
    summary="a container is cut off from its networks: it runs on, reaches nobody and is reached by nobody",
    params=Params,
    positional=("container", "network"),
    doors=(DOOR,),
    lease="none",
    here=True,  # the engine, and a container in it, may outlive the stack that named its address
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=None,
    duration_s=duration_s,
)
