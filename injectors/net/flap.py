"""A link that comes and goes: cut and whole again, over and over, until the fault is withdrawn."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import Field

from injectors._toxiproxy import OnLink, of
from injectors._toxiproxy_server import ask, path_of
from sim.event import JSON
from sim.injector import InjectionError, Probe, Receipt, Site
from sim.target import Duration

#: A toggle that was sent is waited for also when the fault is withdrawn meanwhile: no longer than this.
_TOGGLE_S = 0.8
#: What became of each drive of this process: how often it cut the link, and what ended it before its time.
_DRIVEN: dict[str, dict[str, JSON]] = {}

Phase = Annotated[Duration, Field(ge=0.5, le=600)]


class Params(OnLink):
    """It is cut first, for `down`; then whole for `up`, and so on."""

    up: Phase = Field(description="How long the link is whole each time, from 500ms.")
    down: Phase = Field(description="How long it is cut each time, from 500ms.")


async def _drive(site: Site, receipt: Receipt) -> None:
    """Toggle the link, which is cut at the start; a toggle that finds no answer ends it (the record says so)."""
    up_s, down_s = float(str(receipt["up_s"])), float(str(receipt["down_s"]))
    lease: dict[str, JSON] = {"ttl_s": receipt["ttl_s"]} if receipt["leased"] else {}
    cuts = 1
    _DRIVEN[site.id] = {"cuts": cuts}
    try:
        while True:
            await asyncio.sleep(down_s)
            await _toggle(site, receipt, {"enabled": True})
            await asyncio.sleep(up_s)
            await _toggle(site, receipt, {"enabled": False, **lease})
            cuts += 1
            _DRIVEN[site.id] = {"cuts": cuts}
    except InjectionError as error:
        task = asyncio.current_task()
        if task is None or not task.cancelling():  # else it was withdrawn, and this was the last toggle
            _DRIVEN[site.id] = {"cuts": cuts, "ended": str(error)}
        raise


async def _held(site: Site, _: Receipt) -> Probe:
    """It came and went until it was withdrawn: no toggle failed."""
    seen = _DRIVEN.pop(site.id, {"reason": "nobody drove it"})
    return Probe("cuts" in seen and "ended" not in seen, seen)


async def _toggle(site: Site, receipt: Receipt, change: dict[str, JSON]) -> None:
    """Send one change, to its end: cut short it could still land, and cut the link behind the withdrawal."""
    sent = asyncio.ensure_future(
        ask(site, "PATCH", path_of(str(receipt["link"])), json=change, accept=(200,), total_s=_TOGGLE_S)
    )
    try:
        await asyncio.shield(sent)
    except asyncio.CancelledError:
        await sent  # raises where nobody has acknowledged it: then what may land still is waited for
        raise


injector = of(
    "a link comes and goes: cut and whole again, over and over",
    Params,
    None,
    ("link", "up", "down"),
    drive=_drive,
    own=lambda params: {"up_s": params.up, "down_s": params.down},
    held=_held,
)
