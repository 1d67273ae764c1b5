#!/usr/bin/env python3
"""Hold the target's coverage against what the seed demands; run after the fast tests, on their `.coverage` file.

Each gate counts only the lines that its own kind of test ran (pytest-cov records which test ran what), beside what
merely importing a module runs. Ends 1 when a gate is not reached, 2 when there is nothing to measure.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import coverage
from coverage.exceptions import CoverageException

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Gate:
    """At least `least` percent of the lines of `files` (but `omit`), run by tests whose id matches one of `tests`."""

    name: str
    least: float
    files: tuple[str, ...]
    tests: tuple[str, ...]
    omit: tuple[str, ...] = ()


#: Importing a module belongs to no test.
IMPORTS = "^$"

GATES = (
    Gate(
        "engine, by unit tests",
        80.0,
        ("mbp/engine/*.py",),
        (r"^tests/mbp/test_engine_(?!api)",),
        ("mbp/engine/app.py", "mbp/engine/__main__.py"),  # its API, and the process that serves it
    ),
    Gate(
        "API, by integration tests",
        60.0,
        ("mbp/dec/*.py", "mbp/release/*.py", "mbp/engine/app.py"),
        (r"^tests/mbp/test_(?:engine_api|dec|release|api|journey|e2e)",),
    ),
)


def measure(gate: Gate, data: Path) -> tuple[float, str]:
    """Return the percentage that a gate reached, and the table behind it."""
    run = coverage.Coverage(data_file=str(data), config_file=False)
    run.load()
    table = io.StringIO()
    include, omit = ([str(ROOT / pattern) for pattern in patterns] for patterns in (gate.files, gate.omit))
    contexts = [*gate.tests, IMPORTS]
    reached = run.report(include=include, omit=omit, contexts=contexts, file=table, show_missing=True)
    return reached, table.getvalue()


def main(data: Path) -> int:
    """Print every gate and return the exit code."""
    code = 0
    for gate in GATES:
        try:
            reached, table = measure(gate, data)
        except CoverageException as error:
            print(f"{gate.name}: nothing was measured in {data.name}: {error}")
            return 2
        fits = reached >= gate.least
        print(f"coverage of the {gate.name}: {reached:.1f} %, demanded {gate.least:g} %: {'ok' if fits else 'TOO LOW'}")
        if not fits:
            print(table)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(ROOT / ".coverage"))
