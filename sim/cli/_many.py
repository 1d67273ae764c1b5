"""What many runs came to: one summary for people, for machines, as Markdown, and one JUnit document of them all."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, fromstring, indent, tostring

from sim.duration import spell
from sim.markdown import escaped
from sim.problem import visible

_MARKS = {"passed": "✓", "inconclusive": "?", "aborted": "?", "not run": "·"}


@dataclass(frozen=True, slots=True)
class Ran:
    """What one exercise came to. `outcome` may also be ``invalid`` (it cannot run here) or ``not run``.

    `folder` is where the run lies, None where there is none; `took_s` its wall time.
    """

    exercise: str
    outcome: str
    exit_code: int
    link: str | None = None
    reasons: tuple[str, ...] = ()
    folder: Path | None = None
    took_s: float = 0.0

    @property
    def headline(self) -> str:
        """The outcome, and at which link."""
        return f"{self.outcome} at {self.link}" if self.link and self.outcome != "passed" else self.outcome

    @property
    def lies(self) -> str:
        """Where the run lies, from here; empty where it lies nowhere."""
        return os.path.relpath(self.folder) if self.folder else ""


@dataclass(frozen=True, slots=True)
class Summary:
    """What all of them came to. `total_s` is the wall time of the whole command, with the stack's start and end."""

    runs: tuple[Ran, ...]
    exit_code: int
    total_s: float

    @property
    def headline(self) -> str:
        """How many of how many passed, what the others came to, the total time and the exit code."""
        counts = Counter(run.outcome for run in self.runs)
        rest = "".join(f", {count} {name}" for name, count in counts.items() if name != "passed")
        took = spell(round(self.total_s, 1))
        return f"{counts['passed']} of {len(self.runs)} passed{rest}; total {took}, exit code {self.exit_code}"


def with_the_rest(
    wanted: Sequence[tuple[str, int]], ran: Sequence[Ran], code: int, reasons: tuple[str, ...]
) -> tuple[Ran, ...]:
    """Return what ran, and beside it what did not, in the order of `wanted`: exercises, and how often each."""
    left: Counter[str] = Counter()
    for name, times in wanted:
        left[name] += times
    left.subtract(run.exercise for run in ran)
    order = list(left)
    rest = [Ran(name, "not run", code, reasons=reasons) for name in left.elements()]
    return tuple(sorted([*ran, *rest], key=lambda run: order.index(run.exercise)))


def text(summary: Summary) -> str:
    """Return the summary for people, with a newline at its end."""
    widths = [max(len(cell) for cell in cells) for cells in zip(*map(_cells, summary.runs), strict=True)]
    lines = [f"SUMMARY: {summary.headline}"]
    for run in summary.runs:
        cells = [cell.ljust(width) for cell, width in zip(_cells(run), widths, strict=True)]
        lines.append(f"  {_MARKS.get(run.outcome, '✗')} {'  '.join(cells)}".rstrip())
        lines += [f"      because {visible(reason)}" for reason in run.reasons]
    return "\n".join(lines) + "\n"


def _cells(run: Ran) -> tuple[str, str, str, str]:
    return run.exercise, run.headline, f"{run.took_s:.1f}s" if run.folder else "-", run.lies


def as_json(summary: Summary) -> str:
    """Return the summary as one JSON object, with a newline at its end."""
    runs = [
        {
            "exercise": run.exercise,
            "outcome": run.outcome,
            "exit_code": run.exit_code,
            "link": run.link,
            "reasons": list(run.reasons),
            "folder": str(run.folder) if run.folder else None,
            "took_s": round(run.took_s, 3),
        }
        for run in summary.runs
    ]
    whole = {"format": 1, "exit_code": summary.exit_code, "total_s": round(summary.total_s, 3), "runs": runs}
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def markdown(summary: Summary, reports: Sequence[tuple[Ran, str]]) -> str:
    """Return the summary as Markdown, and below it the report of every run, folded where it passed."""
    lines = [f"## {_shown(summary.headline)}", "", "| | exercise | outcome | took | run |", "|---|---|---|---|---|"]
    for run in summary.runs:
        exercise, headline, took, lies = map(_shown, _cells(run))
        lines.append(f"| {_MARKS.get(run.outcome, '✗')} | {exercise} | {headline} | {took} | {lies} |")
    reasons = [f"- {_shown(run.exercise)}: {_shown(reason)}" for run in summary.runs for reason in run.reasons]
    lines += ["", *reasons] if reasons else []
    for run, report in reports:
        unfolded = "" if run.outcome == "passed" else " open"
        head = f"<details{unfolded}><summary>{_shown(run.exercise)} in full</summary>"
        lines += ["", head, "", report.rstrip("\n"), "", "</details>"]
    return "\n".join(lines) + "\n"


def junit(summary: Summary, reports: Sequence[tuple[Ran, str]]) -> str:
    """Return one JUnit document: the suites of every run's, and one error for each that has left no report.

    Two runs of one exercise are two suites; the second is called by its number.
    """
    root = Element("testsuites", {"name": "sim"})
    seen: Counter[str] = Counter()
    told = [run for run, _ in reports]
    suites = _suites(text for _, text in reports)
    for suite in [*suites, *(_unrun(run) for run in summary.runs if not any(run is each for each in told))]:
        name = suite.get("name", "")
        seen[name] += 1
        if seen[name] > 1:
            suite.set("name", f"{name} #{seen[name]}")
        root.append(suite)
    for count in ("tests", "failures", "errors", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    root.set("time", f"{summary.total_s:.3f}")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _suites(reports: Iterable[str]) -> Iterator[Element]:
    for report in reports:
        yield from fromstring(report).iter("testsuite")  # noqa: S314 - our own report, made a moment ago


def _unrun(run: Ran) -> Element:
    suite = Element("testsuite", {"name": run.exercise, "tests": "1", "failures": "0", "errors": "1", "skipped": "0"})
    case = SubElement(suite, "testcase", {"classname": f"sim.{run.exercise}", "name": "run", "time": "0.000"})
    message = visible(f"{run.outcome}: {'; '.join(run.reasons) or 'no reason recorded'}")
    SubElement(case, "error", {"message": message, "type": "unknown"})
    return suite


def _shown(foreign: str) -> str:
    return escaped(visible(foreign))
