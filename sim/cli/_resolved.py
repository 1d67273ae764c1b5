"""From what was asked for on the command line to plans: shared by the verbs that need one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sim.catalogue import Catalogue
    from sim.loading import Selected
    from sim.places import Places
    from sim.plan import Plan
    from sim.problem import Problem
    from sim.target import Target


@dataclass(frozen=True, slots=True)
class Resolved:
    """One selected exercise: its plan, or every reason why there is none."""

    selected: Selected
    plan: Plan | None
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    places: Places
    catalogue: Catalogue
    target: Target
    base: Path
    exercises: tuple[Resolved, ...]


def asked(selectors: Sequence[str], tags: Sequence[str], all_: bool, target: str) -> Asked:
    """Load the target, pick the exercises, resolve each. Raises `Refusal`."""
    from sim.catalogue import catalogue
    from sim.loading import load_target_file, select
    from sim.places import places

    here = places()
    names = catalogue()
    profile = load_target_file(target, here)
    chosen = select(selectors, tags, all_, here, profile.target)
    base = profile.file.parent
    found = tuple(resolved(each, profile.target, names, base) for each in chosen)
    return Asked(here, names, profile.target, base, found)


def resolved(selected: Selected, target: Target, names: Catalogue, base: Path) -> Resolved:
    """Resolve one exercise, and hold its budgets against the declared chain."""
    from sim.resolve import Unresolvable, resolve

    try:
        plan = resolve(selected.name, selected.exercise, target, names)
    except Unresolvable as error:
        where = selected.problem
        problems = tuple(where(each.loc, each.message, each.offset, each.length, each.hint) for each in error.problems)
        return Resolved(selected, None, problems)
    from sim.budgets import held_against

    errors, warnings = held_against(plan, names, base)
    problems = tuple(selected.problem(("within", stage), message, 0, 0, None) for stage, message in errors)
    return Resolved(selected, None if problems else plan, problems, tuple(warnings))
