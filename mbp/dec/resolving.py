"""The journey *resolve* of `mbp.v1`: a market's resolution is started, and finished by its rule or by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote as quoted

from fastapi import FastAPI, Path, Request, Response
from pydantic import StringConstraints

from mbp._routes import Key
from mbp._wire import Market, Side, Storable, Wire
from mbp.dec.engine_client import EngineClient
from mbp.dec.mode import is_shadow
from mbp.dec.quotes import Quotes

MarketPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,79}$")]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500), Storable]


class ResolutionStart(Wire):
    """A request to start a market's resolution."""

    reason: Reason = "started by hand"


class ResolutionFinish(Wire):
    """A request to resolve a market: to ``outcome`` by hand, or, without one, by the rule."""

    outcome: Side | None = None
    reason: Reason = "asked for"


def add_resolution(
    app: FastAPI,
    engine: EngineClient,
    quotes: Quotes,
    passed: Callable[[int, bytes], Response],
    errors: dict[int | str, dict[str, Any]],
) -> None:
    """Add the two routes; ``passed`` makes the engine's answer ours."""

    async def ask(market: str, end: str, body: Wire, key: str | None, shadow: bool) -> Response:
        headers = {"Idempotency-Key": key} if key is not None else {}
        path, sent = f"/v1/markets/{quoted(market, safe='')}/resolution{end}", body.model_dump_json().encode()
        if shadow:
            answer = await engine.ask("POST", path, sent, headers | {"X-MBP-Shadow": "1"})
        else:
            with quotes.changing(market):
                answer = await engine.ask("POST", path, sent, headers)
        return passed(answer.status, answer.body)

    @app.post("/v1/markets/{market}/resolution", response_model=Market, responses=errors)
    async def start(market: MarketPath, body: ResolutionStart, request: Request, key: Key = None) -> Response:
        """Start a market's resolution; it is traded on until it is resolved."""
        return await ask(market, "", body, key, is_shadow(request))

    @app.post("/v1/markets/{market}/resolution/finish", response_model=Market, responses=errors)
    async def finish(market: MarketPath, body: ResolutionFinish, request: Request, key: Key = None) -> Response:
        """Resolve a market whose resolution has started."""
        return await ask(market, "/finish", body, key, is_shadow(request))
