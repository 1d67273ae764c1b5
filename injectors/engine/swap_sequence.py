"""A sequence of swaps that pays out too much: the product of a market's reserves no longer holds.

One leased fault is market and bias in one: the engine opens a market of its own for it, biases the swaps in that market
only, and removes the bias and closes the market when the lease is over or the fault is deleted. No other market and
no user's trade is touched. What is proven, is proven from the audit: exact reserves products before and after a swap.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from injectors import _engine
from injectors._faults import Leased, Listed
from injectors._http import through
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Signal, Site
from sim.target import Duration, Model
from sim.wire import Client

#: The platform's limit of abs(Δk/k); only what is beyond it is a breach.
LIMIT = Fraction(1, 10**9)
EVERY_S = 0.25
_AMOUNT = "1"
_IN_FLIGHT = 8
_HOLD_S = 300.0
_AUDIT = "/v1/audit/swaps"

FAULT = Leased(door="engine", point="engine.swap", kind="mutate", params=("market", "delta_k_ratio"))


def _decimal(value: Any) -> Any:
    """Take a number as it was written: 1.5e-9 is exactly that, not its nearest binary fraction."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(f"not a number: {value!r}")  # noqa: TRY004 (pydantic reports ValueError, not TypeError)
    try:
        exact = Decimal(repr(value) if isinstance(value, float) else str(value).strip())
    except InvalidOperation as error:
        raise ValueError(f"not a number: {value!r} (write 1.5e-9)") from error
    if exact.is_finite() and len(exact.as_tuple().digits) > 30:
        raise ValueError(f"more than 30 digits: {value!r:.60}")
    return exact


class Params(Model):
    """`delta_k_ratio` is the share of the bought reserve that each swap pays out in excess.

    At or below 1e-9 it is a half dose: legal, and never proven to be a breach. `duration` is the hold time in seconds.
    """

    delta_k_ratio: Annotated[Decimal, BeforeValidator(_decimal), Field(gt=0, le=Decimal("0.001"))] = Field(
        description="What each swap pays out in excess, as a share of the bought reserve."
    )
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long the fault is held, seconds or 90s, 5m, 24h."
    )


@dataclass(slots=True)
class _Driven:
    """What became of our own swaps; for the evidence only."""

    answered: int = 0
    failed: int = 0
    last_error: str | None = None


#: By injection, while its traffic runs in this process.
_driven: dict[str, _Driven] = {}


async def _prepare(site: Site, params: Params) -> Prepared:
    market = f"sim-{site.id}"
    async with through(site, "engine") as engine:
        prior = await FAULT.stood(engine, site, f"on market {market}", lambda fault: _market(fault) == market)
        await _engine.refuse_existing(engine, market)
    through(site, "api")  # refuse now, not at the first swap, what cannot be opened
    receipt = FAULT.receipt(site, market=market, delta_k_ratio=str(params.delta_k_ratio).lower())
    return Prepared(receipt, (f"market {market}",), prior)


def _market(fault: Listed) -> JSON:
    params = fault.get("params")
    return params.get("market") if isinstance(params, dict) else None


async def _drive(site: Site, receipt: Receipt) -> None:
    """Swap in the biased market on an absolute schedule until cancelled; a failed swap is counted, not fatal.

    Yes and no are bought in turn and by the same amount, so that the pool stays where it is.
    """
    driven = _driven[site.id] = _Driven()
    loop = asyncio.get_running_loop()
    start, turn = loop.time(), 0
    flying: set[asyncio.Task[None]] = set()
    try:
        async with through(site, "api") as api:
            try:
                while True:
                    if len(flying) < _IN_FLIGHT:
                        task = asyncio.create_task(_swap(api, receipt, "no" if turn % 2 else "yes", driven))
                        flying.add(task)
                        task.add_done_callback(flying.discard)
                    else:
                        driven.failed += 1
                        driven.last_error = f"{_IN_FLIGHT} swaps are still without an answer"
                    # Ticks that have passed meanwhile are dropped: a burst to catch up would be another dose.
                    turn = max(turn + 1, int((loop.time() - start) / EVERY_S) + 1)
                    await asyncio.sleep(start + turn * EVERY_S - loop.time())
            finally:
                for task in list(flying):
                    task.cancel()
                await asyncio.gather(*flying, return_exceptions=True)
    finally:
        del _driven[site.id]


async def _swap(api: Client, receipt: Receipt, side: str, driven: _Driven) -> None:
    body: JSON = {"market": receipt["market"], "side": side, "action": "buy", "amount": _AMOUNT}
    try:
        await api.ask("POST", "/v1/swaps", json=body, accept=(200, 201))
        driven.answered += 1
    except InjectionError as error:
        driven.failed += 1
        driven.last_error = str(error)


async def _audited(engine: Client, receipt: Receipt) -> list[Fraction]:
    """Return the exact Δk/k of each audited swap under this fault, oldest first."""
    rows = await _engine.rows(engine, _AUDIT, str(receipt["market"]))
    ours = [row for row in rows if row.get("market") == receipt["market"] and row.get("fault") == receipt["fault"]]
    return [_ratio(row, f"GET {engine.base_url}{_AUDIT}") for row in ours]


def _ratio(row: dict[str, JSON], where: str) -> Fraction:
    try:
        before, after = Fraction(str(row["k_before"])), Fraction(str(row["k_after"]))
        return (after - before) / before
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise InjectionError(f"{where}: a row without usable k_before and k_after: {row!r:.200}") from error


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The engine's audit has a swap under this fault whose Δk/k, worked out exactly, is beyond the limit."""
    async with through(site, "engine") as engine:
        ratios = await _audited(engine, receipt)
    beyond = [ratio for ratio in ratios if abs(ratio) > LIMIT]
    evidence: dict[str, JSON] = {
        "market": receipt["market"],
        "audited_swaps": len(ratios),
        "beyond_limit": len(beyond),
        "limit": "1e-9",
        "largest_delta_k_ratio": f"{float(max((abs(ratio) for ratio in ratios), default=Fraction(0))):.6g}",
    }
    driven = _driven.get(site.id)
    if driven is not None:
        evidence |= {"swaps_answered": driven.answered, "swaps_failed": driven.failed}
        if driven.last_error is not None:
            evidence["last_error"] = driven.last_error
    return Probe(bool(beyond), evidence)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """The fault is not listed, its market takes no swap, and none came under it between two looks at the audit."""
    async with through(site, "engine") as engine:
        hits = len(await _audited(engine, receipt))
        listed = await FAULT.holds(engine, receipt)
        status = await _engine.status(engine, str(receipt["market"]))
        new_hits = len(await _audited(engine, receipt)) - hits
    holds = not listed and status in ("absent", "closed") and new_hits == 0
    return Probe(holds, {"fault_listed": listed, "market_status": status, "hits": hits, "new_hits": new_hits})


def _signal(params: Params) -> tuple[Signal, ...]:
    """Return the counter of breaches: one more a swap, from 0 at the market's opening; flat at a half dose."""
    hold_s = params.duration if params.duration is not None else _HOLD_S
    rate = 1 / EVERY_S if Fraction(params.delta_k_ratio) > LIMIT else 0.0
    points = tuple((float(second), second * rate) for second in range(int(hold_s) + 1))
    return (Signal("amm_invariant_error_total", {"market": "sim-virtual"}, points),)


injector = Injector(
    summary="swaps in a market of its own that pay out too much, so that the invariant breaks",
    params=Params,
    positional=("delta_k_ratio",),
    doors=("engine", "api"),
    lease="target",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=FAULT.put,
    effective=_effective,
    withdraw=FAULT.delete,
    gone=_gone,
    signal=_signal,  # type: ignore[arg-type]
    duration_s=lambda params: params.duration if isinstance(params, Params) else None,
    renew=FAULT.put,
    drive=_drive,
)
