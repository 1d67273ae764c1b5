"""The web half of what the services share: one app factory, one guard before every body, one way to run and to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mbp._service import BODY_LIMIT, BODY_WAIT_S, KEEP_ALIVE_S, STOP_WAIT_S, identity, listen_address, problem

Health = Callable[[], Awaitable[str | None]]
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class ApiError(Exception):
    """An answer that is an error: HTTP status, code, text, and headers to go with it."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        """Keep the four parts of the answer."""
        super().__init__(f"{status} {code}: {detail}")
        self.status, self.code, self.detail, self.headers = status, code, detail, headers


class Guard:
    """ASGI middleware that reads a bounded body in bounded time before anything else sees the request.

    Over :data:`BODY_LIMIT` → 413 (from Content-Length before a byte is read, else as soon as the limit is passed);
    slower than :data:`BODY_WAIT_S` → 408.
    """

    def __init__(self, app: ASGIApp, limit: int = BODY_LIMIT, wait_s: float = BODY_WAIT_S) -> None:
        """Guard ``app``."""
        self.app, self.limit, self.wait_s = app, limit, wait_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or hand it on with its whole body in hand."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit():
            await refuse(scope, receive, send, 400, "bad_content_length", "Content-Length is not a number")
            return
        body = None
        if int(declared) <= self.limit:
            try:
                async with asyncio.timeout(self.wait_s):
                    body = await self._read(receive)
            except TimeoutError:
                await refuse(scope, receive, send, 408, "body_too_slow", f"the body took longer than {self.wait_s:g} s")
                return
            except ConnectionAbortedError:
                return  # the client left in the middle of its body: nobody is there to be answered
        if body is None:
            await refuse(scope, receive, send, 413, "body_too_large", f"a body has at most {self.limit} bytes")
            return
        await self.app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body, or None when it passes the limit; raises ConnectionAbortedError when the client is gone."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ConnectionAbortedError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.limit:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receive that gives ``body`` once and then what the connection says (its end)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    code: str,
    detail: str,
    headers: dict[str, str] | None = None,
) -> None:
    """Answer an error from inside a middleware and let the connection close, for a body may still be on its way."""
    shown = {**(headers or {}), "Connection": "close"} if status in (400, 408, 413) else headers
    await JSONResponse(problem(code, detail), status, shown)(scope, receive, send)


def create_app(
    service: str,
    *,
    registry: CollectorRegistry,
    health: Health,
    lifespan: Lifespan | None = None,
    title: str | None = None,
    version: str = "1",
    openapi_url: str | None = None,
    body_limit: int = BODY_LIMIT,
) -> FastAPI:
    """Return a FastAPI app with /healthz, /metrics, /identity, the one error shape and the body guard.

    ``health`` returns None when the service can do its work, else the reason why not (answered 503).
    """
    app = FastAPI(
        title=title or f"mbp.{service}",
        version=version,
        lifespan=lifespan,
        openapi_url=openapi_url,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Guard, limit=body_limit)
    _add_error_handlers(app)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> JSONResponse:
        reason = await health()
        if reason is not None:
            return JSONResponse(problem("unhealthy", reason), 503)
        return JSONResponse({"status": "ok", "service": service})

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.get("/identity", include_in_schema=False)
    async def who() -> JSONResponse:
        return JSONResponse(identity(service))

    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def on_api_error(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(problem(error.code, error.detail), error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def on_http(_: Request, error: HTTPException) -> JSONResponse:
        code = {400: "malformed", 404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
        return JSONResponse(problem(code, str(error.detail)), error.status_code, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        if any(item["type"] == "json_invalid" for item in found):
            return JSONResponse(problem("malformed", f"the body is not JSON: {found[0].get('ctx', {})}"), 400)
        # The value itself is not echoed: it may be long, secret or not encodable.
        text = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in found[:8])
        return JSONResponse(problem("invalid", text), 422)

    @app.exception_handler(Exception)
    async def on_crash(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse(problem("internal", f"unexpected {type(error).__name__}; see the service's log"), 500)


class _Server(uvicorn.Server):
    """uvicorn with its own idea of signals removed: :func:`serve` handles them, and a SIGTERM ends with code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


async def serve(app: ASGIApp, port: int) -> int:
    """Serve (see `listen_address`) until SIGTERM or SIGINT, give requests in flight 1 s, and return the exit code."""
    host = listen_address()
    server = _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            lifespan="on",
            ws="none",
            loop="asyncio",
            http="h11",
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_WAIT_S,
            server_header=False,
            backlog=1024,
        )
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    # With the protocol spelled out asyncio sets TCP_NODELAY; without it each kept connection answers 40 ms late.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    with listener:
        await server.serve(sockets=[listener])
    return 0 if server.started else 1


def run(app: ASGIApp, port: int) -> int:
    """Run :func:`serve` in a fresh event loop."""
    return asyncio.run(serve(app, port))


async def no_complaint() -> str | None:
    """Be the health of a service that can do its work as long as it answers."""
    return None
