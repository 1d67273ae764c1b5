"""The patience of tests, by clocks that stand where they are put."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.patience import Patience, ended, finished, stalled_s


def _looks(seconds: float, *passed: tuple[float, float]) -> list[bool]:
    """Return what `left` says after each (by the clock, stalled) that passed."""
    at = [0.0, 0.0]
    patience = Patience(seconds, lambda: at[0], lambda: at[1])
    said = []
    for clock, stalled in passed:
        at[0], at[1] = at[0] + clock, at[1] + stalled
        said.append(patience.left())
    return said


def test_a_machine_with_time_has_the_clock_s() -> None:
    """Nothing waits for a processor: the bound is that of the clock."""
    assert _looks(10, (9.9, 0), (0.2, 0)) == [True, False]


def test_what_the_machine_did_not_give_is_not_held_against_the_subject() -> None:
    """Half of the time stalled: twice as long."""
    assert _looks(10, (10, 5), (9, 4.5), (2, 1)) == [True, True, False]


def test_it_ends_on_any_machine() -> None:
    """Stalled all the time, or counted as more than there was: ten times as long, and no longer."""
    assert _looks(10, (90, 90), (9, 20), (2, 2)) == [True, True, False]


def test_the_kernel_s_count_only_grows() -> None:
    """Whatever it is on this machine, it is a number of seconds that does not fall."""
    first = stalled_s()
    assert 0 <= first <= stalled_s()


def test_a_process_that_ends_is_waited_for_and_one_that_does_not_is_told() -> None:
    """Its exit code, and all that it said; the error of a process that hangs is that of the standard library."""
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        assert ended(process, 30) == 3
    with subprocess.Popen([sys.executable, "-c", "print('said')"], stdout=subprocess.PIPE, text=True) as speaking:
        assert finished(speaking, 30) == ("said\n", None)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as hanging:
        with pytest.raises(subprocess.TimeoutExpired):
            ended(hanging, 0)
        hanging.kill()
