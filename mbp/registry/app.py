"""The registry's HTTP face: the routes and answers of Confluent's schema registry, and `/drift`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException

from mbp._asgi import create_app
from mbp._routes import health_of
from mbp._service import problem
from mbp.registry.compatibility import KINDS, Kind, Mode
from mbp.registry.registry import DEFAULT_LEVEL, Refused, Registry, kind_of, subject_missing
from mbp.registry.store import GLOBAL, Version

MEDIA = "application/vnd.schemaregistry.v1+json"
Flag = Annotated[bool, Query()]


class Answer(JSONResponse):
    """An answer in the registry's own content type."""

    media_type = MEDIA


def refusal(status: int, number: int, code: str, message: str) -> Answer:
    """Return an error as Confluent's clients read it and as all services of the platform answer it."""
    plain = problem(code, message)
    return Answer({"error_code": number, "message": plain["detail"], **plain}, status)


class _Metrics(Collector):
    """Reads what the registry computed at the last change; a scrape compares nothing."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        drift = GaugeMetricFamily(
            "schema_registry_drift", "1 when the latest version breaks the platform's policy.", labels=["subject"]
        )
        versions = GaugeMetricFamily("schema_registry_versions", "Versions not deleted.", labels=["subject"])
        for each in self._registry.drift():
            drift.add_metric([each.subject], each.drifted)
            versions.add_metric([each.subject], each.versions)
        outcomes = CounterMetricFamily(
            "schema_registry_requests", "Schemas sent, by what came of it.", labels=["outcome"]
        )
        for name, count in self._registry.outcomes.items():
            outcomes.add_metric([name], count)
        yield from (drift, versions, outcomes)


def build(registry: Registry) -> FastAPI:
    """Return the app."""
    collected = CollectorRegistry()
    collected.register(_Metrics(registry))
    app = create_app("registry", registry=collected, health=health_of(registry.store.probe))
    _add_refusals(app)
    _add_subjects(app, registry)
    _add_schemas(app, registry)
    _add_changes(app, registry)
    _add_compatibility(app, registry)
    _add_config(app, registry)
    return app


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def on_refused(_: Request, refused: Refused) -> Response:
        return refusal(refused.status, refused.number, refused.code, refused.message)

    @app.exception_handler(sqlite3.Error)
    async def on_store(_: Request, error: sqlite3.Error) -> Response:
        return refusal(500, 50001, "store_unavailable", f"Error in the backend data store: {error}")

    @app.exception_handler(HTTPException)
    async def on_http(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
        return refusal(error.status_code, error.status_code, code, f"HTTP {error.status_code} {error.detail}")

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> Response:
        text = "; ".join(f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:8])
        return refusal(422, 422, "invalid", text)


async def _object(request: Request) -> dict[str, Any]:
    """Return the object in a body. Raises :class:`Refused` (400, 422) for anything else."""
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refused(400, 400, "malformed", "the body is not JSON") from None
    if not isinstance(found, dict):
        raise Refused(422, 422, "invalid", "the body is not an object")
    return found


async def _schema(request: Request) -> tuple[Kind, str]:
    """Return the schema in a body. Raises :class:`Refused` (42201 for what is none, or has parts not understood)."""
    body = await _object(request)
    text = body.get("schema")
    if not isinstance(text, str) or not text.strip():
        raise Refused(422, 42201, "invalid_schema", "Invalid schema: `schema` is missing, or no text")
    if not text.isascii() and text.encode("utf-8", "ignore").decode("utf-8") != text:
        raise Refused(422, 42201, "invalid_schema", "Invalid schema: `schema` has half a character (a lone surrogate)")
    for name in ("references", "ruleSet", "metadata"):
        if body.get(name):  # what is not understood may say that another schema is meant
            raise Refused(422, 42201, "invalid_schema", f"Invalid schema: `{name}` is not supported here")
    return kind_of(body.get("schemaType")), text


def _typed(kind: Kind, shown: dict[str, Any]) -> dict[str, Any]:
    return shown if kind == "AVRO" else {**shown, "schemaType": kind}  # absent stands for AVRO on this wire


def _shown(found: Version) -> dict[str, Any]:
    shown = {"subject": found.subject, "version": found.version, "id": found.id, "schema": found.text}
    return _typed(found.kind, shown)


def _add_subjects(app: FastAPI, registry: Registry) -> None:
    @app.get("/")
    async def root() -> Response:
        return Answer({})

    @app.get("/subjects")
    async def subjects(deleted: Flag = False, subjectPrefix: str = "") -> Response:
        return Answer([name for name in registry.store.subjects(deleted) if name.startswith(subjectPrefix)])

    @app.get("/subjects/{subject}/versions")
    async def versions(subject: str, deleted: Flag = False) -> Response:
        return Answer([each.version for each in registry.versions(subject, deleted)])

    @app.get("/subjects/{subject}/versions/{version}")
    async def version_(subject: str, version: str, deleted: Flag = False) -> Response:
        return Answer(_shown(registry.version(subject, version, deleted)))

    @app.get("/subjects/{subject}/versions/{version}/schema")
    async def text(subject: str, version: str, deleted: Flag = False) -> Response:
        return Response(registry.version(subject, version, deleted).text, media_type=MEDIA)

    @app.get("/subjects/{subject}/versions/{version}/referencedby")
    async def referenced_by(subject: str, version: str) -> Response:
        registry.version(subject, version)
        return Answer([])  # references are refused, so nothing refers to anything

    @app.get("/drift")
    async def drift() -> Response:
        return Answer({"subjects": [each.show() for each in registry.drift()]})

    @app.get("/drift/{subject}")
    async def drift_of(subject: str) -> Response:
        for each in registry.drift():
            if each.subject == subject:
                return Answer(each.show())
        raise subject_missing(subject)


def _add_schemas(app: FastAPI, registry: Registry) -> None:
    @app.get("/schemas/types")
    async def types() -> Response:
        return Answer(list(KINDS))

    @app.get("/schemas/ids/{number}")
    async def by_id(number: int) -> Response:
        kind, text = registry.schema(number)
        return Answer(_typed(kind, {"schema": text}))

    @app.get("/schemas/ids/{number}/schema")
    async def text(number: int) -> Response:
        return Response(registry.schema(number)[1], media_type=MEDIA)

    @app.get("/schemas/ids/{number}/subjects")
    async def subjects(number: int, deleted: Flag = False) -> Response:
        registry.schema(number)
        return Answer(sorted({subject for subject, _ in registry.store.uses(number, deleted)}))

    @app.get("/schemas/ids/{number}/versions")
    async def versions(number: int, deleted: Flag = False) -> Response:
        registry.schema(number)
        uses = registry.store.uses(number, deleted)
        return Answer([{"subject": subject, "version": version} for subject, version in uses])


def _add_changes(app: FastAPI, registry: Registry) -> None:
    @app.post("/subjects/{subject}/versions")
    async def register(subject: str, request: Request) -> Response:
        kind, text = await _schema(request)
        return Answer({"id": registry.register(subject, kind, text)})

    @app.post("/subjects/{subject}")
    async def lookup(subject: str, request: Request, deleted: Flag = False) -> Response:
        kind, text = await _schema(request)
        return Answer(_shown(registry.lookup(subject, kind, text, deleted)))

    @app.delete("/subjects/{subject}")
    async def delete_subject(subject: str, permanent: Flag = False) -> Response:
        return Answer(registry.delete_subject(subject, permanent))

    @app.delete("/subjects/{subject}/versions/{version}")
    async def delete_version(subject: str, version: str, permanent: Flag = False) -> Response:
        return Answer(registry.delete_version(subject, version, permanent))


def _add_compatibility(app: FastAPI, registry: Registry) -> None:
    def judged(found: list[str], verbose: bool) -> Response:
        return Answer({"is_compatible": not found, **({"messages": found} if verbose else {})})

    def asked(subject: str, level: str | None) -> Mode | None:
        """Return the level that the caller names: one of Confluent's, or `platform` for the declared policy."""
        if level is None:
            return None
        return registry.policy.of(subject) if level == "platform" else registry.known_level(level)

    @app.post("/compatibility/subjects/{subject}/versions/{version}")
    async def with_one(
        subject: str, version: str, request: Request, verbose: Flag = False, level: str | None = None
    ) -> Response:
        kind, text = await _schema(request)
        return judged(registry.compatible(subject, kind, text, version, asked(subject, level)), verbose)

    @app.post("/compatibility/subjects/{subject}/versions")
    async def with_all(subject: str, request: Request, verbose: Flag = False, level: str | None = None) -> Response:
        kind, text = await _schema(request)
        return judged(registry.compatible(subject, kind, text, None, asked(subject, level)), verbose)


def _add_config(app: FastAPI, registry: Registry) -> None:
    @app.get("/config")
    async def all_() -> Response:
        return Answer({"compatibilityLevel": registry.store.level(GLOBAL) or DEFAULT_LEVEL})

    @app.put("/config")
    async def set_all(request: Request) -> Response:
        return Answer({"compatibility": registry.set_level(GLOBAL, (await _object(request)).get("compatibility"))})

    @app.delete("/config")
    async def unset_all() -> Response:
        return Answer({"compatibilityLevel": registry.unset_level(GLOBAL)})

    @app.get("/config/{subject}")
    async def one(subject: str, defaultToGlobal: Flag = False) -> Response:
        level = registry.level(subject) if defaultToGlobal else registry.store.level(subject)
        if level is None:
            raise registry.no_level(subject)
        return Answer({"compatibilityLevel": level})

    @app.put("/config/{subject}")
    async def set_one(subject: str, request: Request) -> Response:
        return Answer({"compatibility": registry.set_level(subject, (await _object(request)).get("compatibility"))})

    @app.delete("/config/{subject}")
    async def unset_one(subject: str) -> Response:
        return Answer({"compatibilityLevel": registry.unset_level(subject)})

    @app.get("/mode")
    async def mode() -> Response:
        return Answer({"mode": "READWRITE"})

    @app.get("/mode/{subject}")
    async def mode_of(subject: str, defaultToGlobal: Flag = False) -> Response:
        if defaultToGlobal:
            return Answer({"mode": "READWRITE"})
        text = f"Subject '{subject}' does not have subject-level mode configured"
        raise Refused(404, 40409, "no_subject_mode", text)
