"""`python -m mbp.follow --traces DIR [TRACE_ID]`: show one trace through all services, or the last ones there are.

Reads the span files that the services write (see docs/tracing.md). Exit code 1: no such trace, or no spans at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAST = 10  # traces that are listed


@dataclass(frozen=True, slots=True)
class Line:
    """One span as it was written."""

    trace: str
    id: str
    parent: str | None
    name: str
    who: str
    start_ns: int
    end_ns: int
    about: dict[str, Any]


def read(folder: Path, trace: str | None = None) -> Iterator[Line]:
    """Yield the spans of all files in a folder, or those of one trace; a line that is not whole is passed over."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                if trace is None or trace in text:
                    try:
                        yield from _spans(json.loads(text))
                    except (ValueError, KeyError, TypeError):
                        continue


def _spans(whole: dict[str, Any]) -> Iterator[Line]:
    for resource in whole["resourceSpans"]:
        known = _plain(resource["resource"]["attributes"])
        who = "-".join(str(known[key]) for key in ("service.name", "service.instance.id") if key in known)
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                yield Line(
                    span["traceId"],
                    span["spanId"],
                    span.get("parentSpanId"),
                    span["name"],
                    who,
                    int(span["startTimeUnixNano"]),
                    int(span["endTimeUnixNano"]),
                    _plain(span["attributes"]),
                )


def _plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in attributes}


def tree(lines: list[Line]) -> list[str]:
    """Return one trace as text: each span under the one that asked for it, times in ms from the first span's start."""
    ids = {line.id for line in lines}
    begun = min(line.start_ns for line in lines)
    shown: list[str] = []

    def show(line: Line, depth: int) -> None:
        about = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in line.about.items())
        name = "  " * depth + line.name
        start, took = (line.start_ns - begun) / 1e6, (line.end_ns - line.start_ns) / 1e6
        shown.append(f"{start:9.1f} ms {took:9.1f} ms  {line.who:<14} {name:<28} {about}".rstrip())
        for each in sorted(lines, key=lambda each: each.start_ns):
            if each.parent == line.id:
                show(each, depth + 1)

    for line in sorted(lines, key=lambda each: each.start_ns):
        if line.parent not in ids:
            show(line, 0)
    return shown


def latest(lines: list[Line]) -> list[str]:
    """Return the last traces, the newest last: id, spans, services, and the name of the first span."""
    traces: dict[str, list[Line]] = {}
    for line in lines:
        traces.setdefault(line.trace, []).append(line)
    newest = sorted(traces.values(), key=lambda each: min(line.start_ns for line in each))[-LAST:]
    return [
        f"{each[0].trace}  {len(each):3} spans  {len({line.who for line in each}):2} services  "
        f"{min(each, key=lambda line: line.start_ns).name}"
        for each in newest
    ]


def main(argv: list[str] | None = None) -> int:
    """Print what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mbp.follow", description=__doc__)
    parser.add_argument("--traces", type=Path, required=True, help="folder that MBP_TRACES_DIR named")
    parser.add_argument("trace", nargs="?", help="trace id, 32 hex digits; without it the last traces are listed")
    args = parser.parse_args(argv)
    lines = list(read(args.traces, args.trace))
    if not lines:
        what = f"no span of trace {args.trace}" if args.trace else "no spans"
        print(f"follow: {what} in {args.traces}", file=sys.stderr)
        return 1
    print("\n".join(tree(lines) if args.trace else latest(lines)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
