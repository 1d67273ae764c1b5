"""The probe's HTTP face: what stands, and what it was measured from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from mbp._asgi import create_app
from mbp._trace import Tracing
from mbp.contract.document import Contract
from mbp.contract.probe import HttpApi, Probe


def build(
    contract: Contract,
    api: HttpApi,
    *,
    wall: Callable[[], float],
    clock: Callable[[], float],
    tracing: Tracing | None = None,
) -> FastAPI:
    """Return the app; the probe runs as long as it does, and a probe that crashed shows as unhealthy."""
    probe = Probe(contract, api, wall=wall, clock=clock, tracing=tracing)
    running: list[asyncio.Task[None]] = []

    async def health() -> str | None:
        if not running or running[0].done():
            return "the probe does not run"
        return None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with api:
            running.append(asyncio.create_task(probe.run()))
            try:
                yield
            finally:
                running[0].cancel()
                with suppress(asyncio.CancelledError):
                    await running[0]

    app = create_app("contract", registry=probe.registry, health=health, lifespan=lifespan)

    @app.get("/contract")
    async def show() -> JSONResponse:
        return JSONResponse(probe.show())

    return app
