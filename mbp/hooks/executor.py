"""The A110 hook executor: takes Alertmanager's webhooks, and does at the platform what the table says.

``python -m mbp.hooks.executor --port N --data DIR --table FILE --endpoint NAME=URL ...``.
At-least-once in, effectively-once out: a delivery is answered 202 only after it is
committed, and no action runs inside the request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mbp._asgi import ApiError, create_app, run
from mbp._service import CLIENT_KEEP_ALIVE_S, StartRefused, hold_data_folder, port_number
from mbp.hooks import webhook
from mbp.hooks._http import PAGE_LIMIT, Desk
from mbp.hooks.audit import EVENTS
from mbp.hooks.coverage import Coverage, Unknown, asker, look
from mbp.hooks.endpoint import Endpoints
from mbp.hooks.store import STATES, Store
from mbp.hooks.table import DEFAULT_TABLE, Table, TableError, load
from mbp.hooks.tickets import TicketWorker
from mbp.hooks.worker import Workers, rest_s

log = logging.getLogger(__name__)
ALERTS_LIMIT = 1 << 20  # bytes of one delivery: many alerts may come in one


class Executor:
    """The executor over one store and one table."""

    def __init__(self, folder: Path, table: Table, urls: Mapping[str, str], *, pretend: Collection[str] = (),
                 wall: Callable[[], float] = time.time, rest: Callable[[int], float] = rest_s,
                 chain: tuple[str, str] | None = None) -> None:  # fmt: skip
        """Open the store in `folder`; `urls` are base URLs by endpoint name. Raises `sqlite3.Error`.

        `chain` are the base URLs of Prometheus and Alertmanager; without them the hooks' coverage is not known.
        """
        self.table, self._urls, self._pretend, self._rest = table, dict(urls), pretend, rest
        self.store = Store(folder, table, urls, wall)
        self.desk = Desk("executor-store")
        self.workers: Workers | None = None
        self.ticketing: TicketWorker | None = None
        self.registry = CollectorRegistry()
        self._make_metrics()
        self._chain, self.coverage = chain, Coverage(self.registry)
        self.changed(self.store.counts())
        self.tickets_changed(self.store.tickets.counts())
        broken = self.store.audit.first_break()
        self._intact.set(broken is None)
        if broken is not None:
            log.error("the audit chain is broken at row %s: rows were changed or removed", broken)

    def _make_metrics(self) -> None:
        registry = self.registry
        self._by_state = Gauge("a110_executions", "Executions, by state.", ["state"], registry=registry)
        self._tickets = Gauge("a110_tickets", "Tickets, by state.", ["state"], registry=registry)
        self._alerts = Counter(
            "a110_alerts", "Alerts delivered, by what became of them.", ["outcome"], registry=registry
        )
        self._refused = Counter("a110_refused", "Deliveries refused, by error.", ["error"], registry=registry)
        self._took = Histogram(
            "a110_action_seconds", "From claim to effect read back.", ["action"], registry=registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15),
        )  # fmt: skip
        self._intact = Gauge("a110_audit_intact", "1 when the audit chain held at the start.", registry=registry)
        enabled = Gauge("a110_hook_enabled", "1 for a hook that acts.", ["hook"], registry=registry)
        for name, hook in self.table.hooks.items():
            enabled.labels(name).set(hook.enabled)
        for outcome in ("accepted", "duplicate", "resolved", "canary", "unknown", "disabled", "stale"):
            self._alerts.labels(outcome)

    def took(self, action: str, seconds: float) -> None:
        """Count an action that was done."""
        self._took.labels(action).observe(seconds)

    def changed(self, counts: dict[str, int]) -> None:
        """Show how many executions there are by state."""
        for state, count in counts.items():
            self._by_state.labels(state).set(count)

    def tickets_changed(self, counts: dict[str, int]) -> None:
        """Show how many tickets there are by state."""
        for state, count in counts.items():
            self._tickets.labels(state).set(count)

    async def accept(self, body: bytes) -> dict[str, int]:
        """Record one delivery, wake the workers and return what became of its alerts. Raises `ApiError` 400 or 503."""
        try:
            delivery = webhook.parse(body)
            found, counts = await self.desk.do(lambda: (self.store.accept(delivery, body), self.store.counts()))
        except ApiError as error:
            self._refused.labels(error.code).inc()
            raise
        if self.workers is not None:
            self.workers.wake()
        if self.ticketing is not None:
            self.ticketing.wake()
        self.changed(counts)
        for outcome, number in found.items():
            self._alerts.labels(outcome).inc(number)
        return {str(outcome): number for outcome, number in found.items()}

    async def health(self) -> str | None:
        """Say why deliveries cannot be taken, None when they can."""
        try:
            await self.desk.do(self.store.check)
        except ApiError as error:
            return error.detail
        return None

    async def _decided(self) -> tuple[int, int]:
        try:
            return await self.desk.do(self.store.audit.coverage)
        except ApiError as error:
            raise Unknown(error.detail) from error

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Run the workers for the time of the block, then close the store."""
        timeout = aiohttp.ClientTimeout(total=5)
        connector = aiohttp.TCPConnector(keepalive_timeout=CLIENT_KEEP_ALIVE_S, limit=32)
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                endpoints = Endpoints(session, self._urls)
                self.workers = Workers(
                    self.store, self.desk, self.table, endpoints, self, pretend=self._pretend, rest=self._rest
                )
                self.ticketing = TicketWorker(
                    self.store.tickets, self.desk, endpoints, self._rest, self.tickets_changed
                )
                watch = self.coverage.watch(partial(look, self.table, asker(session), self._chain), self._decided)
                tasks = [asyncio.create_task(each) for each in (self.workers.run(), self.ticketing.run(), watch)]
                try:
                    yield
                finally:
                    for task in tasks:
                        task.cancel()
                        with contextlib.suppress(asyncio.CancelledError):
                            await task
        finally:
            self.desk.close(self.store.close)


def build(executor: Executor) -> FastAPI:
    """Return the app; its workers run while it runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with executor.working():
            yield

    # Alertmanager puts many alerts into one delivery; the platform's general limit would refuse them for ever.
    app = create_app(
        "executor", registry=executor.registry, health=executor.health, lifespan=lifespan, body_limit=ALERTS_LIMIT
    )

    @app.post("/v1/alerts")
    async def alerts(request: Request) -> JSONResponse:
        return JSONResponse({"status": "accepted", "alerts": await executor.accept(await request.body())}, 202)

    @app.get("/v1/executions")
    async def executions(state: str | None = None, after: int = Query(0, ge=0, le=2**62),
                         limit: int = Query(PAGE_LIMIT, ge=1, le=PAGE_LIMIT)) -> JSONResponse:  # fmt: skip
        if state is not None and state not in STATES and state not in EVENTS:
            raise ApiError(422, "invalid", f"state: {state[:40]!r} is not one of {', '.join(STATES)}")
        rows = await executor.desk.do(lambda: executor.store.executions(state, after, limit))
        return JSONResponse({"rows": rows, "next": rows[-1]["seq"] if rows else after})

    @app.get("/v1/tickets")
    async def tickets(after: int = Query(0, ge=0, le=2**62),
                      limit: int = Query(PAGE_LIMIT, ge=1, le=PAGE_LIMIT)) -> JSONResponse:  # fmt: skip
        rows = await executor.desk.do(lambda: executor.store.tickets.rows(after, limit))
        return JSONResponse({"rows": rows, "next": rows[-1]["seq"] if rows else after})

    @app.get("/v1/audit")
    async def audit(after: int = Query(0, ge=0, le=2**62), tail: Literal["1"] | None = None,
                    limit: int = Query(100, ge=1, le=PAGE_LIMIT)) -> JSONResponse:  # fmt: skip
        if tail is not None:
            return JSONResponse({"rows": [], "next": await executor.desk.do(executor.store.audit.last)})
        rows, last = await executor.desk.do(
            lambda: (executor.store.audit.rows(after, limit), executor.store.audit.last())
        )
        return JSONResponse({"rows": rows, "next": rows[-1]["seq"] if rows else last})

    return app


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{text!r} is not the base URL of a service (http://HOST:PORT)")
    return text


def _endpoint(text: str) -> tuple[str, str]:
    name, mark, url = text.partition("=")
    if not mark or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=URL")
    return name, _url(url)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; 0 then, 1 when it cannot start, 3 when the table is wrong."""
    parser = argparse.ArgumentParser(prog="python -m mbp.hooks.executor", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=port_number, required=True, help="port on 127.0.0.1")
    parser.add_argument("--data", type=Path, required=True, help="folder for executions and audit")
    parser.add_argument("--table", type=Path, default=DEFAULT_TABLE, help="the A110 table (default: the bundled one)")
    parser.add_argument("--prometheus", type=_url, help="with --alertmanager: where to ask how much is in force")
    parser.add_argument("--alertmanager", type=_url, help="see --prometheus")
    parser.add_argument("--endpoint", type=_endpoint, action="append", default=[], metavar="NAME=URL",
                        help="a service that actions are done at, by its name in the table")  # fmt: skip
    arguments = parser.parse_args(argv)
    try:
        table = load(arguments.table)
        pretend = [name for name in os.environ.get("MBP_EXECUTOR_PRETEND", "").split(",") if name]
        known = {action.name for hook in table.hooks.values() for action in hook.actions}
        if unknown := sorted(set(pretend) - known):
            raise StartRefused(f"MBP_EXECUTOR_PRETEND: {unknown[0]!r} is not an action of the table")
        urls = dict(arguments.endpoint)
        both = (arguments.prometheus, arguments.alertmanager)
        chain = both if all(both) else None
        with hold_data_folder(arguments.data, "executor"):
            return run(build(Executor(arguments.data, table, urls, pretend=pretend, chain=chain)), arguments.port)
    except TableError as error:
        print(f"executor: {error}", file=sys.stderr)
        return 3
    except (StartRefused, OSError) as error:
        print(f"executor: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
