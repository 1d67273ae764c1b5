"""Bad input to every route of every service: a clear refusal in the one shape, and nothing changed by it.

The routes are asked of the apps themselves, so that a new route is under this test without being listed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from fastapi.routing import APIRoute

from mbp._faults import Faults
from mbp.contract.__main__ import KEPT
from mbp.contract.app import build as build_contract
from mbp.contract.document import Contract
from mbp.contract.probe import HttpApi
from mbp.data.cdc.app import build as build_cdc
from mbp.data.cdc.app import point
from mbp.data.cdc.line import Line
from mbp.data.cdc.state import State
from mbp.data.relay.app import build as build_relay
from mbp.data.relay.relay import Watch
from mbp.dec.app import build as build_dec
from mbp.hooks.executor import Executor
from mbp.hooks.executor import build as build_executor
from mbp.hooks.table import load
from mbp.pipeline.app import build as build_pipeline
from mbp.pipeline.pipeline import Pipeline
from mbp.pipeline.store import Store as PipelineStore
from mbp.registry import policy
from mbp.registry.app import build as build_registry
from mbp.registry.registry import Registry
from mbp.registry.seed import DEFAULT_SEED, sow
from mbp.registry.store import Store as RegistryStore
from mbp.sinks.app import Sinks
from mbp.sinks.app import build as build_sinks
from tests.mbp import engines, test_fe, test_release
from tests.mbp.engines import BEARER, TOKEN
from tests.mbp.test_dec import FREE, InProcess

# -- the services ------------------------------------------------------------------------------------------------------


@contextmanager
def engine(folder):
    """An engine with a market, its fault door open."""
    with engines.running(folder) as made:
        engines.open_market(made, "m1")
        yield made.app


@contextmanager
def dec(folder):
    """A candidate over such an engine."""
    with engine(folder) as app:
        yield build_dec("candidate", InProcess(app), limits=FREE, token=TOKEN)


@contextmanager
def release(folder):
    """The release controller."""
    with test_release.running(folder) as life:
        yield life.app


@contextmanager
def fe(folder):
    """The front end."""
    with test_fe.running(folder) as life:
        yield life.app


@contextmanager
def sinks(folder):
    """The sinks, without SMTP."""
    yield build_sinks(Sinks(folder, lambda: 1.7e9))


@contextmanager
def executor(folder):
    """The hook executor."""
    yield build_executor(Executor(folder, load(), {}, wall=lambda: 1.7e9, rest=lambda _: 0.0))


@contextmanager
def contract(_):
    """The contract probe; it is not running, which its health says."""
    api = HttpApi("http://127.0.0.1:1")
    yield build_contract(Contract.load(KEPT), api, wall=lambda: 0.0, clock=lambda: 0.0)


@contextmanager
def registry(folder):
    """The schema registry with the platform's schemas."""
    store = RegistryStore(folder / "registry.sqlite3")
    made = Registry(store, policy.load(policy.DEFAULT_POLICY))
    sow(made, DEFAULT_SEED)
    with ExitStack() as stack:
        stack.callback(store.close)
        yield build_registry(made)


@contextmanager
def pipeline(folder):
    """The pipeline, its watchers quiet."""
    store = PipelineStore(folder / "pipeline.sqlite3", 0.0)
    with ExitStack() as stack:
        stack.callback(store.close)
        yield build_pipeline(Pipeline(store, None, {}, lambda: 0.0))


@contextmanager
def relay(_):
    """The relay, its thread replaced by nothing."""
    yield build_relay(Watch(lambda: 0.0, lambda: 0.0), threading.Thread(target=int), lambda: None)


@contextmanager
def cdc(_):
    """The CDC consumer, its threads replaced by nothing."""
    line = Line()
    faults = Faults([point(line, lambda: None)], monotonic=lambda: 0.0, wall=lambda: 0.0)
    state = State(line, monotonic=lambda: 0.0, wall=lambda: 0.0)
    yield build_cdc(state, line, faults, TOKEN, [], lambda: None)


SERVICES = (engine, dec, release, fe, sinks, executor, contract, registry, pipeline, relay, cdc)

# -- what is sent to them ----------------------------------------------------------------------------------------------

JSON = {"content-type": "application/json"}
BODIES = {
    "not JSON": b"{",
    "nothing": b"",
    "not text": b"\xff\xfe\x00",
    "an array": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "a number": b"1e999",
    "not a number": b'{"amount": NaN}',
    "unknown fields": b'{"no_such_field": 1}',
    "nested deep": b'{"a":' * 4000 + b"1" + b"}" * 4000,
    "lone surrogate": b'{"reason": "\\ud800", "state": "\\ud800"}',
    "wrong types": b'{"state": 1, "status": [], "amount": {}, "market": 7, "version": null, "reason": 1, "ttl_s": "x"}',
}
NAMES = ("no-such", "x" * 300, "%00", "..%2F..%2Fetc", "%C3%A9", "%20")
QUERIES = ("abc", "-1", "99999999999999999999", "", "1e9", "%00")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
#: Routes that pass whatever comes on to somebody else, whose refusal it is: `release` and `fe`.
PASSING = ("/v1/{rest:path}", "/api/v1/{rest:path}")
#: Routes that look at no body: there is nothing to get wrong but the method.
BODILESS = ("/profile",)


def routes(app) -> list[APIRoute]:
    """Return the routes of an app, those of its routers included (which FastAPI keeps as they were included)."""
    found = []
    for route in app.routes:
        if isinstance(route, APIRoute):
            found.append(route)
        elif hasattr(route, "original_router"):
            found += routes(route.original_router)
    return found


def test_routes_of_included_routers_are_found(tmp_path):
    """Or the fault doors would be under no test at all."""
    with engine(tmp_path) as app:
        assert {"/faults/{fault_id}", "/v1/markets/{market_id}/frozen", "/healthz"} <= {
            each.path for each in routes(app)
        }


def filled(route: APIRoute, name: str) -> str:
    """Return the route's path with a name in the place of each parameter."""
    path = route.path
    for parameter in route.param_convertors:
        path = path.replace(f"{{{parameter}:path}}", name).replace(f"{{{parameter}}}", name)
    return path


def hostile(app) -> Iterator[tuple[str, str, dict]]:
    """Yield requests that a client should not send: method, path and what goes with it."""
    known: dict[str, set[str]] = {}
    for route in routes(app):
        known.setdefault(route.path, set()).update(route.methods)
    for route in routes(app):
        if route.path in PASSING:
            continue
        for method in sorted(route.methods - {"HEAD"}):
            if method in ("POST", "PUT", "PATCH") and route.path not in BODILESS:
                for body in BODIES.values():
                    yield method, filled(route, "no-such"), {"content": body, "headers": JSON}
                yield method, filled(route, "no-such"), {"content": b"a=b", "headers": {"content-type": "text/plain"}}
            if route.param_convertors:
                for name in NAMES:
                    yield method, filled(route, name), {"content": b"{", "headers": JSON}
            for field in route.dependant.query_params:
                for value in QUERIES:
                    yield method, f"{filled(route, 'no-such')}?{field.alias}={value}", {}
        for method in sorted(set(METHODS) - known[route.path]):
            yield method, filled(route, "no-such"), {"content": b"{}", "headers": JSON}
    yield "GET", "/no/such/route", {}
    yield "BREW", "/healthz", {}


def state(app) -> list[tuple[str, str]]:
    """Return what the service shows of itself: every GET without parameters, but for health, metrics and sums."""
    skip = {"/healthz", "/metrics", "/identity", "/"}
    paths = sorted(
        route.path
        for route in routes(app)
        if "GET" in route.methods and not route.param_convertors and route.path not in skip
    )

    async def look():
        async with client(app) as http:
            return [(path, (await http.get(path)).text) for path in paths]

    return asyncio.run(look())


def client(app) -> httpx.AsyncClient:
    """Return a client that holds the token of the fault doors: bad input behind the door is refused as well."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://mbp", headers=BEARER, timeout=30)


def wrong(answer: httpx.Response, request: tuple[str, str, dict]) -> str | None:
    """Return what is wrong with an answer to a hostile request, if anything is."""
    asked = f"{request[0]} {request[1][:120]} {request[2].get('content', b'')[:60]!r}: {answer.status_code}"
    no_database = answer.status_code == 503 and answer.json()["error"] == "database_unavailable"
    if no_database and request[1].split("?")[0].endswith("/history"):
        return None  # a form that fits, of a release that was given no database: refused for that alone
    if answer.status_code >= 500:
        return f"{asked}: not the client's fault? {answer.text[:200]}"
    if answer.status_code < 400:
        return None if request[0] in ("GET", "DELETE") else f"{asked}: taken: {answer.text[:100]}"
    try:
        body = answer.json()
    except ValueError:
        return f"{asked}: no JSON: {answer.text[:100]}"
    fine = (
        isinstance(body.get("error"), str) and isinstance(body.get("detail"), str) and body["error"] and body["detail"]
    )
    return None if fine else f"{asked}: not the one shape: {answer.text[:100]}"


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.__name__)
def test_bad_input_is_refused_clearly_and_changes_nothing(service, tmp_path):
    """Malformed and mistyped bodies, no ids, wrong methods and numbers: 4xx with code and text, never 5xx."""
    with service(tmp_path) as app:
        before, asked = state(app), list(hostile(app))
        assert len(asked) > 10

        async def send():
            found = []
            async with client(app) as http:
                for method, path, more in asked:
                    answer = await http.request(method, path, **more)
                    found.append(wrong(answer, (method, path, more)))
            return found

        assert [each for each in asyncio.run(send()) if each is not None] == []
        assert state(app) == before


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.__name__)
def test_a_body_over_the_limit_is_refused_before_it_is_read(service, tmp_path):
    """413 on every route that takes a body; on the executor, which takes many alerts at once, at 4 MiB."""
    size = 4 * 1024 * 1024 + 1 if service is executor else 64 * 1024 + 1
    with service(tmp_path) as app:

        async def send():
            async with client(app) as http:
                return [
                    (
                        method,
                        route.path,
                        (await http.request(method, filled(route, "a"), content=b"x" * size)).status_code,
                    )
                    for route in routes(app)
                    for method in sorted(route.methods & {"POST", "PUT", "PATCH"})
                ]

        assert [each for each in asyncio.run(send()) if each[2] != 413] == []
