"""One run that is to be killed: the real story with the real signal handlers, which is killed at one of its points.

Points number themselves: everything that is written to journal and record, every call of an injector (before it is
sent, sent, answered), lock, watchdog, restore calls and pulse. A new step of the story is a new point, and gets its
kill tests by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from killroom import _store

from sim import guard, injection, machine, recover, restore, undo, watchdog
from sim.around import Around
from sim.catalogue import Catalogue
from sim.cli.run import _handled
from sim.event import SIM
from sim.exercise import Exercise
from sim.log import Log
from sim.plan import Plan
from sim.resolve import resolve
from sim.secret import Secrets
from sim.target import Target
from tests.live.matrix.cases import MARK, PROFILE, SETTLE_S, TTL_S
from tests.live.matrix.points import Points

#: Both kinds of lease in one run.
FAULTS = ("store.leased()", "store.loose()")


def planned(catalogue: Catalogue, faults: tuple[str, ...] = FAULTS, hold: str = "witnessed") -> Plan:
    """Return the plan of a run with these faults, which ends by itself about a second after its start."""
    exercise = Exercise.model_validate({"inject": faults, "expect": "gate=='blocked'", "hold": hold})
    return resolve("kill", exercise, Target.model_validate(PROFILE), catalogue)


def spied(points: Points) -> None:
    """Put a point before and after every step that leaves a trace anywhere."""
    reach = points.reach

    def around(owner: Any, name: str, called: Callable[..., str]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def spy(*arguments: Any, **named: Any) -> Any:
            what = called(*arguments, **named)
            reach(f"{what} before")
            result = original(*arguments, **named)
            reach(f"{what} after")
            return result

        setattr(owner, name, spy)

    def journalled(_: undo.Journal, kind: str, **fields: Any) -> str:
        return " ".join(["journal", kind, *_which(fields)])

    around(undo.Journal, "__init__", lambda *_: "journal open")
    around(undo.Journal, "write", journalled)
    around(machine, "hold", lambda *_: "lock")
    around(machine.Hold, "release", lambda *_: "unlock")
    around(watchdog.Watchdog, "withdrawn", lambda *_: "watchdog told gone")
    around(watchdog.Watchdog, "close", lambda *_: "watchdog end")
    around(guard.Guard, "_watched", lambda *_: "pulse")
    for module in [module for name, module in sys.modules.items() if name.startswith("sim.")]:
        for name in [name for name in vars(module) if name.endswith("write_once")]:  # each has its own name for it
            around(module, name, lambda path, _: f"write {path.name}")
    _spied_record(reach)
    _spied_restore(reach)
    _store.reach = reach


def _spied_record(reach: Callable[[str], None]) -> None:
    original = Log.append

    def append(log: Log, kind: str, data: Any, source: str = SIM, occurred_at: float | None = None) -> Any:
        event = original(log, kind, data, source, occurred_at)
        if source == SIM:
            reach(" ".join(["mark", kind, *_which(data)]))
        return event

    Log.append = append  # type: ignore[method-assign]


def _spied_restore(reach: Callable[[str], None]) -> None:
    original = restore.send

    async def send(call: Any, secrets: Any) -> None:
        reach("restore call before")
        await original(call, secrets)
        reach("restore call after")

    restore.send = send


def _which(fields: Any) -> list[str]:
    """Return what tells one record of a kind from another: the fault's number, the fact, the phase, the check."""
    if "fault" in fields:
        return [str(fields["fault"]).rpartition("-")[2]]
    return [str(fields[key]) for key in ("name", "fact", "check") if key in fields]


def live(job: dict[str, Any], catalogue: Catalogue, plan: Plan) -> int:
    """Run `plan` in the folder of the job as `sim run` does, and return its exit code."""
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    points = Points(folder, job.get("at"), job.get("how"))
    injection.IN_FLIGHT_S = SETTLE_S
    restore.PATIENCE_S = SETTLE_S
    os.environ[MARK] = str(folder)
    spied(points)
    if "disk" in job:
        if "room" in job:  # the journal is nearly as long as it may be: its disk is full before that of the record
            pad = {"v": undo.VERSION, "record": "open", "pad": "x" * (int(job["disk"]) - int(job["room"]))}
            (folder / undo.FILE).write_text(json.dumps(pad) + "\n")
        full(int(job["disk"]))

    def dog(where: Path, keep: Any = ()) -> watchdog.Watchdog:
        points.reach("watchdog start before")
        made = watchdog.start(where, keep, settle_s=SETTLE_S)
        points.dog = made.process.pid
        with contextlib.suppress(OSError):
            (where / "dog.pid").write_text(str(made.process.pid))
        points.reach("watchdog start after")
        return made

    around = Around(
        names=catalogue,
        secrets=Secrets(),
        exports={"store": job["store"]},
        base=folder,
        ttl_s=TTL_S,
        watchdog=None if job.get("no_watchdog") else dog,
    )
    return asyncio.run(_handled(plan, folder, around)).exit_code


def full(size: int) -> None:
    """Let no file of this process and its watchdog grow beyond so many bytes: for them the disk is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def finish(job: dict[str, Any], catalogue: Catalogue) -> int:
    """Recover the run in the folder of the job as `sim recover` does; 0: nothing is open."""
    if "room" in job:
        full((Path(job["folder"]) / undo.FILE).stat().st_size + int(job["room"]))
    left = asyncio.run(recover.recover(Path(job["folder"]), catalogue, Secrets(), lambda *_: None, settle_s=SETTLE_S))
    return 6 if left.reasons else 0
