"""A runner that dies in the middle of the real thing: the lease ends the fault, `sim recover` puts the rest back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import tool
from tests.live.chains import Bench


def _bench(tmp_path: Path, name: str) -> Bench:
    tool("prometheus")
    tool("alertmanager")
    bench = Bench(tmp_path / name, name)
    bench.write()
    return bench


def _start(bench: Bench, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sim.cli", "run", "drill.yaml", "--target", "mbp-local.yaml", *words]
    return subprocess.Popen(
        command, cwd=bench.folder, env=bench.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _eventually(what: Any, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.2)
    return bool(what())


def _killed(bench: Bench, *also: str) -> None:
    """Run until the action is done, then kill -9 the runner, and with it every process whose command names `also`."""
    runner = _start(bench, "--stack", bench.name)
    assert bench.wait_for("fault.effective")
    assert _eventually(lambda: bench.ask("release", "GET", "/release")["gate"] == "blocked", 20)
    family = [psutil.Process(runner.pid), *psutil.Process(runner.pid).children(recursive=True)]
    doomed = [each for each in family if each.pid == runner.pid or any(word in each.cmdline() for word in also)]
    for each in doomed:
        each.kill()
    assert len(doomed) == 1 + len(also)
    runner.communicate(timeout=10)


def _clean(bench: Bench) -> bool:
    return not bench.ask("engine", "GET", "/faults", token=True)


@pytest.mark.timeout(600)
def test_kill_nine_and_the_watchdog_finishes(tmp_path: Path) -> None:
    """kill -9 of the runner after the action: fault gone and gate open again with nobody's help, nothing to recover."""
    bench = _bench(tmp_path, "watched")
    assert bench.up().returncode == 0
    try:
        _killed(bench)
        assert _eventually(lambda: _clean(bench) and bench.ask("release", "GET", "/release")["gate"] == "open", 30)
        assert _eventually(lambda: bench.sim("recover").stdout.strip() == "nothing is open", 15)
    finally:
        bench.sim("down", "--stack", "watched")


@pytest.mark.timeout(600)
def test_kill_nine_of_everything_then_recover(tmp_path: Path) -> None:
    """The watchdog killed too: the lease ends the fault, a new run is refused, recover finishes, then does nothing."""
    bench = _bench(tmp_path, "killed")
    assert bench.up().returncode == 0
    try:
        _killed(bench, "sim.watchdog")
        assert _eventually(lambda: _clean(bench), 15), "the lease of 10 s did not end the fault"
        refused = bench.sim("run", "drill.yaml", "--target", "mbp-local.yaml", "--stack", "killed")
        assert (refused.returncode, "sim recover" in refused.stderr) == (6, True)
        first = bench.sim("recover")
        assert (first.returncode, "withdrawn and put back" in first.stdout) == (0, True), first.stdout + first.stderr
        assert bench.ask("release", "GET", "/release")["gate"] == "open"
        second = bench.sim("recover")
        assert (second.returncode, second.stdout.strip()) == (0, "nothing is open")
    finally:
        bench.sim("down", "--stack", "killed")


@pytest.mark.timeout(600)
def test_interrupt_withdraws_and_takes_the_stack_down(tmp_path: Path) -> None:
    """SIGINT while the fault bites: exit 130, the journal closed, and no process of the stack left."""
    bench = _bench(tmp_path, "interrupted")
    runner = _start(bench, "--stack", "interrupted")
    assert bench.wait_for("fault.effective")
    pids = [bench.pid(name) for name in ("prometheus", "engine", "executor")]
    runner.send_signal(signal.SIGINT)
    stdout, stderr = runner.communicate(timeout=60)
    assert runner.returncode == 130, stdout + stderr
    assert bench.sim("recover").stdout.strip() == "nothing is open"
    assert _eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), 15)


@pytest.mark.timeout(600)
def test_kill_nine_of_the_owner_leaves_no_process(tmp_path: Path) -> None:
    """kill -9 of a runner that brought its stack up: the stack goes with it, and with the stack the fault."""
    bench = _bench(tmp_path, "orphaned")
    runner = _start(bench, "--stack", "orphaned")
    assert bench.wait_for("fault.effective")
    pids = [bench.pid(name) for name in ("prometheus", "engine", "executor", "sinks")]
    os.kill(runner.pid, signal.SIGKILL)
    runner.communicate(timeout=10)
    assert _eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), 20)
