"""The fault point of the decision API: its answers break the contract `mbp.v1`, as a bad release of it would.

Only answers that went well are changed, and only those of `POST /v1/quotes`: a consumer reads them all the time,
nothing is stored of them, and the engine never sees the difference. What is changed is the answer of *this* process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mbp._faults import Faults, Point
from mbp._wire import Wire

POINT, KIND = "dec.answer", "mutate"
ROUTE = ("POST", "/v1/quotes")

Change = Literal["retype_and_drop", "drop_field", "retype_field", "rename_field"]


class MutateParams(Wire):
    """What `dec.answer` / `mutate` is told: the contract that is to be broken, and how."""

    contract: Literal["mbp.v1"]
    change: Change = "retype_and_drop"


def _retype(quote: dict[str, Any]) -> dict[str, Any]:
    return {**quote, "amount_out": float(quote["amount_out"])}


def _drop(quote: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in quote.items() if name != "fee"}


def _rename(quote: dict[str, Any]) -> dict[str, Any]:
    return {("amountOut" if name == "amount_out" else name): value for name, value in quote.items()}


CHANGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "retype_and_drop": lambda quote: _drop(_retype(quote)),
    "drop_field": _drop,
    "retype_field": _retype,
    "rename_field": _rename,
}


def fault_points(*, monotonic: Callable[[], float], wall: Callable[[], float]) -> Faults:
    """Return the faults that a decision API can be told to have."""
    return Faults([Point(POINT, KIND, MutateParams, alone=True)], monotonic=monotonic, wall=wall)


class Mutated:
    """ASGI middleware that changes the answers while a fault is in force, and passes them on untouched otherwise."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        """Wrap ``app``."""
        self.app, self.faults = app, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; keep a good answer back until it is whole, and change it."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ROUTE or not len(self.faults.leases):
            await self.app(scope, receive, send)
            return
        started: Message | None = None
        parts: list[bytes] = []

        async def changed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start" and message["status"] == 200:
                started = message
            elif started is None:
                await send(message)
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    body = self._change(b"".join(parts))
                    MutableHeaders(scope=started)["Content-Length"] = str(len(body))
                    await send(started)
                    await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, changed)

    def _change(self, body: bytes) -> bytes:
        """Return the answer as the fault has it; the lease may have ended while the answer was made."""
        fault = self.faults.bites(POINT)
        if fault is None or not isinstance(fault.spec.params, MutateParams):
            return body
        return json.dumps(CHANGES[fault.spec.params.change](json.loads(body)), separators=(",", ":")).encode()


class FaultSeries(Collector):
    """``sim_fault_active`` and ``sim_fault_hits_total`` of a service that has a fault door."""

    def __init__(self, faults: Faults) -> None:
        """Read ``faults`` at scrape time."""
        self._faults = faults

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield the two families."""
        yield from self._faults.families()


def export(faults: Faults, registry: CollectorRegistry) -> None:
    """Add the fault series to a registry."""
    registry.register(FaultSeries(faults))
