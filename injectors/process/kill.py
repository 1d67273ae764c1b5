"""A process that dies: one signal, to this very process and no other; its supervisor's restart is the recovery.

Nothing of ours undoes it. It is gone when the process runs again, as another, and is ready: as its supervisor says
where the door is the state file of a stack, else when it listens on as many TCP ports as before. A platform that does
not restart the process leaves the fault in place, and the run says so (unsafe): that is the finding.

The door is a path of this machine: the state file of a stack (``file:///…/state.json``), a folder of pid files
(``NAME.pid`` is the process NAME), or one pid file.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Literal

import psutil
from pydantic import Field

from injectors import _processes
from injectors._processes import Named
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site
from sim.stack.procs import Proc
from sim.target import Model

#: How long the process may take to end, and how long one withdrawal waits for it to be back, seconds.
END_S = 8.0
BACK_S = 8.0
_LOOK_S = 0.05


class Params(Model):
    """Which process, and what it dies of."""

    process: Annotated[str, Field(min_length=1)] = Field(description="The process, as the door `processes` names it.")
    signal: Literal["SIGKILL", "SIGTERM", "SIGINT", "SIGQUIT", "SIGABRT", "SIGSEGV"] = Field(
        default="SIGKILL",
        description="What is sent to it. A supervisor may take an end by SIGTERM for one that is meant.",
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    path = _processes.place(site)
    found = _processes.named(path, params.process)
    if found is None:
        raise InjectionError(f"{path}: {params.process} does not run, so it cannot be killed")
    if found.state not in (None, "ready"):
        raise InjectionError(f"{path}: {params.process} is {found.state}, not ready")
    _processes.hittable(found, [found.proc])
    told = _processes.told([found.proc])
    receipt: Receipt = {
        "fault": site.id,
        "process": params.process,
        "signal": params.signal,
        "processes": told,
        "ports": _ports(found.proc),
    }
    target = f"{params.process} (pid {found.proc.pid})"
    return Prepared(receipt, (target,), {"state": found.state, "processes": told, "ports": receipt["ports"]})


async def _apply(_: Site, receipt: Receipt) -> None:
    (old,), name = _processes.known(receipt), receipt["signal"]
    if not _processes.send(old, signal.Signals[str(name)]):
        raise InjectionError(f"{receipt['process']}: pid {old.pid} has ended meanwhile")
    if not await _processes.until(lambda: not old.alive(), END_S):
        raise InjectionError(f"{receipt['process']}: pid {old.pid} did not end within {END_S:g} s of {name}")


async def _effective(_: Site, receipt: Receipt) -> Probe:
    """The process that was there is there no more, whatever has taken its place since."""
    (old,) = _processes.known(receipt)
    state = _processes.status(old)
    return Probe(state == "ended", {"process": receipt["process"], "pid": old.pid, "state": state})


async def _withdraw(site: Site, receipt: Receipt) -> None:
    """Wait for the supervisor, the only one who can undo this; `gone` tells what became of it."""
    path = _processes.place(site)
    await _processes.until(lambda: _back(path, receipt)[0], BACK_S, _LOOK_S)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """The process runs again, under another pid, and is ready; or it never was hit."""
    return Probe(*_back(_processes.place(site), receipt))


def _back(path: Path, receipt: Receipt) -> tuple[bool, dict[str, JSON]]:
    """Say whether the process runs and is ready: as it was (it never was hit), or as another."""
    (old,) = _processes.known(receipt)
    now = _processes.named(path, str(receipt["process"]))
    evidence: dict[str, JSON] = {"process": receipt["process"], "killed": old.pid, "ended": not old.alive()}
    if now is None:
        return False, evidence | {"pid": None, "state": "not running again"}
    listening = _ports(now.proc)
    evidence |= {"pid": now.proc.pid, "state": now.state or _processes.status(now.proc), "ports": listening}
    return _well(now, old) and _enough(listening, receipt["ports"]), evidence


def _well(now: Named, old: Proc) -> bool:
    """Whether the process runs, ready where somebody says so, and is not the one that was killed dying."""
    if now.proc.stopped() or now.state not in (None, "ready"):
        return False
    return old.alive() if now.proc == old else not old.alive()


def _enough(now: JSON, before: JSON) -> bool:
    return not isinstance(before, int) or not isinstance(now, int) or now >= before


def _ports(proc: Proc) -> JSON:
    """Return on how many TCP ports a process and its children listen; null where the system does not say."""
    count = 0
    for each in _processes.tree(proc):
        try:
            found = psutil.Process(each.pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        except (psutil.Error, OSError):
            return None
        count += sum(each.status == psutil.CONN_LISTEN for each in found)
    return count


injector = Injector(
    summary="a process dies; that its supervisor brings it back, ready, is the recovery",
    params=Params,
    positional=("process", "signal"),
    doors=(_processes.DOOR,),
    lease="none",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=None,
)
