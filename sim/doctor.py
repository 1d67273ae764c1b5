"""Whether a target can be judged at all: every part of its profile tried by a real call that changes nothing.

What is asked is what a run would ask before its fault: does the target say who it is, does each observer see, does
each fact have a value, is the chain loaded, is somebody at each door, would each fault find something to hit, is
normal normal now. Every call is bounded in time. Nothing is injected, sent or written.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from sim import expression, injection, preflight, restore
from sim.around import Around, Names
from sim.chain import STAGES, ChainError, ChainQuestion, Timing
from sim.duration import spell
from sim.event import Event
from sim.expression import Truth
from sim.fill import NotExported, filled, packaged
from sim.injector import InjectionError
from sim.judge.ledger import Ledger, Now
from sim.observation import CannotLook, LooksClosely, Observation, Remark
from sim.secret import SecretMissing, Secrets
from sim.target import AnyAuth, Door, Target
from sim.watching import LOOK_S, opening
from sim.wire import Client, Failure, references

if TYPE_CHECKING:
    from sim.plan import Plan

#: ``ok``; nobody answers; who asks is not allowed to; what answers is not what the profile says; a secret, program or
#: file of ours is not there; it answers, and there is nothing to see; it is so now that a run would be refused; what it
#: hangs on does not serve, so that it cannot be told.
State = Literal["ok", "unreachable", "refused", "wrong", "missing", "empty", "not now", "unknown"]

#: How long a door may take to answer, seconds.
DOOR_S = 3.0

Loc = tuple[str | int, ...]

_OUR_SIDE = (NotExported, SecretMissing, CannotLook, InjectionError, restore.RestoreError, ValueError, OSError)


@dataclass(frozen=True, slots=True)
class Check:
    """What one call came to. `loc` is the part of the profile it is about; `needed` says that an exercise reads it."""

    what: str
    state: State
    detail: str
    loc: Loc
    needed: bool = True
    cure: str = ""

    @property
    def ok(self) -> bool:
        """Whether this part serves."""
        return self.state == "ok"


@dataclass(frozen=True, slots=True)
class Patient:
    """A target with the plans of its exercises, and what is needed to ask it. Without plans all of it is needed.

    `awaited` are the facts that only exercises read which bring traffic of their own: they may have no value before it.
    """

    target: Target
    plans: Sequence[Plan]
    names: Names
    secrets: Secrets
    exports: Mapping[str, str]
    base: Path
    facts: frozenset[str] = field(init=False)
    awaited: frozenset[str] = field(init=False)
    observers: frozenset[str] = field(init=False)
    doors: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        plans, put = self.plans, object.__setattr__
        reads = {fact for plan in plans for fact in _facts(plan)} if plans else set(self.target.facts)
        eyes = {name for plan in plans for name in plan.observers} if plans else set(self.target.observers)
        doors = {door for plan in plans for fault in plan.faults for door in fault.doors}
        now = {fact for plan in plans if not _accompanied(plan, self.names) for fact in _facts(plan)}
        put(self, "facts", frozenset(reads))
        put(self, "awaited", frozenset(reads - now if plans else ()))
        put(self, "observers", frozenset(eyes))
        put(self, "doors", frozenset(doors if plans else self.target.doors))


def _facts(plan: Plan) -> set[str]:
    """Return the facts that a plan's clauses and conditions read."""
    words = plan.vocabulary()
    found = {fact for clause in plan.clauses for fact in clause.facts}
    for text in filter(None, (plan.steady_state, plan.stop_when)):
        found |= expression.facts_of(expression.parse(text), words)
    return found


def _accompanied(plan: Plan, names: Names) -> bool:
    """Say whether an exercise brings traffic that is there before its fault."""
    return any(names.injector(fault.injector).accompany is not None for fault in plan.faults)


async def examine(patient: Patient) -> list[Check]:
    """Try every part of the target, those that wait for one another last. Raises nothing that the target does."""
    target = patient.target
    identity, doors, eyes = await asyncio.gather(
        _identity(patient),
        _doors(patient),
        asyncio.gather(*(_observer(patient, name) for name in target.observers)),
    )
    seen = {name: observations for name, (_, observations) in zip(target.observers, eyes, strict=True)}
    checks = [identity, *(check for check, _ in eyes), *doors]
    checks += _readings(patient, seen)
    for made in await asyncio.gather(*_last(patient, seen)):
        checks += made
    return checks


def _last(patient: Patient, seen: Mapping[str, Sequence[Observation] | None]) -> Iterable[Awaitable[list[Check]]]:
    """What is asked exercise by exercise, and hook by hook."""
    hooks = dict.fromkeys(plan.hook_name for plan in patient.plans if plan.hook_name)
    yield from (_chain(patient, name, None in seen.values()) for name in hooks)
    yield from (_exercise(patient, plan, seen) for plan in patient.plans)


# -- what went wrong -----------------------------------------------------------------------------------------------


def _ill(what: str, loc: Loc, error: BaseException, needed: bool, auth: AnyAuth = None) -> Check:
    """Return the check that failed with `error`, its state read from what stands behind the error."""
    state, cure = _diagnosis(error, auth)
    text = str(error) or f"no answer in time ({type(error).__name__})"
    return Check(what, state, text, loc, needed, cure)


def _diagnosis(error: BaseException, auth: AnyAuth) -> tuple[State, str]:
    link: BaseException | None = error
    while link is not None:
        match link:
            case Failure(kind="unreachable"):
                return "unreachable", "is it running, and is this its address?"
            case Failure(kind="refused"):
                named = references(auth).removeprefix("check auth: ")
                if auth is None:
                    return "refused", "give it auth: env:NAME or file:PATH"
                return "refused", f"the secret behind {named} is not accepted: set it to one that is"
            case Failure(status=status) if status >= 500:
                return "wrong", "it is there and does not serve: see what it says, and its log"
            case Failure():
                return "wrong", "something else answers here: is this its address, path and all?"
            case SecretMissing():
                return "missing", f"set it, or correct {references(auth).removeprefix('check ')}"
            case NotExported():
                return "missing", "bring the stack up: sim up"
            case TimeoutError() | OSError():
                return "unreachable", "is it running, and is this its address?"
        link = link.__cause__
    if isinstance(error, InjectionError):
        return "wrong", "a run would not begin: mend what it says"
    return "wrong", "something else answers here: is this its address, path and all?"


# -- one part each -------------------------------------------------------------------------------------------------


async def _identity(patient: Patient) -> Check:
    what, loc = "identity", ("identity",)
    where, wanted = patient.target.identity, patient.target.environment
    if where is None:
        return Check(what, "missing", "the profile does not say where the target tells what it is", (), True, "add it")
    try:
        said, instance = await restore.identity(filled(where, patient.exports), patient.secrets)
    except _OUR_SIDE as error:
        return _ill(what, loc, error, True, where.auth)
    if said != wanted:
        text = f"the live target reports {said!r}; this profile is for {wanted!r}"
        return Check(what, "wrong", text, ("environment",), True, "point the profile at the platform that is meant")
    return Check(what, "ok", f"{said}, instance {instance or 'not named'}", loc)


async def _observer(patient: Patient, name: str) -> tuple[Check, Sequence[Observation] | None]:
    """Open one observer, look once, look closely. Return what it saw, None where it did not."""
    spec = patient.target.observers[name]
    what, loc, needed = f"observer {name}", ("observers", name), name in patient.observers
    auth = None
    more = {"secrets": patient.secrets, "run_id": "doctor", "injections": ()}
    try:
        kind = patient.names.observer(spec.kind)
        given = opening(name, filled(spec, patient.exports), kind, patient.target.facts, more)
        auth = getattr(given.config, "auth", None)
        async with kind.open(given) as observer:
            async with asyncio.timeout(LOOK_S):
                seen = await observer.poll()
            remarks: Sequence[Remark] = ()
            if isinstance(observer, LooksClosely):
                async with asyncio.timeout(LOOK_S):
                    remarks = await observer.closely()
    except (*_OUR_SIDE, LookupError) as error:
        return _ill(what, loc, error, needed, auth), None
    bad = [remark for remark in remarks if not remark.ok]
    text = "; ".join(remark.text for remark in (bad or remarks)) or "answers"
    cure = "; ".join(dict.fromkeys(remark.cure for remark in bad if remark.cure))
    return Check(what, "empty" if bad else "ok", text, loc, needed, cure), seen


async def _doors(patient: Patient) -> list[Check]:
    doors = patient.target.doors
    return list(await asyncio.gather(*(_door(patient, name, doors[name]) for name in doors)))


async def _door(patient: Patient, name: str, door: Door) -> Check:
    what, loc, needed = f"door {name}", ("doors", name), name in patient.doors
    try:
        opened = filled(door, patient.exports)
        async with asyncio.timeout(DOOR_S):
            text = await _knock(opened, patient.secrets)
    except _OUR_SIDE as error:
        return _ill(what, loc, error, needed, door.auth)
    except LookupError as error:
        return Check(what, "missing", str(error.args[0]), loc, needed, "install it, or correct the command")
    return Check(what, "ok", text, loc, needed)


async def _knock(door: Door, secrets: Secrets) -> str:
    """Return who is at a door. Raises what tells why nobody is; `LookupError` for a program that is not here."""
    if door.commands:
        for command in door.commands.values():
            for argv in (command.start, command.verify, command.stop, command.gone):
                if shutil.which(argv[0]) is None:
                    raise LookupError(f"no program {argv[0]!r} on this machine")
        return f"commands: {', '.join(door.commands)}"
    parts = urlsplit(door.url)
    if parts.scheme in ("http", "https"):
        async with Client(door.url, door.auth, secrets, CannotLook) as client:
            await client.knock()
        return "answers"
    if parts.scheme == "file":
        await asyncio.to_thread(Path(parts.path).stat)
        return "is there"
    if parts.scheme == "unix":
        _, writer = await asyncio.open_unix_connection(parts.path)
    else:
        ports = {"postgresql": 5432}
        _, writer = await asyncio.open_connection(parts.hostname, parts.port or ports.get(parts.scheme))
    writer.close()
    await writer.wait_closed()
    return "answers"


def _readings(patient: Patient, seen: Mapping[str, Sequence[Observation] | None]) -> list[Check]:
    """One check a gauge or state fact that is read, where its observer sees: has it a value?"""
    checks = []
    for name, fact in patient.target.facts.items():
        told = [
            each.data
            for eye in fact.from_
            for each in seen.get(eye) or ()
            if each.kind == fact.kind and each.data.get("fact") == name
        ]
        if fact.kind == "event" or not any(seen.get(eye) is not None for eye in fact.from_):
            continue
        value = told[-1].get("value") if told else None
        needed, loc = name in patient.facts, ("facts", name)
        if value is not None or fact.subject is not None:
            text = "its subject does not exist now" if value is None else str(value)
            checks.append(Check(f"fact {name}", "ok", text, loc, needed))
            continue
        if name in patient.awaited:
            text = "no value yet: its exercise brings the traffic"
            checks.append(Check(f"fact {name}", "ok", text, loc, needed))
            continue
        reason = str(told[-1].get("reason") or "no value") if told else "no value"
        cure = f"correct its {'query' if fact.query else 'path'}, or wait until the platform has traffic"
        checks.append(Check(f"fact {name}", "empty", reason, loc, needed, cure))
    return checks


async def _chain(patient: Patient, hook_name: str, blind: bool) -> list[Check]:
    """Whether the alerts of one hook are loaded, whom they are routed to, and whether the budgets can be kept."""
    what, loc, target = f"hook {hook_name}", ("hooks", hook_name), patient.target
    hook = target.hooks[hook_name]
    if target.chain is None:
        return [Check(what, "ok", "not looked at: the profile has no chain:", loc)]
    try:
        question = ChainQuestion(
            hook=hook,
            observers={name: filled(spec, patient.exports) for name, spec in target.observers.items()},
            files=packaged(target.chain.model_dump(exclude={"kind"})),
            secrets=patient.secrets,
            base=patient.base,
            owners=target.owners,
        )
        async with asyncio.timeout(2 * LOOK_S):
            timing = await patient.names.chain(target.chain.kind).live(question)
    except (*_OUR_SIDE, ChainError, LookupError) as error:
        return [_ill(what, loc, error, True)]
    if timing is None and blind:
        return [Check(what, "unknown", "not told: an observer does not see", loc)]
    if timing is None:
        return [Check(what, "unreachable", "the chain does not answer", loc, True, "see its observers above")]
    if timing.missing:
        return [Check(what, "empty", "; ".join(timing.missing), loc, True, "load it, or correct the hook's alerts")]
    late = _impossible(patient, hook_name, timing)
    if late:
        return [Check(what, "wrong", late, loc, True, "give it more time in within:")]
    bounds = [f"{stage} {spell(each.floor_s)} to {spell(each.worst_s)}" for stage, each in timing.stages.items()]
    text = "; ".join([", ".join(hook.alerts), *bounds, *timing.notes])
    return [Check(what, "ok", text, loc)]


def _impossible(patient: Patient, hook_name: str, timing: Timing) -> str:
    """Return which budget no chain so configured can keep, or nothing."""
    for plan in (each for each in patient.plans if each.hook_name == hook_name):
        for stage in STAGES:
            bounds, given = timing.stages.get(stage), getattr(plan.within, stage)
            if bounds is not None and given is not None and given < bounds.floor_s:
                least = spell(bounds.floor_s)
                return f"{plan.exercise}: {stage} within {spell(given)}, and live it takes {least} at least"
    return ""


async def _exercise(patient: Patient, plan: Plan, seen: Mapping[str, Sequence[Observation] | None]) -> list[Check]:
    """Whether one exercise could begin now: nothing on fire, normal is normal, each fault finds something to hit."""
    what, loc = f"exercise {plan.exercise}", ("exercises", plan.exercise)
    trouble = _on_fire(plan, seen, _accompanied(plan, patient.names))
    if trouble:
        return [Check(what, "not now", trouble, loc, True, "wait until it is over, or mend it")]
    around = Around(patient.names, patient.secrets, patient.exports, patient.base, watchdog=None)
    hits: list[str] = []
    for each in injection.of(plan, around, "doctor", "doctor"):
        name = each.fault.injector
        try:
            params = each.injector.params.model_validate(each.fault.params)
            async with asyncio.timeout(injection.CALL_S):
                prepared = await each.injector.prepare(each.site, params)
        except _OUR_SIDE as error:
            auth = next((door.auth for door in each.site.doors.values()), None)
            return [_ill(what, loc, error, True, auth)]
        if not prepared.targets:
            return [Check(what, "empty", f"{name} finds nothing to hit", loc, True, "correct what it is aimed at")]
        hits.append(f"{name} would hit {', '.join(prepared.targets)}")
    return [Check(what, "ok", "; ".join(hits), loc)]


def _on_fire(plan: Plan, seen: Mapping[str, Sequence[Observation] | None], accompanied: bool) -> str:
    """Return why a run of this plan would be refused now by what its observers saw, or nothing.

    What is normal may have no value yet where the exercise is `accompanied` by traffic of its own.
    """
    if any(seen.get(name) is None for name in plan.observers):
        return ""  # told where the observer is
    ledger = Ledger(plan)
    for name in plan.observers:
        _feed(ledger, name, [Observation("observer.seeing", {}), *(seen[name] or ())])
    hook = plan.hook
    own, spared = set(hook.alerts if hook else ()), set(plan.target.meta_alerts)
    loud = [
        f"{name} is {state}"
        for name, state in sorted(preflight.firing(ledger).items())
        if name in own or (state == "firing" and name not in spared)
    ]
    loud += [f"{alert} is silenced ({why})" for alert, why in preflight.silenced(ledger, hook.alerts if hook else ())]
    if loud:
        return "; ".join(loud)
    if plan.steady_state:
        told = expression.evaluate(expression.parse(plan.steady_state), Now(ledger), ledger.words)
        if told.truth is not Truth.TRUE and (told.truth is Truth.FALSE or not accompanied):
            return f"its steady state, {plan.steady_state}, is {told.truth.name.lower()}: {told.actual}"
    return ""


def _feed(ledger: Ledger, source: str, observations: Sequence[Observation]) -> None:
    for seq, each in enumerate(observations):
        ledger.feed(Event(seq, 0.0, 0.0, each.occurred_at, source, each.kind, each.data, ""))
