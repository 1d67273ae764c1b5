"""Puts back what the run changed besides its faults: every state fact reads at the end as it did at baseline.

The calls are the profile's own, made directly at the controller; they and the prior values are in the journal before
t0, so that any process can make them. A value that still differs afterwards is the outcome *unsafe*.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from sim import expression, wire
from sim.event import JSON
from sim.fill import fill
from sim.injection import Say
from sim.judge.present import Supposed
from sim.observation import CannotLook, ObserverKind
from sim.secret import SecretMissing, Secrets
from sim.target import Auth, Fact, Identity, ObserverSpec, Restore
from sim.undo import Journal, JournalError
from sim.walk import walk
from sim.watching import LOOK_S, MISSES, opening

if TYPE_CHECKING:
    from sim.judge.ledger import Ledger

#: How long a restored fact may take to read as before, seconds, and how often it is looked at.
SETTLE_S = 10.0

#: How long one restoring waits in all for a target that does not answer, seconds: what was overloaded is slow yet.
PATIENCE_S = 20.0
LOOK_AGAIN_S = 0.2


class Kinds(Protocol):
    """What is asked of a catalogue. Raises `LookupError`."""

    def observer(self, name: str) -> ObserverKind: ...


class RestoreError(Exception):
    """A restore call was refused or could not be made."""


class Patience:
    """What one restoring has left of `PATIENCE_S`; all its facts draw on it, so that a dead target is not waited for
    fact by fact.
    """

    def __init__(self) -> None:
        self._until: float | None = None

    def left(self) -> bool:
        """Say whether to look again; the first one who asks starts the clock."""
        now = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = now + PATIENCE_S
        return now < self._until


def record(
    call: Restore,
    prior: JSON,
    specs: Mapping[str, ObserverSpec],
    fact: Fact,
    exports: Mapping[str, str],
    injections: Sequence[str] = (),
) -> dict[str, JSON]:
    """Return the journal's record of one fact: its prior value, the call that sets it, and how it is read.

    With a subject that carries an injection's id, the call is made for each of `injections`.
    """
    made = fill(call.model_dump(mode="json", by_alias=True, exclude_none=True), exports)
    spelled = prior if isinstance(prior, str) else json.dumps(prior)
    made["url"] = made["url"].replace("{prior}", quote(spelled, safe=""))  # it is the target's text, not a path
    if "json" in made:
        made["json"] = _with_prior(made["json"], prior)
    name = fact.from_[0]
    return {
        "fact": call.fact,
        "prior": prior,
        "call": made,
        "observer": name,
        "spec": fill(specs[name].model_dump(mode="json", exclude_unset=True), exports),
        "read": fact.model_dump(mode="json", by_alias=True, exclude_unset=True),
        "of_stack": call.url.startswith("${stack."),  # else what it sets back does not go with the stack
        **({"injections": list(injections)} if fact.subject else {}),
    }


def planned(ledger: Ledger, exports: Mapping[str, str], injections: Sequence[str] = ()) -> list[dict[str, JSON]]:
    """Return the records of every fact that the profile can set back, and that reads something now.

    What the fault will bring with it reads nothing yet: it is set back to where no action is in effect on it.
    """
    target = ledger.plan.target
    made = []
    for call in target.restore:
        fact, found = target.facts[call.fact], ledger.states.get(call.fact)
        if found is None:
            continue
        prior = _untouched(ledger, call.fact) if found.value is None and fact.subject else found.value
        if prior is not None:
            made.append(record(call, prior, target.observers, fact, exports, injections))
    return made


def _untouched(ledger: Ledger, fact: str) -> JSON:
    """Return the one value of a fact at which no action of the hook is in effect; null when it is not one."""
    effects = [expression.parse(action.effect) for action in ledger.plan.actions if action.effect]
    mine = [effect for effect in effects if fact in expression.facts_of(effect, ledger.words)]
    values = [
        value
        for value in ledger.plan.target.facts[fact].values or (True, False)
        if mine and all(_if(ledger, fact, value, effect) is expression.Truth.FALSE for effect in mine)
    ]
    return values[0] if len(values) == 1 else None


def _if(ledger: Ledger, fact: str, value: JSON, effect: expression.Node) -> expression.Truth:
    """Return what an expression would come to if a fact read that value."""
    return expression.evaluate(effect, Supposed(ledger, fact, value), ledger.words).truth


def differing(ledger: Ledger, covered: Collection[str]) -> list[str]:
    """Return the other state facts that do not read as they did at t0, or that nobody can read any more."""
    found = []
    for fact in sorted(ledger.prior.keys() - set(covered)):
        now, before = ledger.reads(fact), ledger.read_before(fact)
        blind = [name for name in ledger.plan.target.facts[fact].from_ if not ledger.seeing.get(name)]
        if blind:
            found.append(f"{fact} was {before!r} and cannot be read: {blind[0]} is blind")
        elif not ledger.back(fact):
            absent = before is None and ledger.plan.target.facts[fact].subject
            found.append(f"{fact} reads {now!r}, " + ("did not exist before" if absent else f"was {before!r}"))
    return found


def _with_prior(body: Any, prior: JSON) -> Any:
    """Return the body with the prior value where it says ``{prior}``; standing alone it keeps its type."""
    if isinstance(body, str):
        return prior if body == "{prior}" else body.replace("{prior}", str(prior))
    if isinstance(body, dict):
        return {key: _with_prior(value, prior) for key, value in body.items()}
    if isinstance(body, list):
        return [_with_prior(value, prior) for value in body]
    return body


async def again(
    done: Mapping[str, Any], names: Kinds, secrets: Secrets, journal: Journal, say: Say, by: str, patience: Patience
) -> str | None:
    """Put one fact back, from its record alone: see `put_back`. A kind of observer that is missing is trouble, too."""
    try:
        kind = names.observer(str(done["spec"]["kind"]))
    except (LookupError, TypeError) as error:
        return f"{done.get('fact')}: its record cannot be used: {error.args[0] if error.args else error}"
    return await put_back(done, kind, secrets, journal, say, by, patience)


async def put_back(
    done: Mapping[str, Any],
    kind: ObserverKind,
    secrets: Secrets,
    journal: Journal,
    say: Say,
    by: str,
    patience: Patience,
) -> str | None:
    """Read the fact; call only where it differs; read back. Return null when it reads as before, else what it reads.

    Idempotent, and works from the journal's record alone.
    """
    fact, prior = str(done["fact"]), done["prior"]
    trouble: str | None = None
    try:
        reads = await _patiently(done, kind, secrets, patience)
        if not _as_before(done, reads):
            say("restore.called", {"fact": fact, "reads": reads, "prior": prior, "by": by})
            for call in _calls(done):
                await send(call, secrets)
            reads = await _settle(done, kind, secrets, patience)
        if _as_before(done, reads):
            journal.write("restored", fact=fact, value=reads, by=by)
            return None
        trouble = f"{fact} reads {reads!r}, was {prior!r}"
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with this fact, the others are still put back
        known = isinstance(error, CannotLook | RestoreError | SecretMissing | JournalError)
        trouble = f"{fact}: {error}" if known else f"{fact}: {type(error).__name__}: {error}"
    return secrets.redact(trouble)


def _as_before(done: Mapping[str, Any], reads: JSON) -> bool:
    """Whether a fact reads as before; what the fault brought with it may also be gone."""
    return bool(reads == done["prior"]) or (reads is None and "injections" in done)


def _calls(done: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the calls that set a fact back: one, or one for each injection whose subject it may be."""
    call = dict(done["call"])
    ids = [quote(str(each), safe="") for each in done.get("injections", ())]
    return [{**call, "url": call["url"].replace("{injection}", each)} for each in ids] if ids else [call]


async def _settle(done: Mapping[str, Any], kind: ObserverKind, secrets: Secrets, patience: Patience) -> JSON:
    reads: JSON = None
    for _ in range(int(SETTLE_S / LOOK_AGAIN_S)):
        reads = await _patiently(done, kind, secrets, patience)
        if _as_before(done, reads):
            return reads
        await asyncio.sleep(LOOK_AGAIN_S)
    return reads


async def _patiently(done: Mapping[str, Any], kind: ObserverKind, secrets: Secrets, patience: Patience) -> JSON:
    """Return what the fact reads; looks that fail are not yet a target that cannot be read."""
    misses = 0
    while True:
        try:
            return await _read(done, kind, secrets)
        except (CannotLook, OSError):
            misses += 1
            if misses >= MISSES and not patience.left():
                raise
        await asyncio.sleep(LOOK_AGAIN_S)


async def _read(done: Mapping[str, Any], kind: ObserverKind, secrets: Secrets) -> JSON:
    """Return what the fact reads now, through an observer of its own."""
    fact = Fact.model_validate(done["read"])
    spec = ObserverSpec.model_validate(done["spec"])
    more = {"secrets": secrets, "injections": tuple(done.get("injections", ()))}
    given = opening(str(done["observer"]), spec, kind, {str(done["fact"]): fact}, more)
    try:
        async with asyncio.timeout(LOOK_S), kind.open(given) as observer:
            for observation in await observer.poll():
                if observation.kind == "state" and observation.data["fact"] == done["fact"]:
                    return observation.data["value"]
    except TimeoutError as error:
        raise CannotLook(f"{done['observer']} does not answer within {LOOK_S:g} s") from error
    raise CannotLook(f"{done['observer']} does not read it")


async def send(call: Mapping[str, Any], secrets: Secrets) -> None:
    """Make one restore call. Raises `RestoreError`, `SecretMissing`."""
    auth = Auth.model_validate(call["auth"]) if call.get("auth") else None
    async with wire.Client(call["url"], auth, secrets, RestoreError, total_s=5.0) as client:
        await client.ask(call["method"], "", json=call.get("json"))


async def identity(where: Identity, secrets: Secrets) -> tuple[str, str]:
    """Return environment and instance as the live target reports them. Raises `RestoreError`, `SecretMissing`.

    Several values at one place are one only when they are the same; no instance is the empty string.
    """
    async with wire.Client(where.url, where.auth, secrets, RestoreError, total_s=5.0) as client:
        said = (await client.ask("GET", "")).json
    environments = _said(said, where.environment)
    if not environments:
        expected = f"JSON with {where.environment} and {where.instance}"
        raise RestoreError(f"GET {where.url} did not answer with an identity: {expected}")
    if len(environments) > 1:
        raise RestoreError(f"GET {where.url} answers for several environments: {', '.join(environments)}")
    return environments[0], "+".join(_said(said, where.instance))


def _said(answer: JSON, path: str) -> list[str]:
    """Return the different texts at `path`, sorted; a number is its text, and nothing else counts."""
    found = [value for value in walk(answer, path) if isinstance(value, str | int) and not isinstance(value, bool)]
    return sorted({text for value in found if (text := str(value))})
