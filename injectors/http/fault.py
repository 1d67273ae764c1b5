"""Any fault of any target that implements the fault endpoint: point and kind are the target's own words.

The endpoint is four routes, off unless the target is started with `SIM_FAULTS=1`, behind a bearer token:

- `PUT /faults/{id}` with `point`, `kind`, `params`, `rate`, `match`, `seed`, `ttl_s` and `run` sets a fault, or renews
  the very same;
- `GET /faults` lists the faults in force (a list, or `{"faults": […]}`), each with `id`, `point`, `hits`, `impacted`
  and `last_hit_at`;
- `DELETE /faults/{id}` ends one, also one that is not there;
- `DELETE /faults?run=…` ends those of a run. It is not needed here.

A fault whose lease (`ttl_s`) nobody renews is ended by the target itself.

`params` and `match` are given as a list of `'name=value'`, or as one text of JSON: `params=['delay_ms=100']` and
`params='{"delay_ms": 100}'` are the same. In a list a value that reads as JSON is that (`100`, `true`, `"100"`),
any other is text. An exercise in the long form (`{call: http.fault, with: {…}}`) gives them as maps.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, JsonValue

from injectors._faults import FaultDoor, Listed
from injectors._http import through
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site
from sim.target import Duration, Model
from sim.wire import Client

DOOR = FaultDoor("faults")

#: Between two looks at the hits of a point, where the target shows them as metrics, seconds.
APART_S = 0.2

_SERIES = re.compile(r'^(sim_fault_active|sim_fault_hits_total)\{[^}]*\bpoint="([^"]*)"[^}]*\}\s+(\S+)', re.MULTILINE)


def _pairs(value: Any) -> Any:
    """Return the map that a list of 'name=value', or a text of JSON, stands for. Raises `ValueError` with the cure."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"not JSON ({error}): write ['name=value', …] or '{{\"name\": value}}'") from error
        if not isinstance(value, dict):
            raise ValueError("write ['name=value', …], or JSON of an object: '{\"name\": value}'")  # noqa: TRY004 - of a text
    if not isinstance(value, list | tuple):
        return value
    found: dict[str, Any] = {}
    for each in value:
        name, mark, text = each.partition("=") if isinstance(each, str) else ("", "", "")
        name = name.strip()
        if not mark or not name:
            raise ValueError(f"{each!r} is not 'name=value'")
        if name in found:
            raise ValueError(f"{name} is given twice")
        found[name] = _read(text.strip())
    return found


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _texts(value: Any) -> Any:
    found = _pairs(value)
    if isinstance(found, dict):
        return {name: each if isinstance(each, str) else json.dumps(each) for name, each in found.items()}
    return found


class Params(Model):
    """What the endpoint is told, and how often it must have met something for the effect to be proven."""

    point: Annotated[str, Field(min_length=1)] = Field(description="Where in the target: one of its own fault points.")
    kind: Annotated[str, Field(min_length=1)] = Field(
        description="What is done there, in the target's own word: delay, error, drop, mutate, hold."
    )
    params: Annotated[dict[str, JsonValue], BeforeValidator(_pairs)] = Field(
        default={}, description="How much of it, as the point takes it: ['delay_ms=100'] or a text of JSON."
    )
    rate: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="The share of what passes the point that is hit."
    )
    match: Annotated[dict[str, str], BeforeValidator(_texts)] = Field(
        default={}, description="What is hit only, as the point takes it: ['tenant=acme'] or a text of JSON."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=0, description="What the dice of `rate` begin with.")
    expect_hits: Annotated[int, Field(ge=1)] = Field(
        default=1, description="How often the fault must have changed something before its effect is proven."
    )
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long the fault is held at most, seconds or 90s, 10m."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    async with through(site, "faults") as client:
        faults = await DOOR.free(client, site, f"at {params.point}", lambda fault: fault.get("point") == params.point)
        address = client.base_url
    own = params.model_dump(mode="json", exclude={"duration"})
    return Prepared(DOOR.receipt(site, **own), (f"{params.point} at {address}",), {"faults": faults})


async def _put(site: Site, receipt: Receipt) -> None:
    told = {name: receipt[name] for name in ("point", "kind", "params", "rate", "match", "seed")}
    await DOOR.send(site, receipt, **told)


def _count(value: JSON) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The endpoint says that the fault, new at t0, has changed something: `impacted`, or `hits` where those are all.

    A fault in force that nothing has met proves nothing, and neither does an endpoint that reports no count.
    """
    async with through(site, "faults") as client:
        faults = await DOOR.listed(client)
    mine = next((fault for fault in faults if fault.get("id") == receipt["fault"]), None)
    if mine is None:
        return Probe(False, {"listed": False})
    counts = {name: _count(mine.get(name)) for name in ("impacted", "hits")}
    met = next((count for count in counts.values() if count is not None), None)
    wanted = _count(receipt["expect_hits"]) or 1
    evidence: dict[str, JSON] = {
        "listed": True,
        **counts,
        "last_hit_at": mine.get("last_hit_at"),
        "expect_hits": wanted,
    }
    if met is None:
        evidence["reason"] = "GET /faults reports neither impacted nor hits: nothing shows that the fault was met"
    return Probe(met is not None and met >= wanted, evidence)


async def _metrics(client: Client, point: JSON) -> dict[str, float] | None:
    """Return what the target's own metrics say of a point; null where it serves none that speak of it."""
    try:
        text = await client.text("/metrics")
    except InjectionError:
        return None  # the list is asked last, and tells a target that is not there from one without metrics
    found: dict[str, float] = {}
    for name, of, value in _SERIES.findall(text):
        if of == point:
            try:
                found[name] = found.get(name, 0.0) + float(value)
            except ValueError as error:
                raise InjectionError(f"GET {client.base_url}/metrics: {name} is {value!r:.40}, no number") from error
    return found or None


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """The endpoint does not list it; where metrics show the point, none is active there, and hits stand still."""
    async with through(site, "faults") as client:
        first = await _metrics(client, receipt["point"])
        if first is not None:
            await asyncio.sleep(APART_S)
        second = await _metrics(client, receipt["point"]) if first is not None else None
        faults = await DOOR.listed(client)
    listed = any(fault.get("id") == receipt["fault"] for fault in faults)
    evidence: dict[str, JSON] = {"listed": listed}
    if first is None:
        return Probe(not listed, {**evidence, "frozen": "not shown by the target"})
    if second is None:  # a look that fails is not good news
        return Probe(False, {**evidence, "frozen": "shown at first, and not at the second look"})
    if any(_elsewhere(fault, receipt) for fault in faults):
        return Probe(not listed, {**evidence, "frozen": "another fault is at this point by now"})
    frozen = first.get("sim_fault_hits_total") == second.get("sim_fault_hits_total")
    active = second.get("sim_fault_active", 0.0)
    return Probe(not listed and frozen and active == 0, {**evidence, "frozen": frozen, "active": active})


def _elsewhere(fault: Listed, receipt: Receipt) -> bool:
    return fault.get("id") != receipt["fault"] and fault.get("point") == receipt["point"]


injector = Injector(
    summary="a fault of the target's own fault endpoint: any point and kind that it knows",
    params=Params,
    positional=("point", "kind"),
    doors=("faults",),
    lease="target",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_put,
    effective=_effective,
    withdraw=DOOR.delete,
    gone=_gone,
    signal=None,  # what a point of a stranger's target does to its metrics is not known here
    duration_s=lambda params: params.duration if isinstance(params, Params) else None,
    renew=_put,
)
