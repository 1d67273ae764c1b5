"""Run the benches and print their table; `--write` puts it into bench/RESULTS.md too. Asserts nothing by the clock."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from bench import proxy
from bench.benches import benches
from bench.side_by_side import measure, table

RESULTS = Path(__file__).with_name("RESULTS.md")


def main(arguments: list[str]) -> int:
    """Measure and print. Return 0: a goal that is not kept is said in the table, not by the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md, with command, machine and date")
    parser.add_argument("what", nargs="?", choices=("all", "proxy"), default="all", help="proxy: only the links")
    parser.add_argument(
        "--small", action="store_true", help="links: so little of each that it only shows that it works"
    )
    chosen = parser.parse_args(arguments)
    shown = links(proxy.SMALL if chosen.small else proxy.Size(), 1 if chosen.small else proxy.ROUNDS)
    if chosen.what == "all":
        shown = f"{pairs()}\n\n## Links\n\n{shown}"
    print(shown)
    if chosen.write:
        RESULTS.write_text(page(shown), encoding="utf-8")
        print(f"written: {RESULTS.name}", file=sys.stderr)
    return 0


def links(size: proxy.Size, rounds: int) -> str:
    """Measure the links, where there is a real Toxiproxy to hold `sim proxy` against; else say what brings it."""
    if not proxy.TOXIPROXY.is_file():
        return "Links were not measured: there is no real Toxiproxy; `scripts/toxiproxy.sh` builds it, with Go."
    print("links: direct, sim proxy, Toxiproxy ...", file=sys.stderr)
    return proxy.table(proxy.measure(size, rounds))


def pairs() -> str:
    """Measure what is held against one other thing, and return the table."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        measured = []
        for bench in benches(Path(folder)):
            print(f"{bench.name} against {bench.reference_name} ...", file=sys.stderr)
            measured.append(measure(bench))
    return table(measured)


def page(shown: str) -> str:
    """Return the page of results: how they were made, where, when, and the table."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return (
        "# Benchmarks\n\n"
        "Made by `python -m bench --write`. Two things are run in turn and compared as ratios; seconds depend on the\n"
        "machine and on what else it does.\n\n"
        f"{time.strftime('%Y-%m-%d')}, {machine}.\n\n{shown}\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
