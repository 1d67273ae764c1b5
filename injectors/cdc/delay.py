"""Late data: each change comes to the warehouse so long after it was committed, none is lost, none comes twice.

One leased fault is a delay line in the CDC consumer: every commit is applied at its commit time plus the delay, and
PostgreSQL is told the truth meanwhile, that nothing newer was applied. Never a stall of the connection, which would
kill it. The size is proven by three witnesses that are measured apart from each other: the lag of the events that were
applied, the age of the newest commit in the warehouse, and what PostgreSQL says of its replication client.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from injectors._faults import Leased
from injectors._http import through
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Signal, Site
from sim.target import Duration, Model
from sim.wire import Client

FAULT = Leased(door="cdc", point="cdc.apply", kind="delay", params=("delay_s",))

#: How far a witness may be from the dose, seconds; PostgreSQL's own is as old as the consumer's last feedback (1 s).
#: Never more than half the dose: a small one would be there already at rest.
TOLERANCE_S = 3.0
WITNESSES = ("event_lag_s", "freshness_s", "replay_lag_s")
#: The lag at which the backlog counts as applied.
CAUGHT_UP_S = 5.0
_LEAST_SAMPLES = 2
_HOLD_S = 300.0
_TABLES = ("mbp_markets", "mbp_quotes", "mbp_resolutions", "mbp_abuse_events")


class Params(Model):
    """`p95` is the lag to reach; since every change is held equally long it is the lag of all of them."""

    p95: Annotated[Duration, Field(gt=0, le=3600)] = Field(
        description="How long after its commit each change is applied: +180s, 5m."
    )
    window: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long the fault is held at most, seconds or 90s, 10m."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    async with through(site, "cdc") as cdc:
        prior = await FAULT.stood(cdc, site, "there", lambda _: True)
        lag = await _lag(cdc)
        if lag.get("streaming") is not True:
            raise InjectionError(f"{cdc.base_url}: the consumer is not streaming, so nothing could be delayed")
    return Prepared(FAULT.receipt(site, delay_s=params.p95), ("the CDC consumer",), prior | {"lag": lag})


async def _lag(cdc: Client) -> dict[str, JSON]:
    found = (await cdc.ask("GET", "/lag")).json
    if not isinstance(found, dict):
        raise InjectionError(f"GET {cdc.base_url}/lag: expected an object, got {found!r:.100}")
    return found


def _number(value: JSON) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _tolerance(dose: float) -> float:
    return min(TOLERANCE_S, dose / 2)


def _agrees(seen: JSON, dose: float) -> bool:
    """Say whether a witness has seen the dose: the p95 of its last seconds, and its last value, from enough samples."""
    if not isinstance(seen, dict) or (_number(seen.get("count")) or 0) < _LEAST_SAMPLES:
        return False
    values = (_number(seen.get("p95")), _number(seen.get("last")))
    return all(value is not None and abs(value - dose) <= _tolerance(dose) for value in values)


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """Three witnesses, measured apart from each other, agree on the dose: event lag, freshness, PostgreSQL's own."""
    dose = _number(receipt["delay_s"]) or 0.0
    async with through(site, "cdc") as cdc:
        lag = await _lag(cdc)
    agree = [name for name in WITNESSES if _agrees(lag.get(name), dose)]
    evidence: dict[str, JSON] = {
        "dose_s": dose,
        "tolerance_s": _tolerance(dose),
        "agree": list(agree),
        **{name: lag.get(name) for name in ("window_s", *WITNESSES, "slot_active", "streaming", "queued")},
    }
    return Probe(len(agree) == len(WITNESSES), evidence)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """The fault is not listed, and what it held was applied: the newest commit in the warehouse is a young one."""
    async with through(site, "cdc") as cdc:
        listed = await FAULT.holds(cdc, receipt)
        lag = await _lag(cdc)
    freshness = _number(lag.get("freshness_now_s"))
    holds = not listed and freshness is not None and freshness <= CAUGHT_UP_S
    return Probe(holds, {"fault_listed": listed, "freshness_s": freshness, "queued": lag.get("queued")})


def _signal(params: Params) -> tuple[Signal, ...]:
    """Return the freshness of each table: nothing newer comes until the delay is over, and it stays that far behind."""
    hold_s = params.window if params.window is not None else _HOLD_S
    points = tuple((float(second), min(float(second), params.p95)) for second in range(int(hold_s) + 1))
    return tuple(Signal("cdc_freshness_seconds", {"table": table}, points) for table in _TABLES)


injector = Injector(
    summary="changes come late to the warehouse: each is applied so long after its commit",
    params=Params,
    positional=("p95",),
    doors=("cdc",),
    lease="target",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=FAULT.put,
    effective=_effective,
    withdraw=FAULT.delete,
    gone=_gone,
    signal=_signal,  # type: ignore[arg-type]
    duration_s=lambda params: params.window if isinstance(params, Params) else None,
    renew=FAULT.put,
)
