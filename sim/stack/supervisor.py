"""The process that owns one stack: it starts the children, keeps them, and takes them down with itself.

``python -m sim.stack.supervisor`` is started by `sim.stack.control.up` in a session of its own, with one end of a
socket pair. The other end's closing means that whoever brought the stack up is gone, and the stack is taken down,
unless a ``k`` (keep) came before it: that is `sim up` saying that the stack is ready and may stay. The socket also
tells the other side when the supervisor is gone.

One thread, the main one, in one loop: nothing here blocks longer than a readiness probe.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Literal

import mirakuru.base

from sim.stack import children, probe, procs
from sim.stack.child import PROBE_TIMEOUT_S, Child, ending, tail
from sim.stack.errors import StackError
from sim.stack.procs import Proc
from sim.stack.refs import Refs, is_taken, render, resolve
from sim.stack.spec import Once, Process, Spec, load
from sim.stack.state import MAX_EVENTS, EventRecord, Home, Phase, State, try_lock

_TICK_STARTING_S = 0.05
_TICK_S = 0.2
_PORT_TRIES = 3
_LOGS_EVERY_S = 5.0
_MAX_RESULT_BYTES = 1 << 20


class PortTaken(Exception):
    """Somebody took a port between our look and a process's bind: worth another try with other ports."""


class TakeDown(Exception):
    """The stack is to be taken down: a signal came, or whoever brought it up is gone. The message says which."""


class Supervisor:
    """The stack's life, from the first child to the last."""

    def __init__(self, home: Home, spec: Spec, state: State, owner: socket.socket, tools: Path) -> None:
        self._home, self._spec, self._state, self._owner, self._tools = home, spec, state, owner, tools
        self._keep = False
        self._signal: str | None = None
        self._children: dict[str, Child] = {}
        self._ports: dict[str, int] = {}
        self._events: list[EventRecord] = []
        self._began = time.monotonic()
        self._waiting: dict[str, str] = {}
        self._dirty = True
        self._logs_at = 0.0

    def run(self) -> None:
        """Bring the stack up, keep it until it is to go, take it down."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            self._bring_up()
            while True:
                self._tick(_TICK_S)
                self._mind()
        except TakeDown as reason:
            self._say(str(reason))
            self._close("down", None)
        except StackError as error:
            self._close("failed", str(error))
        except Exception as error:  # whatever it is, no child may outlive it
            self._close("failed", f"our own bug: {type(error).__name__}: {error}")
            raise

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signal = signal.Signals(number).name

    def _tick(self, wait_s: float) -> None:
        """Write what changed, sleep up to `wait_s`, and raise `TakeDown` when it is time to go."""
        if self._dirty:
            self._save()
        readable, _, _ = select.select([] if self._keep else [self._owner], [], [], wait_s)
        if self._signal is not None:
            raise TakeDown(f"taken down by {self._signal}")
        if readable:
            try:
                word = self._owner.recv(1)
            except ConnectionError:
                word = b""
            if word != b"k":
                raise TakeDown("whoever brought it up is gone")
            self._keep, self._dirty = True, True
            self._state = self._state.model_copy(update={"owned": False})

    # --- up -------------------------------------------------------------------------------------------------------

    def _bring_up(self) -> None:
        for attempt in range(1, _PORT_TRIES + 1):
            try:
                refs = self._prepare()
                self._start_all()
                self._pass_gates(refs)
                break
            except PortTaken as error:
                self._stop_children()
                if attempt == _PORT_TRIES:
                    raise StackError(f"{error}, {attempt} times over") from error
                self._say(f"{error}; again with other ports")
        after_s = round(time.monotonic() - self._began, 3)
        self._state = self._state.model_copy(update={"ready_after_s": after_s})
        self._phase("ready")
        self._say(f"ready after {after_s:.1f} s")

    def _prepare(self) -> Refs:
        spec, work, source = self._spec, self._home.work, Path(self._state.spec).name
        children.empty(work)
        refs = resolve(spec, work, self._state.instance, self._tool, source)
        render(spec.render, refs, source)
        base = {procs.TAG: str(self._home.folder), **children.own_path()}
        base |= {name: refs.text(text, f"{source}: env.{name}") for name, text in spec.env.items()}
        self._ports = dict(refs.ports)
        self._children = {}
        parts: dict[str, Process | Once] = {**spec.processes, **spec.once}
        for name, part in parts.items():
            self._children[name] = children.make(name, part, refs, base, self._home, source)
        self._state = self._state.model_copy(update={"exports": dict(refs.exports), "past": None})
        self._dirty = True
        return refs

    def _tool(self, name: str) -> str:
        from sim import tools

        try:
            return str(tools.locate(name, self._tools, tools.load(Path(self._state.spec).with_name("tools.yaml"))).path)
        except tools.ToolsError as error:
            raise StackError(str(error)) from error

    def _start_all(self) -> None:
        while any(child.state not in ("ready", "ended") for child in self._children.values()):
            for child in self._children.values():
                if child.state == "waiting" and all(self._children[name].state == "ready" for name in child.after):
                    child.start(time.monotonic())
                    self._dirty = True
            for child in self._children.values():
                self._watch_start(child)
            self._check_deadline(f"not ready: {self._unready()}")
            self._tick(_TICK_STARTING_S)

    def _unready(self) -> str:
        return ", ".join(name for name, child in self._children.items() if child.state not in ("ready", "ended"))

    def _watch_start(self, child: Child) -> None:
        if child.state == "waiting" or child.state == "ended":
            return
        if child.ended():
            if child.once and child.exit_code == 0:
                child.state = "ended"
                self._take_result(child)
                self._say(f"{child.name} done")
                return
            taken = [port for port in self._ports_of(child) if is_taken(port)]
            if taken:
                raise PortTaken(f"port {taken[0]} of {child.name} was taken by somebody else")
            raise StackError(
                f"{child.name} {ending(child.exit_code)} during the start; its log ({child.log}) ends:\n"
                f"{tail(child.log)}"
            )
        if child.state == "starting":
            if child.poll():
                child.state = "ready"
                self._say(f"{child.name} is up")
            elif time.monotonic() > child.deadline:
                raise StackError(
                    f"{child.name} was not {'done' if child.once else 'ready'} within {child.timeout_s:g} s; its log "
                    f"({child.log}) ends:\n{tail(child.log)}"
                )

    def _ports_of(self, child: Child) -> list[int]:
        return [port for port in self._ports.values() if any(str(port) in word for word in child.command)]

    def _take_result(self, child: Child) -> None:
        part = self._spec.once[child.name]
        if part.result is None:
            return
        path = self._home.work / part.result
        try:
            with path.open("rb") as file:
                data = json.loads(file.read(_MAX_RESULT_BYTES))
        except (OSError, ValueError) as error:
            raise StackError(f"{child.name} left no JSON at {path}: {error}") from error
        if not isinstance(data, dict):
            raise StackError(f"{child.name} left {path}, which is JSON but no object")
        self._state = self._state.model_copy(update={"past": {**(self._state.past or {}), **data}})

    def _pass_gates(self, refs: Refs) -> None:
        source = Path(self._state.spec).name
        left = {gate.what: (gate, refs.text(gate.http, f"{source}: ready: {gate.what}")) for gate in self._spec.ready}
        while left:
            for what, (gate, url) in list(left.items()):
                try:
                    probe.check(gate, url, PROBE_TIMEOUT_S)
                except probe.NotYet as reason:
                    self._waiting[what] = str(reason)
                else:
                    del left[what]
                    self._waiting.pop(what, None)
                    self._say(what)
            for child in self._children.values():
                self._watch_start(child)
            still = "; ".join(f"{what} ({reason})" for what, reason in self._waiting.items())
            self._check_deadline(f"waiting for: {still}")
            if left:
                self._tick(_TICK_STARTING_S)

    def _check_deadline(self, what: str) -> None:
        if time.monotonic() - self._began > self._spec.timeout:
            suspects = [child for child in self._children.values() if child.state == "starting"]
            logs = "".join(f"\n  {child.name} ({child.log}) ends:\n{tail(child.log)}" for child in suspects)
            raise StackError(f"the stack was not ready within {self._spec.timeout:g} s, {what}{logs}")

    # --- keep -----------------------------------------------------------------------------------------------------

    def _mind(self) -> None:
        """Look after the children once: notice the dead, restart them within limits, see them ready again."""
        now = time.monotonic()
        for child in self._children.values():
            if child.state in ("ready", "starting") and child.ended():
                self._mourn(child, now)
            elif child.state == "restarting" and now >= child.deadline:
                child.start(now)
                self._dirty = True
            elif child.state == "starting" and child.poll():
                child.state = "ready"
                self._say(f"{child.name} is up again")
            elif child.state == "starting" and now > child.deadline:
                child.reap()
                child.state = "dead"
                self._say(f"{child.name} was not ready again within {child.timeout_s:g} s; given up")
        states = {child.state for child in self._children.values()}
        self._phase("degraded" if "dead" in states else "recovering" if states - {"ready", "ended"} else "ready")
        if now - self._logs_at > _LOGS_EVERY_S:
            self._logs_at = now
            for child in self._children.values():
                child.trim_log()

    def _mourn(self, child: Child, now: float) -> None:
        how = ending(child.exit_code)
        child.reap()
        if child.schedule_restart(now):
            self._say(f"{child.name} {how}; restart {child.restarts}")
        else:
            child.state = "dead"
            self._say(f"{child.name} {how}; not restarted")

    # --- down -----------------------------------------------------------------------------------------------------

    def _close(self, phase: Literal["down", "failed"], error: str | None) -> None:
        self._state = self._state.model_copy(update={"error": error})
        self._phase("stopping")
        self._save()
        self._stop_children()
        left = procs.kill_all(procs.tagged(self._home.folder))
        if left:
            self._say(f"could not be killed: {', '.join(str(process.pid) for process in left)}")
        children.remove(self._home.work)
        self._phase(phase)
        self._save()

    def _stop_children(self) -> None:
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + self._spec.stop_timeout
        while any(child.running() for child in self._children.values()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for child in self._children.values():
            if child.running():
                self._say(f"{child.name} did not end within {self._spec.stop_timeout:g} s and was killed")
            child.reap()
            child.state = "ended"
        self._dirty = True

    # --- record ---------------------------------------------------------------------------------------------------

    def _say(self, what: str) -> None:
        self._events = [*self._events, EventRecord(at=time.time(), what=what)][-MAX_EVENTS:]
        print(what, flush=True)
        self._dirty = True

    def _phase(self, phase: Phase) -> None:
        if phase != self._state.phase:
            self._state = self._state.model_copy(update={"phase": phase})
            self._dirty = True

    def _save(self) -> None:
        records = {name: child.record() for name, child in self._children.items()}
        self._state = self._state.model_copy(update={"processes": records, "events": tuple(self._events)})
        try:
            self._home.write(self._state)
        except OSError as error:  # a full disk takes no stack down; the next tick tries again
            print(f"the state file cannot be written: {error}", flush=True)
        else:
            self._dirty = False


def main(argv: list[str]) -> int:
    """Run the supervisor of one stack; `argv`: folder, stack file, its digest, instance, tools folder, socket."""
    folder, source, digest, instance, tools, owner_fd = argv
    if os.fork():  # the child belongs to nobody who would have to wait for it
        os._exit(0)
    os.umask(0o077)
    # At its exit mirakuru would kill every process whose mark *contains* our pid as text: another stack's, with luck.
    atexit.unregister(mirakuru.base.cleanup_subprocesses)
    home = Home(Path(folder))
    lock = try_lock(home.supervisor_lock)
    if lock is None:
        print("another supervisor of this stack is alive", flush=True)
        return 1
    home.logs.mkdir(parents=True, exist_ok=True)
    me = Proc.of(os.getpid())
    if me is None:
        raise AssertionError("this process does not see itself")
    spec, _ = load(Path(source))
    state = State(
        name=home.name,
        spec=source,
        spec_digest=digest,
        instance=instance,
        phase="starting",
        owned=True,
        pid=me.pid,
        started=me.started,
        since=time.time(),
        stop_timeout_s=spec.stop_timeout,
    )
    with socket.socket(fileno=int(owner_fd)) as owner:
        Supervisor(home, spec, state, owner, Path(tools)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
