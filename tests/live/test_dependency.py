"""A dependency dies in three ways and its chain notices; a chain that does not; and what happens to an undone fault."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live import containers
from tests.live.containers import until
from tests.live.depot import Depot

#: What is judged of a dependency that dies: all that nobody has to write, and the one clause of the exercise.
MET = ("effect", "detect", "notify:oncall", "expect.1", "only", "recover")


@pytest.fixture(scope="module")
def depot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Depot]:
    """Give the platform, up: one for all."""
    with containers.room() as room:
        made = Depot(tmp_path_factory.mktemp("depot"), room)
        with made.up():
            yield made


@pytest.fixture
def calm(depot: Depot) -> Depot:
    """Give the platform, well and quiet."""
    depot.calm()
    return depot


def verdicts(report: dict[str, Any]) -> dict[str, str]:
    """Return what became of each clause of a report, by its name."""
    return {each["clause"]: each["value"] for each in report["clauses"]}


@pytest.mark.parametrize("drill", ["cut", "paused", "killed"])
def test_a_dead_dependency_is_noticed_and_comes_back(calm: Depot, drill: str) -> None:
    """Cut off, frozen or killed: its alert fires, its owner is told, and afterwards it is as it was."""
    box = calm.room.name("depot")
    before = calm.room.tell(box)
    code, report = calm.run(drill)
    assert (code, report["outcome"]) == (0, "passed"), report
    assert verdicts(report) == dict.fromkeys(MET, "met")
    assert calm.room.tell(box) == before
    assert calm.room.answers(10)


def test_a_signal_to_an_init_is_inconclusive_not_passed(calm: Depot) -> None:
    """The engine took the signal, and the work goes on: no effect, so nothing is said of the chain."""
    code, report = calm.run("init_stopped")
    assert (code, report["outcome"]) == (4, "inconclusive"), report
    assert "running_on" in str(report)
    assert calm.room.tell(calm.room.name("init"))["stopped"] == []


def test_a_killed_runner_s_fault_is_healed_by_its_watchdog(calm: Depot) -> None:
    """SIGKILL of the runner while the container is paused: unpaused by nobody else, and nothing is left open."""
    box = calm.room.name("depot")
    runner = calm.begin("held")
    try:
        until(lambda: "fault.effective" in calm.events("held"), "effect", 120)
        assert calm.room.tell(box)["status"] == "paused"
        os.kill(runner.pid, signal.SIGKILL)
        runner.wait(30)
        until(lambda: calm.room.tell(box)["status"] == "running", "container that runs again", 60)
    finally:
        if runner.poll() is None:
            runner.kill()
            runner.wait(30)
    until(lambda: calm.sim("recover", "--dry-run").returncode == 0, "closed journal", 90)
    assert calm.room.answers(10)


def test_a_chain_that_reads_only_what_the_dead_says_of_itself_does_not_notice(calm: Depot) -> None:
    """The same fault, and a rule without `up`: the exercise fails and names the link that is missing."""
    code, report = calm.run("unnoticed")
    assert (code, report["outcome"]) == (1, "failed"), report
    told = verdicts(report)
    assert [told[name] for name in MET[:4]] == ["met", "missed", "missed", "missed"]
    assert calm.room.tell(calm.room.name("depot"))["status"] == "running"
