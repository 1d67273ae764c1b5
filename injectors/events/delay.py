"""An event that does not come: a market whose resolution started long ago and is not finished.

The data are moved, not the clock: the engine opens a market of the fault's own whose resolution_started carries a
stamp so many hours back, and holds its resolution_finished until the lease is over or the fault is deleted; then the
market is resolved. No other market is touched. What is proven, is proven from the event feed and from the age that the
engine itself computes by the stamp.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field

from injectors import _engine
from injectors._faults import Leased
from injectors._http import through
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Signal, Site
from sim.target import Model
from sim.wire import Client

_HOUR_S = 3600.0
_HOLD_S = 300.0
_FEED = "/v1/events"

FAULT = Leased(door="engine", point="events.delay", kind="hold", params=("event", "hours"))


class Params(Model):
    """`event` is the one that is held; `hours` how long it is overdue when the fault begins (a dose, not a hold)."""

    event: Literal["resolution_finished"] = Field(description="The type of the event that does not come.")
    hours: Annotated[float, Field(gt=0, le=240, allow_inf_nan=False)] = Field(
        description="How many hours ago the resolution started, by its stamp."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    market = f"sim-{site.id}"
    async with through(site, "engine") as engine:
        prior = await FAULT.stood(engine, site, f"on market {market}", lambda fault: fault.get("market") == market)
        await _engine.refuse_existing(engine, market)
    receipt = FAULT.receipt(site, market=market, event=params.event, hours=params.hours)
    return Prepared(receipt, (f"{params.event} of market {market}",), prior)


async def _events(engine: Client, receipt: Receipt) -> list[dict[str, JSON]]:
    """Return the events of the market, oldest first."""
    rows = await _engine.rows(engine, _FEED, str(receipt["market"]))
    return [row for row in rows if row.get("subject") == receipt["market"]]


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
        where = f"GET {engine.base_url}{_FEED}"
        events = await _events(engine, receipt)
        path = f"{_engine.market_path(str(receipt['market']))}/resolution"
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


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """The fault is not listed; its market was never there, or has got its event, once, and is resolved."""
    async with through(site, "engine") as engine:
        listed = await FAULT.holds(engine, receipt)
        status = await _engine.status(engine, str(receipt["market"]))
        came = sum(event.get("type") == receipt["event"] for event in await _events(engine, receipt))
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
    apply=FAULT.put,
    effective=_effective,
    withdraw=FAULT.delete,
    gone=_gone,
    signal=_signal,  # type: ignore[arg-type]
    renew=FAULT.put,
)
