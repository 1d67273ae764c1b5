"""What an observer is.

An observer reads one outside system and says what it saw, in the vocabulary of `sim.event`. It never judges. Being
unable to look is an error of its own kind (`CannotLook`): the runner turns it into ``observer.blind`` and back into
``observer.seeing``, so that "not seen" and "not looked" never mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pydantic import BaseModel

from sim.event import JSON
from sim.secret import Secrets
from sim.target import Fact


class CannotLook(Exception):
    """The observer could not read its source: unreachable, refused, timed out, or answered with nonsense."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing seen: `kind` and `data` as in `sim.event`; `occurred_at` is the source's own time (epoch s)."""

    kind: str
    data: Mapping[str, JSON]
    occurred_at: float | None = None


class Observer(Protocol):
    """Reads one outside system."""

    async def poll(self) -> Sequence[Observation]:
        """Look once, and say what is new since the last look.

        The first look says what is there now (alerts firing, executions not finished, every state and gauge); a
        source with a cursor starts at its present end. Raises `CannotLook`.
        """
        ...


@runtime_checkable
class HasClock(Protocol):
    """An observer whose source tells the time, so that its stamps can be compared with ours."""

    async def source_time(self) -> float:
        """Return the source's clock, epoch seconds with at least millisecond resolution. Raises `CannotLook`."""
        ...


@runtime_checkable
class SendsCanary(Protocol):
    """An observer that can put a harmless test alert into the alert path."""

    async def send_canary(self, labels: Mapping[str, str], ends_in_s: float) -> None:
        """Send one alert with exactly these labels that ends by itself. Raises `CannotLook`."""
        ...


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that a close look at a source found: whether it serves, what was seen, and the cure where it is bad."""

    ok: bool
    text: str
    cure: str = ""


@runtime_checkable
class LooksClosely(Protocol):
    """An observer that can say more about its source than that it answers: is there anything in it to see?"""

    async def closely(self) -> Sequence[Remark]:
        """Look at the source itself, with real calls that change nothing. Raises `CannotLook`."""
        ...


@dataclass(frozen=True, slots=True)
class Opening:
    """What an observer is opened with.

    `config` is an instance of the kind's own model. `facts` are those of the profile that read from this observer.
    `injections` are the ids that this run's faults will carry into the target (empty outside a run).
    """

    name: str
    config: BaseModel
    facts: Mapping[str, Fact]
    secrets: Secrets
    run_id: str = ""
    injections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ObserverKind:
    """A kind of observer: one module of an observers' room, its value named `observer`, its name the module's.

    `cursor` says that the source keeps what happened (an audit, an inbox): such an observer is blind only while a gap
    is not read back. Others are polled, and what came and went between two looks is lost. `yields` are the kinds of
    observation it can make; the plan uses it to refuse a fact that this kind can never fill.
    """

    summary: str
    config: type[BaseModel]
    open: Callable[[Opening], AbstractAsyncContextManager[Observer]]
    yields: frozenset[str] = field(default_factory=frozenset)
    cursor: bool = False
