"""A process that stands still: it and all that belongs to it get SIGSTOP, and SIGCONT when the fault is over.

Its connections stay open and nobody is told anything: what a hung process looks like from outside. The system gives no
lease on a stopped process, so it is continued by the run, its watchdog, or `sim recover`. A process that is ended or
replaced by its supervisor meanwhile is not stopped any more; whoever has its pid by then is left alone.

The door is a path of this machine: the state file of a stack (``file:///…/state.json``), a folder of pid files
(``NAME.pid`` is the process NAME), or one pid file.
"""

from __future__ import annotations

import signal
from functools import partial
from typing import Annotated

from pydantic import Field

from injectors import _processes
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site
from sim.stack.procs import Proc
from sim.target import Duration, Model

#: How long a process may take to stand still, or to go on, seconds (measured: 8 ms at most on a quiet machine).
STILL_S = 5.0
#: New children are looked for so often: each look finds only what was born before its parent stood still.
_ROUNDS = 20

#: How the stopped processes stood when the withdrawal began, by injection; for `held`.
_SEEN: dict[str, dict[str, JSON]] = {}


class Params(Model):
    """Which process, and for how long at most."""

    process: Annotated[str, Field(min_length=1)] = Field(description="The process, as the door `processes` names it.")
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long it is stopped at most, seconds or 90s, 5m."
    )


async def _prepare(site: Site, params: Params) -> Prepared:
    path = _processes.place(site)
    found = _processes.named(path, params.process)
    if found is None:
        raise InjectionError(f"{path}: {params.process} does not run, so it cannot be stopped")
    every = _processes.tree(found.proc)
    _processes.hittable(found, every)
    told = _processes.told(every)
    receipt: Receipt = {"fault": site.id, "process": params.process, "processes": told}
    targets = tuple(f"{params.process} (pid {each.pid})" for each in every)
    return Prepared(receipt, targets, {"state": found.state, "processes": told})


async def _apply(site: Site, receipt: Receipt) -> None:
    """Stop the process first, so that it makes no more children, then those that it has, until no look finds more."""
    _SEEN.pop(site.id, None)
    main, still = _processes.known(receipt)[0], set[Proc]()
    for _ in range(_ROUNDS):
        every = _processes.tree(main)
        if main not in every:
            raise InjectionError(f"{receipt['process']}: pid {main.pid} has ended meanwhile")
        fresh = [each for each in every if each not in still]
        if not fresh:
            return
        for each in fresh:
            if _processes.send(each, signal.SIGSTOP) and not await _processes.until(partial(_still, each), STILL_S):
                raise InjectionError(f"pid {each.pid} did not stand still within {STILL_S:g} s of SIGSTOP")
            still.add(each)
    raise InjectionError(f"{receipt['process']} makes children faster than they can be stopped")


def _still(proc: Proc) -> bool:
    return _processes.all_stopped(proc) or not proc.alive()


def _moves(proc: Proc) -> bool:
    return not proc.stopped()


async def _effective(_: Site, receipt: Receipt) -> Probe:
    """Every process of it stands still, with all its threads, as the system shows them."""
    main = _processes.known(receipt)[0]
    every = _every(receipt)
    moving = [each.pid for each in every if not _processes.all_stopped(each)]
    evidence: dict[str, JSON] = {
        "process": receipt["process"],
        "state": _processes.status(main),
        "stopped": len(every) - len(moving),
        "moving": list(moving),
    }
    return Probe(main in every and not moving, evidence)


def _every(receipt: Receipt) -> list[Proc]:
    """Return what was stopped and runs: the receipt's, and what was born between the look and the signal."""
    listed = _processes.known(receipt)
    return [each for each in dict.fromkeys([*listed, *_processes.tree(listed[0])]) if each.alive()]


async def _withdraw(site: Site, receipt: Receipt) -> None:
    """Let all of it go on, children first: a parent that wakes up finds them well."""
    if site.id not in _SEEN:
        _SEEN[site.id] = dict((await _effective(site, receipt)).evidence)
    for each in reversed(_every(receipt)):
        if each.stopped() and _processes.send(each, signal.SIGCONT):
            await _processes.until(partial(_moves, each), STILL_S / 5)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """None of it stands still any more; one that has ended does not, and its successor never did."""
    listed, every = _processes.known(receipt), _every(receipt)
    stopped = [each.pid for each in every if each.stopped()]
    evidence: dict[str, JSON] = {
        "process": receipt["process"],
        "state": _processes.status(listed[0]),
        "stopped": list(stopped),
        "running": len(every) - len(stopped),
        "ended": [each.pid for each in listed if not each.alive()],
    }
    if not listed[0].alive():
        evidence["replaced_by"] = _successor(site, receipt)
    return Probe(not stopped, evidence)


def _successor(site: Site, receipt: Receipt) -> JSON:
    """Return the pid that the process has now; null where there is none, or nobody can say."""
    try:
        found = _processes.named(_processes.place(site), str(receipt["process"]))
    except InjectionError:  # the door may have gone with its stack
        return None
    return None if found is None else found.proc.pid


async def _held(site: Site, _: Receipt) -> Probe:
    """It stood still until it was withdrawn, or was ended, which is what a platform may do to a hung process."""
    seen = _SEEN.get(site.id)
    if seen is None:
        return Probe(False, {"reason": "nobody looked when it was withdrawn"})
    return Probe(seen["state"] == "ended" or not seen["moving"], seen)


injector = Injector(
    summary="a process stands still, with all that belongs to it; its connections stay open",
    params=Params,
    positional=("process",),
    doors=(_processes.DOOR,),
    lease="none",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=None,
    duration_s=lambda params: params.duration if isinstance(params, Params) else None,
    held=_held,
    here=True,
)
