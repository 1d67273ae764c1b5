"""Real runners that hang, meet, are halted, or lose their folder: no fault stays, and nothing passes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim import log, machine, undo, watchdog
from tests.live.guarded import GRACE_S, SETTLE_S, TTL_S, exercise, profile

ROOT = Path(__file__).resolve().parents[2]
ROOM = Path(__file__).parent / "matrix" / "room"

#: What a busy machine may add to any wait, seconds.
SLACK_S = 20.0


class Place:
    """A namespace of the fault store, a folder with a profile and an exercise for it, and what was started there."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store = folder, store
        paths = os.pathsep.join([str(ROOM), str(ROOT)])
        self.environment = {**os.environ, "PYTHONPATH": paths, machine.VARIABLE: str(folder / "machine")}
        self.started: list[subprocess.Popen[str]] = []
        self.ask("PUT", {})
        (folder / "scenarios" / "targets").mkdir(parents=True)
        (folder / "sim.toml").write_text("")
        (folder / "scenarios" / "targets" / "guarded.yaml").write_text(yaml.safe_dump(profile(store)))
        drill = {"exercises": {"drill": exercise("store.leased", 60.0)}}
        (folder / "drill.yaml").write_text(yaml.safe_dump(drill))

    def ask(self, method: str, body: Any = None) -> dict[str, Any]:
        """Ask the store about this namespace."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.store, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a process in the folder."""
        command = [sys.executable, "-m", *words]
        pipe = subprocess.PIPE
        made = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        self.started.append(made)
        return made

    def runner(self, fault: str, hold_s: float, *more: str) -> tuple[subprocess.Popen[str], Path]:
        """Start a runner with a short lease; return when its fault was proven to bite."""
        run = self.folder / "runs" / "r1"
        run.mkdir(parents=True)
        process = self.start("tests.live.guarded", str(run), self.store, fault, str(hold_s), *more)
        eventually(lambda: "fault.effective" in kinds(run), process)
        return process, run

    def sim(self, *words: str, code: int) -> str:
        """Run `sim` to its end, which must have this code; return all that it said."""
        process = self.start("sim.cli", *words)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, f"{words}: {process.returncode}\n{out}\n{err}"
        return out + err

    def clean(self) -> bool:
        """Whether no fault is in."""
        return self.ask("GET")["faults"] == []


def kinds(run: Path) -> list[str]:
    """Return the kinds of all events of a record, as far as it is written."""
    return [event.kind for event in log.read(run / "log.jsonl")] if (run / "log.jsonl").exists() else []


def told(run: Path, kind: str) -> list[dict[str, Any]]:
    """Return the data of the events of one kind."""
    return [dict(event.data) for event in log.read(run / "log.jsonl") if event.kind == kind]


def outcome(run: Path) -> str:
    """Return how a run was judged."""
    return str(json.loads((run / "verdicts.json").read_text())["outcome"])


def eventually(what: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> float:
    """Wait until it is so; return how long it took, seconds."""
    began = time.monotonic()
    while not what():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it ended {process.returncode}: {process.communicate()}")
        assert time.monotonic() - began < SLACK_S, "it never came"
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Return a place with a store; whatever was started there is ended."""
    command = [sys.executable, "-m", "tests.live.matrix.store"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as store:  # type: ignore[call-overload]
        try:
            made = Place(tmp_path, f"http://127.0.0.1:{store.stdout.readline().strip()}/one")
            yield made
            for process in made.started:
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGCONT)
                    process.kill()
                process.communicate(timeout=30)
            eventually(lambda: not _held(made))  # a watchdog may still be at work
        finally:
            store.stdin.close()
            store.wait(30)


def _held(place: Place) -> bool:
    before = os.environ.get(machine.VARIABLE)
    os.environ[machine.VARIABLE] = place.environment[machine.VARIABLE]
    try:
        return bool(machine.held())
    finally:
        os.environ[machine.VARIABLE] = before or ""


def test_a_runner_that_is_suspended_longer_than_the_lease(place: Place) -> None:
    """SIGSTOP: the target drops the fault by itself; resumed, the runner sends no renewal and does not pass."""
    process, run = place.runner("store.leased", 60.0)
    os.kill(process.pid, signal.SIGSTOP)
    assert eventually(place.clean) < TTL_S + SLACK_S
    time.sleep(TTL_S)
    assert place.clean()
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(30) == 4
    assert outcome(run) == "inconclusive"
    assert [each["by"] for each in told(run, "stopped")] == ["lapsed"]
    assert "fault.gone" in kinds(run)
    state = place.ask("GET")
    assert (state["faults"], state["gate"], set(state["applies"].values())) == ([], "open", {1})
    assert undo.read(run / "undo.jsonl").unfinished is False


def test_a_runner_that_hangs_is_overtaken_by_the_watchdog(place: Place) -> None:
    """At hold time + grace a fault without a lease is withdrawn, though the runner lives; awake it does not pass."""
    process, run = place.runner("store.loose", 3.0)
    os.kill(process.pid, signal.SIGSTOP)
    began = time.monotonic()
    eventually(lambda: undo.read(run / "undo.jsonl").closed)
    assert time.monotonic() - began < 3.0 + GRACE_S + 2 * SETTLE_S + SLACK_S
    state = place.ask("GET")
    assert (state["faults"], state["gate"]) == ([], "open")
    by = [json.loads(line).get("by") for line in (run / "undo.jsonl").read_text().splitlines()]
    assert set(by) - {None} == {"watchdog"}
    assert process.poll() is None
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(30) == 4
    assert outcome(run) == "inconclusive"


def test_a_run_folder_that_is_lost_with_its_runner(place: Place) -> None:
    """The folder is removed and the runner killed: the watchdog holds the journal, puts it back, and finishes."""
    process, run = place.runner("store.loose", 60.0)
    shutil.rmtree(run)
    process.kill()
    eventually(lambda: (run / "undo.jsonl").exists() and undo.read(run / "undo.jsonl").closed)
    state = place.ask("GET")
    assert (state["faults"], state["gate"]) == ([], "open")
    assert place.sim("recover", code=0) == "nothing is open\n"


def test_a_disk_that_is_full_under_the_fault(place: Place) -> None:
    """The record cannot be written on: the fault is withdrawn at once, the journal closed, and nothing is proven."""
    process, run = place.runner("store.loose", 60.0, "fault.effective")
    assert process.wait(40) == 4
    state = place.ask("GET")
    assert (state["faults"], state["gate"], not (run / "verdicts.json").exists()) == ([], "open", True)
    assert undo.read(run / "undo.jsonl").closed
    assert kinds(run)[-1] == "fault.effective"


def test_two_runners_and_the_lever(place: Place) -> None:
    """The second runner is refused with the first's run; `sim halt` ends the first, and lets none start."""
    first = place.start("sim.cli", "run", "drill.yaml", "--target", "guarded")
    runs = place.folder / "runs"
    eventually(lambda: any("fault.effective" in kinds(run) for run in runs.glob("*")), first)
    (run,) = runs.glob("*")
    refused = place.sim("run", "drill.yaml", "--target", "guarded", code=4)
    assert f"run {run.name} (pid {first.pid}) is at work on this target" in refused
    said = place.sim("halt", "--reason", "an incident", code=0)
    assert "halted: no run is at work" in said
    out, _ = first.communicate(timeout=30)
    assert (first.returncode, outcome(run)) == (4, "aborted")
    assert "sim halt: an incident" in out
    assert place.clean()
    assert undo.read(run / "undo.jsonl").unfinished is False
    assert "this machine is halted (an incident)" in place.sim("run", "drill.yaml", "--target", "guarded", code=4)
    assert place.sim("halt", "--release", code=0) == "released\n"
    assert place.sim("recover", "--all", code=0) == "nothing is open\n"


def test_recover_first_finishes_what_was_left_and_runs(place: Place) -> None:
    """All is killed: refused with the line that finishes it, shown by --dry-run; `--recover-first` does both."""
    process, run = place.runner("store.loose", 60.0)
    _kill_everything(process, run)
    drill = yaml.safe_dump({"exercises": {"drill": {"inject": "store.loose()", "expect": "gate=='blocked'"}}})
    (place.folder / "drill.yaml").write_text(drill)
    words = ("run", "drill.yaml", "--target", "guarded")
    assert "sim recover runs/r1" in place.sim(*words, code=6)
    assert "r1: would withdraw" in place.sim("recover", "--dry-run", code=6)
    assert not place.clean()
    assert "fault.withdrawing" in place.sim(*words, "--recover-first", code=0)
    assert place.clean()
    assert place.sim("recover", "r1", code=0) == "r1: nothing is open\n"


def _kill_everything(process: subprocess.Popen[str], run: Path) -> None:
    mine = str(run).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if b"sim.watchdog" in words and mine in words:
            os.kill(int(path.parent.name), signal.SIGKILL)
    process.kill()
    process.wait(30)


def test_a_run_folder_that_is_given_by_a_relative_path(tmp_path: Path, monkeypatch: Any) -> None:
    """The watchdog stands in the run folder, and finds it all the same."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    journal = undo.Journal(Path("run"))
    journal.write("open", run="run")
    journal.write("intent", fault="f", injector="no.such_fault", doors={}, run="run", ttl_s=1, lease="none", receipt={})
    dog = watchdog.start(Path("run"), settle_s=0.0)
    try:
        os.close(dog._fd)
        eventually(lambda: "the runner is gone" in Path("run/watchdog.log").read_text())
    finally:
        journal.close()
        dog.process.kill()
        dog.process.wait(30)
