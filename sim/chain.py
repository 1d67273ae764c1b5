"""What a chain is: the knowledge of one kind of rule engine and router, and of the latency that its settings imply.

The kernel knows no tool. A *chain* answers one question of a plan, from the declared files or from the live
configuration: between which bounds must detection, action and notification lie if everything works as configured?
Budgets are held against the answer; an answer is never a verdict.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from sim.event import JSON
from sim.secret import Secrets
from sim.target import Hook, ObserverSpec

StageName = Literal["detect", "act", "notify"]
STAGES: tuple[StageName, ...] = ("detect", "act", "notify")


class ChainError(Exception):
    """The declared files of a chain cannot be read or make no sense. Names the file, and the place where it can."""


@dataclass(frozen=True, slots=True)
class ChainQuestion:
    """What is asked of a chain.

    `hook` is the bound hook. `observers` are the profile's, with ``${stack.NAME}`` filled in (unfilled is fine for
    `Chain.declared`, which asks nobody). `files` are the keys of the profile's ``chain:`` block beside `kind`, or None;
    relative paths in them are taken from `base`. `owners` is the profile's address book, for routes. `queries` are
    those of the gauges that the plan reads.
    """

    hook: Hook
    observers: Mapping[str, ObserverSpec]
    files: Mapping[str, JSON] | None
    secrets: Secrets
    base: Path = Path()
    owners: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    queries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """Bounds of one stage, in seconds from t0: `floor_s` no chain so configured can beat, `worst_s` it must keep."""

    floor_s: float
    expected_s: float
    worst_s: float

    def to_json(self) -> dict[str, JSON]:
        """Return the bounds, rounded to the millisecond."""
        return {
            "floor_s": round(self.floor_s, 3),
            "expected_s": round(self.expected_s, 3),
            "worst_s": round(self.worst_s, 3),
        }


@dataclass(frozen=True, slots=True)
class Timing:
    """When a chain can, should and must have answered.

    `window_s` is the longest range that a rule of this hook looks back over, so how long an earlier fault can echo;
    `group_interval_s` the longest wait of its routes between two notifications of one group. `notes` are remarks for
    people (what differs between live and declared, what is routed where); `missing` names what the chain ought to
    have and has not (a rule that is not loaded): then the stages speak for what is there, and are empty if nothing is.
    `windows` has the longest range, in seconds, over which the rules and queries look back at each metric.
    """

    source: Literal["live", "files"]
    stages: Mapping[StageName, Stage]
    window_s: float
    group_interval_s: float
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    windows: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, JSON]:
        """Return this timing as it stands in the record."""
        return {
            "source": self.source,
            "stages": {name: stage.to_json() for name, stage in self.stages.items()},
            "window_s": round(self.window_s, 3),
            "group_interval_s": round(self.group_interval_s, 3),
            "notes": list(self.notes),
            "missing": list(self.missing),
            "windows": {name: round(window, 3) for name, window in sorted(self.windows.items())},
        }


@dataclass(frozen=True, slots=True)
class Chain:
    """A kind of chain: one module of a chains' room, its value named `chain`, its name the module's.

    `config` is the model of the profile's ``chain:`` block. `declared` reads the files that it names and nothing else
    (None: it names none); it raises `ChainError`. `live` asks the running chain (None: the profile has no observer to
    ask, or it does not answer; a live chain that answers but lacks a rule is a Timing with `missing`); it raises
    nothing of its own.
    """

    summary: str
    config: type[BaseModel]
    declared: Callable[[ChainQuestion], Timing | None]
    live: Callable[[ChainQuestion], Awaitable[Timing | None]]
