"""The fault door: `/faults`, shut (404) unless it was opened at start, and behind a bearer token when it is."""

from __future__ import annotations

import hmac
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import Field, StringConstraints
from starlette.types import ASGIApp, Receive, Scope, Send

from mbp._asgi import ApiError, refuse
from mbp._service import wall_text
from mbp._wire import Amount, MarketId, Wire
from mbp.engine import amounts
from mbp.engine.exchange import Exchange
from mbp.engine.faults import RATIO_CAP, TTL_CAP_S, TTL_LEAST_S, Fault, FaultSpec

FaultId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,79}$")]
Run = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,119}$")]


class BiasParams(Wire):
    """What `engine.swap` / `mutate` is told."""

    market: MarketId
    delta_k_ratio: Annotated[str, StringConstraints(max_length=40)]
    reserve: Amount = "1000"


class FaultBody(Wire):
    """The body of a fault; ``ttl_s`` is required, for a fault without an end is refused."""

    point: Literal["engine.swap"]
    kind: Literal["mutate"]
    params: BiasParams
    ttl_s: Annotated[float, Field(ge=TTL_LEAST_S, le=TTL_CAP_S, allow_inf_nan=False)]
    run: Run
    rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    match: Annotated[dict[str, str], Field(default_factory=dict, max_length=0)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def spec(self) -> FaultSpec:
        """Return the fault asked for; raises :class:`ApiError` (422) for a number out of bounds."""
        try:
            ratio = amounts.parse_ratio(self.params.delta_k_ratio)
            reserve = amounts.parse(self.params.reserve)
        except ValueError as error:
            raise ApiError(422, "invalid", f"params: {error}") from None
        if not 0 < ratio <= RATIO_CAP:
            raise ApiError(422, "invalid", f"params.delta_k_ratio is more than 0 and at most {RATIO_CAP}")
        return FaultSpec(
            market=self.params.market,
            delta_k_ratio=ratio,
            ratio_text=self.params.delta_k_ratio,
            reserve=reserve,
            ttl_s=self.ttl_s,
            run=self.run,
            rate=self.rate,
            seed=self.seed,
        )


class FaultDoor:
    """ASGI middleware that answers for `/faults` before any body is read: 404 when shut, 401 without the token."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        """Guard ``app``; no token means that the door is shut."""
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or let the request in."""
        path: str = scope.get("path", "")
        if scope["type"] != "http" or not (path == "/faults" or path.startswith("/faults/")):
            await self.app(scope, receive, send)
            return
        if self.token is None:
            await refuse(scope, receive, send, 404, "not_found", "Not Found")
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self.token.encode("ascii")):
            headers = {"WWW-Authenticate": "Bearer"}
            await refuse(scope, receive, send, 401, "unauthorized", "the fault door needs its bearer token", headers)
            return
        await self.app(scope, receive, send)


def show_fault(fault: Fault) -> dict[str, Any]:
    """Return a fault as it is answered."""
    spec = fault.spec
    return {
        "id": fault.id,
        "point": "engine.swap",
        "kind": "mutate",
        "run": spec.run,
        "rev": fault.rev,
        "params": {
            "market": spec.market,
            "delta_k_ratio": spec.ratio_text,
            "reserve": amounts.show(spec.reserve),
        },
        "market": spec.market,
        "rate": spec.rate,
        "match": {},
        "seed": spec.seed,
        "ttl_s": spec.ttl_s,
        "expires_at": wall_text(fault.expires_wall),
        "hits": fault.hits,
        "impacted": fault.impacted,
        "last_hit_at": None if fault.last_hit_wall is None else wall_text(fault.last_hit_wall),
    }


def routes(exchange: Exchange) -> APIRouter:
    """Return the four routes of the fault contract."""
    router = APIRouter()

    @router.put("/faults/{fault_id}")
    async def put(fault_id: FaultId, body: FaultBody) -> JSONResponse:
        return JSONResponse(show_fault(exchange.put_fault(fault_id, body.spec())))

    @router.get("/faults")
    async def listed() -> JSONResponse:
        exchange.sweep()
        return JSONResponse([show_fault(fault) for fault in exchange.leases])

    @router.delete("/faults/{fault_id}", status_code=204)
    async def delete(fault_id: FaultId) -> Response:
        exchange.delete_fault(fault_id)
        return Response(status_code=204)

    @router.delete("/faults", status_code=204)
    async def delete_run(run: Annotated[str, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,119}$")]) -> Response:
        exchange.delete_run(run)
        return Response(status_code=204)

    return router
