"""The release controller's HTTP face: the public entry `/v1/*`, and the admin routes under `/release`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from pydantic import Field, model_validator

from mbp._asgi import create_app
from mbp._routes import Key, Reason, Version, add_audit, health_of
from mbp._service import problem
from mbp._trace import Traced, Tracing
from mbp._wire import Wire
from mbp.release.controller import Controller
from mbp.release.profiles import Profiles, add_profiles
from mbp.release.proxy import HOP, NoAnswer, Upstream
from mbp.release.shadow import MODE, SHADOW, Shadows
from mbp.release.switch_routes import add_switches

disable_created_metrics()  # type: ignore[no-untyped-call]

Percent = Annotated[int, Field(ge=0, le=100)]
# Marks between the controller and the releases; what a client says in them counts for nothing.
KEPT_BACK = HOP | {MODE, SHADOW}
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class GateBody(Wire):
    """A request to open or block the gate."""

    state: Literal["open", "blocked"]
    reason: Reason = ""


class StatusBody(Wire):
    """A request to set the status."""

    status: Literal["candidate", "stable", "reverted"]


class WeightsBody(Wire):
    """A request to set the weights, in percent; without `stable` that one gets the rest."""

    stable: Percent | None = None
    candidate: Percent

    @property
    def rest(self) -> int:
        """What the candidate leaves."""
        return 100 - self.candidate

    @model_validator(mode="after")
    def sum_to_100(self) -> WeightsBody:
        """Refuse weights that do not sum to 100."""
        if self.stable not in (None, self.rest):
            raise ValueError("stable and candidate sum to 100")
        return self


class RollbackBody(Wire):
    """A request to roll back."""

    reason: Reason = ""


class DeployBody(Wire):
    """A request to deploy a version."""

    version: Version


def metrics(controller: Controller) -> tuple[CollectorRegistry, Counter]:
    """Return the registry, whose gauges read the controller at scrape time, and the counter of passed requests."""
    registry = CollectorRegistry()
    passed = Counter("release_requests", "Requests passed on.", ["release", "class"], registry=registry)
    for release in ("stable", "candidate"):
        for name in ("2xx", "4xx", "429", "5xx", "no_answer"):
            passed.labels(release, name)
    passed.labels("none", "429")  # throttled here: no release was asked
    degraded = Gauge("service_degraded", "1 while the service is degraded.", registry=registry)
    degraded.set_function(lambda: controller.switches.mode == "degraded")
    throttled = Gauge("release_throttled", "1 while requests are throttled.", registry=registry)
    throttled.set_function(lambda: controller.switches.throttled)
    blocked = Gauge("release_gate_blocked", "1 while the gate is blocked.", registry=registry)
    blocked.set_function(lambda: controller.state.gate == "blocked")
    weight = Gauge("release_weight", "Percent of requests.", ["release"], registry=registry)
    weight.labels("stable").set_function(lambda: controller.state.stable)
    weight.labels("candidate").set_function(lambda: controller.state.candidate)
    status = Gauge("release_status", "1 at the status that holds.", ["status"], registry=registry)
    for name in ("candidate", "stable", "reverted"):
        status.labels(name).set_function(lambda name=name: controller.state.status == name)  # type: ignore[misc]
    return registry, passed


def build(
    controller: Controller,
    upstream: Upstream,
    profiles: Profiles,
    *,
    clock: Callable[[], float] = time.monotonic,
    tracing: Tracing | None = None,
) -> FastAPI:
    """Return the app; ``clock`` is monotonic seconds. What it passes on is a child of its own span."""
    registry, passed = metrics(controller)
    tracing = tracing or Tracing("release")
    tracing.export_to(registry)
    shadows = Shadows(controller.switches, upstream, registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await upstream.open()
        try:
            yield
        finally:
            await shadows.close()
            await upstream.close()

    app = create_app("release", registry=registry, health=health_of(controller.store.probe), lifespan=lifespan)
    add_audit(app, "/release/audit", controller.store)
    _add_admin(app, controller)
    add_switches(app, controller, shadows)
    add_profiles(app, controller, upstream, profiles)
    _add_entry(app, controller, upstream, passed, shadows, clock)
    app.add_middleware(Traced, tracing=tracing, naming=_span_name)
    return app


def _span_name(_: str, path: str) -> str | None:
    """Return the name of the span of a request that is passed on."""
    return "release.request" if path.startswith("/v1/") else None


def _add_admin(app: FastAPI, controller: Controller) -> None:
    @app.get("/release")
    async def state() -> JSONResponse:
        return JSONResponse(controller.show())

    @app.put("/release/gate")
    async def gate(body: GateBody, key: Key = None) -> JSONResponse:
        return JSONResponse(controller.set_gate(body.state, body.reason, key))

    @app.put("/release/status")
    async def status(body: StatusBody, key: Key = None) -> JSONResponse:
        return JSONResponse(controller.set_status(body.status, key))

    @app.put("/release/weights")
    async def weights(body: WeightsBody, key: Key = None) -> JSONResponse:
        return JSONResponse(controller.set_weights(body.rest, body.candidate, key))

    @app.post("/release/rollback")
    async def rollback(body: RollbackBody, key: Key = None) -> JSONResponse:
        return JSONResponse(controller.roll_back(body.reason, key))

    @app.post("/release/deploys")
    async def deploy(body: DeployBody, key: Key = None) -> JSONResponse:
        return JSONResponse(controller.deploy(body.version, key), 201)


def _add_entry(
    app: FastAPI,
    controller: Controller,
    upstream: Upstream,
    passed: Counter,
    shadows: Shadows,
    clock: Callable[[], float],
) -> None:
    @app.api_route("/v1/{rest:path}", methods=METHODS)
    async def entry(request: Request) -> Response:
        mode = {MODE: controller.switches.mode}
        if not controller.switches.admit(clock()):
            passed.labels("none", "429").inc()
            return JSONResponse(problem("throttled", "too many requests"), 429, {"Retry-After": "1", **mode})
        release = controller.rotation.next()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in KEPT_BACK} | mode
        raw: bytes = request.scope.get("raw_path", request.url.path.encode()).split(b"?")[0]
        query: bytes = request.scope["query_string"]
        target = (raw + (b"?" + query if query else b"")).decode("latin-1")
        body = await request.body()
        shadow = shadows.begin(release, request.method, target, headers, body)
        try:
            answer = await upstream.send(release, request.method, target, headers, body)
        except NoAnswer as error:
            passed.labels(release, "no_answer").inc()
            named = {"X-MBP-Release": release, **mode}
            return JSONResponse(problem("release_unreachable", str(error)), 502, named)
        if shadow is not None:
            shadow.answered(answer)
        passed.labels(release, class_of(answer.status)).inc()
        kept = {name: value for name, value in answer.headers.items() if name.lower() != MODE}
        return Response(answer.body, answer.status, kept | mode)


def class_of(status: int) -> str:
    """Return the class of a status; 429 is apart from the other 4xx, and what is no error is ``2xx``."""
    if status == 429:
        return "429"
    return "5xx" if status >= 500 else "4xx" if status >= 400 else "2xx"
