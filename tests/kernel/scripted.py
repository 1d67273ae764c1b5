"""A target that follows a script, for whole runs in virtual time: every link of the chain can be bent on its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sim import injection, restore
from sim.around import Around, Stop
from sim.chain import Chain
from sim.clock import LoopClock, run_virtual
from sim.exercise import Exercise
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site
from sim.judge import Judgement
from sim.observation import CannotLook, Observation, ObserverKind, Opening
from sim.plan import Plan
from sim.resolve import resolve
from sim.run import run
from sim.secret import Secrets
from sim.target import Target

EPOCH = 1_700_000_000.0

PROFILE: dict[str, Any] = {
    "target": "scripted",
    "environment": "sim-test",
    "identity": {"url": "http://scripted/identity"},
    "doors": {"door": {"url": "http://scripted"}},
    "observers": {
        "prom": {"kind": "prom", "every": 0.25},
        "hooks": {"kind": "hooks", "every": 0.25},
        "slack": {"kind": "inbox", "every": 0.25},
        "release": {"kind": "state", "every": 0.25},
    },
    "facts": {
        "alert": {"kind": "event", "stage": "detect", "from": "prom"},
        "action": {"kind": "event", "stage": "act", "from": "hooks", "sequence": "+"},
        "alert.to": {"kind": "event", "stage": "notify", "from": "slack"},
        "gate": {"kind": "state", "stage": "act", "from": "release", "values": ["open", "blocked"]},
        "lane": {"kind": "state", "stage": "act", "from": "release", "values": ["fast", "slow"]},
        "errors": {"kind": "gauge", "from": "prom", "query": "errors", "worse": "up"},
        "burn": {"kind": "gauge", "from": "prom", "query": "burn", "worse": "up", "cured_by": "action"},
        "score": {"kind": "gauge", "from": "prom", "query": "score", "worse": "down", "tolerance": 0.1},
    },
    "owners": {"TEAM": {"slack": "#team", "email": "team@scripted.test"}, "OTHER": {"slack": "#other"}},
    "hooks": {
        "hook": {
            "alerts": ["Broken"],
            "owner": "TEAM",
            "channels": ["slack"],
            "faults": ["break"],
            "actions": [
                {"name": "block", "effect": "gate=='blocked'", "ready": "gate=='open'", "reversal": "on_resolved"}
            ],
            "within": {"effect": 5, "detect": 10, "act": 15, "notify": 15, "recover": 120},
        },
        "other": {"alerts": ["Odd"], "owner": "OTHER", "actions": [{"name": "undo"}, {"name": "page"}]},
    },
    "quiet": "30s",
    "steady_state": "errors < 0.1",
    "restore": [
        {"fact": "gate", "url": "http://scripted/gate", "json": {"gate": "{prior}"}},
        {"fact": "lane", "url": "http://scripted/lane", "json": {"lane": "{prior}"}},
    ],
}


@dataclass(frozen=True)
class Script:
    """When each link happens, in seconds: after the fault bites, after the alert fires, after the fault is gone.

    Null: never.
    """

    bite: float | None = 0.5
    fire: float | None = 1.5
    act: float | None = 0.5
    effect: float | None = 0.25
    tell: float | None = 0.5
    resolve: float | None = 5.0
    reverse: float | None = 0.5
    actions: tuple[str, ...] = ("block",)
    address: str = "#team"
    blind_prom: tuple[float, float] | None = None
    firing_before: bool = False
    sticky: int = 0
    apply_fails: bool = False
    errors: float = 0.0
    burn: tuple[float, ...] = (0.0,)
    score: float = 1.0
    twice: bool = False
    foreign: str | None = None
    lane_after: str = "fast"
    restore_works: bool = True
    environment: str = "sim-test"
    targets: tuple[str, ...] = ("thing",)
    #: Called before each look of an observer, with its kind; may raise whatever an observer may raise.
    trouble: Callable[[World, str], None] | None = None
    #: What an observer of that kind sees besides, at each look.
    more: Callable[[World, str], list[Observation]] | None = None
    #: The channels by which the test message arrives, each with its delay; null: nobody can send one.
    canary: dict[str, float] | None = None
    #: Bends the injector ``break``.
    odd: Callable[[World, Injector], Injector] | None = None


@dataclass
class World:
    """The scripted target's state; the loop's clock is its time."""

    script: Script
    t_open: float = 0.0
    on: float | None = None
    off: float | None = None
    withdrawals: int = 0
    set_back: dict[str, Any] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    canary_at: float | None = None
    cracked: bool = False

    def now(self) -> float:
        """The loop's seconds."""
        return asyncio.get_running_loop().time()

    def since(self, at: float | None, *delays: float | None) -> float | None:
        """The moment that lies the delays after `at`; null when any is null."""
        if at is None or any(delay is None for delay in delays):
            return None
        return at + sum(delay for delay in delays if delay is not None)

    def passed(self, at: float | None) -> bool:
        """Whether that moment has come."""
        return at is not None and self.now() >= at

    @property
    def fires(self) -> float | None:
        """When the alert fires."""
        return self.since(self.on, self.script.fire)

    @property
    def resolved(self) -> float | None:
        """When it resolves."""
        return self.since(self.off, self.script.resolve)

    @property
    def gate(self) -> str:
        """What the gate reads."""
        if "gate" in self.set_back:
            return str(self.set_back["gate"])
        blocked = self.passed(self.since(self.fires, self.script.act, self.script.effect))
        open_again = self.passed(self.since(self.resolved, self.script.reverse))
        return "blocked" if blocked and not open_again and "block" in self.script.actions else "open"

    @property
    def lane(self) -> str:
        """What the lane reads."""
        acted = self.passed(self.since(self.fires, self.script.act))
        return str(self.set_back.get("lane", self.script.lane_after if acted else "fast"))


def _kinds(world: World) -> dict[str, ObserverKind]:
    class Nothing(BaseModel):
        model_config = ConfigDict(extra="forbid")
        auth: str | None = None

    class Changes:
        def __init__(self) -> None:
            self.last: dict[str, Any] = {}

        def new(self, key: str, value: Any) -> bool:
            if self.last.get(key, ...) == value:
                return False
            self.last[key] = value
            return True

    class Prom(Changes):
        async def poll(self) -> list[Observation]:
            now, script = world.now(), world.script
            span = script.blind_prom
            if span and world.on is not None and span[0] <= now - world.on <= span[1]:
                raise CannotLook("connection refused")
            seen = []
            for name, value in (("errors", script.errors), ("score", script.score), ("burn", self._burn())):
                seen.append(Observation("gauge", {"fact": name, "value": value}))
            fires, resolved = world.fires, world.resolved
            state = "firing" if world.passed(fires) and not world.passed(resolved) else "resolved"
            if script.firing_before:
                state, fires = "firing", 0.0
            if fires is not None and (world.passed(fires) or script.firing_before) and self.new("alert", state):
                seen.append(Observation("alert", _alert("Broken", EPOCH + fires, state), EPOCH + fires))
            if script.foreign and self.new("foreign", "firing"):
                seen.append(Observation("alert", _alert(script.foreign, EPOCH - 50, "firing"), EPOCH - 50))
            return seen

        def _burn(self) -> float:
            acted = world.passed(world.since(world.fires, world.script.act))
            burn = world.script.burn
            return burn[0] if world.on is None else burn[-1] if acted and len(burn) > 2 else burn[min(1, len(burn) - 1)]

    class Hooks(Changes):
        async def poll(self) -> list[Observation]:
            seen = []
            start = world.since(world.fires, world.script.act)
            if world.passed(start):
                for number, action in enumerate(world.script.actions):
                    for again in range(2 if world.script.twice else 1):
                        for state in ("accepted", "started", "succeeded"):
                            key = f"{action}{again}{state}"
                            if self.new(key, True):
                                fired = EPOCH + (world.fires or 0)
                                data = {
                                    "id": f"{action}-{again}", "hook": "hook", "action": action, "target": "app",
                                    "state": state, "fingerprint": "f" * 16, "starts_at": fired, "alert": "Broken",
                                    "audit_seq": len(self.last) + number, "detail": "",
                                }  # fmt: skip
                                seen.append(Observation("execution", data))
            return seen

    class Inbox(Changes):
        async def poll(self) -> list[Observation]:
            seen = []
            for status, at in (
                ("firing", world.since(world.fires, world.script.tell)),
                ("resolved", world.since(world.resolved, world.script.tell)),
            ):
                if world.passed(at) and self.new(status, True):
                    alert = {**_alert("Broken", EPOCH + (world.fires or 0), status), "status": status}
                    del alert["state"]
                    data = {
                        "id": status, "channel": "slack", "address": world.script.address, "status": status,
                        "title": "Broken", "alerts": [alert],
                    }  # fmt: skip
                    seen.append(Observation("message", data))
            for channel, delay in (world.script.canary or {}).items():
                if world.passed(world.since(world.canary_at, delay)) and self.new(f"canary {channel}", True):
                    about = {"name": "SimCanary", "labels": {}, "fingerprint": None, "starts_at": None}
                    data = {
                        "id": f"canary {channel}", "channel": channel, "address": "#team", "status": "firing",
                        "title": "SimCanary", "alerts": [{**about, "status": "firing"}],
                    }  # fmt: skip
                    seen.append(Observation("message", data))
            return seen

    class State(Changes):
        async def poll(self) -> list[Observation]:
            values = {"gate": world.gate, "lane": world.lane}
            return [
                Observation("state", {"fact": name, "value": value})
                for name, value in values.items()
                if self.new(name, value)
            ]

    class Sender(Prom):
        async def send_canary(self, labels: Mapping[str, str], ends_in_s: float) -> None:
            world.canary_at = world.now()

    def kind(made: type[Any], yields: str, cursor: bool = False) -> ObserverKind:
        name = {Prom: "prom", Sender: "prom", Hooks: "hooks", Inbox: "inbox", State: "state"}[made]

        class Bent(made):  # type: ignore[misc]
            async def poll(self) -> list[Observation]:
                if world.script.trouble:
                    world.script.trouble(world, name)
                seen: list[Observation] = await super().poll()
                return seen + (world.script.more(world, name) if world.script.more else [])

        @contextlib.asynccontextmanager
        async def opened(given: Opening) -> AsyncIterator[Any]:
            if given.config.model_dump().get("auth"):
                given.secrets.resolve(given.config.model_dump()["auth"])
            yield Bent()

        return ObserverKind("scripted", Nothing, opened, frozenset(yields.split()), cursor)

    return {
        "prom": kind(Prom if world.script.canary is None else Sender, "alert gauge silence"),
        "hooks": kind(Hooks, "execution", cursor=True),
        "inbox": kind(Inbox, "message", cursor=True),
        "state": kind(State, "state"),
    }


def _alert(name: str, starts_at: float, state: str) -> dict[str, Any]:
    labels = {"alertname": name, "owner": "TEAM"}
    return {"name": name, "labels": labels, "fingerprint": "f" * 16, "starts_at": starts_at, "state": state}


class Dose(BaseModel):
    """The fault's parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dose: float = 1.0
    duration: float = 60.0


def _injector(world: World) -> Injector:
    async def prepare(site: Site, params: BaseModel) -> Prepared:
        world.calls.append("prepare")
        return Prepared({"site": site.id}, world.script.targets)

    async def apply(site: Site, receipt: Receipt) -> None:
        world.calls.append("apply")
        world.on = world.now()
        if world.script.apply_fails:
            raise InjectionError("the target answered 500")

    async def effective(site: Site, receipt: Receipt) -> Probe:
        bites = world.passed(world.since(world.on, world.script.bite))
        return Probe(bites, {"bitten": bites})

    async def withdraw(site: Site, receipt: Receipt) -> None:
        world.withdrawals += 1
        world.calls.append("withdraw")
        if world.withdrawals > world.script.sticky:
            world.off = world.off or world.now()

    async def gone(site: Site, receipt: Receipt) -> Probe:
        return Probe(world.off is not None, {"off": world.off is not None})

    return Injector(
        summary="breaks it",
        params=Dose,
        doors=("door",),
        lease="none",
        prepare=prepare,
        apply=apply,
        effective=effective,
        withdraw=withdraw,
        gone=gone,
        signal=lambda _: (),
        duration_s=lambda params: params.duration,  # type: ignore[attr-defined]
    )


@dataclass(frozen=True)
class Names:
    """A catalogue of the scripted parts."""

    injectors: Mapping[str, Injector]
    kinds: Mapping[str, ObserverKind]

    def injector(self, name: str) -> Injector:
        """The injector of that name."""
        if name not in self.injectors:
            raise LookupError(f"unknown injector {name!r}")
        return self.injectors[name]

    def observer(self, name: str) -> ObserverKind:
        """The kind of that name."""
        return self.kinds[name]

    def chain(self, name: str) -> Chain:
        """There is none."""
        raise LookupError(name)


def _second(world: World) -> Injector:
    """A second kind of fault, without an effect on the chain; its calls are told with its name."""

    async def prepare(site: Site, params: BaseModel) -> Prepared:
        world.calls.append("prepare crack")
        return Prepared({"site": site.id}, ("other thing",))

    async def apply(site: Site, receipt: Receipt) -> None:
        world.calls.append("apply crack")
        world.cracked = True

    async def withdraw(site: Site, receipt: Receipt) -> None:
        world.calls.append("withdraw crack")
        world.cracked = False

    async def effective(site: Site, receipt: Receipt) -> Probe:
        return Probe(world.cracked, {"cracked": world.cracked})

    async def gone(site: Site, receipt: Receipt) -> Probe:
        return Probe(not world.cracked, {"cracked": world.cracked})

    return replace(_injector(world), prepare=prepare, apply=apply, withdraw=withdraw, effective=effective, gone=gone)


def names(world: World) -> Names:
    """Return the catalogue of one world."""
    first = _injector(world)
    bent_first = world.script.odd(world, first) if world.script.odd else first
    return Names({"break": bent_first, "crack": _second(world)}, _kinds(world))


def planned(world: World, expect: str = "action=='block' && alert.to=='TEAM'", **more: Any) -> Plan:
    """Return the plan of an exercise on the scripted target."""
    profile = {**PROFILE, **more.pop("profile", {})}
    exercise = Exercise.model_validate({"inject": more.pop("inject", "break(dose=1)"), "expect": expect, **more})
    return resolve("drill", exercise, Target.model_validate(profile), names(world))


def play(
    folder: Path,
    monkeypatch: Any,
    script: Script | None = None,
    plan: Plan | None = None,
    stop_at: float | None = None,
    allow: Mapping[str, str] | None = None,
    secrets: Secrets | None = None,
    on_event: Callable[[Any], None] | None = None,
    on_judge: Callable[[Any], None] | None = None,
    around: Mapping[str, Any] | None = None,
    begun: Callable[[Around, World], None] | None = None,
    **more: Any,
) -> tuple[Judgement, World]:
    """Run an exercise against a script in virtual time; everything it leaves is in `folder`.

    `around` are fields of the run's surroundings that are to be others; `begun` is called as the run begins.
    """
    world = World(script or Script())
    plan = plan or planned(world, **more)

    async def identity(*_: Any) -> tuple[str, str]:
        return world.script.environment, "one"

    async def send(call: Mapping[str, Any], _: Secrets) -> None:
        world.calls.append(f"restore {call['json']}")
        if world.script.restore_works:
            world.set_back.update(call["json"])

    monkeypatch.setattr(injection, "IN_FLIGHT_S", 0.0)  # what is sent to a script has landed
    monkeypatch.setattr(restore, "identity", identity)
    monkeypatch.setattr(restore, "send", send)

    async def story() -> Judgement:
        stop = Stop()
        if stop_at is not None:
            asyncio.get_running_loop().call_later(stop_at, stop.ask, "signal", "SIGINT received", "SIGINT")
        given = Around(
            names(world),
            secrets or Secrets({}),
            {},
            folder,
            LoopClock(EPOCH),
            stop,
            allow_firing=allow or {},
            watchdog=None,
            on_event=on_event,
            on_judge=on_judge,
        )
        given = replace(given, **(around or {}))
        if begun is not None:
            begun(given, world)
        return await run(plan, folder, given)

    return run_virtual(story()), world


def bent(**changes: Any) -> Script:
    """Return the good script with some links bent."""
    return replace(Script(), **changes)
