"""What the engine's fault door is told, and how the engine answers it; the door itself is :mod:`mbp._faults`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import StringConstraints

from mbp._asgi import ApiError
from mbp._faults import FaultBody, show
from mbp._wire import Amount, MarketId, Wire
from mbp.engine import amounts
from mbp.engine.exchange import Exchange
from mbp.engine.faults import KIND, POINT, RATIO_CAP, Fault, FaultSpec


class BiasParams(Wire):
    """What `engine.swap` / `mutate` is told."""

    market: MarketId
    delta_k_ratio: Annotated[str, StringConstraints(max_length=40)]
    reserve: Amount = "1000"


def spec_of(body: FaultBody) -> FaultSpec:
    """Return the fault asked for; raises :class:`ApiError` (422) for an unknown point or a number out of bounds."""
    if (body.point, body.kind) != (POINT, KIND):
        raise ApiError(422, "invalid", f"body.point: there is no such point and kind here ({POINT}/{KIND})")
    params = body.params_as(BiasParams)
    try:
        ratio = amounts.parse_ratio(params.delta_k_ratio)
        reserve = amounts.parse(params.reserve)
    except ValueError as error:
        raise ApiError(422, "invalid", f"params: {error}") from None
    if not 0 < ratio <= RATIO_CAP:
        raise ApiError(422, "invalid", f"params.delta_k_ratio is more than 0 and at most {RATIO_CAP}")
    return FaultSpec(
        market=params.market,
        delta_k_ratio=ratio,
        ratio_text=params.delta_k_ratio,
        reserve=reserve,
        ttl_s=body.ttl_s,
        run=body.run,
        rate=body.rate,
        seed=body.seed,
    )


def show_fault(fault: Fault) -> dict[str, Any]:
    """Return a fault as it is answered."""
    spec = fault.spec
    params = {"market": spec.market, "delta_k_ratio": spec.ratio_text, "reserve": amounts.show(spec.reserve)}
    return {**show(fault, POINT, KIND, params), "market": spec.market}


class EngineFaults:
    """The engine behind its fault door: see :class:`mbp._faults.Keeper`."""

    def __init__(self, exchange: Exchange) -> None:
        """Keep the faults of ``exchange``."""
        self._exchange = exchange

    def put(self, fault_id: str, body: FaultBody) -> dict[str, Any]:
        """Put a fault in force and open its market, or renew the very same."""
        return show_fault(self._exchange.put_fault(fault_id, spec_of(body)))

    def listed(self) -> list[dict[str, Any]]:
        """Return the faults in force."""
        self._exchange.sweep()
        return [show_fault(fault) for fault in self._exchange.leases]

    def delete(self, fault_id: str) -> None:
        """Take a fault out of force and end its market."""
        self._exchange.delete_fault(fault_id)

    def delete_run(self, run: str) -> None:
        """Take all faults of one run out of force and end their markets."""
        self._exchange.delete_run(run)
