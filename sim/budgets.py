"""Holds budgets against the chain as declared: below the floor is invalid, far above the worst is vacuous."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sim.chain import STAGES, Chain, ChainError, ChainQuestion
from sim.fill import packaged
from sim.plan import Plan
from sim.secret import Secrets


class Chains(Protocol):
    """What is asked of a catalogue. Raises `LookupError`."""

    def chain(self, name: str) -> Chain: ...


def held_against(plan: Plan, names: Chains, base: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """Return (stage, error) pairs and warnings. Reads the files that the profile names and nothing else."""
    chain, hook = plan.target.chain, plan.hook
    if chain is None or hook is None:
        return [], []
    try:
        value = names.chain(chain.kind)
        timing = value.declared(
            ChainQuestion(
                hook=hook,
                observers=plan.target.observers,
                files=packaged(chain.model_dump(exclude={"kind"})),
                secrets=Secrets(),
                base=base,
                owners=plan.target.owners,
            )
        )
    except (ChainError, LookupError) as error:
        return [("", f"the declared chain cannot be read: {error.args[0] if error.args else error}")], []
    errors: list[tuple[str, str]] = []
    warnings: list[str] = []
    for stage in STAGES if timing else ():
        bounds = timing.stages.get(stage) if timing else None
        budget = getattr(plan.within, stage)
        if bounds is None or budget is None:
            continue
        if budget < bounds.floor_s:
            errors.append(
                (
                    stage,
                    f"{stage} within {budget:g} s is impossible: declared, it takes {bounds.floor_s:g} s at least",
                )
            )
        elif budget > max(3 * bounds.worst_s, bounds.worst_s + 15):
            warnings.append(
                f"{plan.exercise}: {stage} within {budget:g} s is loose: at worst it takes {bounds.worst_s:g} s"
            )
    return errors, warnings
