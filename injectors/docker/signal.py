"""A container's main process is sent SIGSTOP; withdrawing sends SIGCONT.

The engine sends it to that process alone and calls the container running all the same. If that process is only an init
that watches over the real one (``--init``, ``init: true``), or a shell, the work goes on: so what proves the effect is
the state of every process in the container, and where one runs on, nothing is proven. `docker.pause` stops them all.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from injectors._docker import looks
from injectors._docker.chosen import OnContainers, chosen, duration_s, each, prepared, probed
from injectors._docker.engine import DOOR, Container, Engine, settled
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site

#: What takes back what.
CURE = {"SIGSTOP": "SIGCONT"}


class Params(OnContainers):
    """Only a signal that another one takes back; for those that end it there is `docker.kill`."""

    signal: Literal["SIGSTOP"] = Field(default="SIGSTOP", description="What its main process is sent.")


async def _prepare(site: Site, params: Params) -> Prepared:
    async with Engine(site) as engine:
        found = await chosen(engine, params)
        for one in found:
            stopped = [each.told() for each in await looks.processes(engine, one) if each.state == "T"]
            if stopped:
                raise InjectionError(f"{one} has a stopped process already, and not by us: {', '.join(stopped)}")
    return prepared(site, [(one, {}) for one in found], signal=params.signal)


async def _send(engine: Engine, victim: dict[str, Any], signal: str) -> None:
    await engine.ask(f"{signal} to {victim['name']}", lambda api: api.kill(victim["id"], signal))


async def _apply(site: Site, receipt: Receipt) -> None:
    async def one(engine: Engine, victim: dict[str, Any]) -> None:
        await _send(engine, victim, str(receipt["signal"]))

    await each(site, receipt, one)


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """Every process in the container is stopped, not only the one that got the signal."""

    async def look(engine: Engine, _: dict[str, Any], found: Container) -> tuple[bool, dict[str, JSON]]:
        if not found.running:
            return False, {"status": found.status}
        there = await looks.processes(engine, found)
        evidence: dict[str, JSON] = {
            "status": found.status,
            "stopped": [each.told() for each in there if each.state == "T"],
            "running_on": [each.told() for each in there if each.state != "T"],
        }
        return bool(there) and all(each.state == "T" for each in there), evidence

    return await probed(site, receipt, look, removed=False)


async def _withdraw(site: Site, receipt: Receipt) -> None:
    async def one(engine: Engine, victim: dict[str, Any]) -> None:
        found = await engine.inspect(victim["id"])
        if found is None or not found.running:
            return
        cure = CURE[str(receipt["signal"])]
        # It may end between look and signal; one that is down is not stopped.
        await settled(engine, victim["id"], lambda: _send(engine, victim, cure), lambda now: not now.running)

    await each(site, receipt, one)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """No process is stopped; one that ended meanwhile is not stopped either, and the evidence says that it ended."""

    async def look(engine: Engine, _: dict[str, Any], found: Container) -> tuple[bool, dict[str, JSON]]:
        if not found.running:
            return True, {"status": found.status}
        there = await looks.processes(engine, found)
        stopped = [each.told() for each in there if each.state == "T"]
        return not stopped, {"status": found.status, "stopped": list[JSON](stopped), "processes": len(there)}

    return await probed(site, receipt, look, removed=True)


injector = Injector(
    summary="a container's main process is stopped in its tracks (SIGSTOP), and continued when withdrawn",
    params=Params,
    positional=("container", "signal"),
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
