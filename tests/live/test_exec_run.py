"""`exec.run` with a real runner: killed, its watchdog runs `stop`; without effect it never passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from sim import undo
from tests.injectors.test_exec_run import SCRIPT
from tests.live.guarded import profile
from tests.live.test_guard_live import Place, eventually, kinds, outcome, place, told

__all__ = ["place"]  # the fixture


class Programs:
    """A place whose profile has a door of commands; the fault is a file."""

    def __init__(self, place: Place, **changes: Any) -> None:
        """Write the script, the profile and an exercise; `changes` are other argument lists."""
        self.place, folder = place, place.folder
        script = folder / "flag.sh"
        script.write_text(SCRIPT)
        script.chmod(0o700)
        steps = {step: [str(script), step, "{injection}.flag"] for step in ("start", "verify", "stop", "gone")}
        doors = {"exec": {"commands": {"flag": {**steps, **changes}}}}
        written = {**profile(place.store), "doors": doors}
        (folder / "scenarios" / "targets" / "guarded.yaml").write_text(yaml.safe_dump(written))
        drill = {"inject": "exec.run('flag', duration='60s')", "expect": "gate=='blocked'", "hold": "full"}
        (folder / "drill.yaml").write_text(yaml.safe_dump({"exercises": {"drill": drill}}))

    def flags(self) -> list[Path]:
        """Return the faults that are in."""
        return list(self.place.folder.glob("*.flag"))

    def run(self) -> Path:
        """Return the one run folder."""
        (run,) = (self.place.folder / "runs").glob("*")
        return run


@pytest.mark.timeout(120)
def test_kill_nine_and_the_watchdog_runs_stop(place: Place) -> None:
    """The runner is gone: `stop` and `gone` of the profile are run from the journal, and nothing is left to recover."""
    programs = Programs(place)
    runner = place.start("sim.cli", "run", "drill.yaml", "--target", "guarded")
    eventually(lambda: any("fault.effective" in kinds(run) for run in (place.folder / "runs").glob("*")), runner)
    (flag,) = programs.flags()
    assert told(programs.run(), "fault.effective")[0]["evidence"] == {
        "verify": {"exit": 0, "said": f"verify {flag.name}"}
    }
    runner.kill()
    runner.wait(10)
    eventually(lambda: undo.read(programs.run() / "undo.jsonl").closed)
    assert programs.flags() == []
    withdrawn = [line for line in (programs.run() / "undo.jsonl").read_text().splitlines() if '"withdrawn"' in line]
    assert len(withdrawn) == 1 and '"by":"watchdog"' in withdrawn[0]
    assert place.sim("recover", code=0) == "nothing is open\n"


@pytest.mark.timeout(120)
def test_kill_nine_while_start_is_at_work(place: Place) -> None:
    """A `start` that is not done dies with its runner: it cannot bring the fault in behind the watchdog's back."""
    pid = place.folder / "pid"
    programs = Programs(place, start=["sh", "-c", "echo $$ > pid; exec sleep 7"])
    runner = place.start("sim.cli", "run", "drill.yaml", "--target", "guarded")
    eventually(lambda: pid.exists() and bool(pid.read_text().strip()), runner)
    start = psutil.Process(int(pid.read_text()))
    eventually(lambda: start.cmdline() == ["sleep", "7"], runner)  # a moment after it has told its pid
    runner.kill()
    eventually(lambda: not start.is_running() or start.status() == psutil.STATUS_ZOMBIE)
    eventually(lambda: undo.read(programs.run() / "undo.jsonl").closed)


@pytest.mark.timeout(120)
def test_kill_nine_while_what_start_called_is_at_work(place: Place) -> None:
    """Programs call programs (`kubectl` by a script): what a dead `start` had called does not go on either."""
    pid = place.folder / "pid"
    late = "sleep 8 & echo $! > pid; wait; touch late.flag"
    programs = Programs(place, start=["sh", "-c", f"sh -c '{late}'; true"], gone=["sh", "-c", "! ls *.flag"])
    runner = place.start("sim.cli", "run", "drill.yaml", "--target", "guarded")
    eventually(lambda: pid.exists() and bool(pid.read_text().strip()), runner)
    sleeping = psutil.Process(int(pid.read_text()))
    called = sleeping.parent()
    assert called is not None and late in called.cmdline()[-1]
    runner.kill()
    eventually(lambda: undo.read(programs.run() / "undo.jsonl").closed)
    assert [each for each in (sleeping, called) if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    assert programs.flags() == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"verify": ["false"]}, "verify"),
        (
            {"start": ["sh", "-c", "touch half.flag; echo half done; exit 3"], "stop": ["sh", "-c", "rm -f *.flag"]},
            "half done",
        ),
    ],
)
def test_no_effect_is_inconclusive_and_stop_runs_all_the_same(place: Place, changes: dict[str, Any], why: str) -> None:
    """A verify that is never content, a start that fails half way: exit 4, and the fault is taken away."""
    programs = Programs(place, **changes)
    said = place.sim("run", "drill.yaml", "--target", "guarded", code=4)
    assert (outcome(programs.run()), programs.flags()) == ("inconclusive", [])
    assert "fault.gone" in kinds(programs.run())
    assert why in said
