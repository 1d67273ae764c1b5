"""The engine's routes for a market's life, for flags, and for the feed of events and changes. Thin."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import JSONResponse
from pydantic import StringConstraints

from mbp._asgi import ApiError
from mbp._routes import After, Key, Limit
from mbp._trace import trace_id_of
from mbp._wire import Side, Storable, Wire
from mbp.engine.lifecycle import By, Lifecycle
from mbp.engine.records import Kind
from mbp.engine.show import show_change, show_event
from mbp.engine.store import Store

MarketPath = Annotated[str, Path(max_length=200)]
Trace = Annotated[str | None, Header()]  # one that is not valid is no trace, and no reason to refuse anything
Shadow = Annotated[Literal["1"] | None, Header(alias="X-MBP-Shadow")]
Of = Annotated[str | None, Query(max_length=200)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500), Storable]


class StartBody(Wire):
    """A request to start a market's resolution."""

    reason: Reason = "started by hand"


class FinishBody(Wire):
    """A request to resolve a market: to ``outcome`` by hand, or, without one, by the rule."""

    outcome: Side | None = None
    reason: Reason = "asked for"


class FrozenBody(Wire):
    """A request to freeze a market or to end its freeze."""

    frozen: bool
    reason: Reason


class AbuseBody(Wire):
    """A report of abuse in a market."""

    reason: Reason


class FlagBody(Wire):
    """A request to set a feature flag."""

    on: bool
    reason: Reason


def moment(text: str) -> float:
    """Return an RFC 3339 time as Unix seconds; raises :class:`ApiError` (422) for one that no calendar has."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise ApiError(422, "invalid", f"{text!r} is not a time that there is") from None


def life_routes(life: Lifecycle, store: Store) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    _add_life(router, life)
    _add_flags(router, life)
    _add_feeds(router, store)
    return router


def _add_life(router: APIRouter, life: Lifecycle) -> None:
    @router.get("/v1/markets/{market_id}/resolution")
    async def resolution(market_id: MarketPath) -> JSONResponse:
        return JSONResponse(life.resolution(market_id))

    @router.post("/v1/markets/{market_id}/resolution")
    async def start(
        market_id: MarketPath, body: StartBody | None = None, key: Key = None, traceparent: Trace = None
    ) -> JSONResponse:
        asked = body or StartBody()
        return JSONResponse(life.start(market_id, By(asked.reason, key, trace_id_of(traceparent))))

    @router.post("/v1/markets/{market_id}/resolution/finish")
    async def finish(
        market_id: MarketPath,
        body: FinishBody | None = None,
        key: Key = None,
        traceparent: Trace = None,
        shadow: Shadow = None,
    ) -> JSONResponse:
        asked, by = body or FinishBody(), trace_id_of(traceparent)
        with life.rehearsing(shadow is not None):
            return JSONResponse(life.finish(market_id, asked.outcome, By(asked.reason, key, by)))

    @router.put("/v1/markets/{market_id}/frozen")
    async def freeze(
        market_id: MarketPath, body: FrozenBody, key: Key = None, traceparent: Trace = None
    ) -> JSONResponse:
        return JSONResponse(life.freeze(market_id, body.frozen, By(body.reason, key, trace_id_of(traceparent))))

    @router.post("/v1/markets/{market_id}/flags", status_code=201)
    async def flag(market_id: MarketPath, body: AbuseBody, key: Key = None, traceparent: Trace = None) -> JSONResponse:
        return JSONResponse(life.flag(market_id, By(body.reason, key, trace_id_of(traceparent))), 201)


def _add_flags(router: APIRouter, life: Lifecycle) -> None:
    @router.get("/v1/flags")
    async def flags() -> JSONResponse:
        return JSONResponse({"flags": life.flags.listed()})

    @router.put("/v1/flags/{name}")
    async def put(
        name: Annotated[str, Path(max_length=80)], body: FlagBody, key: Key = None, traceparent: Trace = None
    ) -> JSONResponse:
        return JSONResponse(life.flags.put(name, body.on, body.reason, key, trace_id_of(traceparent)))


def _add_feeds(router: APIRouter, store: Store) -> None:
    def changes(kind: Kind, subject: str | None, after: int, limit: int) -> JSONResponse:
        rows = store.records.changes(kind, subject, after, limit)
        return JSONResponse({"rows": [show_change(*row) for row in rows], "next": rows[-1][0] if rows else after})

    @router.get("/v1/events")
    async def events(market: Of = None, after: After = 0, limit: Limit = 100) -> JSONResponse:
        rows = store.records.events(market, after, limit)
        return JSONResponse({"rows": [show_event(row) for row in rows], "next": rows[-1].seq if rows else after})

    @router.get("/v1/audit/flags")
    async def audit_flags(flag: Of = None, after: After = 0, limit: Limit = 100) -> JSONResponse:
        return changes("flag", flag, after, limit)

    @router.get("/v1/audit/markets")
    async def audit_markets(market: Of = None, after: After = 0, limit: Limit = 100) -> JSONResponse:
        return changes("market", market, after, limit)
