"""A run as JUnit XML, in the subset that Jenkins and GitLab read.

The suite is the exercise; a case is a link of the chain, a written conjunct, or one of `preflight`, `withdraw`,
`restore`. Colours are chosen so that a run that did not pass never looks green:

=====================================  ====================================================================
met                                    passed
missed                                 failure
unknown, or never settled              error: nobody can say
refused before t0; effect not proven   error on the link that says why, everything else skipped
fault not gone, target not put back    failure on ``withdraw`` or ``restore``
not passed, and nothing above is red   error on an extra case ``run`` with the outcome's reasons
=====================================  ====================================================================

Names are unique within the suite (GitLab counts only the first of two). `time` is the link's own time in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from reports._view import Line, View, plain
from sim.judge import Outcome
from sim.report import Finished, Report

Colour = Literal["passed", "failure", "error", "skipped"]


@dataclass(frozen=True, slots=True)
class Case:
    """One test case."""

    name: str
    colour: Colour
    message: str = ""
    text: str = ""
    time_s: float = 0.0
    properties: tuple[tuple[str, str], ...] = field(default=())


def render(finished: Finished) -> str:
    """Return the run as a JUnit document, with a newline at its end."""
    view = View(finished)
    cases = cases_of(view)
    opened = view.first("run.opened")
    counts = {
        "tests": len(cases),
        "failures": sum(case.colour == "failure" for case in cases),
        "errors": sum(case.colour == "error" for case in cases),
        "skipped": sum(case.colour == "skipped" for case in cases),
    }
    numbers = {**{name: str(count) for name, count in counts.items()}, "time": f"{view.duration_s:.3f}"}
    root = Element("testsuites", {"name": "sim", **numbers})
    suite = SubElement(root, "testsuite", {"name": plain(view.plan.exercise), **numbers})
    if opened:
        suite.set("timestamp", datetime.fromtimestamp(opened.wall, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    _properties(suite, _of_run(view))
    for case in cases:
        _write(suite, case, f"{view.plan.target.target}.{view.plan.exercise}")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def cases_of(view: View) -> list[Case]:
    """Return the cases of a run in the order of its story."""
    cases = [_preflight(view), *(_clause(line, view) for line in view.lines), _withdraw(view), _restore(view)]
    red = any(case.colour in ("failure", "error") for case in cases)
    if view.errors or (view.outcome is not Outcome.PASSED and not red):
        message = f"{view.outcome}: {'; '.join(view.reasons) or 'no reason recorded'}"
        cases.append(Case("run", "error", message, "\n".join(view.errors)))
    return cases


def _of_run(view: View) -> list[tuple[str, str]]:
    made = [
        ("run_id", view.run),
        ("outcome", str(view.outcome)),
        ("exit_code", str(view.exit_code)),
        ("target", view.plan.target.target),
        ("plan", view.digest),
        ("time_mode", view.plan.time),
        ("n", "1"),
    ]
    if view.link:
        made.append(("link", view.link))
    if view.recover_command:
        made.append(("recover_command", view.recover_command))
    return made


def _preflight(view: View) -> Case:
    if view.refused:
        message = "; ".join(f"{check}: {detail}" for check, detail in view.refused)
        return Case("preflight", "error", f"refused before t0: {message}")
    if view.t0 is None:
        return Case("preflight", "error", f"t0 was never reached: {'; '.join(view.reasons) or view.outcome}")
    return Case("preflight", "passed", time_s=max(view.t0, 0.0))


def _name(line: Line, owner: str | None) -> str:
    if line.kind == "message" and line.origin == "implied":
        return f"notify:{owner}/{line.channel}"
    return line.clause if line.origin == "implied" else f"{line.clause} {line.text}"


def _clause(line: Line, view: View) -> Case:
    name = _name(line, view.plan.owner)
    properties = _of_clause(line, view)
    time_s = line.took_s or 0.0
    if view.void(line):
        return Case(name, "skipped", f"not judged: {view.not_judged}", time_s=time_s, properties=properties)
    if line.value == "met":
        return Case(name, "passed", time_s=time_s, properties=properties)
    text = [f"expected: {line.expected}", f"actual: {line.actual or 'nothing was seen'}"]
    if line.because:
        text.append("events: " + ", ".join(f"#{seq}" for seq in line.because))
    if line.late_s is not None:
        text.append(f"arrived {line.late_s:g} s late")
    message = line.reason or line.actual or f"{line.value}: {line.text}"
    colour: Colour = "failure" if line.value == "missed" else "error"
    return Case(name, colour, message, "\n".join(text), time_s, properties)


def _of_clause(line: Line, view: View) -> tuple[tuple[str, str], ...]:
    made: list[tuple[str, str]] = [("verdict", line.value), ("counts_from", line.anchor)]
    if line.budget_s is not None:
        made.append(("budget_s", f"{line.budget_s:g}"))
    if line.from_effective_s is not None:
        made.append(("from_effective_s", f"{line.from_effective_s:g}"))
    if line.origin == "implied":
        for stage in view.stages:
            bounds = (("floor_s", stage.floor_s), ("expected_s", stage.expected_s), ("worst_s", stage.worst_s))
            if stage.stage == line.stage:
                made += [(name, f"{value:g}") for name, value in bounds if value is not None]
    return tuple(made)


def _withdraw(view: View) -> Case:
    stuck = [f"{fault.id} ({fault.injector}): {fault.stuck}" for fault in view.faults if fault.stuck is not None]
    times = [(f.gone_at or 0.0) - f.withdrawing_at for f in view.faults if f.withdrawing_at is not None]
    time_s = max(times, default=0.0)
    if stuck:
        message = f"not proven gone: {'; '.join(stuck)}; finish it with: {view.recover_command}"
        return Case("withdraw", "failure", message)
    touched = [fault for fault in view.faults if fault.applied_at is not None or fault.withdrawing_at is not None]
    if not touched:
        return Case("withdraw", "skipped", "no fault was applied")
    open_ = [fault.id for fault in touched if fault.gone_at is None]
    if open_:
        return Case("withdraw", "error", f"the record does not say that {', '.join(open_)} is gone")
    return Case("withdraw", "passed", time_s=max(time_s, 0.0))


def _restore(view: View) -> Case:
    differs = view.restored
    if differs is None:
        if any(fault.applied_at is not None for fault in view.faults):
            return Case("restore", "error", "the record does not say whether the target was put back")
        return Case("restore", "skipped", "nothing was touched")
    if differs:
        message = f"not put back: {'; '.join(differs)}"
        return Case("restore", "failure", f"{message}; finish it with: {view.recover_command}")
    return Case("restore", "passed")


def _write(suite: Element, case: Case, classname: str) -> None:
    attributes = {"classname": plain(classname), "name": plain(case.name), "time": f"{case.time_s:.3f}"}
    made = SubElement(suite, "testcase", attributes)
    if case.properties:
        _properties(made, case.properties)
    if case.colour != "passed":
        told = SubElement(made, case.colour, {"message": plain(case.message)})
        if case.colour != "skipped":
            told.set("type", {"failure": "missed", "error": "unknown"}[case.colour])
        if case.text:
            told.text = "\n".join(plain(line) for line in case.text.split("\n"))


def _properties(parent: Element, pairs: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> None:
    block = SubElement(parent, "properties")
    for name, value in pairs:
        SubElement(block, "property", {"name": name, "value": plain(value)})


report = Report(summary="JUnit XML for Jenkins, GitLab and whoever reads it", file="report.junit.xml", render=render)
