"""Every injector that is installed, killed where it matters: nothing stays in the target that its own test brings.

The catalogue is asked what there is; nothing is listed here. See tests/live/matrix/drill.py for the five points and
tests/live/matrix/every.py for the oracle, which goes by the lease that an injector declares.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from sim.catalogue import catalogue
from tests.live.matrix import fakes, soak
from tests.live.matrix.bench import Bench
from tests.live.matrix.drill import APPLIED
from tests.live.matrix.every import Drill, Every, Played, drills, installed, real_drills, summary, told

pytestmark = [pytest.mark.alone, pytest.mark.timeout(600)]

NAMES = installed()


#: Those whose tests bring the real part as well.
REAL = [name for name in NAMES if fakes.real(name)]

#: One that only a process can withdraw: what the oracle is shown of a fault that stays.
LOOSE = next(name for name in NAMES if catalogue().injector(name).lease == "none")
CONTROLS = [Drill(LOOSE, APPLIED, "SIGKILL", watched=False), Drill(LOOSE, APPLIED, "everything", lease="target")]


#: A few of the runs of `make soak-kill` that are of one of these.
RANDOM = [drill for seed in range(1, 41) if (drill := soak.other(seed, NAMES)) is not None]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[Played]:
    """Play every run once, a few at a time."""

    async def play() -> list[Played]:
        started = time.monotonic()
        async with Bench(tmp_path_factory.mktemp("every")).open() as bench:
            found = await Every(bench).all([*drills(NAMES), *real_drills(REAL), *RANDOM, *CONTROLS])
        print(summary(found, time.monotonic() - started))
        return found

    return asyncio.run(play())


def test_there_are_injectors() -> None:
    """A matrix over nothing proves nothing."""
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_killed_nothing_stays_of(played: list[Played], name: str) -> None:
    """Unaided where somebody is left or the target holds a lease, else by `sim recover`; a second one finds nothing."""
    wanted = drills([name])
    mine = [each for each in played if each.case in wanted]
    assert len(mine) == len(wanted)
    assert told(mine) == []
    _missing(mine)
    assert any(each.seen for each in mine), "the target's own list never told of the fault, so nothing was proven"


@pytest.mark.parametrize("name", REAL)
def test_whatever_is_killed_nothing_stays_in_the_real_part_of(played: list[Played], name: str) -> None:
    """The same against the real part that its test brings, where it is there."""
    wanted = real_drills([name])
    mine = [each for each in played if each.case in wanted]
    assert len(mine) == len(wanted)
    assert told(mine) == []
    _missing(mine)
    assert any(each.seen for each in mine), "the target's own list never told of the fault, so nothing was proven"


def _missing(played: list[Played]) -> None:
    """Skip by name what could not be played for want of a real part; in CI its target has failed instead."""
    if missing := {each.missing for each in played if each.missing}:
        pytest.skip("; ".join(sorted(missing)))


def test_killed_at_random_moments_they_leave_nothing(played: list[Played]) -> None:
    """A few seeds of what `make soak-kill` plays by the hundred."""
    mine = [each for each in played if each.case in RANDOM]
    assert len(mine) >= 5
    assert told(mine) == []


def test_the_oracle_sees_what_stays(played: list[Played]) -> None:
    """No watchdog, or a lease that the target does not hold: the fault stays, is found, and recovery cures it."""
    unwatched, unleased = (next(each for each in played if each.case == control) for control in CONTROLS)
    assert (unwatched.wrong, unleased.wrong) == (("its journal is not finished",), ())
    for each in (unwatched, unleased):
        assert len(each.left) == 1 and "s after the kill the target has" in each.left[0]
