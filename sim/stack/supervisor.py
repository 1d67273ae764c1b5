"""The process that owns one stack: it starts the children, keeps them, and takes them down with itself.

``python -m sim.stack.supervisor`` is started by `sim.stack.control.up` in a session of its own, with one end of a
socket pair. The other end's closing means that whoever brought the stack up is gone, and the stack is taken down,
unless a ``k`` (keep) came before it: that is `sim up` saying that the stack is ready and may stay. The socket also
tells the other side when the supervisor is gone.

One thread, the main one, in one loop: nothing here blocks longer than a readiness probe.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sim.stack import children, probe, procs
from sim.stack.child import PROBE_TIMEOUT_S
from sim.stack.errors import StackError
from sim.stack.kinds import Kind, PortTaken
from sim.stack.ports import give_back
from sim.stack.processes import Processes
from sim.stack.procs import Proc
from sim.stack.refs import Refs, resolve
from sim.stack.spec import AnySpec, Gate, Spec, load
from sim.stack.state import MAX_EVENTS, EventRecord, Home, Phase, State

_TICK_STARTING_S = 0.05
_TICK_S = 0.2
_PORT_TRIES = 3


class TakeDown(Exception):
    """The stack is to be taken down: a signal came, or whoever brought it up is gone. The message says which."""


class Supervisor:
    """The stack's life, from the first part to the last. What its kind sees of it is `sim.stack.kinds.Desk`."""

    def __init__(self, home: Home, spec: AnySpec, state: State, owner: socket.socket, tools: Path) -> None:
        self.home, self.instance, self.source = home, state.instance, Path(state.spec).name
        self._spec, self._state, self._owner, self._tools = spec, state, owner, tools
        self._keep = False
        self._signal: str | None = None
        self._events: list[EventRecord] = []
        self._began = time.monotonic()
        self._waiting: dict[str, str] = {}
        self._dirty = True
        self._kind: Kind = self._of_kind(spec)
        self._state = state.model_copy(update={"stop_timeout_s": self._kind.stop_s})

    def _of_kind(self, spec: AnySpec) -> Kind:
        if isinstance(spec, Spec):
            return Processes(spec, self)
        from sim.stack.compose import Compose

        return Compose(spec, self)

    def run(self) -> None:
        """Bring the stack up, keep it until it is to go, take it down."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            self._bring_up()
            while True:
                self.tick(_TICK_S)
                self._phase(self._kind.mind())
        except TakeDown as reason:
            self.say(str(reason))
            self._close("down", None)
        except StackError as error:
            self._close("failed", str(error))
        except Exception as error:  # whatever it is, no child may outlive it
            self._close("failed", f"our own bug: {type(error).__name__}: {error}")
            raise

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signal = signal.Signals(number).name

    def tick(self, wait_s: float) -> None:
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
            refs = self._prepare()
            try:
                self._kind.start()
                self.pass_gates(self._spec.ready, refs)
                break
            except PortTaken as error:
                self._kind.stop()
                give_back(refs.ports.values())
                if attempt == _PORT_TRIES:
                    raise StackError(f"{error}, {attempt} times over") from error
                self.say(f"{error}; again with other ports")
        after_s = round(time.monotonic() - self._began, 3)
        self._state = self._state.model_copy(update={"ready_after_s": after_s})
        self._phase("ready")
        self.say(f"ready after {after_s:.1f} s")

    def _prepare(self) -> Refs:
        children.empty(self.home.work)
        compose = self._kind.references()
        refs = resolve(self._spec, self.home.work, self.instance, self.tool, self.source, compose)
        base = {procs.TAG: str(self.home.folder), **children.own_path()}
        base |= {name: refs.text(text, f"{self.source}: env.{name}") for name, text in self._spec.env.items()}
        self._kind.prepare(refs, base, Path(self._state.spec))
        self._state = self._state.model_copy(update={"exports": dict(refs.exports), "past": None})
        self._dirty = True
        return refs

    def tool(self, name: str) -> str:
        """Return the path of a tool. Raises `StackError`."""
        from sim import tools

        try:
            return str(tools.locate(name, self._tools, tools.load(Path(self._state.spec).with_name("tools.yaml"))).path)
        except tools.ToolsError as error:
            raise StackError(str(error)) from error

    def pass_gates(self, gates: Sequence[Gate], refs: Refs) -> None:
        """Wait until all of `gates` hold. Raises `StackError`."""
        left = {gate.what: (gate, refs.text(gate.http, f"{self.source}: ready: {gate.what}")) for gate in gates}
        while left:
            for what, (gate, url) in list(left.items()):
                try:
                    probe.check(gate, url, PROBE_TIMEOUT_S)
                except probe.NotYet as reason:
                    self._waiting[what] = str(reason)
                else:
                    del left[what]
                    self._waiting.pop(what, None)
                    self.say(what)
            self._kind.watch()
            still = "; ".join(f"{what} ({reason})" for what, reason in self._waiting.items())
            self.check_deadline(f"waiting for: {still}")
            if left:
                self.tick(_TICK_STARTING_S)

    def check_deadline(self, what: str, logs: str = "") -> None:
        """Raise `StackError` naming `what` when the whole start has taken too long."""
        if time.monotonic() - self._began > self._spec.timeout:
            raise StackError(f"the stack was not ready within {self._spec.timeout:g} s, {what}{logs}")

    # --- down -----------------------------------------------------------------------------------------------------

    def _close(self, phase: Literal["down", "failed"], error: str | None) -> None:
        self._state = self._state.model_copy(update={"error": error})
        self._phase("stopping")
        self._save()
        self._kind.stop()
        left = procs.kill_all(procs.tagged(self.home.folder))
        if left:
            self.say(f"could not be killed: {', '.join(str(process.pid) for process in left)}")
        children.remove(self.home.work)
        self._phase(phase)
        self._save()

    # --- record ---------------------------------------------------------------------------------------------------

    def say(self, what: str) -> None:
        """Tell the user, and write it down."""
        self._events = [*self._events, EventRecord(at=time.time(), what=what)][-MAX_EVENTS:]
        print(what, flush=True)
        self._dirty = True

    def touched(self) -> None:
        """Have the state written again at the next tick."""
        self._dirty = True

    def took(self, result: Mapping[str, Any]) -> None:
        """Keep what a once left."""
        self._state = self._state.model_copy(update={"past": {**(self._state.past or {}), **result}})
        self._dirty = True

    def _phase(self, phase: Phase) -> None:
        if phase != self._state.phase:
            self._state = self._state.model_copy(update={"phase": phase})
            self._dirty = True

    def _save(self) -> None:
        self._state = self._state.model_copy(update={"processes": self._kind.records(), "events": tuple(self._events)})
        try:
            self.home.write(self._state)
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
    home = Home(Path(folder))
    lock = home.supervise()
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
        kind=spec.kind,
        spec=source,
        spec_digest=digest,
        instance=instance,
        inode=home.folder.stat().st_ino,
        phase="starting",
        owned=True,
        pid=me.pid,
        started=me.started,
        since=time.time(),
    )
    with socket.socket(fileno=int(owner_fd)) as owner:
        Supervisor(home, spec, state, owner, Path(tools)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
