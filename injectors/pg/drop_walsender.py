"""A replication connection that breaks: its walsender is ended, once or over and over; the consumer comes back.

Nothing holds the consumer away: that it streams again, from where it was, is the recovery, and nobody's doing but its
own. Ended is only the very session that was seen (pid and start): one that was given the same pid is left alone.

The door is the server itself, never a pooler: ``postgresql://user@host:port/database``, a password by reference
(``auth: {basic: {user: …, password: env:NAME}}``).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import Field

from injectors import _pg
from injectors._pg import Server
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site
from sim.target import Duration, Model

#: The server ends a session at its next look at its signals; how long it may take, seconds.
END_S = 4.0
_END = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = %s AND (extract(epoch FROM backend_start) * 1000000)::bigint = %s
"""
_THERE = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND (extract(epoch FROM backend_start) * 1000000)::bigint = %s"


class Params(Model):
    """Whose connection, and whether again."""

    slot: str | None = Field(default=None, description="The replication slot whose walsender is ended; all, if null.")
    every: Annotated[Duration, Field(ge=0.1)] | None = Field(
        default=None, description="End it again so often, seconds or 500ms, 10s; once, if null."
    )
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long it is ended again at most, seconds or 90s, 5m."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    def look(server: Server) -> Prepared:
        senders = [each for each in server.walsenders() if params.slot in (None, each["slot"])]
        if not senders:
            raise InjectionError(f"nobody streams from {f'slot {params.slot}' if params.slot else 'this server'}")
        for each in senders:
            if each["state"] not in ("streaming", "catchup"):
                raise InjectionError(f"{each['key']}: its walsender is {each['state']}, not streaming")
            server.may_end_others(each["pid"])
        kept: list[JSON] = [{name: each[name] for name in ("key", "pid", "began", "state")} for each in senders]
        receipt: Receipt = {"fault": site.id, "senders": kept, "every_s": params.every}
        return Prepared(receipt, tuple(f"the walsender of {each['key']}" for each in senders), {"senders": kept})

    return await _pg.asked(site, look)


def _kept(receipt: Receipt) -> list[dict[str, Any]]:
    listed: Any = receipt["senders"]
    return list(listed)


async def _apply(site: Site, receipt: Receipt) -> None:
    def end(server: Server) -> None:
        for each in _kept(receipt):
            server.rows(_END, each["pid"], each["began"])

    async def ended() -> bool:
        return await _pg.asked(site, lambda server: not _left(server, receipt))

    await _pg.asked(site, end)
    if not await _pg.until(ended, END_S):
        raise InjectionError(f"a walsender did not end within {END_S:g} s")


def _left(server: Server, receipt: Receipt) -> list[int]:
    """Return the pids of the sessions that were there at the beginning and still are."""
    return [int(each["pid"]) for each in _kept(receipt) if server.rows(_THERE, each["pid"], each["began"])]


async def _drive(site: Site, receipt: Receipt) -> None:
    """End whoever came back, so often as asked for; it ends with the process that does it."""
    every_s = receipt["every_s"]
    keys = {each["key"] for each in _kept(receipt)}

    def end(server: Server) -> None:
        for each in server.walsenders():
            if each["key"] in keys:
                server.rows(_END, each["pid"], each["began"])

    while isinstance(every_s, int | float):
        await asyncio.sleep(every_s)
        await _pg.asked(site, end)


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The sessions that were there are there no more; who came back since is shown."""

    def look(server: Server) -> Probe:
        left = _left(server, receipt)
        _, shown = _pg.senders_back(receipt, server.walsenders())
        return Probe(not left, {"ended": len(_kept(receipt)) - len(left), "left": list(left), **shown})

    return await _pg.asked(site, look)


async def _look(site: Site, receipt: Receipt) -> tuple[bool, dict[str, JSON]]:
    return await _pg.asked(site, lambda server: _pg.senders_back(receipt, server.walsenders()))


async def _withdraw(site: Site, receipt: Receipt) -> None:
    """Wait for the consumers, the only ones who can undo this; `gone` tells what became of them."""

    async def back() -> bool:
        return (await _look(site, receipt))[0]

    await _pg.until(back)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """Everyone who streamed before streams again, from the same slot or by the same name."""
    return Probe(*await _look(site, receipt))


injector = Injector(
    summary="replication connections break: their walsenders are ended, once or over and over",
    params=Params,
    positional=("slot",),
    doors=(_pg.DOOR,),
    lease="none",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=None,
    duration_s=lambda params: params.duration if isinstance(params, Params) else None,
    drive=_drive,
)
