"""A run as GitHub-flavoured Markdown, for a job's summary, an issue or a chat: verdict, links, timing, deeds.

Text from the target is foreign: every sign that Markdown or HTML would act on is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reports._view import Line, View, plain
from sim.duration import spell
from sim.judge import Outcome
from sim.markdown import escaped
from sim.report import Finished, Report

MARKS = {"met": "✓", "missed": "✗", "unknown": "?", "pending": "…", "void": "·"}


def render(finished: Finished) -> str:
    """Return the run as Markdown, with a newline at its end."""
    view = View(finished)
    blocks = (_verdict, _clauses, _timing, _deeds, _remarks)
    return "\n\n".join(block for each in blocks if (block := "\n".join(each(view)))) + "\n"


def _verdict(view: View) -> Iterator[str]:
    at = f" at {view.link}" if view.link and view.outcome is not Outcome.PASSED else ""
    yield f"### {view.outcome.upper()}{_text(at)}: {_text(view.plan.exercise)}"
    yield ""
    facts = (view.plan.target.target, view.plan.time, "n=1", f"{view.duration_s:.1f} s", f"exit code {view.exit_code}")
    yield f"Run {_text(view.run)} on {', '.join(_text(fact) for fact in facts)}"
    if view.recover_command:
        yield ""
        yield f"**Not finished.** Finish it with: {_text(view.recover_command)}"
    if view.reasons:
        yield ""
        yield from (f"- {_text(reason)}" for reason in view.reasons)


def _clauses(view: View) -> Iterator[str]:
    rows = [_clause(view, line) for line in view.lines]
    yield from _table(("", "clause", "from t0", "budget", "seen"), rows)


def _clause(view: View, line: Line) -> tuple[str, ...]:
    void = view.void(line)
    value = "void" if void else line.value
    since = line.anchor if line.anchor != "t0" and line.took_s is not None else ""
    took = "" if line.took_s is None else f"{since}{line.took_s:+.2f} s"
    seen = f"not judged: {view.not_judged}" if void else line.actual or line.reason or "nothing of the kind"
    if line.origin != "implied":
        seen = f"{line.text} — {seen}"
    if line.late_s is not None:
        seen += f"; it came {spell(line.late_s)} after its budget"
    return f"{MARKS[value]} {value}", line.clause, took, "" if line.budget_s is None else spell(line.budget_s), seen


def _timing(view: View) -> Iterator[str]:
    if view.not_judged or not view.stages:
        return
    rows = []
    for stage in view.stages:
        bounds = (stage.floor_s, stage.expected_s, stage.worst_s, stage.budget_s)
        took = "never in time" if stage.took_s is None else f"{stage.took_s:+.2f} s"
        rows.append((stage.stage, *("" if bound is None else spell(bound) for bound in bounds), took))
    yield from _table(("link", "floor", "expected", "worst", "budget", "measured"), rows)


def _deeds(view: View) -> Iterator[str]:
    if not view.faults:
        yield "- nothing was injected"
    for fault in view.faults:
        end = (
            "withdrawn and read back gone"
            if fault.gone_at is not None
            else f"NOT GONE: {fault.stuck or 'not read back'}"
        )
        bites = "its effect was proven" if fault.effective_at is not None else "no effect was proven"
        yield f"- injected {_text(fault.text)} on {_text(', '.join(fault.targets))}: {bites}; {_text(end)}"
    for event in view.of("restore.called"):
        fact, reads, prior = event.data["fact"], event.data["reads"], event.data["prior"]
        yield f"- set back: {_text(f'{fact} read {reads}, was {prior}')}"
    if view.restored == ():
        yield "- every state reads as it did at baseline"
    for differs in view.restored or ():
        yield f"- NOT BACK: {_text(differs)}"


def _remarks(view: View) -> Iterator[str]:
    for each in view.collateral:
        yield f"- collateral alert: {_text(each.name)} at {each.at_s:+.1f} s, seen by {_text(each.source)}"
    for observer in view.observers:
        for _, _, why in observer.blind:
            yield f"- blind: {_text(observer.name)}: {_text(why)}"
    for note in view.notes:
        yield f"- note: {_text(note)}"
    for error in view.errors:
        yield f"- our bug: {_text(error)}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_text(cell) for cell in row)} |"


def _text(foreign: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return escaped(plain(foreign))


report = Report(summary="Markdown for a job's summary, an issue or a chat", file="report.md", render=render)
