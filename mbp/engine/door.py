"""What the engine's fault door is told, and how the engine answers it; the door itself is :mod:`mbp._faults`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from mbp._asgi import ApiError
from mbp._faults import FaultBody, show
from mbp._wire import Amount, MarketId, Wire
from mbp.engine import amounts
from mbp.engine.exchange import Exchange
from mbp.engine.faults import HOURS_CAP, KINDS, RATIO_CAP, SWAP, BiasSpec, DelaySpec, Fault, FaultSpec

MARKET_PREFIX = "sim-"
_ID_LONGEST = 80 - len(MARKET_PREFIX)


class BiasParams(Wire):
    """What `engine.swap` / `mutate` is told."""

    market: MarketId
    delta_k_ratio: Annotated[str, StringConstraints(max_length=40)]
    reserve: Amount = "1000"


class DelayParams(Wire):
    """What `events.delay` / `hold` is told: which event, and how many hours ago the resolution started."""

    event: Literal["resolution_finished"]
    hours: Annotated[float, Field(gt=0, le=HOURS_CAP, allow_inf_nan=False)]


def spec_of(fault_id: str, body: FaultBody) -> FaultSpec:
    """Return the fault asked for; raises :class:`ApiError` (422) for an unknown point or a number out of bounds."""
    if KINDS.get(body.point) != body.kind:
        known = ", ".join(f"{point}/{kind}" for point, kind in KINDS.items())
        raise ApiError(422, "invalid", f"body.point: there is no such point and kind here ({known})")
    return _bias(body) if body.point == SWAP else _delay(fault_id, body)


def _bias(body: FaultBody) -> BiasSpec:
    params = body.params_as(BiasParams)
    try:
        ratio = amounts.parse_ratio(params.delta_k_ratio)
        reserve = amounts.parse(params.reserve)
    except ValueError as error:
        raise ApiError(422, "invalid", f"params: {error}") from None
    if not 0 < ratio <= RATIO_CAP:
        raise ApiError(422, "invalid", f"params.delta_k_ratio is more than 0 and at most {RATIO_CAP}")
    return BiasSpec(
        market=params.market,
        delta_k_ratio=ratio,
        ratio_text=params.delta_k_ratio,
        reserve=reserve,
        ttl_s=body.ttl_s,
        run=body.run,
        rate=body.rate,
        seed=body.seed,
    )


def _delay(fault_id: str, body: FaultBody) -> DelaySpec:
    params = body.params_as(DelayParams)
    if body.rate < 1.0:
        raise ApiError(422, "invalid", "body.rate: an event is held or it is not; the rate is 1")
    if len(fault_id) > _ID_LONGEST:
        raise ApiError(422, "invalid", f"path.fault_id: it names a market, so it has at most {_ID_LONGEST} characters")
    return DelaySpec(MARKET_PREFIX + fault_id, params.hours, body.ttl_s, body.run, body.rate, body.seed)


def show_fault(fault: Fault) -> dict[str, Any]:
    """Return a fault as it is answered."""
    spec = fault.spec
    params: dict[str, Any]
    if isinstance(spec, BiasSpec):
        params = {"market": spec.market, "delta_k_ratio": spec.ratio_text, "reserve": amounts.show(spec.reserve)}
    else:
        params = {"event": "resolution_finished", "hours": spec.hours}
    return {**show(fault, spec.point, KINDS[spec.point], params), "market": spec.market}


class EngineFaults:
    """The engine behind its fault door: see :class:`mbp._faults.Keeper`."""

    def __init__(self, exchange: Exchange) -> None:
        """Keep the faults of ``exchange``."""
        self._exchange = exchange

    def put(self, fault_id: str, body: FaultBody) -> dict[str, Any]:
        """Put a fault in force and open its market, or renew the very same."""
        return show_fault(self._exchange.put_fault(fault_id, spec_of(fault_id, body)))

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
