"""Looks at what a fault of containers does, past the word of the engine: process states, interfaces, the freezer.

What is read of this machine's own procfs is read only where the engine is on this machine, and where the kernel says
that the process is of that very container: a pid alone may be a stranger's.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from injectors._docker.engine import Container, Engine
from sim.event import JSON
from sim.injector import InjectionError

#: Between two looks at whether anything moved, seconds.
AGAIN_S = 0.25

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a container. `state` is the letter of ps, `time` the processor time that it has used."""

    pid: str
    state: str
    time: str
    command: str

    def told(self) -> str:
        """Return how it stands, for the evidence; never its arguments, which may hold a secret."""
        return f"{self.pid} {self.state} {self.command}"


async def processes(engine: Engine, container: Container) -> tuple[Process, ...]:
    """Return the processes of a running container, as the engine's host sees them. Raises `InjectionError`."""
    what = f"top of {container}"
    answer = await engine.ask(what, lambda api: api.top(container.id, "-eo pid,stat,time,comm"))
    try:
        titles = [str(title).upper() for title in answer["Titles"]]
        at = [titles.index(title) for title in ("PID", "STAT", "TIME", "COMMAND")]
        rows = [[str(row[index]) for index in at] for row in answer["Processes"] or ()]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise InjectionError(f"{what}: not a list of processes with pid, stat, time and comm") from error
    return tuple(Process(pid, state[:1], time, command) for pid, state, time, command in rows)


def _paths(container: Container, proc: Path) -> list[str] | None:
    """Return the control groups of the container's main process; null unless the kernel says that it is the one."""
    pid = container.state.get("Pid")
    if not isinstance(pid, int) or pid <= 0:
        return None
    try:
        lines = (proc / str(pid) / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    paths = [line.partition("::")[2] or line.split(":", 2)[-1] for line in lines]
    return paths if any(container.id in path for path in paths) else None


def interfaces(engine: Engine, container: Container, proc: Path | None = None) -> list[str] | None:
    """Return the network interfaces in the container beside its loopback; null where they cannot be seen from here."""
    proc = proc or PROC
    if engine.local is None or _paths(container, proc) is None:
        return None
    try:
        lines = (proc / str(container.state["Pid"]) / "net" / "dev").read_text(encoding="utf-8").splitlines()[2:]
    except OSError:
        return None
    return sorted(name for line in lines if (name := line.partition(":")[0].strip()) != "lo")


def frozen_by_kernel(engine: Engine, container: Container, proc: Path | None = None) -> bool | None:
    """Return whether the kernel has frozen the container's control group (version 2); null where it cannot be seen."""
    if engine.local is None:
        return None
    for path in _paths(container, proc or PROC) or ():
        events = CGROUP / path.lstrip("/") / "cgroup.events"
        try:
            told = dict(line.split() for line in events.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):
            continue
        if container.id in path and "frozen" in told:
            return told["frozen"] == "1"
    return None


async def frozen(engine: Engine, container: Container) -> tuple[bool, dict[str, JSON]]:
    """Whether nothing in the container runs, and what shows it: the strongest proof that can be had here.

    Under control groups of version 1 a frozen process is in state D. Under version 2 its state says nothing, but the
    kernel tells what is frozen; where that cannot be read, no process may run or use processor time between two looks.
    """
    first = await processes(engine, container)
    evidence: dict[str, JSON] = {"processes": [each.told() for each in first]}
    if first and all(each.state == "D" for each in first):
        return True, {**evidence, "by": "every process is in state D"}
    told = frozen_by_kernel(engine, container)
    if told is not None:
        return told, {**evidence, "by": f"the kernel says frozen {int(told)}"}
    await asyncio.sleep(AGAIN_S)
    second = await processes(engine, container)
    still = {each.pid: each.time for each in first} == {each.pid: each.time for each in second}
    holds = bool(first) and still and not any(each.state == "R" for each in (*first, *second))
    return holds, {**evidence, "by": f"{'no' if holds else 'a'} process ran between two looks"}
