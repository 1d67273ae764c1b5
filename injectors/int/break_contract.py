"""A release whose answers break the contract: a field of a quote has another type, and another one is gone.

One leased fault in the candidate only, so that a rollback cures it for the consumers. What is proven, is proven by a
consumer's own call through the public entry: the answer to the same request has no longer the form that it had before,
and it is the candidate that gives it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from injectors._faults import Leased
from injectors._http import objects, through
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Signal, Site
from sim.target import Duration, Model
from sim.wire import Answer, Client

FAULT = Leased(door="dec_candidate", point="dec.answer", kind="mutate", params=("contract", "change"))

RELEASE = "x-mbp-release"
BROKEN = "candidate"
_QUOTES = "/v1/quotes"
_HOLD_S = 300.0


class Params(Model):
    """`contract` is the contract that is broken, `change` how, and `duration` the hold time in seconds."""

    contract: Literal["mbp.v1"] = Field(description="The contract to break.")
    change: Literal["retype_and_drop", "drop_field", "retype_field", "rename_field"] = Field(
        default="retype_and_drop", description="How the answers break it."
    )
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long the fault is held, seconds or 90s, 5m, 24h."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    async with through(site, "dec_candidate") as candidate:
        prior = await FAULT.stood(candidate, site, f"on {FAULT.point}", lambda fault: fault.get("point") == FAULT.point)
    async with through(site, "api") as api:
        market = await _market(api)
        answer = await _quote(api, market)
        if (release := _release(answer)) != BROKEN:
            raise InjectionError(
                f"POST {api.base_url}{_QUOTES}: answered by {release!r}, not by the {BROKEN}: "
                "no consumer would meet the fault; make the candidate serve first"
            )
        form = _form(answer.json)
    receipt = FAULT.receipt(site, contract=params.contract, change=params.change, market=market, form=form)
    return Prepared(receipt, (f"answers of {BROKEN} under {params.contract}",), prior | {"form": form})


async def _market(client: Client) -> str:
    """Return the market that has been open longest and is no fault's own: it will be there at the end, too."""
    found = objects((await client.ask("GET", "/v1/markets")).json, "markets", f"GET {client.base_url}/v1/markets")
    usable = [
        (str(each.get("opened_at")), str(each.get("id")))
        for each in found
        if each.get("status") == "open" and not each.get("fault") and not each.get("frozen")
    ]
    if not usable:
        raise InjectionError(f"GET {client.base_url}/v1/markets: no open market to ask a quote of")
    return min(usable)[1]


async def _quote(client: Client, market: str, accept: tuple[int, ...] = (200,)) -> Answer:
    body: JSON = {"market": market, "side": "yes", "amount": "1"}
    return await client.ask("POST", _QUOTES, json=body, accept=accept)


def _release(answer: Answer) -> str | None:
    """Return who answered; a header's name may be spelled in any case."""
    return next((value for name, value in answer.headers.items() if name.lower() == RELEASE), None)


def _form(body: JSON) -> dict[str, JSON]:
    """Return the form of an answer: the type of each of its fields. A body that is no object has the form of none."""
    if not isinstance(body, dict):
        return {"": _type(body)}
    return {name: _type(value) for name, value in sorted(body.items())}


def _type(value: JSON) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _broken(before: JSON, now: dict[str, JSON]) -> list[str]:
    """Return how a form breaks what a consumer of the other one relies on; a field that is new breaks nothing."""
    known = before if isinstance(before, dict) else {}
    return [
        f"{name} is absent, was {was}" if name not in now else f"{name} is {now[name]}, was {was}"
        for name, was in sorted(known.items())
        if now.get(name) != was
    ]


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """A consumer's own call: the candidate answers it, and no longer in the form that it had."""
    async with through(site, "api") as api:
        answer = await _quote(api, str(receipt["market"]))
    release = _release(answer)
    form = _form(answer.json)
    broken = _broken(receipt["form"], form)
    evidence: dict[str, JSON] = {
        "request": f"POST {_QUOTES}",
        "release": release,
        "violations": list(broken),
        "answer": answer.json,
    }
    return Probe(release == BROKEN and bool(broken), evidence)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """The fault is not listed, and the candidate, asked directly, answers in the form that it had before."""
    async with through(site, "dec_candidate") as candidate:
        listed = await FAULT.holds(candidate, receipt)
        answer = await _quote(candidate, str(receipt["market"]), accept=(200, 404, 409))
        if answer.status != 200:  # the market ended meanwhile; any other shows the form as well
            answer = await _quote(candidate, await _market(candidate))
    broken = _broken(receipt["form"], _form(answer.json))
    return Probe(not listed and not broken, {"fault_listed": listed, "violations": list(broken)})


def _signal(params: Params) -> tuple[Signal, ...]:
    """Return the probe's verdict: kept at t0, violated from its next round on, until the hold time is over."""
    hold_s = params.duration if params.duration is not None else _HOLD_S
    points = ((0.0, 1.0), (min(3.0, hold_s / 2), 0.0), (hold_s, 1.0))
    return (Signal("int_contract_status", {"contract": params.contract}, points),)


injector = Injector(
    summary="the candidate's answers break the contract: a field of another type, another one gone",
    params=Params,
    positional=("contract",),
    doors=("dec_candidate", "api"),
    lease="target",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=FAULT.put,
    effective=_effective,
    withdraw=FAULT.delete,
    gone=_gone,
    signal=_signal,  # type: ignore[arg-type]
    duration_s=lambda params: params.duration if isinstance(params, Params) else None,
    renew=FAULT.put,
)
