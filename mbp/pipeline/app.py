"""The pipeline's HTTP face: `/pipeline` with its deploys, and the merge gate under `/merge`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import StringConstraints

from mbp._asgi import create_app
from mbp._routes import Key, Reason, Version, add_audit, health_of
from mbp._wire import Wire
from mbp.pipeline.pipeline import Pipeline

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

    version: Version
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
    app = create_app("pipeline", registry=registry, health=health_of(pipeline.store.probe))
    add_audit(app, "/pipeline/audit", pipeline.store)
    _add_pipeline(app, pipeline)
    _add_merge(app, pipeline)
    return app


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
