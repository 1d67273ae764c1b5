"""The HTTP API: Toxiproxy 2.12's, answer for answer, and a few fields more that its clients ignore (ADR-019)."""

from __future__ import annotations

import hmac
import itertools
import json
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from injectors._proxy import toxics
from injectors._proxy.body import ApiError, decode
from injectors._proxy.registry import Populated, Registry

#: The version of Toxiproxy whose API this is.
VERSION = "2.12.0"

Answer = Callable[["Api", web.BaseRequest, list[str]], Coroutine[Any, Any, web.Response]]


class Api:
    """Answers requests. With a `token` only those that carry it (``Authorization: Bearer``)."""

    def __init__(self, registry: Registry, token: str | None = None) -> None:
        self.registry = registry
        self._token = token
        self._requests = itertools.count(1)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; an error of a handler is an answer too."""
        try:
            response = await self._route(request)
        except ApiError as error:
            response = _error(error)
        except web.HTTPRequestEntityTooLarge:
            response = _error(ApiError("bad request body: http: request body too large", 400))
        response.headers["X-Toxiproxy-Request-Id"] = f"{next(self._requests):020x}"
        return response

    async def _route(self, request: web.BaseRequest) -> web.Response:
        if request.headers.get("User-Agent", "").startswith("Mozilla/"):
            return _plain(403, "User agent not allowed\n")
        if self._token is not None and not _carries(request, self._token):
            return _plain(401, "a bearer token is needed\n", {"WWW-Authenticate": "Bearer"})
        parts = [unquote(part) for part in request.rel_url.raw_path.split("/")[1:]]
        place = "/".join(part if i % 2 == 0 else "*" for i, part in enumerate(parts))
        methods = _ROUTES.get(place)
        if methods is None or not all(parts):
            return _plain(404, "404 page not found\n")
        answer = methods.get(request.method)
        if answer is None:
            return web.Response(status=405)
        return await answer(self, request, parts)

    async def _version(self, _: web.BaseRequest, __: list[str]) -> web.Response:
        text = json.dumps({"version": VERSION, "sim": True, "leases": True}) + "\n"
        return web.Response(body=text.encode(), headers={"Content-Type": "application/json;charset=utf-8"})

    async def _index(self, _: web.BaseRequest, __: list[str]) -> web.Response:
        return _json({name: proxy.as_json() for name, proxy in sorted(self.registry.proxies.items())})

    async def _create(self, request: web.BaseRequest, _: list[str]) -> web.Response:
        return _json((await self.registry.create(await _body(request))).as_json(), 201)

    async def _populate(self, request: web.BaseRequest, _: list[str]) -> web.Response:
        try:
            done = await self.registry.populate(await _body(request))
        except Populated as some:
            shown = [proxy.as_json() for proxy in some.done] or None
            return _json({"error": some.error.text, "status": some.error.status, "proxies": shown}, some.error.status)
        except ApiError as error:
            return _json({"error": error.text, "status": error.status, "proxies": None}, error.status)
        return _json({"proxies": [proxy.as_json() for proxy in done] or None}, 201)

    async def _reset(self, _: web.BaseRequest, __: list[str]) -> web.Response:
        await self.registry.reset()
        return web.Response(status=204)

    async def _show(self, _: web.BaseRequest, parts: list[str]) -> web.Response:
        return _json(self.registry.get(parts[1]).as_json())

    async def _update(self, request: web.BaseRequest, parts: list[str]) -> web.Response:
        self.registry.get(parts[1])
        return _json((await self.registry.update(parts[1], await _body(request))).as_json())

    async def _delete(self, _: web.BaseRequest, parts: list[str]) -> web.Response:
        self.registry.delete(parts[1])
        return web.Response(status=204)

    async def _toxics(self, _: web.BaseRequest, parts: list[str]) -> web.Response:
        return _json(self.registry.get(parts[1]).toxics_as_json())

    async def _add_toxic(self, request: web.BaseRequest, parts: list[str]) -> web.Response:
        self.registry.get(parts[1])
        toxic = toxics.parse(await _body(request))
        self.registry.get(parts[1]).add(toxic)
        return self._toxic_json(toxic)

    async def _toxic(self, _: web.BaseRequest, parts: list[str]) -> web.Response:
        return self._toxic_json(self.registry.get(parts[1]).toxic(parts[3]))

    async def _update_toxic(self, request: web.BaseRequest, parts: list[str]) -> web.Response:
        self.registry.get(parts[1]).toxic(parts[3])
        body = await _body(request)
        proxy = self.registry.get(parts[1])
        toxic = proxy.toxic(parts[3])
        proxy.update(toxic, toxics.Change(toxic, body))
        return self._toxic_json(toxic)

    async def _remove_toxic(self, _: web.BaseRequest, parts: list[str]) -> web.Response:
        proxy = self.registry.get(parts[1])
        proxy.remove(proxy.toxic(parts[3]))
        return web.Response(status=204)

    def _toxic_json(self, toxic: toxics.Toxic) -> web.Response:
        return _json(toxic.as_json(self.registry.settings.clock.time()))


#: Path, with a star for each name in it → method → what answers.
_ROUTES: dict[str, dict[str, Answer]] = {
    "version": {"GET": Api._version},
    "proxies": {"GET": Api._index, "POST": Api._create},
    "populate": {"POST": Api._populate},
    "reset": {"POST": Api._reset},
    "proxies/*": {"GET": Api._show, "POST": Api._update, "PATCH": Api._update, "DELETE": Api._delete},
    "proxies/*/toxics": {"GET": Api._toxics, "POST": Api._add_toxic},
    "proxies/*/toxics/*": {
        "GET": Api._toxic,
        "POST": Api._update_toxic,
        "PATCH": Api._update_toxic,
        "DELETE": Api._remove_toxic,
    },
}


async def _body(request: web.BaseRequest) -> Any:
    return decode(await request.read())


def _carries(request: web.BaseRequest, token: str) -> bool:
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token}".encode())


def _json(value: Any, status: int = 200) -> web.Response:
    body = json.dumps(value, separators=(",", ":")).encode()
    return web.Response(status=status, body=body, content_type="application/json")


def _plain(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    shown = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff", **(headers or {})}
    return web.Response(status=status, body=text.encode(), headers=shown)


def _error(error: ApiError) -> web.Response:
    """Return an error as Toxiproxy does: JSON, but called plain text."""
    return _plain(error.status, json.dumps({"error": error.text, "status": error.status}, separators=(",", ":")) + "\n")
