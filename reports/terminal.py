"""A run as plain text for people: the verdict first, then one line a clause in the order of the chain, then the rest.

Every verdict has a mark and a word, so nothing hangs on colour (which is the command line's business, not ours). Times
count from t0, beside them from the moment the fault was proven to bite; those of recovery count from *gone*. At most
`WIDTH` columns, save for names that are longer than that by themselves.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from reports._view import FaultView, Line, ObserverView, StageView, View, plain
from sim.duration import spell
from sim.judge import Outcome
from sim.report import Finished, Report

WIDTH = 100

MARKS = {"met": "✓", "missed": "✗", "unknown": "?", "pending": "…", "void": "·"}

_HEAD = f"  {'verdict':<9} {'clause':<14} {'from t0':>11} {'from bite':>9} {'budget':>7}  seen"
_DETAIL = 12


def render(finished: Finished) -> str:
    """Return the run as text, with a newline at its end."""
    view = View(finished)
    blocks = (_verdict, _clauses, _timing, _collateral, _done, _eyes, _marks)
    return "\n\n".join(block for each in blocks if (block := "\n".join(each(view)))) + "\n"


def _verdict(view: View) -> Iterator[str]:
    """Say what the run proved, and for an unsafe one, before anything else, how to finish it."""
    at = f" at {view.link}" if view.link and view.outcome is not Outcome.PASSED else ""
    yield f"{view.outcome.upper()}{at}: {plain(view.plan.exercise)} on {view.plan.target.target}, {view.plan.time}, n=1"
    yield f"  run {plain(view.run)}, exit code {view.exit_code}"
    if view.recover_command:
        yield f"  finish it with: {plain(view.recover_command)}"
    for reason in view.loose_reasons:
        yield from _wrapped("  because ", reason)


# -- clauses ---------------------------------------------------------------------------------------------------


def _clauses(view: View) -> Iterator[str]:
    yield _HEAD
    for line in view.lines:
        value = "void" if view.void(line) else line.value
        word = f"{MARKS[value]} {value}"
        since = line.anchor if line.anchor != "t0" and line.took_s is not None else ""
        took, bite = since + _signed(line.took_s), _signed(line.from_effective_s)
        budget = "-" if line.budget_s is None else spell(line.budget_s)
        start = f"  {word:<9} {plain(line.clause):<14} {took:>11} {bite:>9} {budget:>7}  "
        yield from _wrapped(start, f"not judged: {view.not_judged}" if view.void(line) else _seen(line))
        if line.value != "met" and not view.void(line):
            yield from _why(line)


def _seen(line: Line) -> str:
    seen = line.actual or line.reason or "nothing of the kind"
    return seen if line.origin == "implied" else f"{line.text} — {seen}"


def _why(line: Line) -> Iterator[str]:
    """Say why a clause was not met, what was expected, what was there, and which events show it."""
    if line.reason not in ("", line.actual or line.reason):
        yield from _wrapped(" " * _DETAIL + "because   ", line.reason)
    yield from _wrapped(" " * _DETAIL + "expected  ", line.expected)
    yield from _wrapped(" " * _DETAIL + "actual    ", line.actual or "nothing was seen")
    if line.because:
        yield from _wrapped(" " * _DETAIL + "events    ", ", ".join(f"#{seq}" for seq in line.because))
    if line.late_s is not None:
        yield from _wrapped(" " * _DETAIL + "late      ", f"arrived {spell(line.late_s)} after its budget was over")


# -- timing ----------------------------------------------------------------------------------------------------


def _timing(view: View) -> Iterator[str]:
    """Hold what was measured against what the chain's own settings imply."""
    if view.not_judged or not view.stages:
        return
    timing: Mapping[str, Any] = view.timing or {}
    source = {"live": "live configuration", "files": "declared files"}.get(str(timing.get("source")), "not known")
    yield f"  timing of the chain: {source}"
    yield f"    {'link':<8} {'floor':>8} {'expected':>8} {'worst':>8} {'budget':>8}  measured"
    for stage in view.stages:
        bounds = (stage.floor_s, stage.expected_s, stage.worst_s, stage.budget_s)
        cells = " ".join(f"{'-' if bound is None else spell(bound):>8}" for bound in bounds)
        yield f"    {stage.stage:<8} {cells}  {_measured(stage)}"
    for missing in timing.get("missing", ()):
        yield from _wrapped("    missing  ", str(missing))
    for note in timing.get("notes", ()):
        yield from _wrapped("    note     ", str(note))


def _measured(stage: StageView) -> str:
    if stage.took_s is None:
        return "never in time"
    late = "" if stage.lateness_s is None else f", seen at most {spell(stage.lateness_s)} late"
    beyond = ""
    if stage.worst_s is not None and stage.took_s > stage.worst_s:
        beyond = ", beyond its worst"
    elif stage.floor_s is not None and stage.took_s < stage.floor_s:
        beyond = ", below its floor"
    return f"{_signed(stage.took_s)}{late}{beyond}"


def _collateral(view: View) -> Iterator[str]:
    """Name the alerts that began meanwhile and are not the fault's."""
    if not view.collateral:
        return
    yield "  collateral: alerts that began after t0 and do not belong to this fault"
    for each in view.collateral:
        labels = ", ".join(f"{name}={value}" for name, value in sorted(each.labels.items()) if name != "alertname")
        told = f"{each.name} fires at {_signed(each.at_s)}, seen by {each.source}"
        yield from _wrapped("    ", f"{told} ({labels or 'no labels'})")


# -- what was done ---------------------------------------------------------------------------------------------


def _done(view: View) -> Iterator[str]:
    """Tell what was injected, withdrawn and put back."""
    if not view.faults:
        yield "  nothing was injected"
    for fault in view.faults:
        yield from _fault(fault, view)
    for event in view.of("restore.called"):
        fact, reads, prior = event.data["fact"], _value(event.data["reads"]), _value(event.data["prior"])
        yield from _wrapped("  restored   ", f"{fact} read {reads}, set back to {prior}")
    if view.restored == ():
        yield "  put back   every state reads as it did at baseline"
    for differs in view.restored or ():
        yield from _wrapped("  NOT BACK   ", differs)
    for event in view.of("stopped"):
        by, why = event.data["by"], event.data["reason"]
        yield from _wrapped("  stopped    ", f"{_when(event.seen_at, view)} by {by}: {why}")
    for error in view.errors:
        yield from _wrapped("  our bug    ", error)
    for note in view.notes:
        yield from _wrapped("  note       ", note)


def _fault(fault: FaultView, view: View) -> Iterator[str]:
    yield from _wrapped("  injected   ", f"{fault.text} as {fault.id}, on {', '.join(fault.targets)}")
    if fault.applied_at is None:
        yield "    applied    never"
    else:
        yield f"    applied    {_when(fault.applied_at, view)}"
    if fault.effective_at is not None:
        yield from _wrapped("    effective  ", f"{_when(fault.effective_at, view)}{_evidence(fault.effective)}")
    if fault.withdrawing_at is not None:
        yield f"    withdrawn  {_when(fault.withdrawing_at, view)}"
    if fault.gone_at is not None:
        yield from _wrapped("    gone       ", f"{_when(fault.gone_at, view)}{_evidence(fault.gone)}")
    elif fault.stuck is not None:
        yield from _wrapped("    NOT GONE   ", fault.stuck)
    if fault.held is not None or fault.unheld is not None:
        word = "    held       " if fault.held is not None else "    NOT HELD   "
        yield from _wrapped(word, _evidence(fault.held if fault.held is not None else fault.unheld).strip())


def _evidence(evidence: Mapping[str, Any] | None) -> str:
    if not evidence:
        return ""
    return "  " + ", ".join(f"{name} {_value(value)}" for name, value in evidence.items())


def _value(value: object) -> str:
    """Return a JSON value as people write it."""
    words = {None: "nothing", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _eyes(view: View) -> Iterator[str]:
    """Tell who looked, and how well: an absence means no more than the eyes that looked for it."""
    if not view.observers:
        return
    yield f"  {'observer':<14} {'every':>6} {'looks':>6} {'missed':>6} {'latest':>7} {'clock':>8}"
    for observer in view.observers:
        yield _eye(observer)
        for start, end, why in observer.blind:
            to = "to the end" if end is None else f"to {_when(end, view)}"
            yield from _wrapped("    BLIND      ", f"from {_when(start, view)} {to}: {why}")


def _eye(observer: ObserverView) -> str:
    looks = "-" if observer.polls is None else str(observer.polls)
    misses = "-" if observer.misses is None else str(observer.misses)
    latest = "-" if observer.lateness_s is None else spell(observer.lateness_s)
    clock = "-" if observer.offset_s is None else f"{round(observer.offset_s, 3) + 0.0:+.3f}s"
    name = plain(observer.name)
    return f"  {name:<14} {spell(observer.every_s):>6} {looks:>6} {misses:>6} {latest:>7} {clock:>8}"


def _marks(view: View) -> Iterator[str]:
    """Give the marks of the run, from t0 where there is one."""
    if not view.marks:
        return
    ordered = sorted(view.marks.items(), key=lambda mark: mark[1])
    base = "from t0" if view.t0 is not None else "from the opening of the record"
    yield from _wrapped(f"  marks, {base}: ", ", ".join(f"{name} {_when(at, view)}" for name, at in ordered))


# -- spelling --------------------------------------------------------------------------------------------------


def _when(at: float, view: View) -> str:
    return _signed(at - (view.t0 or 0.0))


def _signed(value_s: float | None) -> str:
    """Return a time with its sign: to the hundredth below ten seconds, to the tenth above."""
    if value_s is None:
        return "-"
    return f"{value_s:+.2f}s" if abs(value_s) < 10 else f"{value_s:+.1f}s"


def _wrapped(start: str, text: str) -> Iterator[str]:
    """Yield `start` and the text behind it, wrapped under itself; foreign characters are spelled out."""
    width = max(WIDTH - len(start), 30)
    lines = textwrap.wrap(plain(text), width, break_long_words=False, break_on_hyphens=False) or [""]
    yield (start + lines[0]).rstrip()
    for line in lines[1:]:
        yield " " * len(start) + line


report = Report(summary="plain text for people: verdict, clauses, timing, deeds", file="report.txt", render=render)
