"""A container is stopped and started again by its engine: its connections, caches and uptime are lost.

The outage is as long as its stop and its start take; the fault is gone when it is as healthy as before.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from injectors._docker import life
from injectors._docker.chosen import OnContainers, chosen, duration_s, each, prepared
from injectors._docker.engine import DOOR, Engine
from sim.injector import Injector, Prepared, Receipt, Site


class Params(OnContainers):
    """How patient the stop is."""

    grace: Annotated[int, Field(ge=0, le=5)] = Field(
        default=1, description="How many seconds it may take to end by itself before it is killed, 0 to 5."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    async with Engine(site) as engine:
        found = await chosen(engine, params)
    for one in found:
        life.refuse_brittle(one)
    return prepared(site, [(one, {}) for one in found], grace=params.grace)


async def _apply(site: Site, receipt: Receipt) -> None:
    async def one(engine: Engine, victim: dict[str, Any]) -> None:
        grace = receipt["grace"]
        assert isinstance(grace, int)
        # docker-py waits the grace longer for this answer than for others; the kernel no longer than for any.
        await engine.ask(f"restart {victim['name']}", lambda api: api.restart(victim["id"], timeout=grace))

    await each(site, receipt, one)


injector = Injector(
    summary="a container is stopped and started again; what it held in memory and on the wire is lost",
    params=Params,
    positional=("container", "grace"),
    doors=(DOOR,),
    lease="none",
    here=True,  # the engine, and a container in it, may outlive the stack that named its address
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=life.ended,
    withdraw=life.begun,
    gone=life.up,
    signal=None,
    duration_s=duration_s,
)
