"""The consumer's HTTP face: health, metrics, the three witnesses at `GET /lag`, and the fault door."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from prometheus_client.registry import Collector
from pydantic import Field

from mbp._asgi import create_app
from mbp._faults import Door, Fault, Faults, Point, Spec, fault_router, sweep_forever
from mbp._wire import Wire
from mbp.data.cdc.line import Line
from mbp.data.cdc.state import State

POINT, KIND = "cdc.apply", "delay"
DELAY_CAP_S = 3600.0


class Delay(Wire):
    """Each commit is applied so long after its commit time."""

    delay_s: Annotated[float, Field(gt=0, le=DELAY_CAP_S, allow_inf_nan=False)]


def point(line: Line, wake: Callable[[], None]) -> Point:
    """Return the fault point: it sets the line's delay, and its end lets go of all that waits, at once."""

    def put(_fault_id: str, params: Delay) -> None:
        line.delay_s = params.delay_s
        wake()

    def remove(_fault: Fault[Spec]) -> None:
        line.delay_s = 0.0
        wake()

    def show(_fault: Fault[Spec]) -> dict[str, int]:
        return {"held": line.held, "queued": len(line)}

    return Point(POINT, KIND, Delay, put, remove, show, alone=True)


def _tell(loop: asyncio.AbstractEventLoop, faults: Faults) -> None:
    """Count a hit; the leases belong to the event loop's thread."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(faults.bites, POINT)


class _Page(Collector):
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def collect(self):  # type: ignore[no-untyped-def]  # as the interface has it
        return self._faults.families()


def build(state: State, line: Line, faults: Faults, token: str | None, threads: list[threading.Thread],
          stop: Callable[[], None]) -> FastAPI:  # fmt: skip
    """Return the app; `threads` run while it runs and end after ``stop``. ``token`` None shuts the fault door."""

    async def health() -> str | None:
        return state.trouble

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        line.on_held = lambda: _tell(loop, faults)
        for thread in threads:
            thread.start()
        sweeper = asyncio.create_task(sweep_forever(faults))
        try:
            yield
        finally:
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper
            stop()
            for thread in threads:
                await asyncio.to_thread(thread.join, 2.0)

    if token is not None:
        state.registry.register(_Page(faults))
    app = create_app("cdc", registry=state.registry, health=health, lifespan=lifespan)
    app.add_middleware(Door, token=token)
    app.include_router(fault_router(faults))

    @app.get("/lag")
    async def lag() -> JSONResponse:
        return JSONResponse(state.shown())

    return app
