"""Every injector that is installed, killed where it matters: nothing stays in the target that its own test brings.

The catalogue is asked what there is; nothing is listed here. See tests/live/matrix/drill.py for the five points and
tests/live/matrix/every.py for the oracle, which goes by the lease that an injector declares.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from sim.catalogue import catalogue
from tests.live.matrix.bench import Bench
from tests.live.matrix.drill import APPLIED
from tests.live.matrix.every import Drill, Every, Played, drills, summary, told

pytestmark = pytest.mark.timeout(600)

NAMES = [name for name, room in catalogue().entries["sim.injectors"].items() if not room.package.startswith("killroom")]


#: One that only a process can withdraw: what the oracle is shown of a fault that stays.
LOOSE = next(name for name in NAMES if catalogue().injector(name).lease == "none")
CONTROLS = [Drill(LOOSE, APPLIED, "SIGKILL", watched=False), Drill(LOOSE, APPLIED, "everything", lease="target")]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[Played]:
    """Play every run once, a few at a time."""

    async def play() -> list[Played]:
        started = time.monotonic()
        async with Bench(tmp_path_factory.mktemp("every")).open() as bench:
            found = await Every(bench).all([*drills(NAMES), *CONTROLS])
        print(summary(found, time.monotonic() - started))
        return found

    return asyncio.run(play())


def test_there_are_injectors() -> None:
    """A matrix over nothing proves nothing."""
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_killed_nothing_stays_of(played: list[Played], name: str) -> None:
    """Unaided where somebody is left or the target holds a lease, else by `sim recover`; a second one finds nothing."""
    mine = [each for each in played if each.drill.injector == name and each.drill not in CONTROLS]
    assert len(mine) == len(drills([name]))
    assert told(mine) == []


def test_the_oracle_sees_what_stays(played: list[Played]) -> None:
    """No watchdog, or a lease that the target does not hold: the fault stays, is found, and recovery cures it."""
    unwatched, unleased = (next(each for each in played if each.drill == control) for control in CONTROLS)
    assert len(unwatched.wrong) == 2 and unwatched.wrong[1] == "its journal is not finished"
    assert "s after the kill the target has" in unwatched.wrong[0]
    assert len(unleased.wrong) == 1 and "s after the kill the target has" in unleased.wrong[0]
