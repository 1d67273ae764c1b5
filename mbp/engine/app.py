"""The engine's HTTP face: thin; every rule is in :mod:`mbp.engine.exchange`."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse

from mbp._asgi import ApiError, create_app
from mbp._faults import Door, fault_router
from mbp._routes import After, Key, Limit, health_of
from mbp._service import problem, wall_text
from mbp._trace import Traced, Tracing, trace_id_of
from mbp._wire import Action, Amount, LiquidityAdd, LiquidityRemove, MarketOpen, Side, Wire
from mbp.engine import amounts, cpmm
from mbp.engine.cpmm import Refused
from mbp.engine.door import EngineFaults
from mbp.engine.exchange import Exchange, Order
from mbp.engine.life_routes import MarketPath, Shadow, Trace, life_routes, moment
from mbp.engine.lifecycle import Lifecycle
from mbp.engine.metrics import registry
from mbp.engine.shadow import ShadowGuard
from mbp.engine.show import show_market, show_price
from mbp.engine.store import Store, SwapRow
from mbp.events import EventInvalid

CHECKPOINT_EVERY_S = 5.0
SWEEP_AT_MOST_S = 0.05  # how late the engine itself may notice an expired lease when nobody asks

_FORBIDDEN = {"flag_off"}
_NOT_FOUND = {"market_not_found", "flag_not_found"}
_CONFLICT = {
    "market_exists",
    "market_closed",
    "market_frozen",
    "market_resolved",
    "resolution_not_started",
    "resolution_held",
    "too_many_markets",
    "too_many_faults",
    "fault_differs",
    "idempotency_key_reused",
}

RequestId = Annotated[str | None, Header(alias="X-Request-Id", pattern=r"^[!-~]{1,200}$")]

log = logging.getLogger("mbp.engine")


class QuoteBody(Wire):
    """A request for a quote."""

    side: Side
    action: Action = "buy"
    amount: Amount


class SwapBody(Wire):
    """A request for a swap: money for `buy`, shares for `sell`."""

    side: Side
    action: Action
    amount: Amount


def show_swap(row: SwapRow) -> dict[str, Any]:
    """Return an audit row as it is answered."""
    ratio = cpmm.delta_k_ratio(row.k_before, row.k_after)
    return {
        "seq": row.seq,
        "at": wall_text(row.at),
        "market": row.market,
        "side": row.side,
        "action": row.action,
        "amount_in": amounts.show(row.amount_in),
        "amount_out": amounts.show(row.amount_out),
        "fee": amounts.show(row.fee),
        "k_before": amounts.show_product(row.k_before),
        "k_after": amounts.show_product(row.k_after),
        "delta_k_ratio": str(ratio),
        "delta_k_float": float(ratio),
        "breach": row.breach,
        "fault": row.fault,
        "request_id": row.request_id,
        "trace_id": row.trace_id,
    }


def span_name(method: str, path: str) -> str | None:
    """Return the name of a request's span: what it does to a market, or that it is another request.

    The feeds have none: machines read them all day long, and what they read has its trace already.
    """
    if not path.startswith("/v1/") or path.startswith(("/v1/events", "/v1/audit")):
        return None
    if method == "POST":
        return {"quote": "amm.quote", "swaps": "amm.swap"}.get(path.rpartition("/")[2], "engine.request")
    return "engine.request"


def build(exchange: Exchange, store: Store, token: str | None, tracing: Tracing | None = None) -> FastAPI:
    """Return the engine's app; ``token`` None shuts the fault door."""
    tracing = tracing or Tracing("engine")
    series = registry(exchange, faults_on=token is not None)
    tracing.export_to(series)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(_sweep(exchange)), asyncio.create_task(_checkpoint(store))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    app = create_app("engine", registry=series, health=health_of(exchange.probe), lifespan=lifespan)
    app.add_middleware(Door, token=token)
    app.add_middleware(ShadowGuard)
    _add_refusals(app)
    _add_markets(app, exchange)
    _add_trading(app, exchange)
    app.include_router(life_routes(Lifecycle(exchange, store), store))
    app.include_router(fault_router(EngineFaults(exchange)))
    app.add_middleware(Traced, tracing=tracing, naming=span_name)
    return app


async def _sweep(exchange: Exchange) -> None:
    """End leases on time although nobody asks."""
    while True:
        await asyncio.sleep(SWEEP_AT_MOST_S)
        try:
            exchange.sweep()
        except sqlite3.Error as error:
            log.warning("a market's closing is not stored yet, trying again: %s", error)


async def _checkpoint(store: Store) -> None:
    while True:
        await asyncio.sleep(CHECKPOINT_EVERY_S)
        try:
            await asyncio.to_thread(store.checkpoint)
        except sqlite3.Error as error:
            log.warning("checkpoint put off: %s", error)


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def on_refused(_: Request, refused: Refused) -> JSONResponse:
        codes = {403: _FORBIDDEN, 404: _NOT_FOUND, 409: _CONFLICT}
        status = next((status for status, known in codes.items() if refused.code in known), 422)
        return JSONResponse(problem(refused.code, refused.detail), status)

    @app.exception_handler(EventInvalid)
    async def on_event(_: Request, error: EventInvalid) -> JSONResponse:
        return JSONResponse(problem("event_invalid", f"nothing was done: {error}"), 500)

    @app.exception_handler(sqlite3.Error)
    async def on_store(_: Request, error: sqlite3.Error) -> JSONResponse:
        return JSONResponse(problem("store_unavailable", f"nothing was done: {error}"), 503)


def _amount(text: str) -> int:
    try:
        return amounts.parse(text)
    except ValueError as error:
        raise ApiError(422, "invalid", str(error)) from None


def _add_markets(app: FastAPI, exchange: Exchange) -> None:
    @app.post("/v1/markets", status_code=201)
    async def open_market(body: MarketOpen, traceparent: Trace = None) -> JSONResponse:
        closes_at = None if body.closes_at is None else moment(body.closes_at)
        trace_id = trace_id_of(traceparent)
        made = exchange.open_market(body.id, body.question, _amount(body.reserve), closes_at, trace_id)
        return JSONResponse(show_market(made), 201)

    @app.get("/v1/markets")
    async def list_markets() -> JSONResponse:
        return JSONResponse({"markets": [show_market(market) for market in exchange.markets()]})

    @app.get("/v1/markets/{market_id}")
    async def one_market(market_id: MarketPath) -> JSONResponse:
        return JSONResponse(show_market(exchange.market(market_id)))

    @app.post("/v1/markets/{market_id}/liquidity")
    async def liquidity(
        market_id: MarketPath, body: LiquidityAdd | LiquidityRemove, traceparent: Trace = None
    ) -> JSONResponse:
        if isinstance(body, LiquidityAdd):
            trace_id = trace_id_of(traceparent)
            funding, market = exchange.add_liquidity(market_id, _amount(body.amount), trace_id)
        else:
            funding, market = exchange.remove_liquidity(market_id, _amount(body.shares))
        return JSONResponse(
            {
                "action": body.action,
                "amount": amounts.show(funding.money),
                "shares": amounts.show(funding.shares),
                "yes_out": amounts.show(funding.yes),
                "no_out": amounts.show(funding.no),
                "market": show_market(market),
            }
        )


def _add_trading(app: FastAPI, exchange: Exchange) -> None:
    @app.post("/v1/markets/{market_id}/quote")
    async def quote(market_id: MarketPath, body: QuoteBody) -> JSONResponse:
        trade = exchange.quote(market_id, body.side, body.action, _amount(body.amount))
        return JSONResponse(
            {
                "amount_out": amounts.show(trade.amount_out),
                "fee": amounts.show(trade.fee),
                "price_after": show_price(trade.pool),
            }
        )

    @app.post("/v1/markets/{market_id}/swaps", status_code=201)
    async def swap(
        market_id: MarketPath,
        body: SwapBody,
        key: Key = None,
        request_id: RequestId = None,
        traceparent: Trace = None,
        shadow: Shadow = None,
    ) -> JSONResponse:
        amount, request, trace_id = _amount(body.amount), request_id or uuid.uuid4().hex, trace_id_of(traceparent)
        order = Order(market_id, body.side, body.action, amount, request, key, trace_id)
        with exchange.rehearsing(shadow is not None):
            return JSONResponse(show_swap(exchange.swap(order)), 201)

    @app.get("/v1/audit/swaps")
    async def audit(
        market: Annotated[str | None, Query(max_length=200)] = None,
        after: After = 0,
        limit: Limit = 100,
    ) -> JSONResponse:
        rows = exchange.audit(market, after, limit)
        return JSONResponse({"rows": [show_swap(row) for row in rows], "next": rows[-1].seq if rows else after})
