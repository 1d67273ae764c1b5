"""Which process is which: a pid alone is reused by the system, a pid with its start time is not."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

#: Environment variable that every process of a stack carries: the stack's folder. It finds what no file remembers.
TAG = "SIM_STACK_FOLDER"


@dataclass(frozen=True, slots=True)
class Proc:
    """A process: its pid and when it was started (seconds, on a clock of the system's own; only ever compared)."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Proc | None:
        """Return the process that has `pid` now, or None."""
        try:
            return cls(pid, _started(pid))
        except (psutil.Error, OSError):
            return None

    def alive(self) -> bool:
        """Say whether this very process still runs (a zombie does not)."""
        try:
            return _started(self.pid) == self.started and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return False

    def stopped(self) -> bool:
        """Say whether this process is held by SIGSTOP, so that only SIGKILL reaches it."""
        try:
            return self.alive() and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False

    def signal(self, number: int) -> None:
        """Send signal `number` if this very process still runs."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def tagged(folder: Path) -> set[Proc]:
    """Return the processes of this user that carry the tag of the stack at `folder`, except the calling one.

    A container is seen from its host, and the path that its process was given may be another folder there.
    """
    found = set()
    for process in psutil.process_iter(["pid"]):
        try:
            started = _started(process.pid)  # before the tag: of a pid that is reused meanwhile it finds nobody
            mine = process.pid != os.getpid() and process.environ().get(TAG) == str(folder)
            if mine and _same_for(process.pid, folder):
                found.add(Proc(process.pid, started))
        except (psutil.Error, OSError):  # gone meanwhile, or somebody else's: then not ours to kill
            continue
    return {process for process in found if process.alive()}


def _same_for(pid: int, folder: Path) -> bool:
    """Say whether the path `folder` is for the process `pid` what it is for us. Raises `OSError`."""
    if sys.platform != "linux":
        return True
    root = Path(f"/proc/{pid}/root")
    if root.samefile("/"):
        return True  # whether or not the folder is there any more
    try:
        return (root / folder.relative_to("/")).samefile(folder)
    except FileNotFoundError:
        return False


def _started(pid: int) -> float:
    if sys.platform == "linux":
        # Ticks since boot. The time since the epoch is computed from the clock, and moves when the clock is set.
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return float(stat.rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()


def wait_gone(processes: Iterable[Proc], timeout_s: float) -> list[Proc]:
    """Wait up to `timeout_s` until all of `processes` are gone; return those that are not."""
    deadline = time.monotonic() + timeout_s
    left = [process for process in processes if process.alive()]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [process for process in left if process.alive()]
    return left


def kill_all(processes: Iterable[Proc], timeout_s: float = 5.0) -> list[Proc]:
    """SIGKILL all of `processes`, wait up to `timeout_s`, and return those that are still there."""
    targets = list(processes)
    for process in targets:
        process.signal(signal.SIGKILL)
    return wait_gone(targets, timeout_s)
