"""A server on loopback whose answers a test sets, and which remembers what it was asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Fake:
    """`routes` maps ``METHOD /path`` to JSON, to (status, JSON), or to a handler."""

    routes: dict[str, Any]
    url: str = ""
    asked: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer as told, else 404."""
        body = await request.read()
        self.asked.append((f"{request.method} {request.path_qs}", json.loads(body) if body else None))
        self.headers.append(dict(request.headers))
        found = self.routes.get(f"{request.method} {request.path}")
        if callable(found):
            return await found(request)
        if found is None:
            return web.json_response({"error": "not_found"}, status=404)
        status, data = found if isinstance(found, tuple) else (200, found)
        return web.json_response(data, status=status)


@asynccontextmanager
async def serve(routes: dict[str, Any], ssl_context: Any = None) -> AsyncIterator[Fake]:
    """Serve until the block ends."""
    fake = Fake(routes)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", fake.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context)
    await site.start()
    port = runner.addresses[0][1]
    fake.url = f"http{'s' if ssl_context else ''}://127.0.0.1:{port}"
    try:
        yield fake
    finally:
        await runner.cleanup()
