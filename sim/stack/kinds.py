"""What a kind of stack is to its supervisor, and a supervisor to a kind of stack: the one interface between them.

`sim.stack.processes` and `sim.stack.compose` are the kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sim.stack.refs import Refs
from sim.stack.spec import Gate
from sim.stack.state import Home, Phase, ProcessRecord


class PortTaken(Exception):
    """Somebody took a port between our look and a process's bind: worth another try with other ports."""


class Desk(Protocol):
    """What a kind is given: where it works, and how it tells what happens. No method blocks for long."""

    home: Home
    source: str
    """The stack file's name, for messages."""
    instance: str

    def say(self, what: str) -> None:
        """Tell the user, and write it down."""

    def touched(self) -> None:
        """Have the state written again at the next tick."""

    def tick(self, wait_s: float) -> None:
        """Write what changed and sleep up to `wait_s`; raises when it is time to take the stack down."""

    def check_deadline(self, what: str, logs: str = "") -> None:
        """Raise `StackError` naming `what` is waited for when the whole start has taken too long."""

    def pass_gates(self, gates: Sequence[Gate], refs: Refs) -> None:
        """Wait until all of `gates` hold."""

    def tool(self, name: str) -> str:
        """Return the path of a tool. Raises `StackError`."""

    def took(self, result: Mapping[str, Any]) -> None:
        """Keep what a once left."""


class Kind(Protocol):
    """The life of a stack of one kind. `StackError` says why it cannot go on; `stop` is then called all the same."""

    @property
    def stop_s(self) -> float:
        """How long `stop` may take at most, seconds."""

    def references(self) -> Mapping[str, str]:
        """Return what ``${compose.X}`` stands for; nothing where the stack is no Compose project."""

    def prepare(self, refs: Refs, env: Mapping[str, str], stack_file: Path) -> None:
        """Make ready to start, in the fresh folder `refs.folder`; `env` is the environment of every process."""

    def start(self) -> None:
        """Start everything, each once included, and return when it runs. Raises `PortTaken`."""

    def watch(self) -> None:
        """Raise `StackError` when something that was started has ended, while gates are waited for."""

    def mind(self) -> Phase:
        """Look after the running stack once, and say how it is."""

    def stop(self) -> None:
        """End everything. Whatever is left is for whoever looks next."""

    def records(self) -> dict[str, ProcessRecord]:
        """Return what the state file keeps of each part."""
