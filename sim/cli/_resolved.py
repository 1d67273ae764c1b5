"""From what was asked for on the command line to plans: shared by the verbs that need one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sim.catalogue import Catalogue
    from sim.checking import Resolved
    from sim.places import Places
    from sim.target import Target


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for."""

    places: Places
    catalogue: Catalogue
    target: Target
    base: Path
    exercises: tuple[Resolved, ...]


def asked(selectors: Sequence[str], tags: Sequence[str], all_: bool, target: str | None) -> Asked:
    """Load the target, pick the exercises, resolve each. Raises `Refusal`."""
    from sim.catalogue import catalogue
    from sim.checking import resolved
    from sim.loading import load_target_file, select
    from sim.places import places

    here = places()
    names = catalogue()
    profile = load_target_file(target, here)
    chosen = select(selectors, tags, all_, here, profile.target)
    base = profile.file.parent
    found = tuple(resolved(each, profile.target, names, base) for each in chosen)
    return Asked(here, names, profile.target, base, found)
