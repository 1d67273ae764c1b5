"""What a kind of fault is: one module of an injectors' room, one value named `injector`, its name the module's path.

The life of one use of it (an *injection*) is fixed by `sim.injection` and the same for every kind::

    prepare -> (journal) -> apply -> effective? -> renew ... -> withdraw -> gone? -> held?

Everything that undoing needs is in the receipt, plain JSON, written to disk before `apply`; `withdraw` and `gone` must
work from the receipt alone, in another process, any number of times.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from sim.event import JSON
from sim.secret import Secrets
from sim.target import Door

Receipt = dict[str, JSON]


class InjectionError(Exception):
    """The target refused or could not be reached. Says what was asked, what came back, and of whom."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where and as what one injection works.

    `id` is the correlation that travels into the target. `doors` are the ways in that the profile opens (only those
    that the injector named). `ttl_s` is the lease to ask of a target that can hold one.
    """

    id: str
    run_id: str
    doors: Mapping[str, Door]
    secrets: Secrets
    ttl_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` found: the receipt, what will be hit (empty is never a success), and the state before."""

    receipt: Receipt
    targets: tuple[str, ...]
    prior: JSON = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A look at the fault itself: does it hold, and the evidence for that (shown in the report)."""

    holds: bool
    evidence: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Signal:
    """What the fault looks like to a rule engine, for runs in virtual time: one series and its values."""

    metric: str
    labels: Mapping[str, str]
    #: (seconds since t0, value) points; the value holds until the next point.
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Company:
    """Traffic that is there before the fault, and until all is well again: a process of its own (see `sim.company`).

    `module` is run by our own Python; `given` is told to it, plain JSON without secrets. It may take `ready_s` seconds
    to say that the baseline has what it needs.
    """

    module: str
    given: Mapping[str, JSON]
    ready_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Injector:
    """A kind of fault.

    `params` is the typed signature (a field without default is required); `positional` are the fields that may be
    given without their name, in order. `doors` are the profile's `doors:` keys it needs, `doors_if` those that it uses
    where the profile opens them. `lease` says whether the
    target itself drops the fault when nobody renews it; `renew` may be there all the same with `lease` none, for a
    kind of target of which some can hold a lease and some cannot. `signal` is null where the kind of fault knows
    nothing of what the target measures (a cut link, a stopped process). `duration_s` reads the hold time that the
    parameters ask for (null: the default). `drive` is traffic of our own that runs beside the fault until it is
    withdrawn: it is cancelled, and one that changes the target raises `InjectionError` for a change that nobody has
    acknowledged, which is then waited for. `held` looks back, once the fault is gone: did it hold, as proven, until
    it was withdrawn? If not, nothing seen under it counts. `accompany` names traffic that is needed already at
    baseline, and on until recovery is over. `here` says that the fault is on this machine (a process, a folder),
    not in the target: it does not end when the target does. `unfit` tells from the profile's doors alone why these
    arguments cannot be used there, or null.
    `apply` is never retried; `withdraw` is retried and must be idempotent. All raise `InjectionError`.
    """

    summary: str
    params: type[BaseModel]
    doors: tuple[str, ...]
    lease: Literal["target", "none"]
    prepare: Callable[[Site, BaseModel], Awaitable[Prepared]]
    apply: Callable[[Site, Receipt], Awaitable[None]]
    effective: Callable[[Site, Receipt], Awaitable[Probe]]
    withdraw: Callable[[Site, Receipt], Awaitable[None]]
    gone: Callable[[Site, Receipt], Awaitable[Probe]]
    signal: Callable[[BaseModel], tuple[Signal, ...]] | None
    positional: tuple[str, ...] = ()
    duration_s: Callable[[BaseModel], float | None] = lambda _: None
    renew: Callable[[Site, Receipt], Awaitable[None]] | None = None
    drive: Callable[[Site, Receipt], Awaitable[None]] | None = None
    held: Callable[[Site, Receipt], Awaitable[Probe]] | None = None
    accompany: Callable[[Site, BaseModel], Company] | None = None
    here: bool = False
    doors_if: tuple[str, ...] = ()
    unfit: Callable[[BaseModel, Mapping[str, Door]], str | None] = lambda _, __: None
