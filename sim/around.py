"""What a run has around it: the catalogue, secrets, the stack's exports, and somebody who may want it to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sim.chain import Chain
from sim.clock import Clock, RealClock
from sim.event import JSON
from sim.injector import Injector
from sim.judge import Judge
from sim.observation import ObserverKind
from sim.secret import Secrets
from sim.watchdog import GRACE_S, Watchdog, start

#: The lease asked of a target that can hold one, seconds.
TTL_S = 10.0


class Names(Protocol):
    """What a run asks of a catalogue."""

    def injector(self, name: str) -> Injector: ...

    def observer(self, name: str) -> ObserverKind: ...

    def chain(self, name: str) -> Chain: ...


class Stop:
    """Somebody wants the run to end. A handler sets it; the story sees it at its next wait."""

    def __init__(self) -> None:
        self.by: str | None = None
        self.reason = ""
        self.signal: str | None = None
        self.wake: Callable[[], None] = lambda: None

    def ask(self, by: str, reason: str, signal: str | None = None) -> None:
        """Ask for the end. The first reason stays; a second never shortens the withdrawal."""
        if self.by is None:
            self.by, self.reason, self.signal = by, reason, signal
        self.wake()


class Stopped(Exception):
    """The story was asked to end here."""


@dataclass(slots=True)
class Around:
    """What a run has around it.

    `exports` and `past` are the stack's, `stack` is its folder, `owner_fd` the descriptor that holds it up (null where
    it is not this run's).
    `allow_firing` and `allow_target` carry the reasons that a person gave. `watchdog` starts the process that finishes
    the run if this one cannot, at the latest `grace_s` after the hold time; only tests in virtual time go without.
    """

    names: Names
    secrets: Secrets
    exports: Mapping[str, str]
    base: Path
    clock: Clock = field(default_factory=RealClock)
    stop: Stop = field(default_factory=Stop)
    allow_firing: Mapping[str, str] = field(default_factory=dict)
    past: Mapping[str, JSON] | None = None
    ttl_s: float = TTL_S
    owner_fd: int | None = None
    stack: str | None = None
    allow_target: Mapping[str, str] = field(default_factory=dict)
    watchdog: Callable[..., Watchdog] | None = start
    grace_s: float = GRACE_S
    on_event: Callable[[Any], None] | None = None
    on_judge: Callable[[Judge], None] | None = None
