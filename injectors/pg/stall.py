"""A replication connection that stands still both ways, its two ends open: nothing is refused, nothing is closed.

As after a firewall that forgot the connection, or a machine that froze. Both directions of a link at a Toxiproxy server
swallow what they are given (`net.blackhole`, twice); what is ours here is the proof at PostgreSQL: that the server has
heard nothing of the consumer for longer than it ever is silent, or has dropped it (`wal_sender_timeout`); and, when the
link is whole again, that the consumer is back and has confirmed all that was written until then. So a stall after which
something is missing is never taken for gone.

The door is the server itself, never a pooler: ``postgresql://user@host:port/database``, a password by reference
(``auth: {basic: {user: …, password: env:NAME}}``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from injectors import _pg
from injectors._pg import Server
from injectors._toxiproxy_server import DOOR as PROXY
from injectors.net.blackhole import injector as blackhole
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site
from sim.target import Duration, Model

STREAMS = ("upstream", "downstream")
#: How long one withdrawal waits for the consumer, seconds: the way out of the link may have taken its time.
BACK_S = 4.0

_HEARD = """
SELECT s.wal_status, s.active_pid,
    extract(epoch FROM clock_timestamp() - coalesce(r.reply_time, r.backend_start))::float8,
    (pg_current_wal_lsn() - '0/0')::bigint, (s.confirmed_flush_lsn - '0/0')::bigint, s.slot_type
FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE s.slot_name = %s
"""
_NAMES = ("status", "pid", "silent_s", "written", "confirmed", "kind")

#: How far the log was when the fault was withdrawn, by injection: what the consumer must have confirmed.
_UNTIL: dict[str, int] = {}


class Params(Model):
    """Whose connection, and which link it runs through."""

    slot: Annotated[str, Field(min_length=1)] = Field(description="The logical replication slot of the consumer.")
    link: Annotated[str, Field(min_length=1)] = Field(
        description="The link between consumer and server: the name of a proxy at the server behind the door `proxy`."
    )
    silent: Annotated[Duration, Field(gt=0, le=300)] = Field(
        default=5.0, description="Silence that proves the effect: longer than the consumer ever says nothing."
    )
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long it stands still at most, seconds or 90s, 5m."
    )


def _heard(server: Server, slot: JSON) -> dict[str, Any]:
    found = server.rows(_HEARD, slot)
    if not found:
        raise InjectionError(f"there is no slot {slot!r}")
    return dict(zip(_NAMES, found[0], strict=True))


def _part(site: Site, stream: str) -> Site:
    """Return the site of one direction: the link's door only, and a name of its own there."""
    return replace(site, id=f"{site.id}-{stream}", doors={PROXY: site.doors[PROXY]} if PROXY in site.doors else {})


def _parts(site: Site, receipt: Receipt) -> list[tuple[Site, Receipt]]:
    parts: Any = receipt["parts"]
    return [(_part(site, stream), parts[stream]) for stream in STREAMS]


async def _prepare(site: Site, params: Params) -> Prepared:
    _UNTIL.pop(site.id, None)

    def look(server: Server) -> tuple[dict[str, Any], list[JSON]]:
        now = _heard(server, params.slot)
        senders = [each for each in server.walsenders() if each["slot"] == params.slot]
        if now["kind"] != "logical":
            raise InjectionError(f"slot {params.slot} is {now['kind']}: nobody confirms on it what was applied")
        if not senders:
            raise InjectionError(f"nobody streams from slot {params.slot}")
        if now["silent_s"] >= params.silent:
            raise InjectionError(
                f"the consumer of slot {params.slot} has said nothing for {now['silent_s']:.1f} s: "
                f"silent ({params.silent:g} s) must be longer than it ever is"
            )
        return now, [{name: each[name] for name in ("key", "pid", "began", "state")} for each in senders]

    now, senders = await _pg.asked(site, look)
    parts: dict[str, JSON] = {}
    prior: dict[str, JSON] = {"slot": now}
    for stream in STREAMS:
        given = blackhole.params.model_validate({"link": params.link, "speaks": "postgres", "stream": stream})
        prepared = await blackhole.prepare(_part(site, stream), given)
        parts[stream], prior[stream] = prepared.receipt, prepared.prior
    receipt: Receipt = {
        "fault": site.id, "slot": params.slot, "silent_s": params.silent, "senders": senders, "parts": parts,
    }  # fmt: skip
    return Prepared(receipt, (f"slot {params.slot} through link {params.link}",), prior)


async def _apply(site: Site, receipt: Receipt) -> None:
    for part, own in _parts(site, receipt):
        await blackhole.apply(part, own)


async def _renew(site: Site, receipt: Receipt) -> None:
    assert blackhole.renew is not None
    for part, own in _parts(site, receipt):
        await blackhole.renew(part, own)


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """Both directions swallow, and PostgreSQL has heard nothing for too long, or has dropped the connection."""
    parts = [await blackhole.effective(part, own) for part, own in _parts(site, receipt)]
    now = await _pg.asked(site, lambda server: _heard(server, receipt["slot"]))
    listed: Any = receipt["senders"]
    dropped = now["pid"] not in [each["pid"] for each in listed]
    silent = dropped or now["silent_s"] >= float(str(receipt["silent_s"]))
    evidence: dict[str, JSON] = {
        "link": [each.holds for each in parts],
        "dropped": dropped,
        **{name: now[name] for name in ("silent_s", "written", "confirmed")},
    }
    return Probe(silent and all(each.holds for each in parts), evidence)


async def _withdraw(site: Site, receipt: Receipt) -> None:
    """Make the link whole, both ways, whatever one of them says, and wait for the consumer to catch up."""
    wrong = []
    for part, own in reversed(_parts(site, receipt)):
        try:
            await blackhole.withdraw(part, own)
        except InjectionError as error:
            wrong.append(str(error))
    if wrong:
        raise InjectionError("; ".join(wrong))

    async def back() -> bool:
        return (await _streams(site, receipt))[0]

    await _pg.until(back, BACK_S)


async def _streams(site: Site, receipt: Receipt) -> tuple[bool, dict[str, JSON]]:
    """Say whether the consumer is back and has confirmed what was written until the link was whole."""

    def look(server: Server) -> tuple[bool, dict[str, JSON]]:
        now = _heard(server, receipt["slot"])
        back, shown = _pg.senders_back(
            receipt, [each for each in server.walsenders() if each["slot"] == receipt["slot"]]
        )
        until = _UNTIL.setdefault(site.id, int(now["written"]))
        caught_up = now["confirmed"] is not None and int(now["confirmed"]) >= until
        own: dict[str, JSON] = {"status": now["status"], "confirmed": now["confirmed"], "must_confirm": until}
        return back and caught_up and now["status"] != "lost", {**shown, **own}

    return await _pg.asked(site, look)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """The link is whole both ways, the consumer streams, and has confirmed all that was written until then."""
    parts = [await blackhole.gone(part, own) for part, own in _parts(site, receipt)]
    whole = all(each.holds for each in parts)
    if not whole:
        return Probe(False, {"link": [dict(each.evidence) for each in parts]})
    back, shown = await _streams(site, receipt)
    return Probe(back, {"link": "whole", **shown})


injector = Injector(
    summary="a replication connection stands still both ways, and is not closed",
    params=Params,
    positional=("slot", "link"),
    doors=(_pg.DOOR, PROXY),
    lease="none",  # as any fault of a link: it is renewed where the server can hold a lease
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=None,
    duration_s=lambda params: params.duration if isinstance(params, Params) else None,
    renew=_renew,
)
