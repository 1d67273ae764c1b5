"""A container's main process is killed: it is gone at once, and with it everything that it held.

If its restart policy revives it, that is the recovery, and it shows in the evidence. Else withdrawing starts it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from injectors._docker import life
from injectors._docker.chosen import OnContainers, chosen, duration_s, each, prepared
from injectors._docker.engine import DOOR, Engine
from sim.injector import Injector, Prepared, Receipt, Site


class Params(OnContainers):
    """The signal can be a milder one; a container that survives it is not proven to be hit."""

    signal: Literal["SIGKILL", "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGABRT", "SIGSEGV"] = Field(
        default="SIGKILL", description="What its main process is sent."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    async with Engine(site) as engine:
        found = await chosen(engine, params)
    for one in found:
        life.refuse_brittle(one)
    return prepared(site, [(one, {}) for one in found], signal=params.signal)


async def _apply(site: Site, receipt: Receipt) -> None:
    async def one(engine: Engine, victim: dict[str, Any]) -> None:
        signal = str(receipt["signal"])
        await engine.ask(f"kill {victim['name']}", lambda api: api.kill(victim["id"], signal))

    await each(site, receipt, one)


injector = Injector(
    summary="a container's main process is killed; its restart policy may revive it, else withdrawing starts it",
    params=Params,
    positional=("container", "signal"),
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
