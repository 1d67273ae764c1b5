"""An event that does not come: a market whose resolution started long ago and is not finished.

The data are moved, not the clock: the engine opens a market of the fault's own whose resolution_started carries a
stamp so many hours back, and holds its resolution_finished until the lease is over or the fault is deleted; then the
market is resolved. No other market is touched. What is proven, is proven from the event feed and from the age that the
engine itself computes by the stamp.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import Field

from injectors._http import objects, through
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Signal, Site
from sim.target import Model
from sim.wire import Client

_HOUR_S = 3600.0
_HOLD_S = 300.0
_PAGE, _PAGES = 500, 20


class Params(Model):
    """`event` is the one that is held; `hours` how long it is overdue when the fault begins (a dose, not a hold)."""

    event: Literal["resolution_finished"] = Field(description="The type of the event that does not come.")
    hours: Annotated[float, Field(gt=0, le=240, allow_inf_nan=False)] = Field(
        description="How many hours ago the resolution started, by its stamp."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    market = f"sim-{site.id}"
    async with through(site, "engine") as engine:
        identity = (await engine.ask("GET", "/identity")).json
        faults = await _faults(engine)
        for fault in faults:
            if fault.get("id") == site.id or fault.get("market") == market:
                raise InjectionError(f"{engine.base_url}: a fault is already on market {market}: {fault!r:.200}")
        if await _market(engine, market) is not None:
            raise InjectionError(f"{engine.base_url}: market {market} is already there; it must be the fault's own")
    receipt: Receipt = {
        "fault": site.id,
        "market": market,
        "event": params.event,
        "hours": params.hours,
        "run": site.run_id,
        "ttl_s": site.ttl_s,
    }
    return Prepared(receipt, (f"{params.event} of market {market}",), {"identity": identity, "faults": list(faults)})


async def _faults(engine: Client) -> list[dict[str, JSON]]:
    answer = await engine.ask("GET", "/faults", accept=(200, 404))
    if answer.status == 404:
        raise InjectionError(
            f"GET {engine.base_url}/faults: 404, the fault endpoint is off: start it with SIM_FAULTS=1"
        )
    return objects(answer.json, "faults", f"GET {engine.base_url}/faults")


async def _market(engine: Client, market: str) -> dict[str, JSON] | None:
    """Return the market as the engine shows it, null where there is none."""
    answer = await engine.ask("GET", f"/v1/markets/{quote(market, safe='')}", accept=(200, 404))
    if answer.status == 404:
        return None
    if not isinstance(answer.json, dict):
        raise InjectionError(f"GET {engine.base_url}/v1/markets/{market}: expected an object, got {answer.json!r:.100}")
    return answer.json


def _path(receipt: Receipt) -> str:
    return f"/faults/{quote(str(receipt['fault']), safe='')}"


async def _put(site: Site, receipt: Receipt) -> None:
    body: JSON = {
        "point": "events.delay",
        "kind": "hold",
        "params": {"event": receipt["event"], "hours": receipt["hours"]},
        "ttl_s": receipt["ttl_s"],
        "run": receipt["run"],
    }
    async with through(site, "engine") as engine:
        await engine.ask("PUT", _path(receipt), json=body, accept=(200, 201))


async def _events(engine: Client, receipt: Receipt) -> list[dict[str, JSON]]:
    """Return the events of the market, oldest first."""
    after, found = 0, []
    where = f"GET {engine.base_url}/v1/events"
    for _ in range(_PAGES):
        params = {"market": str(receipt["market"]), "after": str(after), "limit": str(_PAGE)}
        page = (await engine.ask("GET", "/v1/events", params=params)).json
        rows = objects(page, "rows", where)
        found += [row for row in rows if row.get("subject") == receipt["market"]]
        following = page.get("next") if isinstance(page, dict) else None
        if not rows or not isinstance(following, int) or following <= after:
            break
        after = following
    return found


def _stamped(event: dict[str, JSON], name: str, where: str) -> datetime:
    try:
        stamp = datetime.fromisoformat(str(event[name]))
        return stamp if stamp.tzinfo is not None else stamp.replace(tzinfo=UTC)
    except (KeyError, ValueError) as error:
        raise InjectionError(f"{where}: an event without a usable {name}: {event!r:.200}") from error


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The start was stamped so many hours before it was recorded, the engine counts them, and no finish has come."""
    hours = float(str(receipt["hours"]))
    async with through(site, "engine") as engine:
        where = f"GET {engine.base_url}/v1/events"
        events = await _events(engine, receipt)
        path = f"/v1/markets/{quote(str(receipt['market']), safe='')}/resolution"
        answer = await engine.ask("GET", path, accept=(200, 404))
    started = [event for event in events if event.get("type") == "resolution_started"]
    held = sum(event.get("type") == receipt["event"] for event in events)
    stamped_back = 0.0
    if started:
        back = _stamped(started[0], "recorded_at", where) - _stamped(started[0], "at", where)
        stamped_back = back.total_seconds() / _HOUR_S
    age = answer.json.get("age_hours") if answer.status == 200 and isinstance(answer.json, dict) else None
    counted = float(age) if isinstance(age, int | float) and not isinstance(age, bool) else 0.0
    # A millisecond of slack: stamps are written with microseconds, the hours are a product of floats.
    least = hours - 1e-3 / _HOUR_S
    evidence: dict[str, JSON] = {
        "market": receipt["market"],
        "hours": hours,
        "started_hours_before_recorded": round(stamped_back, 6),
        "age_hours_by_the_engine": None if age is None else round(counted, 6),
        f"{receipt['event']}_events": held,
    }
    return Probe(len(started) == 1 and held == 0 and stamped_back >= least and counted >= least, evidence)


async def _withdraw(site: Site, receipt: Receipt) -> None:
    async with through(site, "engine") as engine:
        await engine.ask("DELETE", _path(receipt), accept=(200, 204, 404))


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """The fault is not listed; its market was never there, or has got its event, once, and is resolved."""
    async with through(site, "engine") as engine:
        listed = any(fault.get("id") == receipt["fault"] for fault in await _faults(engine))
        market = await _market(engine, str(receipt["market"]))
        came = sum(event.get("type") == receipt["event"] for event in await _events(engine, receipt))
    status: JSON = "absent" if market is None else market.get("status")
    holds = not listed and (status, came) in (("absent", 0), ("resolved", 1))
    return Probe(holds, {"fault_listed": listed, "market_status": status, f"{receipt['event']}_events": came})


def _signal(params: Params) -> tuple[Signal, ...]:
    """Return the age of the one market: `hours` at first, and growing."""
    points = tuple((float(second), params.hours + second / _HOUR_S) for second in range(0, int(_HOLD_S) + 1, 15))
    return (Signal("res_sla_hours", {"market": "sim-virtual"}, points),)


injector = Injector(
    summary="a market of its own whose resolution is overdue, because its resolution_finished does not come",
    params=Params,
    positional=("event", "hours"),
    doors=("engine",),
    lease="target",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_put,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=_signal,  # type: ignore[arg-type]
    renew=_put,
)
