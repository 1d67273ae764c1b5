"""What is known of a stack: its state file, written whole or not at all, and its locks.

A lock is the kernel's own (flock): it goes with the process that holds it, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sim.stack.errors import StackError
from sim.stack.procs import Proc

FORMAT = 1
MAX_EVENTS = 200

Phase = Literal["starting", "ready", "recovering", "degraded", "stopping", "down", "failed"]
ProcessState = Literal["waiting", "starting", "ready", "restarting", "ended", "dead"]


class Record(BaseModel):
    """The base of the state file's parts; unknown keys are kept out of the way of older readers."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ProcessRecord(Record):
    """One process of the stack as the supervisor last saw it."""

    state: ProcessState
    pid: int | None = None
    started: float | None = None
    restarts: int = 0
    exit_code: int | None = None

    def proc(self) -> Proc | None:
        """Return the process, or None when it never ran."""
        return None if self.pid is None or self.started is None else Proc(self.pid, self.started)


class EventRecord(Record):
    """Something that happened to the stack: `at` is wall time in seconds, a label only."""

    at: float
    what: str


class State(Record):
    """The state file of a stack."""

    format: int = FORMAT
    name: str
    kind: str = "processes"
    spec: str
    spec_digest: str
    instance: str
    inode: int | None = None  # of the stack's folder: a copy of the folder has another
    phase: Phase
    owned: bool
    pid: int
    started: float
    since: float
    stop_timeout_s: float = 5.0
    ready_after_s: float | None = None
    exports: dict[str, str] = {}
    processes: dict[str, ProcessRecord] = {}
    events: tuple[EventRecord, ...] = ()
    error: str | None = None
    past: dict[str, Any] | None = None

    @property
    def supervisor(self) -> Proc:
        """The process that owns the children."""
        return Proc(self.pid, self.started)

    def known(self) -> list[Proc]:
        """Return every process the file names, the supervisor first."""
        return [self.supervisor, *(p for p in (record.proc() for record in self.processes.values()) if p)]


class Home:
    """The folder of one stack and the names in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.state = folder / "state.json"
        self.logs = folder / "logs"
        self.work = folder / "work"  # configuration, data and secrets of one start; gone when the stack is down
        self.supervisor_log = folder / "supervisor.log"
        self.supervisor_lock = folder / "supervisor.lock"
        self.start_lock = folder / "start.lock"

    def read(self) -> State | None:
        """Return the state, or None when there is none or it is torn or of a foreign format."""
        try:
            data = json.loads(self.state.read_text(encoding="utf-8"))
            state = State.model_validate(data)
        except (OSError, ValueError, ValidationError):  # then the locks and the tag tell what runs
            return None
        return state if state.format == FORMAT else None

    def write(self, state: State) -> None:
        """Replace the state file (0600) in one step."""
        temporary = self.folder / f".state.{os.getpid()}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(state.model_dump_json(indent=1))
        temporary.replace(self.state)

    def supervised(self) -> bool:
        """Say whether a supervisor of this stack is alive: it holds its lock as long as it lives."""
        lock = try_lock(self.supervisor_lock, shared=True)
        if lock is None:
            return True
        os.close(lock)
        return False

    def supervise(self, timeout_s: float = 10.0) -> int | None:
        """Take the supervisor's lock and return its descriptor; None when another supervisor is alive.

        Whoever asks whether one is alive has it for a moment, which on a busy machine may be a long one.
        """
        deadline = time.monotonic() + timeout_s
        while (lock := try_lock(self.supervisor_lock)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return lock


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Take the lock at `path` and return its descriptor (closing it gives the lock back), or None if it is taken.

    `shared`: others may have it at the same time, if they share it, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@contextlib.contextmanager
def locked(path: Path, timeout_s: float, busy: str) -> Iterator[None]:
    """Hold the lock at `path`; after `timeout_s` of waiting raise `StackError` with the text `busy`."""
    deadline = time.monotonic() + timeout_s
    handle = try_lock(path)
    while handle is None:
        if time.monotonic() > deadline:
            raise StackError(busy)
        time.sleep(0.05)
        handle = try_lock(path)
    try:
        yield
    finally:
        os.close(handle)
