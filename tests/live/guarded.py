"""A real runner as `sim run` has it, but with a short lease and a short grace, so that seconds are enough to test them.

``python -m tests.live.guarded FOLDER STORE FAULT HOLD_S [KIND]``: injects FAULT into the namespace STORE of the fault
store of the kill matrix, holds it for HOLD_S, and ends with the exit code of the run. From the first event of KIND on,
the disk is full for the record (a limit on the size of files, which the shorter journal does not reach).
"""

from __future__ import annotations

import asyncio
import functools
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from sim import injection, watchdog
from sim.around import Around
from sim.catalogue import catalogue
from sim.cli.run import _handled
from sim.exercise import Exercise
from sim.resolve import resolve
from sim.secret import Secrets
from sim.target import Target

#: Lease, grace, and how long a request may be on its way, seconds.
TTL_S, GRACE_S, SETTLE_S = 1.0, 1.0, 0.3


def profile(store: str) -> dict[str, Any]:
    """Return the target profile of one namespace of the store."""
    return {
        "target": "guarded",
        "environment": "sim-test",
        "identity": {"url": f"{store}/identity"},
        "doors": {"store": {"url": store}},
        "observers": {"store": {"kind": "http_state", "url": f"{store}/state", "every": 0.1}},
        "facts": {
            "gate": {"kind": "state", "from": "store", "values": ["open", "blocked"]},
            "load": {"kind": "gauge", "from": "store", "worse": "up"},
        },
        "steady_state": "load < 0.5",
        "within": {"effect": 3, "recover": 5},
        "restore": [{"fact": "gate", "url": f"{store}/gate", "json": {"gate": "{prior}"}}],
    }


def exercise(fault: str, hold_s: float) -> dict[str, Any]:
    """Return an exercise that holds its fault for its whole time."""
    return {"inject": f"{fault}(duration={hold_s:g})", "expect": "gate=='blocked'", "hold": "full"}


def main(folder: Path, store: str, fault: str, hold_s: float, full_at: str | None = None) -> int:
    """Run, and return the exit code."""
    names = catalogue()
    written = Exercise.model_validate(exercise(fault, hold_s))
    plan = resolve("drill", written, Target.model_validate(profile(store)), names)
    injection.IN_FLIGHT_S = SETTLE_S
    around = Around(
        names=names,
        secrets=Secrets(),
        exports={},
        base=folder,
        ttl_s=TTL_S,
        grace_s=GRACE_S,
        watchdog=functools.partial(watchdog.start, settle_s=SETTLE_S),
        on_event=lambda event: _fill(folder / "log.jsonl") if event.kind == full_at else None,
    )
    return asyncio.run(_handled(plan, folder, around)).exit_code


def _fill(record: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (record.stat().st_size + 50, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), *sys.argv[5:]))
