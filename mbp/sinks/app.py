"""The HTTP half of the sinks: Slack's incoming webhook, PagerDuty's Events API v2, tickets, and what was received."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter

from mbp._asgi import ApiError, create_app
from mbp._service import problem
from mbp.hooks._http import PAGE_LIMIT, Desk, json_object, text_field
from mbp.sinks import mail
from mbp.sinks.store import KeyReused, Message, Store

#: The number of a ticket: what fits a row.
Number = Annotated[int, Path(ge=1, le=2**63 - 1)]

#: How deep a body may be nested: what is deeper is no notification, and answers must be able to show it.
DEPTH_LIMIT = 100

CHANNELS = ("slack", "oncall", "email", "tickets")
_SEVERITIES = ("critical", "error", "warning", "info")


class Sinks:
    """The receivers over one store."""

    def __init__(self, folder: FilePath, wall: Callable[[], float] = time.time) -> None:
        """Open the store in `folder`. Raises `sqlite3.Error`."""
        self.store = Store(folder, wall)
        self.desk = Desk("sinks-store")
        self.registry = CollectorRegistry()
        self.count = Counter("sinks_received", "Messages stored, by channel.", ["channel"], registry=self.registry)
        have = self.store.counts()
        for channel in CHANNELS:
            self.count.labels(channel).inc(have.get(channel, 0))

    async def keep(self, messages: list[Message]) -> None:
        """Store messages, all or none. Raises `ApiError` 503."""
        await self.desk.do(lambda: self.store.keep(messages))
        for message in messages:
            self.count.labels(message.channel).inc()

    async def health(self) -> str | None:
        """Say why nothing can be stored, None when it can."""
        try:
            await self.desk.do(self.store.check)
        except ApiError as error:
            return error.detail
        return None

    def close(self) -> None:
        """Close the store once all that was begun is stored."""
        self.desk.close(self.store.close)


def build(sinks: Sinks, smtp_port: int | None = None) -> FastAPI:
    """Return the app; with `smtp_port` it also serves SMTP while it runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        server = None if smtp_port is None else await mail.listen(smtp_port, sinks.keep)
        try:
            yield
        finally:
            if server is not None:
                server.close()  # sessions still open are cut with the loop; what was answered 250 is stored
            sinks.close()

    app = create_app("sinks", registry=sinks.registry, health=sinks.health, lifespan=lifespan)
    _notifications(app, sinks)
    _tickets(app, sinks)
    _received(app, sinks)
    return app


def _shown(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in a body. Raises `ApiError` 400 also for what could be kept and never shown.

    One such message would hide all that was received with it: an answer in UTF-8 holds no half character, and one that
    is nested too deeply is not written.
    """
    value = json_object(raw)
    left: list[tuple[int, Any]] = [(1, value)]
    while left:
        depth, each = left.pop()
        if depth > DEPTH_LIMIT:
            raise ApiError(400, "malformed", f"the body is nested deeper than {DEPTH_LIMIT} levels")
        if isinstance(each, str) and any("\ud800" <= letter <= "\udfff" for letter in each):
            raise ApiError(400, "invalid", "a text of the body has half a character (a lone surrogate)")
        if isinstance(each, dict):
            left += [(depth + 1, part) for pair in each.items() for part in pair]
        elif isinstance(each, list):
            left += [(depth + 1, part) for part in each]
    return value


def _notifications(app: FastAPI, sinks: Sinks) -> None:
    @app.post("/slack")
    async def slack(request: Request) -> Response:
        raw = await request.body()
        payload = _shown(raw)
        channel = text_field(payload, "channel", 80)
        if not payload.get("text") and not payload.get("attachments") and not payload.get("blocks"):
            raise ApiError(400, "invalid", "one of text, attachments and blocks must be there and not empty")
        await sinks.keep([Message("slack", channel, payload, raw)])
        return PlainTextResponse("ok")

    @app.post("/v2/enqueue")
    async def enqueue(request: Request) -> Response:
        raw = await request.body()
        try:
            payload = _shown(raw)
            key = _event(payload)
        except ApiError as error:
            # PagerDuty's own shape, and the platform's beside it.
            shape = {"status": "invalid event", "message": "Event object is invalid", "errors": [error.detail]}
            return JSONResponse({**shape, **problem(error.code, error.detail)}, 400)
        await sinks.keep([Message("oncall", str(payload["routing_key"]), payload, raw)])
        return JSONResponse({"status": "success", "message": "Event processed", "dedup_key": key}, 202)


def _event(payload: dict[str, Any]) -> str:
    """Return the event's dedup key, a new one for a trigger without. Raises `ApiError` 400 as PagerDuty refuses."""
    text_field(payload, "routing_key", 64)
    action = payload.get("event_action")
    if action not in ("trigger", "acknowledge", "resolve"):
        raise ApiError(400, "invalid", f"event_action: {action!r} is not trigger, acknowledge or resolve")
    if action == "trigger":
        inner = payload.get("payload")
        if not isinstance(inner, dict):
            raise ApiError(400, "invalid", "payload: missing or not an object")
        text_field(inner, "source", 1024, where="payload.")
        if not isinstance(inner.get("summary"), str) or not 0 < len(inner["summary"]) <= 1024:
            raise ApiError(400, "invalid", "payload.summary: must be text of 1 to 1024 characters")
        if inner.get("severity") not in _SEVERITIES:
            raise ApiError(400, "invalid", f"payload.severity: not one of {', '.join(_SEVERITIES)}")
        if payload.get("dedup_key") in (None, ""):
            return uuid4().hex
    return text_field(payload, "dedup_key", 255)


def _tickets(app: FastAPI, sinks: Sinks) -> None:
    @app.post("/tickets")
    async def open_ticket(request: Request) -> JSONResponse:
        raw = await request.body()
        body = _shown(raw)
        key = request.headers.get("Idempotency-Key", "")
        if not 1 <= len(key) <= 255:
            raise ApiError(400, "invalid", "Idempotency-Key: the header must be there, with 1 to 255 characters")
        text_field(body, "title", 500)
        text_field(body, "assignee", 80)
        if taken := sorted({"id", "state", "created_at", "changed_at"} & set(body)):
            raise ApiError(400, "invalid", f"{taken[0]}: is set by the ticket system")
        try:
            ticket, new = await sinks.desk.do(lambda: sinks.store.open_ticket(key, body, raw))
        except KeyReused as error:
            raise ApiError(422, "key_reused", str(error)) from None
        if new:
            sinks.count.labels("tickets").inc()
        return JSONResponse(ticket, 201 if new else 200)

    @app.patch("/tickets/{number}")
    async def set_ticket(number: Number, request: Request) -> JSONResponse:
        raw = await request.body()
        body = _shown(raw)
        if set(body) != {"state"} or body["state"] not in ("open", "closed"):
            raise ApiError(400, "invalid", 'the body must be {"state": "open"} or {"state": "closed"}')
        return _found(await sinks.desk.do(lambda: sinks.store.set_ticket(number, body["state"], raw)), number)

    @app.get("/tickets/{number}")
    async def ticket(number: Number) -> JSONResponse:
        return _found(await sinks.desk.do(lambda: sinks.store.ticket(number)), number)

    @app.get("/tickets")
    async def tickets(state: Literal["open", "closed"] | None = None,
                      limit: int = Query(100, ge=1, le=PAGE_LIMIT)) -> JSONResponse:  # fmt: skip
        return JSONResponse({"rows": await sinks.desk.do(lambda: sinks.store.tickets(state, limit))})


def _found(ticket: dict[str, Any] | None, number: int) -> JSONResponse:
    if ticket is None:
        raise ApiError(404, "not_found", f"there is no ticket {number}")
    return JSONResponse(ticket)


def _received(app: FastAPI, sinks: Sinks) -> None:
    @app.get("/received")
    async def received(after: int = Query(0, ge=0, le=2**62), tail: Literal["1"] | None = None,
                       channel: Literal["slack", "oncall", "email", "tickets"] | None = None,
                       limit: int = Query(100, ge=1, le=PAGE_LIMIT)) -> JSONResponse:  # fmt: skip
        if tail is not None:
            return JSONResponse({"rows": [], "next": await sinks.desk.do(sinks.store.last)})
        rows, following = await sinks.desk.do(lambda: sinks.store.received(after, channel, limit))
        return JSONResponse({"rows": rows, "next": following})
