"""What all runners of one machine share: one lock a target, and one lever that halts them all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sim import machine
from sim.machine import MachineError, Taken, held, hold


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: Any) -> Path:
    """Return a shared folder of this test's own, which is not there yet."""
    monkeypatch.setenv(machine.VARIABLE, str(tmp_path / "shared"))
    return tmp_path / "shared"


def who(taken: Taken) -> tuple[str, int | None]:
    """Return the run and the process that somebody was refused for."""
    return taken.run, taken.pid


def test_a_second_holder_is_refused_with_the_run_of_the_first(shared: Path) -> None:
    """One target instance, two runners: the second is told whose run is at work, and in which process."""
    first = hold("mbp", "one", "run-1")
    with pytest.raises(Taken, match=rf"run run-1 \(pid {os.getpid()}\) is at work on this target") as caught:
        hold("mbp", "one", "run-2")
    assert who(caught.value) == ("run-1", os.getpid())
    assert [who(each) for each in held()] == [("run-1", os.getpid())]
    first.release()


def test_a_lock_whose_runner_is_dead_is_its_watchdogs(shared: Path, monkeypatch: Any) -> None:
    """Who is sent to `sim recover`, and told that a run is at work whose process is gone, would look for it in vain."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setattr(os, "getpid", lambda: gone.pid)
    first = hold("mbp", "one", "run-1")
    (taken,) = held()
    assert str(taken) == f"the watchdog of run run-1 (its runner, pid {gone.pid}, is gone) is at work on this target"
    first.release()


def test_a_lock_is_free_again_when_its_holder_lets_go(shared: Path) -> None:
    """Released, it is nobody's, and the next holder's name stands in it, whole, however long the last one's was."""
    hold("mbp", "one", "run-with-a-very-long-name").release()
    assert held() == []
    second = hold("mbp", "one", "r2")
    assert [who(each) for each in held()] == [("r2", os.getpid())]
    second.release()


#: Says why it is halted, and takes a target.
ELSEWHERE = """
import sys
from pathlib import Path
from sim import machine
machine.COMMON = Path(sys.argv[1])
print(machine.halted(), flush=True)
machine.hold("mbp", "one", "r")
"""


@pytest.mark.parametrize("writable", [True, False])
def test_the_lever_halts_whoever_has_a_tmpdir_of_his_own(tmp_path: Path, monkeypatch: Any, writable: bool) -> None:
    """A service, a user or a shell with a TMPDIR of its own is halted, and shut out, with all others of the machine."""
    common, own = tmp_path / "common", tmp_path / "own"
    common.mkdir()
    own.mkdir()
    monkeypatch.setattr(machine, "COMMON", common if writable else tmp_path / "gone")
    monkeypatch.delenv(machine.VARIABLE)
    monkeypatch.setattr("tempfile.tempdir", str(common))
    first = hold("mbp", "one", "run-1")
    machine.halt("fire")
    environment = {**os.environ, "TMPDIR": str(own if writable else common)}
    command = [sys.executable, "-c", ELSEWHERE, str(machine.COMMON)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert said.stdout == "fire\n"
    assert "run run-1" in said.stderr.splitlines()[-1]
    assert machine.release()
    first.release()


def test_instances_and_targets_do_not_lock_each_other_out(shared: Path) -> None:
    """The key is target and instance, and where one ends and the other begins is not left to chance."""
    holds = [hold(*names, f"run {names}") for names in (("a", "b"), ("a", "c"), ("ab", ""), ("", "ab"))]
    assert len(held()) == 4
    for each in holds:
        each.release()


def test_a_child_that_inherited_the_lock_keeps_it(shared: Path) -> None:
    """The watchdog holds the runner's lock on: no other run starts while it cleans up, and none is locked out after."""
    first = hold("mbp", "one", "run-1")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[first.fd])
    first.release()
    with pytest.raises(Taken) as caught:
        hold("mbp", "one", "run-2")
    assert caught.value.run == "run-1"
    child.communicate(b"\n", timeout=20)
    hold("mbp", "one", "run-2").release()


def test_a_lock_that_is_only_looked_at_refuses_nobody(shared: Path, monkeypatch: Any) -> None:
    """`sim halt` looks at every lock for a moment; a runner that begins in that moment waits for it to pass."""
    path = _lock_file()
    looker = os.open(path, os.O_RDWR)
    assert machine._locked(looker)
    monkeypatch.setattr(machine.time, "sleep", lambda _: os.close(looker))
    hold("mbp", "one", "run-2").release()


def _lock_file() -> Path:
    hold("mbp", "one", "old").release()
    (path,) = machine.folder().glob("target-*")
    return path


@pytest.mark.parametrize("said", [b"", b"{", b"[1]", b'{"pid": "x"}'])
def test_a_lock_that_says_nothing_still_refuses(shared: Path, said: bytes) -> None:
    """What stands in the file is for people; the lock is the kernel's."""
    first = hold("mbp", "one", "run-1")
    os.ftruncate(first.fd, 0)
    os.pwrite(first.fd, said, 0)
    with pytest.raises(Taken, match=r"run unknown \(pid unknown\)"):
        hold("mbp", "one", "run-2")
    first.release()


def test_a_symlink_is_no_lock_and_no_folder(shared: Path, tmp_path: Path) -> None:
    """Nobody can point the lock, the lever or the folder at a file of another's."""
    path, victim = _lock_file(), tmp_path / "victim"
    victim.write_text("precious")
    path.unlink()
    path.symlink_to(victim)
    with pytest.raises(MachineError, match="cannot lock"):
        hold("mbp", "one", "run")
    assert held() == []
    (shared / machine.LEVER).symlink_to(tmp_path / "nowhere")
    machine.halt("why")
    assert (victim.read_text(), (tmp_path / "nowhere").exists()) == ("precious", False)


@pytest.mark.parametrize("target", ["a folder", "nothing"])
def test_a_folder_that_is_a_symlink_is_refused(shared: Path, tmp_path: Path, target: str) -> None:
    """Refused with the cure, whether it leads somewhere or not; a reader of the lever is halted by it."""
    if target == "a folder":
        (tmp_path / "real").mkdir()
    shared.symlink_to(tmp_path / "real")
    with pytest.raises(MachineError, match="is not a folder; remove it, or set SIM_MACHINE_DIR") as caught:
        hold("mbp", "one", "run")
    assert caught.value.exit_code == 4
    assert "is not a folder" in (machine.halted() or "")


def test_a_folder_that_cannot_be_made_is_refused_with_the_cure(tmp_path: Path, monkeypatch: Any) -> None:
    """A path below a file: which one, why, and what to set; and nobody may run while the lever cannot be read."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(machine.VARIABLE, str(tmp_path / "file" / "shared"))
    for act in (machine.folder, held, machine.release, lambda: machine.halt("x"), lambda: hold("t", "i", "r")):
        with pytest.raises(MachineError, match="set SIM_MACHINE_DIR to a folder that can be written"):
            act()
    assert "cannot use" in (machine.halted() or "")


def test_the_folder_is_shared_and_sticky_and_its_locks_are_everybodys(shared: Path) -> None:
    """Everybody may add, nobody may remove what is another's; the next user can take a lock. Whatever the umask."""
    before = os.umask(0o077)
    try:
        path = _lock_file()
    finally:
        os.umask(before)
    assert [oct(each.stat().st_mode & 0o7777) for each in (shared, path)] == ["0o1777", "0o666"]


def test_a_folder_that_is_there_keeps_its_permissions(shared: Path) -> None:
    """Whoever names their home as the shared folder does not open it to everybody."""
    shared.mkdir(mode=0o700)
    hold("mbp", "one", "run").release()
    assert oct(shared.stat().st_mode & 0o7777) == "0o700"


ANOTHER_USER = """
import os
from sim import machine
os.setgid(4321)
os.setuid(4321)
machine.hold("mbp", "one", "theirs")
print(machine.halted(), flush=True)
input()
try:
    machine.release()
except machine.MachineError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can stand for two users")
def test_another_users_files_are_used_and_not_removed(monkeypatch: Any) -> None:
    """A lock that another user made can be taken, one they hold refuses; one user's lever halts the other."""
    with tempfile.TemporaryDirectory() as folder:  # not pytest's own, into which nobody else may look
        Path(folder).chmod(0o755)
        monkeypatch.setenv(machine.VARIABLE, f"{folder}/shared")
        os.chown(_lock_file(), 1234, 1234)
        machine.halt("ours")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        child: subprocess.Popen[str] = subprocess.Popen([sys.executable, "-c", ANOTHER_USER], **pipes)  # type: ignore[call-overload]
        assert child.stdout is not None and child.stdout.readline() == "ours\n"
        with pytest.raises(Taken) as caught:
            hold("mbp", "one", "run-2")
        said, _ = child.communicate("\n", timeout=20)
        assert who(caught.value) == ("theirs", child.pid)
        assert "whoever halted must release" in said
        assert machine.halted() == "ours"


def test_halting_is_idempotent_and_the_first_reason_stays(shared: Path) -> None:
    """Pulled twice it is pulled; put back twice it is back."""
    assert machine.halted() is None
    assert (machine.halt("fire"), machine.halt("flood")) == (True, False)
    assert machine.halted() == "fire"
    assert (machine.release(), machine.release()) == (True, False)
    assert machine.halted() is None


@pytest.mark.parametrize("said", [b"", b"{torn", b"[]", b"{}", json.dumps({"reason": ""}).encode()])
def test_a_lever_that_says_nothing_halts(shared: Path, said: bytes) -> None:
    """A torn or empty lever is a pulled lever."""
    machine.folder()
    (shared / machine.LEVER).write_bytes(said)
    assert machine.halted() == "no reason given"


def test_a_lever_that_cannot_be_read_halts(shared: Path) -> None:
    """Whatever stands where the lever would: better no run than one that nobody can stop."""
    (machine.folder() / machine.LEVER).mkdir()
    assert "cannot be read" in (machine.halted() or "")
    with pytest.raises(MachineError, match="whoever halted must release"):
        machine.release()


def test_a_lever_that_is_no_plain_file_halts_and_hangs_nobody(shared: Path) -> None:
    """A link to nothing does not release the machine, and a pipe does not hang the runner that looks at it."""
    lever = machine.folder() / machine.LEVER
    lever.symlink_to(shared / "nowhere")
    assert "cannot be read" in str(machine.halted())
    lever.unlink()
    os.mkfifo(lever)
    assert "not a plain file" in str(machine.halted())
