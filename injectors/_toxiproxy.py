"""Faults of a link that runs through a Toxiproxy server: `sim proxy`, or the real one.

A kind of fault says what toxic it is (or that the link is cut), and what one look at the link then shows; the rest is
the same for all: prepared only on a link that stands, carries connections and has no toxic; applied once; proven by a
connection of our own (or by the server's live counters, or, where neither can show it, by the state read back: the
evidence says which); withdrawn by the ladder of `_toxiproxy_stop`; gone when the server says so *and* a fresh
connection behaves as before.

`toxiproxy-python` serves to apply on a server that keeps no lease. It knows no time-outs and keeps its address in a
class, so it is used in a thread of its own, one at a time, after the server has shown that it is well; what undoes
never goes through it.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from injectors import _toxiproxy_look as looking
from injectors import _toxiproxy_reaper as reaper
from injectors import _toxiproxy_server as server
from injectors import _toxiproxy_stop as stop
from injectors._toxiproxy_server import DOOR, Kind, Link, ask, path_of
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site
from sim.target import Duration, Model

#: The longest dose of a delay: an hour, as for any fault that is a delay.
Dose = Annotated[Duration, Field(gt=0, le=3600)]
Wait = Annotated[Duration, Field(ge=0, le=3600)]
_APPLY_S = 8.0
#: Looks that are taken at once where a toxic hits only some connections, and tries where one look may be unlucky.
_LOOKS = 5
#: How long looks that are not yet as before the fault are repeated within one read-back, seconds.
_AGAIN_S = 2.0


class OnLink(Model):
    """What every fault of a link is told."""

    link: str = Field(min_length=1, description="The link: the name of a proxy at the server behind the door `proxy`.")
    speaks: looking.Speaks = Field(
        default="tcp",
        description="What the link carries, for the probe: tcp is only opened, http and postgres are asked a question.",
    )
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long the fault is held, seconds or 90s, 10m."
    )


class Toxified(OnLink):
    """What every fault that is a toxic is told beside that."""

    stream: Literal["upstream", "downstream"] = Field(
        default="downstream", description="Which way: upstream is from client to server, downstream back."
    )
    toxicity: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="The chance that a connection is hit at all."
    )


@dataclass(frozen=True, slots=True)
class Toxic:
    """A toxic: its type and attributes (integers, as the server takes them), and what a look then shows (data)."""

    type: str
    attributes: dict[str, int]
    expect: dict[str, JSON] = field(default_factory=dict)


#: What a look shows at a link that is cut.
REFUSED: dict[str, JSON] = {"what": "refused"}


def milliseconds(value: float) -> int:
    """Return a length of time as a toxic takes it, at least one."""
    return max(1, round(value * 1000)) if value else 0


def of(
    summary: str,
    params: type[OnLink],
    toxic: Callable[[Any], Toxic] | None,
    positional: tuple[str, ...],
    drive: Callable[[Site, Receipt], Awaitable[None]] | None = None,
    own: Callable[[Any], Receipt] = lambda _: {},
    held: Callable[[Site, Receipt], Awaitable[Probe]] | None = None,
) -> Injector:
    """Return a kind of fault of a link: `toxic` makes the toxic from its arguments, null cuts the link.

    `own` is what else the receipt shall hold; `drive` works with it while the fault is in, and `held` then says
    whether it did to the end.
    """

    async def prepare(site: Site, given: BaseModel) -> Prepared:
        assert isinstance(given, OnLink)
        return await _prepare(
            site, given, toxic(given) if toxic is not None else None, own(given), driven=drive is not None
        )

    return Injector(
        summary=summary,
        params=params,
        positional=positional,
        doors=(DOOR,),
        doors_if=(reaper.DOOR,),
        lease="none",  # a real Toxiproxy cannot; where the server can, the receipt says `leased`, and it is renewed
        prepare=prepare,
        apply=apply,
        effective=_effective,
        withdraw=_withdraw,
        gone=_gone,
        signal=None,
        duration_s=lambda given: given.duration if isinstance(given, OnLink) else None,
        renew=_renew,
        drive=drive,
        held=held or _held,
    )


async def _prepare(site: Site, given: OnLink, toxic: Toxic | None, own: Receipt, *, driven: bool) -> Prepared:
    stop.forget(site)
    kind = await server.kind(site)
    there = await server.links(site)
    link = await server.link(site, given.link)
    where = f"{server.address(site)}: link {link.name}"
    if not link.enabled:
        raise InjectionError(f"{where} is disabled already; the fault must be the only one there")
    if link.toxics:
        raise InjectionError(f"{where} has a toxic already: {dict(link.toxics[0])!r:.200}")
    at = server.reached_at(site, link.listen)
    before = await _usual(at, given.speaks)
    reached = before["end"] not in ("refused", "unanswered")
    if not reached and link.stats is None:
        raise InjectionError(
            f"{where} cannot be reached from here at {at[0]}:{at[1]} ({before['end']}), and this server counts nothing"
            " while connections are open: no effect could be proven (publish the link's port on loopback)"
        )
    if reached and not looking.carries(before):
        raise InjectionError(f"{where} carries no connection: {before['end']} at once; is its upstream there?")
    receipt: Receipt = {
        "fault": site.id,
        "run": site.run_id,
        "link": link.name,
        "toxic": None if toxic is None else _body(site, given, toxic),
        "expect": REFUSED if toxic is None else toxic.expect,
        "speaks": given.speaks,
        "at": [at[0], at[1]] if reached else None,
        "before": before,
        "server": kind.name,
        "leased": kind.leases,
        "ttl_s": site.ttl_s,
        "links": [each.form for each in there.values()],
        "owned": await asyncio.to_thread(stop.owned, server.address(site)) is not None,
        "driven": driven,
        **own,
    }
    return Prepared(receipt, (f"{link.name} ({link.listen} to {link.upstream})",), {"link": link.form, "look": before})


def _body(site: Site, given: OnLink, toxic: Toxic) -> dict[str, JSON]:
    assert isinstance(given, Toxified)
    return {
        "name": site.id,
        "type": toxic.type,
        "stream": given.stream,
        "toxicity": given.toxicity,
        "attributes": dict(toxic.attributes),
    }


async def _usual(at: tuple[str, int], speaks: looking.Speaks) -> dict[str, JSON]:
    """Return the quickest of three looks (one where nothing is asked: it has no time)."""
    seen = [await looking.look(at, speaks) for _ in range(1 if speaks == "tcp" else 3)]
    return min(seen, key=lambda each: float(str(each["first_byte_ms"] or "inf")))


# -- apply and renew -------------------------------------------------------------------------------------------------


async def apply(site: Site, receipt: Receipt) -> None:
    """Add the toxic, or cut the link; once. Raises `InjectionError`."""
    await reaper.beat(site)
    link, toxic = str(receipt["link"]), receipt["toxic"]
    door = urlsplit(server.address(site))
    plain = door.scheme == "http" and not door.path.strip("/") and site.doors[DOOR].auth is None
    if not receipt["leased"] and plain and (host := door.hostname):
        await server.links(site, 1.0)  # a stuck server would hold the client, which knows no time-out
        return await _by_client(host, door.port or 80, link, toxic)
    lease: dict[str, JSON] = {"ttl_s": receipt["ttl_s"]} if receipt["leased"] else {}
    if isinstance(toxic, dict):
        await ask(site, "POST", path_of(link, "toxics"), json={**toxic, **lease}, accept=(200,))
    else:
        await ask(site, "PATCH", path_of(link), json={"enabled": False, **lease}, accept=(200,))
    return None


async def _renew(site: Site, receipt: Receipt) -> None:
    """Renew the lease, where the server holds one, and the reaper's. Raises `InjectionError`, also when it has run out.

    It asks for the lease alone, so that it cannot bring the fault in where it is out: for good, or, if it is driven,
    just now (then there is no lease to renew, and that is well).
    """
    await reaper.beat(site)
    if not receipt["leased"]:
        return
    parts = () if receipt["toxic"] is None else ("toxics", server.own_name(receipt))
    accept = (200, 400) if receipt["driven"] else (200,)
    await ask(site, "PATCH", path_of(str(receipt["link"]), *parts), json={"ttl_s": receipt["ttl_s"]}, accept=accept)


async def _withdraw(site: Site, receipt: Receipt) -> None:
    """Take the fault away, and then the reaper's watch over it: while it stands the reaper may have to do it."""
    await stop.withdraw(site, receipt)
    await reaper.end(site)


async def _held(site: Site, _: Receipt) -> Probe:
    """It stood, as it was asked for, until this process began to withdraw it."""
    seen = stop.found(site)
    if seen is None:
        return Probe(False, {"reason": "its server did not say how it stood when it was withdrawn"})
    return Probe(seen["stands"] is True, seen)


_one_at_a_time = threading.Lock()


async def _by_client(host: str, port: int, link: str, toxic: JSON) -> None:
    """Apply through `toxiproxy-python`, in a thread that nobody waits for longer than the call may take."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()

    def tell(trouble: str) -> None:
        if not done.done():
            done.set_result(trouble)

    def work() -> None:
        try:
            _apply_by_client(host, port, link, toxic)
            trouble = ""
        except Exception as error:  # noqa: BLE001 - the client raises what its parts raise; it is told as ours
            trouble = f"{type(error).__name__}: {error!s:.200}"
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, trouble)

    threading.Thread(target=work, name="toxiproxy", daemon=True).start()
    try:
        async with asyncio.timeout(_APPLY_S):
            trouble = await done
    except TimeoutError as error:
        raise InjectionError(f"http://{host}:{port}: link {link}: no answer within {_APPLY_S:g} s") from error
    if trouble:
        raise InjectionError(f"http://{host}:{port}: link {link}: {trouble}")


def _apply_by_client(host: str, port: int, link: str, toxic: JSON) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client's own old parts
        from toxiproxy.api import APIConsumer
        from toxiproxy.server import Toxiproxy
    if not _one_at_a_time.acquire(timeout=_APPLY_S / 2):
        raise InjectionError("another use of the client has not ended")
    try:
        APIConsumer.host, APIConsumer.port = host, port
        proxy = Toxiproxy().get_proxy(link)
        if proxy is None:
            raise InjectionError("it is not there any more")
        if isinstance(toxic, dict):
            proxy.add_toxic(**toxic)
        else:
            proxy.disable()
    finally:
        _one_at_a_time.release()


# -- effective and gone ----------------------------------------------------------------------------------------------


async def _looks(receipt: Receipt, count: int, at: Any) -> list[dict[str, JSON]]:
    if at is None:
        return []
    expect: Any = receipt["expect"]
    before: Any = receipt["before"]
    wait_s, speaks = looking.wait_s(expect, before), str(receipt["speaks"])
    return list(
        await asyncio.gather(*(looking.look((at[0], at[1]), speaks, wait_s) for _ in range(count)))  # type: ignore[arg-type]
    )


def _always(receipt: Receipt) -> bool:
    toxic: Any = receipt["toxic"]
    return toxic is None or float(toxic["toxicity"]) >= 1


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The server's state, and what a connection through the link shows of it (else its counters, else the state)."""
    expect: Any = receipt["expect"]
    before: Any = receipt["before"]
    seen = await _looks(receipt, 1 if _always(receipt) else _LOOKS, receipt["at"])
    link = await server.link(site, str(receipt["link"]))
    stands = server.stands(receipt, link)
    shown = [looking.bites(expect, each, before) for each in seen]
    evidence: dict[str, JSON] = {"server": receipt["server"], "in_state": stands, "before": before, "looks": [*seen]}
    impacted = _impacted(receipt, link)
    if link.stats is not None:
        evidence |= {"impacted": impacted, "lateness_ms": link.stats.get("lateness_ms")}
    if any(each is not None for each in shown):
        evidence["proven_by"] = "a connection through the link"
        return Probe(stands and any(shown), evidence)
    if link.stats is not None and receipt["toxic"] is not None:
        evidence["proven_by"] = "the server's count of connections that the toxic touched"
        return Probe(stands and impacted > 0, evidence)
    evidence["proven_by"] = "the state as read back, and that the link opens: nothing on it shows more from here"
    return Probe(stands and all(looking.carries(each) for each in seen), evidence)


def _impacted(receipt: Receipt, link: Link) -> int:
    counts = (link.stats or {}).get("impacted")
    count = counts.get(server.own_name(receipt)) if isinstance(counts, dict) else None
    return count if isinstance(count, int) else 0


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """The server lists the link as it was, without the fault, and a fresh connection behaves as before."""
    expect: Any = receipt["expect"]
    before: Any = receipt["before"]
    there = await server.links(site)
    link = there.get(str(receipt["link"]))
    evidence: dict[str, JSON] = {"server": receipt["server"], "did": stop.did(site), "before": before}
    if link is None:
        return Probe(False, evidence | {"reason": "the link is not there"})
    listed = receipt["toxic"] is not None and link.toxic(server.own_name(receipt)) is not None
    others = [each for each in link.toxics if each.get("name") != server.own_name(receipt)]
    evidence |= {"toxic_listed": listed, "enabled": link.enabled}
    if listed or not link.enabled:
        return Probe(False, evidence)
    if others:
        # Not ours to judge what they do to a connection; whoever brought them looks when they are gone.
        return Probe(True, evidence | {"looked": "not taken: another fault is on the link"})
    if receipt["at"] is None:
        return Probe(True, evidence | {"looked": "not taken: the link is not reached from here"})
    at = server.reached_at(site, link.listen)  # somebody may have moved it: where it was, nobody listens any more
    if list(at) != receipt["at"]:
        evidence |= {"moved": f"{link.listen} to {link.upstream}"}

    def well(look: dict[str, JSON]) -> bool:
        return looking.as_before(look, before) and looking.bites(expect, look, before) is not True

    if not _always(receipt):
        seen = await _looks(receipt, _LOOKS, at)
        return Probe(all(well(each) for each in seen), evidence | {"looks": [*seen]})
    # A toxic that hits every connection leaves none well; a busy machine now and then one: it is looked at again.
    seen, until = await _looks(receipt, 1, at), asyncio.get_running_loop().time() + _AGAIN_S
    while not well(seen[-1]) and len(seen) < _LOOKS and asyncio.get_running_loop().time() < until:
        seen += await _looks(receipt, 1, at)
    return Probe(well(seen[-1]), evidence | {"looks": [*seen]})


__all__ = ["REFUSED", "Dose", "Kind", "OnLink", "Toxic", "Toxified", "Wait", "apply", "milliseconds", "of"]
