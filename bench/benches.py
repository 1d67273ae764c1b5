"""The benches: start-up, writing the record, reading it, judging it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

from bench import sample
from bench.side_by_side import Bench
from sim import log
from sim.event import Event
from sim.judge import judge

EVENTS = 10_000


class TickingClock:
    """Time that goes on by 10 ms a look, so that a record is the same each time."""

    def __init__(self) -> None:
        self._ticks = count()

    def now(self) -> float:
        """Return seconds."""
        return next(self._ticks) / 100

    def wall(self) -> float:
        """Return epoch seconds."""
        return 1_700_000_000.0 + next(self._ticks) / 100


def benches(folder: Path) -> list[Bench]:
    """Return all benches; what they write goes into `folder`."""
    record = folder / "record.jsonl"
    write(record)
    raw = record.read_bytes()
    lines = raw.splitlines(keepends=True)
    plan = sample.plan()
    events = tuple(log.read(record))
    outcome = judge(plan, events).outcome
    assert len(events) == EVENTS, f"the record has {len(events)} events"
    assert outcome == "failed", f"the record is judged {outcome}: the fold was cut short"  # nobody acts in it
    fresh = (folder / f"{number}.jsonl" for number in count())
    return [
        Bench("`sim --help`", "`python -c pass`", command("-m", "sim.cli", "--help"), command("-c", "pass"), 15, 5.0),
        Bench(
            f"append {EVENTS:,} events, hash-chained, flushed",
            "write the same lines, flushed",
            lambda: write(next(fresh)),
            lambda: plainly(next(fresh), lines),
            7,
        ),
        Bench(
            f"read {EVENTS:,} events and check the chain",
            "SHA-256 of the same file",
            lambda: sum(1 for _ in log.read(record)),
            lambda: hashlib.sha256(record.read_bytes()).hexdigest(),
            7,
        ),
        Bench(
            f"read {EVENTS:,} events and check the chain",
            "`sha256sum` of the same file, with its start-up",
            lambda: sum(1 for _ in log.read(record)),
            lambda: subprocess.run(["sha256sum", str(record)], stdout=subprocess.DEVNULL, check=True),
            7,
        ),
        Bench(
            f"judge {EVENTS:,} events",
            "parse their JSON",
            lambda: judge(plan, events),
            lambda: parse(lines),
            7,
        ),
    ]


def command(*arguments: str) -> Callable[[], object]:
    """Return a call that runs Python with these arguments, output thrown away; it must succeed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    root = Path(__file__).resolve().parent.parent

    def call() -> object:
        return subprocess.run(
            [sys.executable, *arguments], cwd=root, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=60
        )

    return call


def write(path: Path) -> None:
    """Write the sample record."""
    record = log.Log(path, TickingClock())
    for source, kind, data in sample.rows(EVENTS, 1_700_000_000.0):
        record.append(kind, data, source=source)
    record.close()


def plainly(path: Path, lines: list[bytes]) -> None:
    """Write finished lines as the record does, without making, chaining or listening to them."""
    with path.open("xb") as file:
        for line in lines:
            file.write(line)
            file.flush()
        os.fsync(file.fileno())


def parse(lines: list[bytes]) -> list[Event]:
    """Return the events of raw lines, unchecked."""
    return [Event(**json.loads(line)) for line in lines]
