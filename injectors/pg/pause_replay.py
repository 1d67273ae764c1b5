"""A standby that stands still: it goes on receiving the log, and replays none of it, so what is read from it gets old.

The server holds no lease on a pause: it lasts until somebody resumes, or the standby is restarted or promoted, and so
it is undone by the run, its watchdog, or `sim recover`. What it received meanwhile waits on its disk.

The door is the server itself, never a pooler: ``postgresql://user@host:port/database``, a password by reference
(``auth: {basic: {user: …, password: env:NAME}}``).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import psycopg2
from pydantic import Field

from injectors import _pg
from injectors._pg import Server
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site
from sim.target import Duration, Model

#: The replay stops between two records; how long that may take, seconds.
PAUSED_S = 5.0
#: Between two looks at a position, to see whether it moves, seconds.
LOOK_S = 0.1

_STATE = """
SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END,
    pg_last_wal_receive_lsn()::text, pg_last_wal_replay_lsn()::text,
    (pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn())::bigint,
    (SELECT status FROM pg_stat_wal_receiver), (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint
"""
_MAY = "SELECT current_user::text, has_function_privilege('pg_wal_replay_pause()', 'EXECUTE')"


class Params(Model):
    """For how long at most."""

    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long the replay is paused at most, seconds or 90s, 5m."
    )


def _state(server: Server) -> dict[str, Any]:
    names = ("standby", "state", "received", "replayed", "waiting_bytes", "receiver", "began")
    return dict(zip(names, server.one(_STATE), strict=True))


async def _prepare(site: Site, _: Params) -> Prepared:
    def look(server: Server) -> Prepared:
        if int(server.one("SHOW server_version_num")[0]) < 140000:
            raise InjectionError("PostgreSQL 14 or newer is needed: an older one does not say whether it has paused")
        state = _state(server)
        if not state["standby"]:
            raise InjectionError("the server is not in recovery: only a standby replays")
        if state["state"] != "not paused":
            raise InjectionError(f"its replay is {state['state']} already, by somebody else")
        user, may = server.one(_MAY)
        if not may:
            raise InjectionError(
                f"{user} may not pause it: "
                f"GRANT EXECUTE ON FUNCTION pg_wal_replay_pause(), pg_wal_replay_resume() TO {user}"
            )
        return Prepared({"fault": site.id, "began": state["began"]}, ("the replay of the standby",), state)

    return await _pg.asked(site, look)


async def _apply(site: Site, _: Receipt) -> None:
    async def paused() -> bool:
        return bool((await _pg.asked(site, _state))["state"] == "paused")

    await _pg.asked(site, lambda server: server.rows("SELECT pg_wal_replay_pause()"))
    if not await _pg.until(paused, PAUSED_S):
        raise InjectionError(f"the replay was not paused within {PAUSED_S:g} s")


async def _effective(site: Site, _: Receipt) -> Probe:
    """The server says that it is paused, and what it received waits, and goes on waiting.

    Where nothing comes from a primary there is nothing to wait for: that it is paused is all that can be seen.
    """
    first, second = await _twice(site)
    still = first["replayed"] == second["replayed"]
    waits = second["receiver"] is None or (second["waiting_bytes"] or 0) > 0
    return Probe(second["state"] == "paused" and still and waits, {**second, "still": still})


async def _twice(site: Site) -> tuple[dict[str, Any], dict[str, Any]]:
    first = await _pg.asked(site, _state)
    await asyncio.sleep(LOOK_S)
    return first, await _pg.asked(site, _state)


def _another(state: dict[str, Any], receipt: Receipt) -> bool:
    """Whether the server that answers was started since: our pause is none of it, be it the same one or another."""
    return "began" in receipt and state["began"] != receipt["began"]


async def _withdraw(site: Site, receipt: Receipt) -> None:
    """Resume; a server that was promoted meanwhile replays nothing, and has nothing to resume.

    Nor has one that was started since: if it is paused, then by somebody else.
    """

    def resume(server: Server) -> None:
        try:
            state = _state(server)
            if state["standby"] and not _another(state, receipt):
                server.rows("SELECT pg_wal_replay_resume()")
        except psycopg2.errors.ObjectNotInPrerequisiteState:  # promoted between the two
            if _state(server)["standby"]:
                raise

    await _pg.asked(site, resume)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """It is not paused, and what waited is replayed, or is being replayed.

    A restart ends the pause. One that was started since and is no standby was none of ours: it took over the address,
    and the standby that we paused may stand still elsewhere.
    """
    first, second = await _twice(site)
    if _another(second, receipt):
        started: dict[str, JSON] = {**second, "started_since": True}
        return Probe(bool(second["standby"]), started)
    moves = first["replayed"] != second["replayed"]
    over = not second["standby"] or second["state"] == "not paused"
    evidence: dict[str, JSON] = {**second, "moves": moves}
    return Probe(over and (not second["standby"] or moves or not second["waiting_bytes"]), evidence)


injector = Injector(
    summary="a standby replays nothing: it receives the log, and what is read from it gets old",
    params=Params,
    positional=(),
    doors=(_pg.DOOR,),
    lease="none",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=None,
    duration_s=lambda params: params.duration if isinstance(params, Params) else None,
)
