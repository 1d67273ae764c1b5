"""The front end's HTTP face: the page and its bundles, the API behind the page, and the controller under `/fe`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.metrics_core import Metric
from pydantic import Field

from mbp._asgi import ApiError, create_app
from mbp._faults import Door, Faults, Point, fault_router, sweep_forever
from mbp._routes import Key, Reason, Version, add_audit, health_of
from mbp._trace import Traced, Tracing
from mbp._wire import Wire
from mbp.fe.web.bundles import SCRIPTS, Bundles
from mbp.fe.web.controller import Controller
from mbp.fe.web.watcher import Watcher
from mbp.release.proxy import HOP, NoAnswer, Upstream

disable_created_metrics()  # type: ignore[no-untyped-call]

POINT = "fe.bundle"
API = "api"  # the one upstream
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class StatusBody(Wire):
    """A request to set the status."""

    status: Literal["candidate", "stable", "reverted"]


class RollbackBody(Wire):
    """A request to roll back."""

    reason: Reason = ""


class DeployBody(Wire):
    """A request to deploy a version."""

    version: Version


class RegressParams(Wire):
    """What `fe.bundle` / `regress` is told: by how many ms the handler of the candidate bundle works longer."""

    inp_ms: Annotated[int, Field(gt=0, le=1000)]


def points() -> tuple[Point, ...]:
    """Return the fault points of the service."""
    return (Point(POINT, "regress", RegressParams, alone=True),)


class _Metrics:
    """What the service counts; also a collector of the fault families."""

    def __init__(self, controller: Controller, faults: Faults) -> None:
        self.registry = CollectorRegistry()
        self._faults = faults
        self.views = Counter("fe_views", "Pages served.", ["bundle"], registry=self.registry)
        self.api = Counter("fe_api_requests", "Requests of pages passed on.", ["class"], registry=self.registry)
        self.deploys = Counter("fe_deploys", "Deploys asked for.", ["outcome"], registry=self.registry)
        for counter, names in (
            (self.views, ("candidate", "stable")),
            (self.api, ("2xx", "4xx", "5xx", "no_answer")),
            (self.deploys, ("done", "watcher_firing", "watchers_blind")),
        ):
            for name in names:
                counter.labels(name)
        status = Gauge("fe_status", "1 at the status that holds.", ["status"], registry=self.registry)
        for name in ("candidate", "stable", "reverted"):
            status.labels(name).set_function(lambda name=name: controller.state.status == name)  # type: ignore[misc]
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of the fault door."""
        return self._faults.families()


def build(
    controller: Controller,
    bundles: Bundles,
    upstream: Upstream,
    watcher: Watcher,
    faults: Faults,
    token: str | None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """Return the app; no token means that the fault door is shut. What a page asks is passed on under a span."""
    metrics = _Metrics(controller, faults)
    tracing = tracing or Tracing("fe")
    tracing.export_to(metrics.registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await upstream.open()
        sweeper = asyncio.create_task(sweep_forever(faults))
        try:
            yield
        finally:
            sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await sweeper
            await upstream.close()

    app = create_app("fe", registry=metrics.registry, health=health_of(controller.store.probe), lifespan=lifespan)
    app.add_middleware(Door, token=token)
    app.include_router(fault_router(faults))

    add_audit(app, "/fe/audit", controller.store)
    _add_page(app, controller, bundles, faults, metrics)
    _add_controller(app, controller, bundles, faults)
    _add_deploys(app, controller, watcher, metrics)
    _add_api(app, upstream, metrics)
    app.add_middleware(Traced, tracing=tracing, naming=_span_name)
    return app


def _span_name(_: str, path: str) -> str | None:
    """Return the name of the span of a page's request to the API."""
    return "fe.request" if path.startswith("/api/") else None


def _extra_ms(faults: Faults) -> int:
    """Return by how many ms the candidate bundle is slower now."""
    fault = faults.at(POINT)
    params = None if fault is None else fault.spec.params
    return params.inp_ms if isinstance(params, RegressParams) else 0


def _add_page(app: FastAPI, controller: Controller, bundles: Bundles, faults: Faults, metrics: _Metrics) -> None:
    scripts = {path: file.read_bytes() for path, file in SCRIPTS.items()}

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        bundle, extra = controller.bundle, 0
        if bundle == "candidate" and faults.bites(POINT) is not None:
            extra = _extra_ms(faults)
        metrics.views.labels(bundle).inc()
        return HTMLResponse(bundles.view(bundle, extra), headers={"Cache-Control": "no-store"})

    @app.get("/bundles/{name}", include_in_schema=False)
    async def bundle(name: str) -> Response:
        found = bundles.find(f"/bundles/{name}")
        if found is None:
            raise ApiError(404, "not_found", f"no bundle {name[:80]} is served")
        return _script(found.body, "public, max-age=31536000, immutable")

    @app.get("/static/{name}", include_in_schema=False)
    @app.get("/rum/{name}", include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        body = scripts.get(request.url.path)
        if body is None:
            raise ApiError(404, "not_found", f"no script {name[:80]}")
        return _script(body, "no-cache")


def _script(body: bytes, cache: str) -> Response:
    return Response(body, media_type="text/javascript", headers={"Cache-Control": cache})


def _add_controller(app: FastAPI, controller: Controller, bundles: Bundles, faults: Faults) -> None:
    @app.get("/fe")
    async def state() -> JSONResponse:
        rendered = {"candidate": bundles.render("candidate", _extra_ms(faults)), "stable": bundles.render("stable")}
        shown = {name: {"src": each.src, "handler_ms": list(each.handler_ms)} for name, each in rendered.items()}
        return JSONResponse({**controller.show(), "bundles": shown, "views": bundles.views})

    @app.put("/fe/status")
    async def status(body: StatusBody, key: Key = None) -> JSONResponse:
        return JSONResponse(controller.set_status(body.status, key))

    @app.post("/fe/rollback")
    async def rollback(body: RollbackBody, key: Key = None) -> JSONResponse:
        return JSONResponse(controller.roll_back(body.reason, key))


def _add_deploys(app: FastAPI, controller: Controller, watcher: Watcher, metrics: _Metrics) -> None:
    @app.post("/fe/deploys")
    async def deploy(body: DeployBody, key: Key = None) -> JSONResponse:
        known = controller.answered(body.version, key)
        if known is not None:
            return JSONResponse(known, 201)
        try:
            await watcher.allow()
        except ApiError as error:
            metrics.deploys.labels(error.code).inc()
            raise
        answer = controller.deploy(body.version, key)
        metrics.deploys.labels("done").inc()
        return JSONResponse(answer, 201)


def _add_api(app: FastAPI, upstream: Upstream, metrics: _Metrics) -> None:
    @app.api_route("/api/v1/{rest:path}", methods=METHODS, include_in_schema=False)
    async def entry(request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        raw: bytes = request.scope.get("raw_path", request.url.path.encode()).split(b"?")[0]
        query: bytes = request.scope["query_string"]
        target = (raw.removeprefix(b"/api") + (b"?" + query if query else b"")).decode("latin-1")
        try:
            answer = await upstream.send(API, request.method, target, headers, await request.body())
        except NoAnswer as error:
            metrics.api.labels("no_answer").inc()
            raise ApiError(502, "api_unreachable", str(error)) from None
        metrics.api.labels("5xx" if answer.status >= 500 else "4xx" if answer.status >= 400 else "2xx").inc()
        return Response(answer.body, answer.status, answer.headers)
