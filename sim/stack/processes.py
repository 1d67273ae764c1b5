"""The kind of stack whose parts are processes of this machine, children of the supervisor."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from sim.stack import children
from sim.stack.child import Child, ending, tail
from sim.stack.errors import StackError
from sim.stack.kinds import Desk, PortTaken
from sim.stack.ports import is_taken
from sim.stack.refs import Refs, render
from sim.stack.spec import Once, Process, Spec
from sim.stack.state import Home, Phase, ProcessRecord

_TICK_STARTING_S = 0.05
_LOGS_EVERY_S = 5.0
_MAX_RESULT_BYTES = 1 << 20


class Processes:
    """Every method but `stop` returns at once, a readiness probe apart."""

    def __init__(self, spec: Spec, desk: Desk) -> None:
        self._spec, self._desk = spec, desk
        self._children: dict[str, Child] = {}
        self._ports: dict[str, int] = {}
        self._logs_at = 0.0

    @property
    def stop_s(self) -> float:
        """How long `stop` may take at most, seconds."""
        return self._spec.stop_timeout

    def references(self) -> Mapping[str, str]:
        """Return nothing: this is no Compose project."""
        return {}

    def prepare(self, refs: Refs, env: Mapping[str, str], stack_file: Path) -> None:
        """Write the files and make the children, not started yet."""
        desk = self._desk
        render(self._spec.render, refs, desk.source)
        self._ports = dict(refs.ports)
        self._children = {}
        parts: dict[str, Process | Once] = {**self._spec.processes, **self._spec.once}
        for name, part in parts.items():
            self._children[name] = children.make(name, part, refs, dict(env), desk.home, desk.source)

    def start(self) -> None:
        """Start everything in its order, side by side where none is asked for. Raises `PortTaken`."""
        while any(child.state not in ("ready", "ended") for child in self._children.values()):
            for child in self._children.values():
                if child.state == "waiting" and all(self._children[name].state == "ready" for name in child.after):
                    child.start(time.monotonic())
                    self._desk.touched()
            for child in self._children.values():
                self._watch_start(child)
            self._desk.check_deadline(f"not ready: {self._unready()}", self._suspects())
            self._desk.tick(_TICK_STARTING_S)

    def _unready(self) -> str:
        return ", ".join(name for name, child in self._children.items() if child.state not in ("ready", "ended"))

    def _suspects(self) -> str:
        starting = [child for child in self._children.values() if child.state == "starting"]
        return "".join(f"\n  {child.name} ({child.log}) ends:\n{tail(child.log)}" for child in starting)

    def _watch_start(self, child: Child) -> None:
        if child.state == "waiting" or child.state == "ended":
            return
        if child.ended():
            if child.once and child.exit_code == 0:
                child.state = "ended"
                self._desk.took(read_result(child.name, self._spec.once[child.name], self._desk.home))
                self._desk.say(f"{child.name} done")
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
                self._desk.say(f"{child.name} is up")
            elif time.monotonic() > child.deadline:
                raise StackError(
                    f"{child.name} was not {'done' if child.once else 'ready'} within {child.timeout_s:g} s; its log "
                    f"({child.log}) ends:\n{tail(child.log)}"
                )

    def _ports_of(self, child: Child) -> list[int]:
        return [port for port in self._ports.values() if any(str(port) in word for word in child.command)]

    def watch(self) -> None:
        """Raise `StackError` when a process has ended."""
        for child in self._children.values():
            self._watch_start(child)

    def mind(self) -> Phase:
        """Look after the children once: notice the dead, restart them within limits, see them ready again."""
        now = time.monotonic()
        for child in self._children.values():
            if child.state in ("ready", "starting") and child.ended():
                self._mourn(child, now)
            elif child.state == "restarting" and now >= child.deadline:
                child.start(now)
                self._desk.touched()
            elif child.state == "starting" and child.poll():
                child.state = "ready"
                self._desk.say(f"{child.name} is up again")
            elif child.state == "starting" and now > child.deadline:
                child.reap()
                child.state = "dead"
                self._desk.say(f"{child.name} was not ready again within {child.timeout_s:g} s; given up")
        states = {child.state for child in self._children.values()}
        if now - self._logs_at > _LOGS_EVERY_S:
            self._logs_at = now
            for child in self._children.values():
                child.trim_log()
        return "degraded" if "dead" in states else "recovering" if states - {"ready", "ended"} else "ready"

    def _mourn(self, child: Child, now: float) -> None:
        how = ending(child.exit_code)
        child.reap()
        if child.schedule_restart(now):
            self._desk.say(f"{child.name} {how}; restart {child.restarts}")
        else:
            child.state = "dead"
            self._desk.say(f"{child.name} {how}; not restarted")

    def stop(self) -> None:
        """End every child, politely first."""
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + self._spec.stop_timeout
        while any(child.running() for child in self._children.values()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for child in self._children.values():
            if child.running():
                self._desk.say(f"{child.name} did not end within {self._spec.stop_timeout:g} s and was killed")
            child.reap()
            child.state = "ended"
        self._desk.touched()

    def records(self) -> dict[str, ProcessRecord]:
        """Return each child as the state file keeps it."""
        return {name: child.record() for name, child in self._children.items()}


def read_result(name: str, part: Once, home: Home) -> dict[str, object]:
    """Return the JSON object that the once `name` left, an empty one if it leaves none. Raises `StackError`."""
    if part.result is None:
        return {}
    path = home.work / part.result
    try:
        with path.open("rb") as file:
            data = json.loads(file.read(_MAX_RESULT_BYTES))
    except (OSError, ValueError) as error:
        raise StackError(f"{name} left no JSON at {path}: {error}") from error
    if not isinstance(data, dict):
        raise StackError(f"{name} left {path}, which is JSON but no object")
    return data
