"""The pipeline's HTTP face: `/pipeline` with its deploys, and the merge gate under `/merge`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import StringConstraints

from mbp._asgi import create_app
from mbp._service import problem
from mbp._wire import Wire
from mbp.pipeline.pipeline import Pipeline, Refused

Reason = Annotated[str, StringConstraints(max_length=2000)]
Key = Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[!-~]{1,200}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+/-]{0,99}$")]


class StatusBody(Wire):
    """A request to halt the pipeline or let it run."""

    status: Literal["running", "halted"]
    reason: Reason = ""


class GateBody(Wire):
    """A request to open or block the merge gate."""

    state: Literal["open", "blocked"]
    reason: Reason = ""


class DeployBody(Wire):
    """A request to deploy a version of a component."""

    version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]
    component: Literal["dec", "fe"] = "dec"


class MergeBody(Wire):
    """A request to merge a change, by its name."""

    change: Name


class _Metrics(Collector):
    """Reads the pipeline at scrape time."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        halted = self._pipeline.switch("pipeline").state == "halted"
        yield GaugeMetricFamily("pipeline_halted", "1 while the pipeline is halted.", halted)
        blocked = self._pipeline.switch("merge").state == "blocked"
        yield GaugeMetricFamily("merge_gate_blocked", "1 while the merge gate is blocked.", blocked)
        deploys = CounterMetricFamily("pipeline_deploys", "Deploys asked for.", labels=["component", "outcome"])
        for (component, outcome), count in self._pipeline.outcomes.items():
            deploys.add_metric([component, outcome], count)
        yield deploys


def build(pipeline: Pipeline) -> FastAPI:
    """Return the app."""
    registry = CollectorRegistry()
    registry.register(_Metrics(pipeline))

    async def health() -> str | None:
        try:
            pipeline.probe()
        except sqlite3.Error as error:
            return f"the store takes no writes: {error}"
        return None

    app = create_app("pipeline", registry=registry, health=health)
    _add_refusals(app)
    _add_pipeline(app, pipeline)
    _add_merge(app, pipeline)
    return app


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def on_refused(_: Request, refused: Refused) -> JSONResponse:
        return JSONResponse(problem(refused.code, refused.detail), refused.status)

    @app.exception_handler(sqlite3.Error)
    async def on_store(_: Request, error: sqlite3.Error) -> JSONResponse:
        return JSONResponse(problem("store_unavailable", f"nothing was changed: {error}"), 503)


def _add_pipeline(app: FastAPI, pipeline: Pipeline) -> None:
    @app.get("/pipeline")
    async def show() -> JSONResponse:
        return JSONResponse(pipeline.show("pipeline"))

    @app.put("/pipeline/status")
    async def status(body: StatusBody, key: Key = None) -> JSONResponse:
        return JSONResponse(pipeline.turn("pipeline", body.status, body.reason, key))

    @app.post("/pipeline/deploys")
    async def deploy(body: DeployBody, key: Key = None) -> JSONResponse:
        return JSONResponse(await pipeline.deploy(body.component, body.version, key), 201)

    @app.get("/pipeline/audit")
    async def audit(
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> JSONResponse:
        return JSONResponse(pipeline.audit(after, limit))


def _add_merge(app: FastAPI, pipeline: Pipeline) -> None:
    @app.get("/merge")
    async def show() -> JSONResponse:
        return JSONResponse(pipeline.show("merge"))

    @app.put("/merge/gate")
    async def gate(body: GateBody, key: Key = None) -> JSONResponse:
        return JSONResponse(pipeline.turn("merge", body.state, body.reason, key))

    @app.post("/merge")
    async def merge(body: MergeBody, key: Key = None) -> JSONResponse:
        return JSONResponse(pipeline.merge(body.change, key), 201)
