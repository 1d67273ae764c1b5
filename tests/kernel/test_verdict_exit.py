"""Which exit code stands for several runs."""

from __future__ import annotations

import pytest

from sim.judge import worst_exit
from sim.judge.verdict import Outcome

RANK = (6, 7, 3, 1, 4, 0)


@pytest.mark.parametrize("first", RANK)
@pytest.mark.parametrize("second", RANK)
def test_the_worst_of_two_exit_codes(first: int, second: int) -> None:
    """Over many exercises: 6 > 7 > 3 > 1 > 4 > 0, in either order."""
    assert worst_exit([first, second]) == RANK[min(RANK.index(first), RANK.index(second))]


@pytest.mark.parametrize("code", [129, 130, 143])
@pytest.mark.parametrize("other", RANK)
def test_an_interruption_outranks_all_but_unsafe(code: int, other: int) -> None:
    """A signal ended it: its code, unless something may have stayed behind."""
    assert worst_exit([other, code]) == (6 if other == 6 else code)


@pytest.mark.parametrize("strange", [2, 5, 8])
def test_a_code_out_of_the_ranking_is_never_lost_in_a_zero(strange: int) -> None:
    """Whatever else a run may end with one day, it does not become a success."""
    assert worst_exit([0, strange, 4]) == strange
    assert worst_exit([strange, 6]) == 6


def test_nothing_ran_is_not_a_success() -> None:
    """No code at all: 5, nothing selected."""
    assert worst_exit([]) == 5


def test_every_outcome_has_its_code() -> None:
    """One enum, one code each, in the order in which one outranks the next."""
    assert [(str(outcome), outcome.exit_code) for outcome in Outcome] == [
        ("unsafe", 6), ("error", 7), ("failed", 1), ("inconclusive", 4), ("aborted", 4), ("passed", 0),
    ]  # fmt: skip
