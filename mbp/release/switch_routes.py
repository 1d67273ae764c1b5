"""The admin routes of the switches: `/service`, `/release/throttle`, `/release/shadow`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import Field, model_validator

from mbp._routes import Key, Reason
from mbp._wire import Wire
from mbp.release.controller import Controller
from mbp.release.shadow import Shadows

Journey = Literal["quote", "swap", "resolve"]


class ModeBody(Wire):
    """A request to set the service mode."""

    mode: Literal["normal", "degraded"]
    reason: Reason = ""


class ThrottleBody(Wire):
    """A request to throttle: to ``rps`` (null: not at all), or ``throttled`` on (as it was last) or off.

    ``ttl_s`` seconds after it the throttle ends by itself.
    """

    rps: Annotated[float, Field(gt=0, le=100_000)] | None = None
    throttled: bool | None = None
    ttl_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    reason: Reason = ""

    @model_validator(mode="after")
    def one_of_both(self) -> ThrottleBody:
        """Refuse a body that says both or nothing."""
        if len({"rps", "throttled"} & self.model_fields_set) != 1:
            raise ValueError("give either rps or throttled")
        if self.throttled is None and "throttled" in self.model_fields_set:
            raise ValueError("throttled is true or false")
        return self


class ShadowBody(Wire):
    """A request to shadow journeys: a ``share`` (0 to 1) of each; no journeys: none."""

    journeys: list[Journey]
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    reason: Reason = ""


def add_switches(app: FastAPI, controller: Controller, shadows: Shadows) -> None:
    """Add the routes to the controller's app."""
    switches = controller.switches

    @app.get("/service")
    async def service() -> JSONResponse:
        return JSONResponse(switches.show("mode"))

    @app.put("/service/mode")
    async def mode(body: ModeBody, key: Key = None) -> JSONResponse:
        return JSONResponse(controller.switch("mode", {"mode": body.mode}, body.reason, key))

    @app.get("/release/throttle")
    async def throttled() -> JSONResponse:
        return JSONResponse(switches.show("throttle"))

    @app.put("/release/throttle")
    async def throttle(body: ThrottleBody, key: Key = None) -> JSONResponse:
        asked: dict[str, Any] = body.model_dump(include=body.model_fields_set - {"reason"})
        return JSONResponse(controller.switch("throttle", asked, body.reason, key))

    @app.get("/release/shadow")
    async def shadowed() -> JSONResponse:
        return JSONResponse({**switches.show("shadow"), "counts": shadows.counts()})

    @app.put("/release/shadow")
    async def shadow(body: ShadowBody, key: Key = None) -> JSONResponse:
        value = {"journeys": sorted(set(body.journeys)), "share": body.share}
        return JSONResponse(controller.switch("shadow", value, body.reason, key))
