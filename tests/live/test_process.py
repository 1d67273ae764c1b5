"""Faults of processes with real runners and a real supervisor: killed, restarted, stopped, let go by who is left."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from injectors.process.kill import injector as kill
from injectors.process.stop import injector as stop
from sim import stack, undo
from sim.injector import Injector, Probe, Site
from sim.places import Places
from sim.secret import Secrets
from sim.target import Door
from tests.injectors import process_target
from tests.live import test_stack_live
from tests.live.guarded import profile
from tests.live.test_guard_live import Place, eventually, kinds, place
from tests.live.test_stack_live import here

__all__ = ["here", "place"]  # the fixtures


def used(injector: Injector, state: Path, **given: str) -> tuple[list[Probe], Probe]:
    """Use a fault once at a stack; return what was seen of it while it was in, and that it is gone."""
    site = Site("r1-0", "r1", {"processes": Door(url=f"file://{state}")}, Secrets({}))

    async def work() -> tuple[list[Probe], Probe]:
        prepared = await injector.prepare(site, injector.params.model_validate(given))
        receipt = json.loads(json.dumps(prepared.receipt))
        try:
            await injector.apply(site, receipt)
            seen = [await injector.effective(site, receipt), await injector.gone(site, receipt)]
        finally:
            for _ in range(6):  # as the kernel does
                await injector.withdraw(site, receipt)
                if (gone := await injector.gone(site, receipt)).holds:
                    break
        return seen, gone

    return asyncio.run(work())


def answers(up: stack.Stack, name: str) -> bool:
    """Whether a service of the stack answers at once."""
    try:
        with urllib.request.urlopen(up.exports[name], timeout=1):
            return True
    except OSError:
        return False


def test_a_supervisor_s_restart_is_the_recovery(here: Places) -> None:
    """Killed: the same service under another pid, ready by the supervisor's word; its neighbour is not touched."""
    up = test_stack_live.up(here)
    state, before = here.stacks / "default" / "state.json", {}
    for name in "ab":
        before[name] = json.loads(state.read_text())["processes"][name]["pid"]
    seen, gone = used(kill, state, process="a")
    after = {name: json.loads(state.read_text())["processes"][name]["pid"] for name in "ab"}
    assert [seen[0].holds, gone.holds] == [True, True]
    assert gone.evidence == {
        "process": "a", "killed": before["a"], "ended": True, "pid": after["a"], "state": "ready", "ports": 1,
    }  # fmt: skip
    assert (after["a"] != before["a"], after["b"]) == (True, before["b"])
    assert answers(up, "a")
    stack.down("default", here)


def test_a_stopped_service_of_a_stack_hangs_and_goes_on(here: Places) -> None:
    """It takes connections and answers none; afterwards it answers, as the same process."""
    up = test_stack_live.up(here)
    state = here.stacks / "default" / "state.json"
    pid = json.loads(state.read_text())["processes"]["b"]["pid"]
    process = psutil.Process(pid)
    seen, gone = used(stop, state, process="b")
    assert [each.holds for each in (*seen, gone)] == [True, False, True]
    assert (process.is_running(), process.status() != psutil.STATUS_STOPPED) == (True, True)
    assert answers(up, "b")
    stack.down("default", here)


@pytest.fixture
def worker(place: Place) -> Iterator[process_target.Tree]:
    """A process with children, named by a pid file, and an exercise that stops it for a minute."""
    with process_target.tree() as made:
        (place.folder / "pids").mkdir()
        (place.folder / "pids" / "worker.pid").write_text(str(made.main.pid))
        door = {"processes": {"url": f"file://{place.folder}/pids"}}
        written = {**profile(place.store), "doors": door}
        (place.folder / "scenarios" / "targets" / "guarded.yaml").write_text(yaml.safe_dump(written))
        drill = {"inject": "process.stop('worker', duration='60s')", "expect": "gate=='blocked'", "hold": "full"}
        (place.folder / "drill.yaml").write_text(yaml.safe_dump({"exercises": {"drill": drill}}))
        yield made


def running(place: Place) -> psutil.Process:
    """Start a run; return its process when the fault is proven to bite."""
    runner = place.start("sim.cli", "run", "drill.yaml", "--target", "guarded")
    eventually(lambda: any("fault.effective" in kinds(run) for run in (place.folder / "runs").glob("*")), runner)
    return psutil.Process(runner.pid)


def closed(place: Place) -> bool:
    """Whether nothing is open in the one run's journal."""
    (run,) = (place.folder / "runs").glob("*")
    return undo.read(run / "undo.jsonl").closed


@pytest.mark.timeout(120)
def test_kill_nine_and_the_watchdog_lets_it_go_on(place: Place, worker: process_target.Tree) -> None:
    """The runner is gone: whatever it stopped goes on, by its watchdog, and nothing is left to recover."""
    runner = running(place)
    assert worker.states() == ["stopped"] * 3
    runner.kill()
    eventually(lambda: closed(place))
    assert "stopped" not in worker.states()
    assert place.sim("recover", code=0) == "nothing is open\n"


@pytest.mark.timeout(120)
def test_everything_killed_and_recover_lets_it_go_on(place: Place, worker: process_target.Tree) -> None:
    """Runner and watchdog are gone: the process stays stopped, which is what lease none means, until `sim recover`."""
    runner = running(place)
    everyone = [runner, *runner.children(recursive=True)]
    for each in everyone:
        each.send_signal(signal.SIGSTOP)  # nobody sees the others go
    for each in everyone:
        each.kill()
    psutil.wait_procs(everyone, 10)
    assert worker.states() == ["stopped"] * 3
    place.sim("recover", "--all", code=0)
    assert closed(place)
    assert "stopped" not in worker.states()
