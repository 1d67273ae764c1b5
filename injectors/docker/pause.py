"""A container stands still: every process in it is frozen, its addresses stay, and what is sent to it waits.

A frozen container answers no health check and no ``exec``; connections to it are taken by the kernel and never served.
"""

from __future__ import annotations

from typing import Any

from injectors._docker import looks
from injectors._docker.chosen import OnContainers, chosen, duration_s, each, prepared, probed
from injectors._docker.engine import DOOR, Container, Engine, settled
from sim.event import JSON
from sim.injector import Injector, Prepared, Probe, Receipt, Site


class Params(OnContainers):
    """Only what every fault of containers takes."""


async def _prepare(site: Site, params: Params) -> Prepared:
    async with Engine(site) as engine:
        found = await chosen(engine, params)
        for one in found:  # where the engine lists no processes, it could not be shown that they go on afterwards
            await looks.processes(engine, one)
    return prepared(site, [(one, {}) for one in found])


async def _apply(site: Site, receipt: Receipt) -> None:
    async def one(engine: Engine, victim: dict[str, Any]) -> None:
        what = f"pause {victim['name']}"
        await settled(
            engine,
            victim["id"],
            lambda: engine.ask(what, lambda api: api.pause(victim["id"])),
            lambda now: now.paused,
        )

    await each(site, receipt, one)


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The engine calls it paused, and nothing in it runs: shown by process states, or by the kernel."""

    async def look(engine: Engine, _: dict[str, Any], found: Container) -> tuple[bool, dict[str, JSON]]:
        if not found.paused:
            return False, {"status": found.status}
        still, evidence = await looks.frozen(engine, found)
        return still, {"status": found.status, **evidence}

    return await probed(site, receipt, look, removed=False)


async def _withdraw(site: Site, receipt: Receipt) -> None:
    async def one(engine: Engine, victim: dict[str, Any]) -> None:
        found = await engine.inspect(victim["id"])
        if found is None or not found.paused:
            return
        what = f"unpause {victim['name']}"
        await settled(
            engine,
            victim["id"],
            lambda: engine.ask(what, lambda api: api.unpause(victim["id"])),
            lambda now: not now.paused,
        )

    await each(site, receipt, one)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """Not paused, and not frozen; one that ended meanwhile is not paused either, and the evidence says so."""

    async def look(engine: Engine, _: dict[str, Any], found: Container) -> tuple[bool, dict[str, JSON]]:
        if found.paused or not found.running:
            return not found.paused, {"status": found.status}
        there = await looks.processes(engine, found)
        moves = bool(there) and not all(process.state == "D" for process in there)
        return moves, {"status": found.status, "processes": [process.told() for process in there]}

    return await probed(site, receipt, look, removed=True)


injector = Injector(
    summary="a container stands still: all its processes are frozen, and nothing it is asked is answered",
    params=Params,
    positional=("container",),
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
