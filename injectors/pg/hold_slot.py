"""A replication slot that is taken: its consumer is told "slot is active", as after a crash that left a session behind.

The consumer's walsender is ended, and the slot is held by a replication connection of ours before the consumer is back.
Nothing is ever confirmed on it, so the consumer finds its place again, and misses nothing. The lease is the server's:
`wal_sender_timeout` of that connection, which every word of ours renews; a runner that dies, hangs or is cut off holds
the slot no longer than that.

A slot that nobody reads keeps the server's log on its disk. Where `max_slot_wal_keep_size` is unlimited the disk could
fill; where it is limited the slot would be invalidated, and the consumer would lose data for good. So the fault has a
limit of its own, `at_most`: it refuses to begin above it, or where the server's comes first, and lets go when it is
reached.

The door is the server itself, never a pooler: ``postgresql://user@host:port/database``, a password by reference
(``auth: {basic: {user: …, password: env:NAME}}``).
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Annotated, Any

import psycopg2
from psycopg2.extras import LogicalReplicationConnection
from pydantic import BeforeValidator, Field

from injectors import _pg
from injectors._pg import Server
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site
from sim.target import Duration, Model

#: How long the slot is fought for with a consumer that comes back at once, seconds.
WIN_S = 5.0
_AGAIN_S = 0.005
_UNITS = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}

_SLOT = """
SELECT s.slot_type, s.plugin, s.database, current_database()::text, s.wal_status, s.active_pid, s.temporary,
    (pg_current_wal_lsn() - s.restart_lsn)::bigint, coalesce(a.application_name, '')
FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = %s
"""
_SETTINGS = """
SELECT (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') * 1024 * 1024,
    (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
    (SELECT setting::bigint FROM pg_settings WHERE name = 'max_wal_senders')
        - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
    current_user::text, (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user)
"""
#: A step to where the slot stands already: it moves nothing, and it is refused while anybody has the slot.
_STEP = (
    "SELECT pg_replication_slot_advance(slot_name, confirmed_flush_lsn) FROM pg_replication_slots WHERE slot_name = %s"
)

HOLDS = _pg.Holds()


def _bytes(value: Any) -> Any:
    match = re.fullmatch(r"(\d+)\s*(B|kB|MB|GB)", value) if isinstance(value, str) else None
    return int(match[1]) * _UNITS[match[2]] if match is not None else value


class Params(Model):
    """Which slot, and how much of the server's log it may keep, and for how long at most."""

    slot: Annotated[str, Field(min_length=1)] = Field(description="The logical replication slot.")
    at_most: Annotated[int, BeforeValidator(_bytes), Field(ge=1 << 20)] = Field(
        default=256 << 20, description="How much log the held slot may keep on the server's disk: 256MB, 1GB."
    )
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long it is held at most, seconds or 90s, 5m."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    def look(server: Server) -> Prepared:
        if server.one("SELECT pg_is_in_recovery()")[0]:
            raise InjectionError("the server is a standby: slots are held at its primary")
        kept = _fit(server, params)
        limits = _room(server, params, kept)
        senders = [each for each in server.walsenders() if each["slot"] == params.slot]
        for each in senders:
            server.may_end_others(each["pid"])
        receipt: Receipt = {
            "fault": site.id,
            "slot": params.slot,
            "options": _options(server, params.slot),
            "senders": [{name: each[name] for name in ("key", "pid", "began", "state")} for each in senders],
            "at_most": params.at_most,
            "ttl_s": site.ttl_s,
        }
        return Prepared(receipt, (f"slot {params.slot}",), {"kept_bytes": kept, "limit_bytes": limits})

    return await _pg.asked(site, look)


def _fit(server: Server, params: Params) -> int:
    """Return how much log the slot keeps now. Raises `InjectionError` where it is none that can be held, or is idle."""
    found = server.rows(_SLOT, params.slot)
    if not found:
        known = ", ".join(name for (name,) in server.rows("SELECT slot_name FROM pg_replication_slots ORDER BY 1"))
        raise InjectionError(f"there is no slot {params.slot!r} (there are: {known or 'none'})")
    kind, _, database, here, status, pid, temporary, kept, application = found[0]
    if kind != "logical" or temporary:
        raise InjectionError(
            f"slot {params.slot} is {'temporary' if temporary else kind}: a lasting logical one can be held"
        )
    if database != here:
        raise InjectionError(f"slot {params.slot} is of database {database}, and doors.{_pg.DOOR} opens {here}")
    if status == "lost":
        raise InjectionError(f"slot {params.slot} has lost its log already")
    if application.startswith(_pg.PREFIX):
        raise InjectionError(f"slot {params.slot} is held already: by {application} (pid {pid})")
    if pid is None:
        raise InjectionError(f"nobody reads slot {params.slot}, so holding it would hit nobody")
    return int(kept)


def _room(server: Server, params: Params, kept: int) -> JSON:
    """Return the server's own limit in bytes, null: none. Raises `InjectionError` where there is no room to hold."""
    limit, segment, free, user, may = server.one(_SETTINGS)
    if not may:
        raise InjectionError(f"{user} may not read a slot: ALTER ROLE {user} REPLICATION")
    if free < 1:
        raise InjectionError("every walsender that max_wal_senders allows is taken: none is left to hold the slot")
    if kept >= params.at_most:
        raise InjectionError(f"slot {params.slot} keeps {kept} bytes already: at_most ({params.at_most}) is reached")
    # The server counts whole segments, and looks at checkpoints.
    if limit >= 0 and params.at_most + 2 * segment > limit:
        raise InjectionError(
            f"max_slot_wal_keep_size ({limit} bytes) would invalidate slot {params.slot} for good: "
            f"at_most must be {max(0, limit - 2 * segment)} or less"
        )
    return int(limit) if limit >= 0 else None


def _options(server: Server, slot: str) -> dict[str, JSON]:
    """Return what the slot's plugin must be told to begin; what it would send is never read."""
    plugin = server.one("SELECT plugin FROM pg_replication_slots WHERE slot_name = %s", slot)[0]
    if plugin != "pgoutput":
        return {}
    names = [name for (name,) in server.rows("SELECT quote_ident(pubname) FROM pg_publication ORDER BY 1")]
    if not names:
        raise InjectionError(f"slot {slot} is of pgoutput, and this database has no publication")
    return {"proto_version": "1", "publication_names": ",".join(names)}


async def _apply(site: Site, receipt: Receipt) -> None:
    held = HOLDS.fresh(site)

    def hold() -> None:
        silent_ms = str(max(1, round(float(str(receipt["ttl_s"])) * 1000)))
        stream = _pg.connect(
            site, "hold", LogicalReplicationConnection, wal_sender_timeout=silent_ms, statement_timeout="0"
        )
        held.take(stream)
        try:
            held.cursor = _won(site, receipt, stream)
        except psycopg2.Error as error:
            held.drop()
            raise InjectionError(f"slot {receipt['slot']} could not be held: {' '.join(str(error).split())}") from error

    await asyncio.to_thread(hold)


def _won(site: Site, receipt: Receipt, stream: Any) -> Any:
    """Take the slot from whoever has it: end its session, and be there first. Raises `psycopg2.Error`."""
    slot, deadline = str(receipt["slot"]), time.monotonic() + WIN_S
    ask, cursor = _pg.connect(site, "ask"), stream.cursor()
    try:
        server = Server(site, ask)
        while True:
            for (pid,) in server.rows("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", slot):
                server.rows("SELECT pg_terminate_backend(%s)", pid)
            try:
                cursor.start_replication(slot_name=slot, decode=False, options=receipt["options"])
                return cursor
            except psycopg2.errors.ObjectInUse:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_AGAIN_S)
    finally:
        ask.close()


async def _renew(site: Site, receipt: Receipt) -> None:
    """Say a word, which confirms nothing; let go where the held slot keeps too much."""
    HOLDS.open(site)
    held = HOLDS.get(site)
    assert held is not None

    def speak(server: Server) -> None:
        found, ours = server.rows(_SLOT, receipt["slot"]), server.ours()
        kept = int(found[0][7]) if found and found[0][5] in ours else None
        if kept is None:
            held.drop()
            raise InjectionError(f"slot {receipt['slot']} is held by us no more")
        if kept > int(str(receipt["at_most"])):
            held.drop()
            raise InjectionError(f"slot {receipt['slot']} keeps {kept} bytes, more than at_most: it was let go")
        held.cursor.send_feedback(force=True)

    await _pg.asked(site, speak)


def _bites(server: Server, receipt: Receipt) -> Probe:
    """Look who has the slot, and ask for it."""
    found = server.rows(_SLOT, receipt["slot"])
    ours = bool(found) and found[0][5] in server.ours()
    refused = ours and _refused(server, receipt)
    evidence: dict[str, JSON] = {
        "slot": receipt["slot"],
        "held": ours,
        "refused": refused,
        "kept_bytes": int(found[0][7]) if found and found[0][7] is not None else None,
    }
    return Probe(ours and refused, evidence)


def _refused(server: Server, receipt: Receipt) -> bool:
    try:
        server.rows(_STEP, receipt["slot"])
    except psycopg2.errors.ObjectInUse:
        return True
    return False


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The slot is in our hands by the server's word, and one who asks for it is told that it is active."""
    return await _pg.asked(site, lambda server: _bites(server, receipt))


async def _withdraw(site: Site, receipt: Receipt) -> None:
    """End the session at the server, from whatever process, and wait for the consumer to be back."""
    held = HOLDS.get(site)

    def end(server: Server) -> None:
        if held is not None:
            held.note(lambda: _bites(server, receipt))
        server.end_ours()

    async def back() -> bool:
        return (await _gone(site, receipt)).holds

    try:
        await _pg.asked(site, end)
    finally:
        if held is not None:
            await asyncio.to_thread(held.drop)
    await _pg.until(back)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """No session of ours is there, and the consumer streams from its slot again."""

    def look(server: Server) -> Probe:
        ours = server.ours()
        back, shown = _pg.senders_back(receipt, server.walsenders())
        return Probe(back and not ours, {"slot": receipt["slot"], "sessions": len(ours), **shown})

    return await _pg.asked(site, look)


async def _held(site: Site, receipt: Receipt) -> Probe:
    """The slot was in our hands when the withdrawal began."""
    return await HOLDS.held(site, receipt)


injector = Injector(
    summary="a replication slot is taken: its consumer is told that it is active",
    params=Params,
    positional=("slot",),
    doors=(_pg.DOOR,),
    lease="target",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=None,
    duration_s=lambda params: params.duration if isinstance(params, Params) else None,
    renew=_renew,
    held=_held,
)
