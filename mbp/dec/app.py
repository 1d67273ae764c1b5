"""`mbp.v1`: the decision API. It checks form, asks the engine, and passes its answers on unchanged."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Literal
from urllib.parse import quote as quoted

from fastapi import FastAPI, Header, Path, Request, Response
from starlette.middleware import Middleware

from mbp._asgi import ApiError, Lifespan, create_app
from mbp._faults import Door, Faults, fault_router, sweep_forever
from mbp._routes import Key
from mbp._trace import Traced, Tracing
from mbp._wire import (
    Action,
    Amount,
    Funding,
    LiquidityAdd,
    LiquidityRemove,
    Market,
    MarketId,
    MarketList,
    MarketOpen,
    Problem,
    Quote,
    Side,
    Swap,
    Wire,
)
from mbp.dec.capacity import RELEASES, Capacity, Limits
from mbp.dec.database import Database
from mbp.dec.engine_client import EngineClient
from mbp.dec.faults import Mutated, export, fault_points
from mbp.dec.history import add_history
from mbp.dec.mode import is_degraded, is_shadow, refuse_degraded
from mbp.dec.profile import add_profile
from mbp.dec.quotes import QuoteCache, Quotes
from mbp.dec.resolving import add_resolution
from mbp.dec.telemetry import Admission, Counted, Telemetry

Release = Literal["stable", "candidate"]
MarketPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,79}$")]
RequestId = Annotated[str | None, Header(alias="X-Request-Id", pattern=r"^[!-~]{1,200}$")]

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "the body is not JSON",
        403: "a flag of the platform is off",
        404: "no such market",
        409: "the market, its id, the idempotency key or a degraded service stands against it",
        413: "the body is over 64 KiB",
        422: "the body is not as the schema says, or the pool refuses the amount",
        502: "the engine does not answer",
        503: "too many requests wait, or the engine did not answer in time",
    }.items()
}


class QuoteRequest(Wire):
    """A request for a quote: money for `buy` (the default), shares for `sell`."""

    market: MarketId
    side: Side
    action: Action = "buy"
    amount: Amount


class SwapRequest(Wire):
    """A request for a swap: money for `buy`, shares for `sell`."""

    market: MarketId
    side: Side
    action: Action
    amount: Amount


def build(
    release: Release,
    engine: EngineClient,
    *,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
    token: str | None = None,
    tracing: Tracing | None = None,
    postgres: str | None = None,
) -> FastAPI:
    """Return the app of one release; ``limits`` are those of the release unless given, no ``token`` shuts the door.

    ``postgres`` is where the history of prices is read; without it that route says that there is no database.
    """
    tracing = tracing or Tracing("dec")
    capacity = Capacity(limits or RELEASES[release], clock)
    telemetry = Telemetry(release, capacity)
    quotes = Quotes(QuoteCache(clock), release, telemetry.registry)
    database = Database(postgres, release, telemetry.registry, clock)
    faults = fault_points(monotonic=clock, wall=wall)

    async def health() -> str | None:
        try:
            answer = await engine.ask("GET", "/healthz")
        except ApiError as error:
            return error.detail
        return None if answer.status == 200 else "the engine is not healthy"

    app = create_app(
        "dec",
        registry=telemetry.registry,
        health=health,
        lifespan=_life(engine, database, faults),
        title="mbp.v1",
        version="1.0.0",
        openapi_url="/openapi.json",
    )
    # The last added is the outermost: count everything, then read the body, then take a slot, then spoil the answer.
    app.user_middleware.append(Middleware(Admission, capacity=capacity, clock=clock))
    app.user_middleware.append(Middleware(Mutated, faults=faults))
    app.add_middleware(Counted, telemetry=telemetry, clock=clock)
    app.add_middleware(Traced, tracing=tracing, naming=_span_name)
    tracing.export_to(telemetry.registry)
    app.add_middleware(Door, token=token)
    app.include_router(fault_router(faults))
    if token is not None:
        export(faults, telemetry.registry)
    _add_trading(app, engine, quotes)
    _add_markets(app, engine, quotes)
    add_history(app, database)
    add_resolution(app, engine, quotes, _passed, ERRORS)
    add_profile(app)
    return app


def _life(engine: EngineClient, database: Database, faults: Faults) -> Lifespan:
    """Return what opens and closes with the app: the engine's connections, the leases, the database's threads."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await engine.open()
        sweep = asyncio.create_task(sweep_forever(faults))
        try:
            yield
        finally:
            sweep.cancel()
            with suppress(asyncio.CancelledError):
                await sweep
            await engine.close()
            await database.close()

    return lifespan


def _span_name(_: str, path: str) -> str | None:
    """Return the name of a request's span: what is counted has one."""
    return "decision.request" if path.startswith("/v1/") else None


def _passed(status: int, body: bytes) -> Response:
    """Return the engine's answer as ours; what it says with a 5xx is ours to answer for as a 502."""
    if status >= 500:
        raise ApiError(502, "engine_failed", f"the engine answered {status}")
    return Response(body, status, media_type="application/json")


def _add_trading(app: FastAPI, engine: EngineClient, quotes: Quotes) -> None:
    @app.post("/v1/quotes", response_model=Quote, responses=ERRORS)
    async def quote(body: QuoteRequest, request: Request) -> Response:
        """Quote a swap without making it; the answer may be as old as `X-MBP-Quote-Age` says, in seconds."""
        sent = body.model_dump_json(exclude={"market"}).encode()

        async def compute() -> Response:
            answer = await engine.ask("POST", f"/v1/markets/{quoted(body.market, safe='')}/quote", sent)
            return _passed(answer.status, answer.body)

        if is_shadow(request):
            return await compute()
        return await quotes.answer(body.market, sent, compute, degraded=is_degraded(request))

    @app.post("/v1/swaps", status_code=201, response_model=Swap, responses=ERRORS)
    async def swap(body: SwapRequest, request: Request, key: Key = None, request_id: RequestId = None) -> Response:
        """Make a swap; the answer is its audit row. The same Idempotency-Key and body give the same row again."""
        headers = {"X-Request-Id": request_id or uuid.uuid4().hex}
        if key is not None:
            headers["Idempotency-Key"] = key
        sent = body.model_dump_json(exclude={"market"}).encode()
        path = f"/v1/markets/{quoted(body.market, safe='')}/swaps"
        if is_shadow(request):
            answer = await engine.ask("POST", path, sent, headers | {"X-MBP-Shadow": "1"})
            return _passed(answer.status, answer.body)
        with quotes.changing(body.market):
            answer = await engine.ask("POST", path, sent, headers)
        return _passed(answer.status, answer.body)


def _add_markets(app: FastAPI, engine: EngineClient, quotes: Quotes) -> None:
    @app.get("/v1/markets", response_model=MarketList, responses=ERRORS)
    async def list_markets() -> Response:
        """List markets, open ones first."""
        answer = await engine.ask("GET", "/v1/markets")
        return _passed(answer.status, answer.body)

    @app.post("/v1/markets", status_code=201, response_model=Market, responses=ERRORS)
    async def open_market(body: MarketOpen, request: Request) -> Response:
        """Open a market; not while the service is degraded."""
        refuse_degraded(request)
        answer = await engine.ask("POST", "/v1/markets", body.model_dump_json().encode())
        return _passed(answer.status, answer.body)

    @app.get("/v1/markets/{market}", response_model=Market, responses=ERRORS)
    async def one_market(market: MarketPath) -> Response:
        """Show one market."""
        answer = await engine.ask("GET", f"/v1/markets/{quoted(market, safe='')}")
        return _passed(answer.status, answer.body)

    @app.post("/v1/markets/{market}/liquidity", response_model=Funding, responses=ERRORS)
    async def liquidity(market: MarketPath, body: LiquidityAdd | LiquidityRemove, request: Request) -> Response:
        """Add liquidity to a market, or take it out; not while the service is degraded."""
        refuse_degraded(request)
        with quotes.changing(market):
            answer = await engine.ask(
                "POST", f"/v1/markets/{quoted(market, safe='')}/liquidity", body.model_dump_json().encode()
            )
        return _passed(answer.status, answer.body)
