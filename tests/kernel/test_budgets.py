"""Budgets against the declared chain: below its floor is invalid, far above its worst is loose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sim.budgets import held_against
from sim.chain import Chain, ChainError, ChainQuestion, Stage, Timing
from sim.exercise import Exercise
from sim.resolve import resolve
from sim.target import Target
from tests.kernel.scripted import PROFILE, Script, World, names

ASKED: list[ChainQuestion] = []


class Chains:
    """A catalogue with one chain, which answers as it is told."""

    def __init__(self, answer: Timing | Exception | None) -> None:
        self.answer = answer

    def chain(self, name: str) -> Chain:
        """Return the chain called `rules`."""
        if name != "rules":
            raise LookupError(f"unknown chain {name!r}")

        def declared(question: ChainQuestion) -> Timing | None:
            ASKED.append(question)
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

        async def live(_: ChainQuestion) -> Timing | None:
            return None

        return Chain(summary="", config=BaseModel, declared=declared, live=live)


def held(
    answer: Timing | Exception | None, within: Mapping[str, Any] | None = None, **profile: Any
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return errors and warnings for budgets of an exercise."""
    target = Target.model_validate({**PROFILE, "chain": {"kind": "rules", "files": "x"}, **profile})
    exercise = Exercise.model_validate({"inject": "break()", "expect": "action=='block'", "within": dict(within or {})})
    plan = resolve("drill", exercise, target, names(World(Script())))
    return held_against(plan, Chains(answer), Path("/base"))


def timing(stage: str, floor_s: float, worst_s: float) -> Timing:
    """Return bounds for one stage."""
    return Timing("files", {stage: Stage(floor_s, floor_s, worst_s)}, 60.0, 5.0)  # type: ignore[dict-item]


@pytest.mark.parametrize("stage", ["detect", "act", "notify"])
@pytest.mark.parametrize(
    ("budget", "error", "warning"),
    [(9.999, True, False), (10.0, False, False), (60.0, False, False), (60.001, False, True)],
)
def test_a_budget_lies_between_floor_and_three_times_the_worst(
    stage: str, budget: float, error: bool, warning: bool
) -> None:
    """Floor 10 s, worst 20 s: below 10 s it is impossible, above max(60 s, 35 s) loose; the bounds belong to it."""
    errors, warnings = held(timing(stage, 10.0, 20.0), {stage: budget})
    assert (bool(errors), bool(warnings)) == (error, warning)


def test_what_is_said() -> None:
    """Stage, both figures, and for a warning the exercise."""
    assert held(timing("act", 10.0, 20.0), {"act": 5}) == (
        [("act", "act within 5 s is impossible: declared, it takes 10 s at least")],
        [],
    )
    assert held(timing("act", 1.0, 2.0), {"act": "18s"}) == (
        [],
        ["drill: act within 18 s is loose: at worst it takes 2 s"],
    )


def test_short_chains_have_fifteen_seconds_of_slack() -> None:
    """Worst 2 s: three times that is 6 s, and 17 s are allowed all the same."""
    assert held(timing("act", 1.0, 2.0), {"act": 17}) == ([], [])


@pytest.mark.parametrize("profile", [{"chain": None}, {"hooks": {}}], ids=["no chain", "no hook"])
def test_nothing_to_hold_against(profile: dict[str, Any]) -> None:
    """Without a declared chain or without a hook nobody is asked."""
    ASKED.clear()
    if "hooks" in profile:
        facts = {k: v for k, v in PROFILE["facts"].items() if k != "action"}
        profile = {**profile, "facts": facts}
        target = Target.model_validate({**PROFILE, "chain": {"kind": "rules"}, **profile})
        exercise = Exercise.model_validate({"inject": "break()", "expect": "gate=='blocked'"})
        plan = resolve("drill", exercise, target, names(World(Script())))
        assert held_against(plan, Chains(None), Path("/base")) == ([], [])
    else:
        assert held(None, **profile) == ([], [])
    assert ASKED == []


def test_a_chain_that_names_no_files_says_nothing() -> None:
    """No answer is no error."""
    assert held(None) == ([], [])


@pytest.mark.parametrize(
    ("answer", "kind", "why"),
    [
        (ChainError("rules.yml:3: no such alert"), "rules", "rules.yml:3: no such alert"),
        (None, "ruless", "unknown chain 'ruless'"),
    ],
)
def test_a_chain_that_cannot_be_read_is_an_error(answer: Any, kind: str, why: str) -> None:
    """Of the profile, so without a stage."""
    assert held(answer, chain={"kind": kind}) == ([("", f"the declared chain cannot be read: {why}")], [])


def test_the_question_carries_files_and_base() -> None:
    """The keys of the profile's block beside its kind, and the folder that relative paths start from."""
    ASKED.clear()
    held(None)
    assert [(each.files, each.base, each.hook.alerts) for each in ASKED] == [
        ({"files": "x"}, Path("/base"), ("Broken",))
    ]
