"""What a command does with a stack: bring it up, find it, take it down. Nothing here lives on afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sim.places import Places
from sim.stack import children, compose, procs, spec
from sim.stack.errors import StackError
from sim.stack.state import Home, State, locked

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_BUSY_S = 120.0
_RECOVERING_S = 8.0
_POLL_S = 0.05
_ACK_POLL_S = 0.01
_SWEEPS = 3
_POLITE_MARGIN_S = 5.0  # over the stack's own stop_timeout, for the supervisor to take everything down in order
_LAUNCH_S = 30.0
_UNSEEN_S = 2.0  # how long a lock may outlast the last process that was seen
_GRACE_S = 30.0  # beyond the stack's own limit, before a supervisor that says nothing is called hung


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that is up.

    `exports` is what ``${stack.NAME}`` stands for; `past` what the stack told of its seeded past, or None. Its owner
    (see `up`) must `close` it.
    """

    name: str
    instance: str
    exports: Mapping[str, str]
    state_path: Path
    past: Mapping[str, Any] | None
    ready_after_s: float | None
    _owner: socket.socket | None = field(default=None, repr=False, compare=False)

    @property
    def owned(self) -> bool:
        """Whether this process brought the stack up for itself, so that it goes when this process goes."""
        return self._owner is not None

    @property
    def owner_fd(self) -> int | None:
        """The descriptor whose last copy holds an owned stack up.

        A process that must outlive the runner while the stack still stands (the watchdog) is given it in `pass_fds`.
        """
        return None if self._owner is None else self._owner.fileno()

    @property
    def processes(self) -> dict[str, int]:
        """The pid of each process of the stack that runs now, by name."""
        state = Home(self.state_path.parent).read()
        found = {} if state is None else {name: record.proc() for name, record in state.processes.items()}
        return {name: process.pid for name, process in found.items() if process is not None and process.alive()}

    def close(self) -> None:
        """Take an owned stack down and wait until it is; a stack that is not owned stays as it is."""
        if self._owner is not None and self._owner.fileno() >= 0:
            with contextlib.suppress(OSError):  # the supervisor is gone already
                self._owner.shutdown(socket.SHUT_RDWR)  # for whoever else was given the descriptor, too
            self._owner.close()
            _take_down(Home(self.state_path.parent), polite=False)


def home(name: str, places: Places) -> Home:
    """Return the home of the stack `name`. Raises `StackError` for what is no name."""
    if not _NAME.fullmatch(name):
        raise StackError(f"{name!r} is no stack name: use a-z, 0-9, - and _, at most 32, a letter or digit first")
    return Home(places.stacks / name)


def names(places: Places) -> list[str]:
    """Return the names of all stacks that left a trace here, up or not."""
    try:
        return sorted(path.name for path in places.stacks.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []


def read(name: str, places: Places) -> tuple[State | None, bool]:
    """Return the recorded state of the stack `name` (None: none, or torn) and whether its supervisor is alive."""
    at = home(name, places)
    if not at.folder.is_dir():
        return None, False
    state = at.read()
    return (None, False) if _copied(at, state) else (state, at.supervised())


def spec_path(target_stack: str, places: Places) -> Path:
    """Return the stack file that a profile calls `target_stack`. Raises `StackError` when there is none."""
    try:
        return places.find(target_stack)
    except FileNotFoundError as error:
        raise StackError(str(error)) from error


def find(name: str, places: Places) -> Stack | None:
    """Return the stack `name` if it is up and healthy, else None; waits a little for one that is just recovering."""
    at = home(name, places)
    deadline = time.monotonic() + _RECOVERING_S
    while at.folder.is_dir() and at.supervised():
        state = at.read()
        if state is not None and state.phase == "ready" and state.supervisor.alive():
            # Containers are no processes of ours: how they are is what the supervisor's phase says.
            if state.kind == "compose" or all(
                record.state == "ended" or _alive(record.proc()) for record in state.processes.values()
            ):
                return _stack(at, state, None)
        elif state is None or state.phase not in ("ready", "recovering"):
            return None
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_S)
    return None


def ended(folder: str, instance: str) -> bool:
    """Whether the start called `instance` of the stack in `folder` is over: its processes are gone, and all in them.

    Only what is known counts: a supervisor that lives without a state to read may be that very one.
    """
    at = Home(Path(folder))
    if not at.folder.is_dir():
        return False
    state = at.read()
    if state is not None and state.instance != instance:
        return True
    return not at.supervised() and not procs.tagged(at.folder) and not compose.held(at)


def up(spec_file: Path, name: str, places: Places, owned: bool, on_progress: Callable[[str], None]) -> Stack:
    """Return the stack `name` made from `spec_file`, brought up if it is not up already.

    `owned`: it is taken down when this process closes it or ends in any way; without, it stays. A stack that was
    already up is never owned. A half-dead one of that name is cleaned away first. Each step is told to `on_progress`.
    Raises `StackError`, after taking down whatever was started, and `sim.yamlfile.InvalidFile`.
    """
    at, source = home(name, places), spec_file.resolve()
    loaded, digest = spec.load(source)
    _make(at, places)
    busy = f"another sim has been busy with the stack {name!r} for {_BUSY_S:g} s; see sim status"
    with locked(at.start_lock, _BUSY_S, busy):
        running = find(name, places)
        if running is not None:
            _same_file(at, source, digest, name, on_progress)
            return running
        _refuse_other(at, source, name)
        if at.supervised() or at.work.exists() or procs.tagged(at.folder) or compose.held(at):
            on_progress(f"clearing away what is left of the stack {name}")
            _take_down(at, polite=True)
        return _bring_up(at, source, digest, loaded, places, owned, on_progress)


def _same_file(at: Home, source: Path, digest: str, name: str, on_progress: Callable[[str], None]) -> None:
    _refuse_other(at, source, name)
    state = at.read()
    if state is not None and state.spec_digest != digest:
        on_progress(f"note: {source.name} has changed since the stack {name} came up from it")


def _refuse_other(at: Home, source: Path, name: str) -> None:
    state = at.read()
    if state is not None and at.supervised() and Path(state.spec) != source:
        raise StackError(
            f"the stack {name!r} is up from {state.spec}, not from {source}; "
            f"take it down (sim down --stack {name}) or choose another name (--stack NAME)"
        )


def _make(at: Home, places: Places) -> None:
    try:
        places.make_state()
        at.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(f"cannot make the stack's folder {at.folder}: {error.strerror}") from error


def _bring_up(
    at: Home,
    source: Path,
    digest: str,
    loaded: spec.AnySpec,
    places: Places,
    owned: bool,
    on_progress: Callable[[str], None],
) -> Stack:
    at.logs.mkdir(exist_ok=True)
    for log in (*at.logs.iterdir(), at.supervisor_log):
        log.unlink(missing_ok=True)
    at.state.unlink(missing_ok=True)
    instance = secrets.token_hex(8)
    owner = _launch(at, source, digest, instance, places)
    try:
        state = _follow(at, instance, owner, loaded.timeout + _LAUNCH_S + _GRACE_S, on_progress)
        if not owned:
            _keep(at, owner)
    except BaseException as error:  # Ctrl-C too: nothing may stay
        owner.close()
        try:
            _take_down(at, polite=True)
        except StackError as left:  # why it did not come up is not to be lost over it
            raise StackError(f"{error}\n{left}") from error
        raise
    if owned:
        return _stack(at, state, owner)
    owner.close()
    return _stack(at, state, None)


def _launch(at: Home, source: Path, digest: str, instance: str, places: Places) -> socket.socket:
    """Start the supervisor and return our end of its socket."""
    ours, theirs = socket.socketpair()
    command = [
        *(sys.executable, "-P", "-m", "sim.stack.supervisor"),
        *(str(at.folder), str(source), digest, instance, str(places.tools), str(theirs.fileno())),
    ]
    environment = {**os.environ, **children.own_path(), procs.TAG: str(at.folder)}
    try:
        with theirs, at.supervisor_log.open("ab") as log:
            launcher = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=at.folder,
                env=environment,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        launcher.wait(_LAUNCH_S)  # it forks the supervisor and ends
    except (OSError, subprocess.TimeoutExpired) as error:
        ours.close()
        raise StackError(f"the stack's supervisor could not be started: {error}") from error
    return ours


def _follow(
    at: Home, instance: str, owner: socket.socket, timeout_s: float, on_progress: Callable[[str], None]
) -> State:
    """Tell what the supervisor does until the stack is ready; raise `StackError` when it will not be."""
    deadline, told, stopping = time.monotonic() + timeout_s, 0, False
    while True:
        gone = bool(select.select([owner], [], [], _POLL_S)[0])
        state = at.read()
        if state is not None and state.instance == instance:
            for event in state.events[told:]:
                on_progress(event.what)
            told = len(state.events)
            if state.phase == "stopping" and not stopping:  # why it failed is said when all is down again
                stopping, deadline = True, max(deadline, time.monotonic() + state.stop_timeout_s + _GRACE_S)
            if state.phase == "failed":
                raise StackError(state.error or "the stack failed")
            if state.phase == "ready":
                return state
            if state.phase == "down":
                raise StackError(f"the stack {at.name!r} was taken down while it was coming up")
        if gone:
            raise StackError(_last_words(at))
        if time.monotonic() > deadline:
            raise StackError(f"the stack's supervisor has said nothing final for {timeout_s:g} s; it was ended")


def _keep(at: Home, owner: socket.socket) -> None:
    """Tell the supervisor that the stack is to stay, and wait until it has taken note."""
    owner.sendall(b"k")
    deadline = time.monotonic() + _GRACE_S
    while (state := at.read()) is None or state.owned:
        if select.select([owner], [], [], _ACK_POLL_S)[0] or time.monotonic() > deadline:
            raise StackError(_last_words(at))


def _last_words(at: Home) -> str:
    from sim.stack.child import tail

    return f"the stack's supervisor ended before the stack was up; its log ({at.supervisor_log}) ends:\n" + tail(
        at.supervisor_log
    )


def _stack(at: Home, state: State, owner: socket.socket | None) -> Stack:
    past = None if state.past is None else MappingProxyType(state.past)
    return Stack(at.name, state.instance, MappingProxyType(state.exports), at.state, past, state.ready_after_s, owner)


def _alive(process: procs.Proc | None) -> bool:
    return process is not None and process.alive()


def down(name: str, places: Places) -> bool:
    """Take the stack `name` down, in whatever condition it is; return whether anything was there to take down.

    Works without a supervisor, with a hung one, and with a torn state file. Raises `StackError` when a process of the
    stack cannot be ended.
    """
    at = home(name, places)
    if not at.folder.is_dir():
        return False
    anything = _take_down(at, polite=True)  # without the lock: a start that is under way ends by this, and lets it go
    with locked(at.start_lock, _BUSY_S, f"another sim is busy with the stack {name!r}"):
        return _take_down(at, polite=True) or anything


def containers(name: str, places: Places) -> bool:
    """Say whether containers of the stack `name` may be there."""
    return compose.held(home(name, places))


def _take_down(at: Home, polite: bool) -> bool:
    """End every process of the stack at `at` and remove what one start leaves. `polite`: ask the supervisor first.

    Not polite: it knows already, its socket is closed.
    """
    state = at.read()
    if _copied(at, state):
        at.state.unlink(missing_ok=True)
        compose.disown(at)
        state = None
    known = set(procs.tagged(at.folder)) | (set() if state is None else {p for p in state.known() if p.alive()})
    anything = bool(known) or at.work.exists() or compose.held(at)
    if at.supervised():
        _end_supervisor(state, polite)
    left = procs.kill_all(known | procs.tagged(at.folder))
    for _ in range(_SWEEPS):  # what was being started at that moment
        left = left or procs.kill_all(procs.tagged(at.folder))
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise StackError(f"processes of the stack {at.name!r} could not be ended: {pids}; are they another user's?")
    _refuse_unseen(at)
    compose.clear(at)
    children.remove(at.work)
    if anything:
        _note_down(at)
    return anything


def _end_supervisor(state: State | None, polite: bool) -> None:
    if state is None or not state.supervisor.alive():
        return  # torn: the tag finds it
    supervisor = state.supervisor
    if polite:
        supervisor.signal(signal.SIGTERM)
    deadline = time.monotonic() + state.stop_timeout_s + _POLITE_MARGIN_S
    while time.monotonic() < deadline and not supervisor.stopped():  # a stopped one hears nothing
        if not procs.wait_gone([supervisor], _POLL_S):
            return


def _copied(at: Home, state: State | None) -> bool:
    """Say whether `state` came here with the copy of a project, and tells of a stack that is up elsewhere."""
    if state is None or state.inode in (None, at.folder.stat().st_ino):
        return False
    return state.supervisor.alive()


def _refuse_unseen(at: Home) -> None:
    """Raise `StackError` where a supervisor still holds its lock: it lives where its processes are not seen from."""
    deadline = time.monotonic() + _UNSEEN_S
    while at.supervised():
        procs.kill_all(procs.tagged(at.folder))  # one that was started after the last sweep
        if time.monotonic() > deadline:
            raise StackError(
                f"the stack {at.name!r} is up, but its supervisor is not seen from here: it runs in another container, "
                f"or outside this one (its lock: {at.supervisor_lock}); take it down there"
            )
        time.sleep(_POLL_S)


def _note_down(at: Home) -> None:
    state = at.read()
    if state is None:
        at.state.unlink(missing_ok=True)
    elif state.phase not in ("down", "failed"):
        ended = {name: record.model_copy(update={"state": "ended"}) for name, record in state.processes.items()}
        at.write(state.model_copy(update={"phase": "down", "processes": ended}))
