"""What faults of processes share: the door that names them, which of them may be hit, and signals that hit no stranger.

The door `processes` is a file:// address of this machine: the state file of a stack (``.sim/stacks/NAME/state.json``,
which says of each process pid, start time and state), a folder of pid files (``NAME.pid``), or one pid file. Whatever
it is, a process is known by its pid and its start time from then on: a pid alone is given to somebody else again.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psutil
from pydantic import ValidationError

from sim.event import JSON
from sim.injector import InjectionError, Receipt, Site
from sim.stack.procs import Proc
from sim.stack.state import State

DOOR = "processes"
#: How much of a file behind the door is read.
MOST_BYTES = 1 << 20
#: A pid file is written by or about a process that runs; one that is older than its process, by more, is a leftover.
CLOCK_S = 2.0
_LOOK_S = 0.005
#: Programs that must go on whatever is stopped: they are what ends the fault.
OURS = frozenset({"sim.watchdog", "sim.stack.supervisor", "sim.company", "sim.cli"})
#: What a process is that stands still: by a signal, or in the hands of a debugger.
STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


@dataclass(frozen=True, slots=True)
class Named:
    """A process as the door names it now; `state` is what its supervisor says of it, null where nobody says."""

    name: str
    proc: Proc
    state: str | None = None


def place(site: Site) -> Path:
    """Return the path of the door. Raises `InjectionError` where it is not there or is no path of this machine."""
    door = site.doors.get(DOOR)
    if door is None:
        raise InjectionError(f"the profile opens no door {DOOR!r}: add doors.{DOOR} with its url")
    parts = urlsplit(door.url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise InjectionError(
            f"doors.{DOOR}: {door.url!r} is not on this machine: write file:///path of a stack's state file, "
            "of a folder of pid files, or of one pid file"
        )
    return Path(unquote(parts.path))


def named(path: Path, name: str) -> Named | None:
    """Return the process that the door at `path` calls `name`, null where none runs. Raises `InjectionError`.

    It raises where the door cannot be read or knows no such name, and where its pid is not that process any more.
    """
    try:
        if path.is_dir():
            found = path / f"{name}.pid"
            if "/" in name or not found.is_file():
                raise InjectionError(_unknown(path, name, sorted(each.stem for each in path.glob("*.pid"))))
            return _of_pid_file(found, name)
        text = _read(path)
        if text.lstrip().startswith("{"):
            return _of_state(path, text, name)
        if name != path.stem:
            raise InjectionError(_unknown(path, name, [path.stem]))
        return _of_pid_file(path, name)
    except OSError as error:
        raise InjectionError(f"doors.{DOOR}: {path}: {error.strerror}") from error


def _unknown(path: Path, name: str, known: Iterable[str]) -> str:
    return f"{path} names no process {name!r} (it names {', '.join(known) or 'none'})"


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MOST_BYTES).decode("utf-8", "replace")


def _of_state(path: Path, text: str, name: str) -> Named | None:
    try:
        state = State.model_validate_json(text)
    except ValidationError as error:
        raise InjectionError(f"{path} is not the state file of a stack: {error.errors()[0]['msg']}") from error
    record = state.processes.get(name)
    if record is None:
        raise InjectionError(_unknown(path, name, sorted(state.processes)))
    proc = record.proc()
    return Named(name, proc, record.state) if proc is not None and proc.alive() else None


def _of_pid_file(path: Path, name: str) -> Named | None:
    words = _read(path).split(maxsplit=1)
    if not words or not words[0].isascii() or not words[0].isdigit():
        raise InjectionError(f"{path} holds no pid")
    pid, written = int(words[0]), path.stat().st_mtime
    proc = Proc.of(pid)
    if proc is None or not proc.alive():
        return None
    if pid <= 1:
        raise InjectionError(f"{path} names pid {pid}: that is never hit")
    try:
        younger_s = psutil.Process(pid).create_time() - written
    except psutil.Error:
        return None
    if younger_s > CLOCK_S:
        raise InjectionError(
            f"{path} is older than the process that has pid {pid} now, by {younger_s:.0f} s: a leftover, "
            "and the pid is somebody else's by now"
        )
    return Named(name, proc)


def tree(main: Proc) -> list[Proc]:
    """Return a process, all that descend from it, and its group where it leads one; only those that run."""
    found = [main] if main.alive() else []
    try:
        found += filter(None, (Proc.of(each.pid) for each in psutil.Process(main.pid).children(recursive=True)))
    except psutil.Error:
        found = []
    if not main.alive():  # else the children are those of whoever has the pid now
        found = []
    return [each for each in dict.fromkeys([*found, *_group(main)]) if each.alive()]


def _group(main: Proc) -> list[Proc]:
    """Return the group that `main` leads, or led: a pid is not given away while a group goes by it."""
    now = Proc.of(main.pid)
    if now is not None and now != main:
        return []
    found = []
    for pid in psutil.pids():
        try:
            member = os.getpgid(pid) == main.pid
        except (ProcessLookupError, PermissionError):
            continue
        proc = Proc.of(pid) if member else None
        if proc is not None and proc.started >= main.started:
            found.append(proc)
    return found


def hittable(named: Named, processes: Iterable[Proc]) -> None:
    """Raise `InjectionError` unless every one of `processes` may be signalled, runs, and is none that we need."""
    mine = {os.getpid(), *(each.pid for each in psutil.Process().parents())}
    for each in processes:
        what = f"{named.name}: pid {each.pid} ({_name(each)})"
        if each.pid <= 1:
            raise InjectionError(f"{what} is never hit: the machine hangs by it")
        if each.pid in mine:
            raise InjectionError(f"{what} is this run itself, or what it was started by: it could not undo the fault")
        if OURS & set(_words(each)):
            raise InjectionError(f"{what} is part of what undoes the fault, or of what keeps the stack up")
        try:
            os.kill(each.pid, 0)
        except PermissionError as error:
            raise InjectionError(f"{what} belongs to {_user(each)}, whom we may not signal") from error
        except ProcessLookupError:
            continue
        if status(each) in STOPPED:
            raise InjectionError(f"{what} is stopped already, by somebody else")


def told(processes: Iterable[Proc]) -> list[JSON]:
    """Return processes as a receipt keeps them: pid, start time, name and state."""
    return [
        {"pid": each.pid, "started": each.started, "name": _name(each), "state": status(each)} for each in processes
    ]


def known(receipt: Receipt) -> list[Proc]:
    """Return the processes of a receipt, the main one first."""
    listed: Any = receipt["processes"]
    return [Proc(int(each["pid"]), float(each["started"])) for each in listed]


def status(proc: Proc) -> str:
    """Return the state of a process in a word, ``ended`` where it runs no more."""
    try:
        found = str(psutil.Process(proc.pid).status())
    except psutil.Error:
        return "ended"
    return found if proc.alive() else "ended"


def all_stopped(proc: Proc) -> bool:
    """Whether every thread of a process stands still."""
    if not proc.stopped():
        return False
    try:
        states = [
            task.joinpath("stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            for task in Path(f"/proc/{proc.pid}/task").iterdir()
        ]
    except (OSError, IndexError):  # a thread that ended meanwhile, or a system without procfs
        return proc.stopped()
    return all(state in ("T", "t", "Z", "X") for state in states)


def send(proc: Proc, number: int) -> bool:
    """Send a signal to this very process; return whether it was there to get it. Raises `InjectionError`.

    By a descriptor of the process where the system has them: between the look and the signal nobody else can get it.
    """
    try:
        if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
            if not proc.alive():
                return False
            os.kill(proc.pid, number)
            return True
        handle = os.pidfd_open(proc.pid)
        try:
            if not proc.alive():
                return False
            signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise InjectionError(f"pid {proc.pid} may not be signalled by {_me()}") from error
    return True


async def until(condition: Callable[[], bool], within_s: float, every_s: float = _LOOK_S) -> bool:
    """Look until `condition` holds, at most so long; return whether it does."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(every_s)
    return True


def _name(proc: Proc) -> str:
    try:
        return psutil.Process(proc.pid).name()
    except psutil.Error:
        return "?"


def _words(proc: Proc) -> list[str]:
    try:
        return psutil.Process(proc.pid).cmdline()
    except psutil.Error:
        return []


def _user(proc: Proc) -> str:
    try:
        return psutil.Process(proc.pid).username()
    except (psutil.Error, KeyError):
        return "another user"


def _me() -> str:
    try:
        return psutil.Process().username()
    except (psutil.Error, KeyError):
        return f"user {os.getuid()}"
