"""`process.stop` against real processes: a parent, a child of its group, and a child with a session of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from injectors import _processes
from injectors.process.stop import injector
from sim.injector import InjectionError
from sim.stack.procs import Proc
from sim.target import Door
from tests.injectors import process_target


@asynccontextmanager
async def fake_target():
    """Yield what the contract test uses: doors, arguments, and how the processes stand."""
    with tempfile.TemporaryDirectory() as folder, process_target.tree() as made:
        (Path(folder) / "worker.pid").write_text(f"{made.main.pid}\n")
        standing = lambda: [state in _processes.STOPPED for state in made.states()]  # noqa: E731
        yield {"processes": Door(url=f"file://{folder}")}, {"process": "worker"}, standing


@pytest.fixture
def made():
    with process_target.tree() as tree:
        yield tree


@pytest.fixture
def at(made, tmp_path):
    """A folder of pid files with the tree's in it."""
    (tmp_path / "worker.pid").write_text(f"{made.main.pid}\nand what else a server notes\n")
    return process_target.site(tmp_path)


def params(process="worker", **more):
    return injector.params.model_validate({"process": process, **more})


def prepared(site, process="worker"):
    return asyncio.run(injector.prepare(site, params(process)))


def refused(site, process="worker"):
    with pytest.raises(InjectionError) as caught:
        prepared(site, process)
    return str(caught.value)


def during(site, receipt, work):
    """Run `work()` under the fault, which ends whatever happens; return what it returns, and what `gone` finds then."""

    async def main():
        try:
            await injector.apply(site, receipt)
            seen = await injector.effective(site, receipt)
            return seen, work()
        finally:
            await injector.withdraw(site, json.loads(json.dumps(receipt)))

    (seen, found), gone = asyncio.run(main()), asyncio.run(injector.gone(site, receipt))
    return seen, found, gone


def test_the_whole_tree_stands_still_and_goes_on(made, at):
    """Also the child that left the group; every thread is looked at, and the state is the system's."""
    ready = prepared(at)
    seen, states, gone = during(at, ready.receipt, made.states)
    assert [each["pid"] for each in ready.receipt["processes"]] == [each.pid for each in made.all]
    assert ready.targets == tuple(f"worker (pid {each.pid})" for each in made.all)
    assert states == ["stopped"] * 3
    assert (seen.holds, seen.evidence) == (
        True, {"process": "worker", "state": "stopped", "stopped": 3, "moving": []},
    )  # fmt: skip
    assert (gone.holds, gone.evidence) == (
        True, {"process": "worker", "state": "sleeping", "stopped": [], "running": 3, "ended": []},
    )  # fmt: skip
    assert asyncio.run(injector.held(at, ready.receipt)).holds


def test_what_was_born_between_the_look_and_the_signal_is_stopped_and_goes_on_too(made, at):
    """The receipt knows one process only; its children are found by the ones who undo it as well."""
    receipt = prepared(at).receipt
    receipt["processes"] = receipt["processes"][:1]
    seen, states, gone = during(at, receipt, made.states)
    assert (seen.holds, states, gone.holds) == (True, ["stopped"] * 3, True)
    assert made.states() == ["sleeping"] * 3


def test_one_that_is_killed_under_the_fault_is_gone_with_it_and_its_orphans_go_on(made, at):
    """The child in its group and the one that was listed: both wake up, nobody else is signalled."""
    receipt = prepared(at).receipt

    def killed():
        made.process.kill()
        made.process.wait()
        return made.states()

    _, states, gone = during(at, receipt, killed)
    assert states == ["ended", "stopped", "stopped"]
    assert (gone.holds, gone.evidence) == (
        True,
        {
            "process": "worker", "state": "ended", "stopped": [], "running": 2, "ended": [made.main.pid],
            "replaced_by": None,
        },
    )  # fmt: skip
    assert asyncio.run(injector.held(at, receipt)).holds, "a platform may end a hung process"


def test_one_that_somebody_else_continued_did_not_hold(made, at):
    """It moves, so the effect is not there any more, and what was seen since counts for nothing."""
    receipt = prepared(at).receipt
    during(at, receipt, lambda: [os.kill(each.pid, signal.SIGCONT) for each in made.all])
    held = asyncio.run(injector.held(at, receipt))
    assert (held.holds, held.evidence["moving"]) == (False, [each.pid for each in made.all])
    assert not asyncio.run(injector.held(replace(at, id="another"), receipt)).holds, "nobody looked"


def test_a_pid_that_is_somebody_else_s_by_now_is_left_alone(made, at):
    """Pid and start time: the receipt's processes are over, whoever has their pids."""
    receipt = prepared(at).receipt
    for each in receipt["processes"]:
        each["started"] -= 1
    with pytest.raises(InjectionError, match=rf"worker: pid {made.main.pid} has ended meanwhile"):
        asyncio.run(injector.apply(at, receipt))
    for each in made.all:
        os.kill(each.pid, signal.SIGSTOP)
        assert asyncio.run(_processes.until(each.stopped, 60))  # it is told at once, and stops when it is its turn
    asyncio.run(injector.withdraw(at, receipt))
    assert made.states() == ["stopped"] * 3
    gone = asyncio.run(injector.gone(at, receipt))
    assert (gone.holds, gone.evidence["state"], gone.evidence["replaced_by"]) == (True, "ended", made.main.pid)
    assert not _processes.send(Proc(made.main.pid, made.main.started - 1), signal.SIGCONT)
    assert made.states() == ["stopped"] * 3


def test_one_that_is_stopped_already_is_somebody_else_s(made, at):
    """Also when it is a child: undoing ours would undo theirs."""
    os.kill(made.children[1].pid, signal.SIGSTOP)
    assert asyncio.run(_processes.until(made.children[1].stopped, 5))
    assert refused(at) == f"worker: pid {made.children[1].pid} ({_name()}) is stopped already, by somebody else"


def _name():
    return psutil.Process().name()


def test_this_run_and_what_it_hangs_by_is_never_hit(tmp_path):
    """Ourselves, our parents, pid 1; and the watchdog by what it was started as."""
    said = []
    for pid in (os.getpid(), os.getppid(), 1):
        (tmp_path / "worker.pid").write_text(str(pid))
        said.append(refused(process_target.site(tmp_path)))
    assert said[0].startswith(f"worker: pid {os.getpid()} ") and said[0].endswith("it could not undo the fault")
    assert said[1].startswith(f"worker: pid {os.getppid()} ")
    assert said[2] == f"{tmp_path}/worker.pid names pid 1: that is never hit"
    watchdog = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()", "-m", "sim.watchdog"]
    with subprocess.Popen(watchdog, stdin=subprocess.PIPE) as process:
        (tmp_path / "worker.pid").write_text(str(process.pid))
        said = refused(process_target.site(tmp_path))
        process.stdin.close()
    assert said.endswith("is part of what undoes the fault, or of what keeps the stack up")


def test_a_process_of_another_user_is_refused_before_anything_is_done(made, at, monkeypatch):
    """The system is asked, with signal 0; the answer names whose it is."""
    monkeypatch.setattr(os, "kill", _no)
    assert refused(at).endswith(f"belongs to {psutil.Process(made.main.pid).username()}, whom we may not signal")
    monkeypatch.undo()
    monkeypatch.setattr(signal, "pidfd_send_signal", _no)
    with pytest.raises(InjectionError, match=rf"pid {made.main.pid} may not be signalled by "):
        _processes.send(made.main, signal.SIGCONT)


def _no(*_):
    raise PermissionError(1, "Operation not permitted")


def test_a_system_without_process_descriptors_is_served_as_well(made, monkeypatch):
    """Then pid and start time are all there is."""
    monkeypatch.delattr(os, "pidfd_open")
    assert _processes.send(made.main, signal.SIGCONT)
    assert not _processes.send(Proc(made.main.pid, 1.0), signal.SIGKILL)
    assert made.main.alive()


def test_the_door_says_what_it_cannot_do(made, tmp_path):
    """A name it does not know, a leftover, no pid, nothing there, another machine, no door."""
    site = process_target.site
    file = tmp_path / "one.pid"
    file.write_text(str(made.main.pid))
    os.utime(file, (1e9, 1e9))
    said = [refused(site(tmp_path), "other"), refused(site(file), "one"), refused(site(file), "../one")]
    file.write_text("soon")
    said.append(refused(site(tmp_path), "one"))
    file.write_text("999999999")
    said.append(refused(site(tmp_path), "one"))
    said.append(refused(site(tmp_path / "none"), "one"))
    said.append(refused(replace(site(tmp_path), doors={"processes": Door(url="http://127.0.0.1:1")})))
    said.append(refused(replace(site(tmp_path), doors={})))
    assert said[1].endswith("a leftover, and the pid is somebody else's by now")
    del said[1]
    assert [each.replace(str(tmp_path), "DIR") for each in said] == [
        "DIR names no process 'other' (it names one)",
        "DIR/one.pid names no process '../one' (it names one)",
        "DIR/one.pid holds no pid",
        "DIR: one does not run, so it cannot be stopped",
        "doors.processes: DIR/none: No such file or directory",
        "doors.processes: 'http://127.0.0.1:1' is not on this machine: write file:///path of a stack's state file, "
        "of a folder of pid files, or of one pid file",
        "the profile opens no door 'processes': add doors.processes with its url",
    ]


def test_the_state_file_of_a_stack_names_processes_too(made, tmp_path):
    """With what the supervisor says of each; a file that is none is told."""
    path = tmp_path / "state.json"
    process_target.state_file(
        path, dec=("ready", made.main), old=("ready", Proc(made.main.pid, 1.0)), gone=("dead", None)
    )
    site = process_target.site(f"{tmp_path}/x/../state.json".replace("/x/..", "/./"))
    assert _processes.named(path, "dec") == _processes.Named("dec", made.main, "ready")
    assert [_processes.named(path, name) for name in ("old", "gone")] == [None, None]
    assert refused(site, "engine").endswith("names no process 'engine' (it names dec, gone, old)")
    assert prepared(site, "dec").prior["state"] == "ready"
    path.write_text('{"processes": 3}')
    assert "is not the state file of a stack: " in refused(site, "dec")


def test_how_long_it_is_held():
    """As asked for, else the default."""
    assert [injector.duration_s(params(duration="90s")), injector.duration_s(params())] == [90.0, None]
