"""What a run does and is judged by: explicit (seconds, not strings; every default filled in) and complete.

The judge, the reports and a second run need nothing but the plan and the record. It is stored in the run folder as
``plan.json`` and has a digest. `sim.resolve` makes one from an exercise, a target and a catalogue.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from sim.exercise import Exercise
from sim.expression import FactInfo, Vocabulary
from sim.log import canonical
from sim.target import Action, Fact, Hook, Model, Scalar, Target, Within

Stage = Literal["effect", "detect", "act", "notify", "only", "recover"]
Kind = Literal["effect", "alert", "action", "message", "only", "recover", "event", "state", "gauge"]


class Fault(Model):
    """One injection to make."""

    injector: str
    text: str
    params: dict[str, Any]
    lease: Literal["target", "none"]
    doors: tuple[str, ...]


class Clause(Model):
    """One conjunct of what is judged. `within_s` counts from t0, for `recover` and gauges from *gone*."""

    id: str
    origin: Literal["implied", "expect", "never"]
    stage: Stage
    kind: Kind
    text: str
    within_s: float
    facts: tuple[str, ...] = ()
    channel: str | None = None


class Source(Model):
    """One observer as planned."""

    kind: str
    every_s: float
    cursor: bool
    yields: tuple[str, ...]


class Plan(Model):
    """Everything a run does and is judged by."""

    format: Literal[1] = 1
    sim: str
    exercise: str
    written: Exercise
    target: Target
    faults: tuple[Fault, ...]
    hook_name: str | None = None
    clauses: tuple[Clause, ...]
    within: Within
    hold_s: float
    hold: Literal["witnessed", "full"]
    time: Literal["live", "seeded"]
    repeat: int
    variables: dict[str, Scalar]
    steady_state: str | None = None
    stop_when: str | None = None
    observers: dict[str, Source]
    uses_baseline: bool

    @property
    def hook(self) -> Hook | None:
        """The bound hook, if any."""
        return self.target.hooks[self.hook_name] if self.hook_name else None

    @property
    def actions(self) -> tuple[Action, ...]:
        """The bound hook's actions, in order."""
        return self.hook.actions if self.hook else ()

    @property
    def owner(self) -> str | None:
        """Who must be told."""
        return self.hook.owner if self.hook else None

    def vocabulary(self) -> Vocabulary:
        """Return the names that this plan's expressions may use."""
        return vocabulary(self.target, self.variables)

    def as_json(self) -> dict[str, Any]:
        """Return the plan as it stands in ``plan.json``."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def digest(self) -> str:
        """Return the SHA-256 of the plan's canonical JSON."""
        return hashlib.sha256(canonical(self.as_json()).encode()).hexdigest()


def vocabulary(target: Target, variables: Mapping[str, Scalar]) -> Vocabulary:
    """Return the names known on `target`."""
    facts = {
        name: FactInfo(fact.kind, _possible(fact, target), fact.sequence, fact.subject)
        for name, fact in target.facts.items()
    }
    return Vocabulary(facts=facts, variables=dict(variables))


def _possible(fact: Fact, target: Target) -> tuple[Scalar, ...] | None:
    """Return all that a fact can be: a misspelt owner or action is then an error of the file, not a missed clause."""
    hooks = target.hooks.values()
    match fact.stage if fact.kind == "event" else None:
        case "notify":
            found: dict[Scalar, None] = dict.fromkeys(target.owners)
        case "act":
            found = dict.fromkeys(action.name for hook in hooks for action in hook.actions)
        case "detect":
            found = dict.fromkeys((*(alert for hook in hooks for alert in hook.alerts), *target.meta_alerts))
        case _:
            return fact.values
    return tuple(found) or None
