"""The fault door that services share: leases, `/faults` behind a bearer token, and a keeper for the simple case.

A fault lives only in memory and only as long as its lease: a dead harness leaves nothing, and neither does a restart
of the service. A service with one or two fault points makes a :class:`Faults` of its :class:`Point` s, adds
:class:`Door` to its app, includes :func:`fault_router`, runs :func:`sweep_forever` and asks :meth:`Faults.at` where the
fault is to bite; a service whose faults need more (the engine) keeps its own :class:`Leases` behind the same router.
"""

from __future__ import annotations

import asyncio
import hmac
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Protocol, TypeVar

from fastapi import APIRouter, Path, Query, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from mbp._asgi import ApiError, refuse
from mbp._service import wall_text
from mbp._wire import Wire

TTL_CAP_S = 60.0
TTL_LEAST_S = 0.1
FAULTS_AT_ONCE = 16

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,%d}$"
FaultId = Annotated[str, Path(pattern=_NAME % 79)]
Run = Annotated[str, StringConstraints(pattern=_NAME % 119)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]{0,63}$")]

P = TypeVar("P", bound=BaseModel)


class FaultBody(Wire):
    """The body of a fault; ``ttl_s`` is required, for a fault without an end is refused."""

    point: Word
    kind: Word
    params: dict[str, Any]
    ttl_s: Annotated[float, Field(ge=TTL_LEAST_S, le=TTL_CAP_S, allow_inf_nan=False)]
    run: Run
    rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    match: Annotated[dict[str, str], Field(default_factory=dict, max_length=0)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def params_as(self, model: type[P]) -> P:
        """Return ``params`` as the point's own model; raises what FastAPI raises for a bad body (answered 422)."""
        try:
            return model.model_validate(self.params)
        except ValidationError as error:
            found = [{**each, "loc": ("body", "params", *each["loc"])} for each in error.errors(include_url=False)]
            raise RequestValidationError(found) from None


class Lease(Protocol):
    """What every specification of a fault says about its lease."""

    @property
    def ttl_s(self) -> float:
        """Seconds until it ends unless it is renewed."""
        ...

    @property
    def run(self) -> str:
        """The run that asked for it."""
        ...

    @property
    def rate(self) -> float:
        """The share of hits that it changes."""
        ...

    @property
    def seed(self) -> int:
        """What its dice begin with."""
        ...


F = TypeVar("F", bound=Lease)


@dataclass(slots=True)
class Fault(Generic[F]):
    """A fault in force: its lease and what it has met."""

    id: str
    spec: F
    rev: int
    expires: float  # on the service's monotonic clock
    expires_wall: float  # a label
    hits: int = 0  # what met it
    impacted: int = 0  # what it changed
    last_hit_wall: float | None = None
    dice: random.Random = field(default_factory=random.Random)

    def bites(self, wall: float) -> bool:
        """Count one hit, and tell whether it is to be changed (always, at a rate of 1)."""
        self.hits += 1
        self.last_hit_wall = wall
        return self.spec.rate >= 1.0 or self.dice.random() < self.spec.rate


class Leases(Generic[F]):
    """The faults in force, by id. Pure; the clock is an argument."""

    def __init__(self) -> None:
        """Begin with none."""
        self._by_id: dict[str, Fault[F]] = {}
        self._rev = 0

    def __iter__(self) -> Iterator[Fault[F]]:
        """Iterate over the faults in force, oldest first."""
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        """Return how many faults are in force."""
        return len(self._by_id)

    def get(self, fault_id: str) -> Fault[F] | None:
        """Return a fault by its id."""
        return self._by_id.get(fault_id)

    def grant(self, fault_id: str, spec: F, now: float, wall: float) -> Fault[F]:
        """Put a new fault in force."""
        self._rev += 1
        fault = Fault(fault_id, spec, self._rev, now + spec.ttl_s, wall + spec.ttl_s)
        fault.dice = random.Random(spec.seed)  # noqa: S311 - a seeded share of hits, not a secret
        self._by_id[fault_id] = fault
        return fault

    def renew(self, fault: Fault[F], now: float, wall: float) -> None:
        """Begin the lease anew."""
        self._rev += 1
        fault.rev, fault.expires, fault.expires_wall = self._rev, now + fault.spec.ttl_s, wall + fault.spec.ttl_s

    def drop(self, fault: Fault[F]) -> None:
        """Take a fault out of force."""
        self._by_id.pop(fault.id, None)

    def expired(self, now: float) -> list[Fault[F]]:
        """Return the faults whose lease is over."""
        return [fault for fault in self if fault.expires <= now]

    def next_expiry(self) -> float | None:
        """Return when the next lease is over, on the monotonic clock, or None when there is none."""
        return min((fault.expires for fault in self), default=None)


class Door:
    """ASGI middleware that answers for `/faults` before any body is read: 404 when shut, 401 without the token."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        """Guard ``app``; no token means that the door is shut."""
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or let the request in."""
        path: str = scope.get("path", "")
        if scope["type"] != "http" or not (path == "/faults" or path.startswith("/faults/")):
            await self.app(scope, receive, send)
            return
        if self.token is None:
            await refuse(scope, receive, send, 404, "not_found", "Not Found")
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self.token.encode("ascii")):
            headers = {"WWW-Authenticate": "Bearer"}
            await refuse(scope, receive, send, 401, "unauthorized", "the fault door needs its bearer token", headers)
            return
        await self.app(scope, receive, send)


class Keeper(Protocol):
    """What stands behind the door. `put` raises :class:`ApiError` (409 ``fault_differs``, ``too_many_faults``)."""

    def put(self, fault_id: str, body: FaultBody) -> dict[str, Any]:
        """Put a fault in force, or renew the very same; return it as it is answered."""
        ...

    def listed(self) -> list[dict[str, Any]]:
        """Return the faults in force as they are answered."""
        ...

    def delete(self, fault_id: str) -> None:
        """Take a fault out of force; an absent one is no error."""
        ...

    def delete_run(self, run: str) -> None:
        """Take all faults of one run out of force."""
        ...


def fault_router(keeper: Keeper) -> APIRouter:
    """Return the four routes of the fault contract."""
    router = APIRouter(include_in_schema=False)

    @router.put("/faults/{fault_id}")
    async def put(fault_id: FaultId, body: FaultBody) -> JSONResponse:
        return JSONResponse(keeper.put(fault_id, body))

    @router.get("/faults")
    async def listed() -> JSONResponse:
        return JSONResponse(keeper.listed())

    @router.delete("/faults/{fault_id}", status_code=204)
    async def delete(fault_id: FaultId) -> Response:
        keeper.delete(fault_id)
        return Response(status_code=204)

    @router.delete("/faults", status_code=204)
    async def delete_run(run: Annotated[str, Query(pattern=_NAME % 119)]) -> Response:
        keeper.delete_run(run)
        return Response(status_code=204)

    return router


def show(fault: Fault[Any], point: str, kind: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return a fault as it is answered; a service adds to it what else its point has to say."""
    spec = fault.spec
    return {
        "id": fault.id,
        "point": point,
        "kind": kind,
        "run": spec.run,
        "rev": fault.rev,
        "params": params,
        "rate": spec.rate,
        "match": {},
        "seed": spec.seed,
        "ttl_s": spec.ttl_s,
        "expires_at": wall_text(fault.expires_wall),
        "hits": fault.hits,
        "impacted": fault.impacted,
        "last_hit_at": None if fault.last_hit_wall is None else wall_text(fault.last_hit_wall),
    }


@dataclass(frozen=True, slots=True)
class Spec:
    """What a fault at a :class:`Point` is asked to be; two requests are the same fault when these are equal."""

    point: str
    kind: str
    params: Wire
    ttl_s: float
    run: str
    rate: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """A place where a service can be made to fail.

    ``apply(fault_id, params)`` is called before the fault is in force and may raise :class:`ApiError`; ``remove`` after
    it is out of force and may not raise; ``show`` adds to the answer. All three are short and run on the event loop.
    ``alone``: at most one fault is in force here at once.
    """

    name: str
    kind: str
    params: type[Wire]
    apply: Callable[[str, Any], None] = lambda _id, _params: None
    remove: Callable[[Fault[Spec]], None] = lambda _fault: None
    show: Callable[[Fault[Spec]], dict[str, Any]] = lambda _fault: {}
    alone: bool = False


class Faults:
    """The keeper of a service whose faults are leases and nothing more."""

    def __init__(self, points: Iterable[Point], *, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        """Keep faults at ``points``, their leases on ``monotonic``; ``wall`` gives labels."""
        self._points = {point.name: point for point in points}
        self._monotonic, self._wall = monotonic, wall
        self._hits: dict[str, int] = dict.fromkeys(self._points, 0)
        self.leases: Leases[Spec] = Leases()

    def at(self, point: str) -> Fault[Spec] | None:
        """Return the oldest fault in force at a point, None when there is none; an expired one is ended here."""
        if not len(self.leases):
            return None
        self.sweep()
        return next((fault for fault in self.leases if fault.spec.point == point), None)

    def bites(self, point: str) -> Fault[Spec] | None:
        """Count a hit at a point and return the fault if this hit is to be changed (and is counted as impacted)."""
        fault = self.at(point)
        if fault is None:
            return None
        self._hits[point] += 1
        if not fault.bites(self._wall()):
            return None
        fault.impacted += 1
        return fault

    def put(self, fault_id: str, body: FaultBody) -> dict[str, Any]:
        """See :class:`Keeper`."""
        self.sweep()
        point = self._points.get(body.point)
        if point is None or point.kind != body.kind:
            known = ", ".join(f"{each.name}/{each.kind}" for each in self._points.values())
            raise ApiError(422, "invalid", f"body.point: there is no such point and kind here ({known})")
        params = body.params_as(point.params)
        spec = Spec(point.name, point.kind, params, body.ttl_s, body.run, body.rate, body.seed)
        fault = self.leases.get(fault_id)
        if fault is not None:
            if fault.spec != spec:
                raise ApiError(409, "fault_differs", f"fault {fault_id!r} is in force with another body")
            self.leases.renew(fault, self._monotonic(), self._wall())
            return self._shown(fault)
        taken = self.at(point.name) if point.alone else None
        if taken is not None:
            raise ApiError(409, "too_many_faults", f"fault {taken.id!r} is in force at {point.name} already")
        if len(self.leases) >= FAULTS_AT_ONCE:
            raise ApiError(409, "too_many_faults", f"at most {FAULTS_AT_ONCE} faults are in force at once")
        point.apply(fault_id, params)
        return self._shown(self.leases.grant(fault_id, spec, self._monotonic(), self._wall()))

    def listed(self) -> list[dict[str, Any]]:
        """See :class:`Keeper`."""
        self.sweep()
        return [self._shown(fault) for fault in self.leases]

    def delete(self, fault_id: str) -> None:
        """See :class:`Keeper`."""
        fault = self.leases.get(fault_id)
        self._end([] if fault is None else [fault])

    def delete_run(self, run: str) -> None:
        """See :class:`Keeper`."""
        self._end([fault for fault in self.leases if fault.spec.run == run])

    def sweep(self) -> None:
        """End every fault whose lease is over."""
        self._end(self.leases.expired(self._monotonic()))

    def _end(self, faults: list[Fault[Spec]]) -> None:
        for fault in faults:
            self.leases.drop(fault)
            self._points[fault.spec.point].remove(fault)

    def _shown(self, fault: Fault[Spec]) -> dict[str, Any]:
        spec = fault.spec
        shown = show(fault, spec.point, spec.kind, spec.params.model_dump(mode="json"))
        return shown | self._points[spec.point].show(fault)

    def families(self) -> tuple[GaugeMetricFamily, CounterMetricFamily]:
        """Return ``sim_fault_active{point}`` and ``sim_fault_hits_total{point}`` for the service's metrics."""
        active = GaugeMetricFamily("sim_fault_active", "Faults in force at a point.", labels=["point"])
        hits = CounterMetricFamily("sim_fault_hits", "Times that a fault in force was met.", labels=["point"])
        for point in self._points:
            active.add_metric([point], sum(fault.spec.point == point for fault in self.leases))
            hits.add_metric([point], self._hits[point])
        return (active, hits)


async def sweep_forever(faults: Faults, every_s: float = 0.25) -> None:
    """End leases on time although nobody asks; run it as a task of the service."""
    while True:
        await asyncio.sleep(every_s)
        faults.sweep()
