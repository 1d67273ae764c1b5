"""A slower handler in the new bundle of the page: INP regresses for whoever meets that bundle.

The fault is a lease at the front end's own door: the candidate bundle is served with a handler that works so much
longer; the old bundle is not touched, so that a rollback cures it. The page has no resident visitors: one is brought
(`injectors.fe._visitor`), traffic and no fault, from baseline until all is well again. The 24 h of the rule stay 24 h:
`window` names them, it is no hold. What is proven, is proven from beacons, each compared with the views of the same
handler turn at baseline.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from injectors._faults import Leased
from injectors._http import objects, through
from sim.event import JSON
from sim.injector import Company, InjectionError, Injector, Prepared, Probe, Receipt, Signal, Site
from sim.target import Duration, Model
from sim.wire import Client

#: Views at baseline, and from one view's start to the next one's, seconds.
VIEWS, EVERY_S = 20, 1.5

#: What proves the effect: so many views of the new bundle, slower by this share of the dose; fewer lost than that.
LEAST_VIEWS, LEAST_SHARE, MOST_LOST = 5, 0.75, 0.05

FAULT = Leased(door="fe", point="fe.bundle", kind="regress", params=("inp_ms",))

_PAGE, _PAGES = 1000, 10
_MS = re.compile(r"\+?(\d{1,4})(?:\.0+)?\s*ms")


def _milliseconds(value: Any) -> Any:
    """Read ``+80ms``, or a whole number of milliseconds, which is what a plan holds."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _MS.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"not a number of milliseconds: {value!r} (write '+80ms')")
    return int(found[1])


class Params(Model):
    """`p75` is how much longer the handler works; `window` is the rule's measuring window, for the reader."""

    p75: Annotated[int, BeforeValidator(_milliseconds), Field(ge=8, le=1000)] = Field(
        description="How much slower the new bundle's handler becomes, such as '+80ms'."
    )
    window: Annotated[Duration, Field(gt=0)] = Field(
        default=86400.0, description="The measuring window of the rule, such as 24h; it is no hold time."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    async with through(site, "fe") as fe:
        state = await _state(fe)
        faults = await FAULT.listed(fe)
    if faults:
        raise InjectionError(f"{fe.base_url}: a fault is in force there already: {faults!r:.200}")
    if state["bundle"] != "candidate":
        raise InjectionError(f"{fe.base_url} serves the {state['bundle']} bundle: nobody would meet the new one")
    async with through(site, "rum") as rum:
        newest = (await _rows(rum, 0, 1))["newest"]
    receipt = FAULT.receipt(site, inp_ms=params.p75, handler_ms=list(_handler(state, fe)), after=newest)
    return Prepared(receipt, ("bundle candidate",), {"fe": state, "faults": list(faults)})


async def _state(fe: Client) -> dict[str, Any]:
    state = (await fe.ask("GET", "/fe")).json
    if not isinstance(state, dict) or not isinstance(state.get("bundles"), dict) or "bundle" not in state:
        raise InjectionError(f"GET {fe.base_url}/fe: no state of a front end: {state!r:.200}")
    return state


def _handler(state: dict[str, Any], fe: Client) -> list[int]:
    """Return the times (ms) of the new bundle's handler, in turn."""
    times = (state["bundles"].get("candidate") or {}).get("handler_ms")
    if not isinstance(times, list) or not times or not all(isinstance(each, int) for each in times):
        raise InjectionError(f"GET {fe.base_url}/fe: no handler times of the new bundle: {state!r:.200}")
    return times


async def _rows(rum: Client, after: int, limit: int) -> dict[str, Any]:
    page = (await rum.ask("GET", "/views", params={"after": str(after), "limit": str(limit)})).json
    if not isinstance(page, dict) or not isinstance(page.get("newest"), int) or not isinstance(page.get("next"), int):
        raise InjectionError(f"GET {rum.base_url}/views: not a page of views: {page!r:.200}")
    objects(page, "rows", f"GET {rum.base_url}/views")
    return page


async def _views(rum: Client) -> list[dict[str, Any]]:
    """Return all that the collector still has, oldest first."""
    after, rows = 0, []
    for _ in range(_PAGES):
        page = await _rows(rum, after, _PAGE)
        rows += page["rows"]
        if not page["rows"] or page["next"] <= after:
            break
        after = page["next"]
    return rows


def compared(rows: Sequence[dict[str, Any]], after: int) -> tuple[int, list[float]]:
    """Return how many views the baseline has, and by how many ms each later view of the new bundle is slower.

    Each is compared with the median of the baseline's views of the same handler turn. The baseline is the last
    `VIEWS` before row `after`.
    """
    told = [row for row in rows if row["kind"] == "beacon" and row["bundle"] == "candidate"]
    before = [row for row in told if row["seq"] <= after][-VIEWS:]
    turns: dict[Any, list[float]] = {}
    for row in before:
        turns.setdefault(row["step"], []).append(float(row["inp_ms"]))
    later = [row for row in told if row["seq"] > after and row["step"] in turns]
    return len(before), [float(row["inp_ms"]) - median(turns[row["step"]]) for row in later]


def lost(rows: Sequence[dict[str, Any]], after: int) -> tuple[int, int]:
    """Return how many views were announced since row `after`, and of how many no beacon came; not the one under way."""
    told = {row["view"] for row in rows if row["kind"] == "beacon"}
    announced = [row["view"] for row in rows if row["kind"] == "visit" and row["seq"] > after]
    if announced and announced[-1] not in told:
        del announced[-1]
    return len(announced), sum(view not in told for view in announced)


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The new bundle is served slower, and views of it, paired with those before t0, are later by most of the dose."""
    async with through(site, "fe") as fe:
        state = await _state(fe)
        times = _handler(state, fe)
    async with through(site, "rum") as rum:
        rows = await _views(rum)
    after, dose = int(str(receipt["after"])), int(str(receipt["inp_ms"]))
    try:
        baseline, slower = compared(rows, after)
        announced, gone = lost(rows, after)
        visitors = sorted({str(row["agent"]) for row in rows if row["seq"] > after})
    except (KeyError, TypeError, ValueError) as error:
        raise InjectionError(f"GET {rum.base_url}/views: a row cannot be used: {error!r}") from error
    served = times == _slower(receipt)
    middle = median(slower) if slower else 0.0
    holds = served and len(slower) >= LEAST_VIEWS and middle >= LEAST_SHARE * dose and gone < MOST_LOST * announced
    evidence: dict[str, JSON] = {
        "visitor": ", ".join(visitors) or "none",
        "bundle_regressed": served,
        "baseline_views": baseline,
        "views": len(slower),
        "paired_delta_ms": round(middle, 1),
        "lost_beacons": f"{gone} of {announced}",
    }
    return Probe(holds, evidence)


async def _held(site: Site, receipt: Receipt) -> Probe:
    """Of too many views nobody knows what became of them: then p75 and score say little about the page."""
    async with through(site, "rum") as rum:
        announced, gone = lost(await _views(rum), int(str(receipt["after"])))
    # Fewer than what proved the effect: the collector has forgotten, and what was lost with it nobody knows.
    return Probe(announced >= LEAST_VIEWS and gone < MOST_LOST * announced, {"lost_beacons": f"{gone} of {announced}"})


def _slower(receipt: Receipt) -> list[int]:
    times = receipt["handler_ms"]
    assert isinstance(times, list)
    return [int(str(each)) + int(str(receipt["inp_ms"])) for each in times]


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """The fault is not listed, and the new bundle's handler works as long as it did before."""
    async with through(site, "fe") as fe:
        listed = await FAULT.holds(fe, receipt)
        times = _handler(await _state(fe), fe)
    as_before = times == receipt["handler_ms"]
    return Probe(not listed and as_before, {"fault_listed": listed, "handler_ms": list(times), "as_before": as_before})


def _signal(params: Params) -> tuple[Signal, ...]:
    """Return the buckets of a page whose every view is slower than 200 ms by then, one view in `EVERY_S`."""
    most = 160 + params.p75
    rising = tuple((float(second), float(second // EVERY_S)) for second in range(301))
    flat = ((0.0, 0.0), (300.0, 0.0))
    edges = {"160.0": flat, "200.0": flat if 128 + params.p75 > 200 else rising, f"{most}.0": rising, "+Inf": rising}
    labels = {"page": "/", "env": "local"}
    return tuple(Signal("web_vitals_inp_ms_bucket", {**labels, "le": le}, points) for le, points in edges.items())


def _accompany(site: Site, _: Params) -> Company:
    page, rum = (site.doors[name].url.rstrip("/") for name in ("fe", "rum"))
    return Company("injectors.fe._visitor", {"page": page, "rum": rum, "views": VIEWS, "every_s": EVERY_S})


injector = Injector(
    summary="a slower handler in the page's new bundle, and a visitor who meets it",
    params=Params,
    positional=("p75", "window"),
    doors=("fe", "rum"),
    lease="target",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=FAULT.put,
    effective=_effective,
    withdraw=FAULT.delete,
    gone=_gone,
    signal=_signal,  # type: ignore[arg-type]
    renew=FAULT.put,
    held=_held,
    accompany=_accompany,  # type: ignore[arg-type]
)
