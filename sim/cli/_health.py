"""What ``sim doctor --target`` looks at, and how it is told."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sim.catalogue import Catalogue
    from sim.doctor import Check
    from sim.event import JSON
    from sim.loading import TargetFile
    from sim.places import Places
    from sim.plan import Plan


@dataclass(frozen=True, slots=True)
class Fitting:
    """The exercises within reach: the plans of those that fit this target; why the others of this project do not."""

    plans: tuple[Plan, ...]
    others: dict[str, str]


def told(target: str, stack_name: str, form: str) -> bool:
    """Examine a target, print what was found, and return whether all that its exercises need is seeing."""
    from sim.catalogue import catalogue
    from sim.loading import load_target_file
    from sim.places import places

    here, names = places(), catalogue()
    profile = load_target_file(target, here)
    fitting = _fitting(profile, here, names)
    checks = _checks(profile, fitting, stack_name, here, names)
    bad = [check for check in checks if check.needed and not check.ok]
    if form == "json":
        click.echo(json.dumps(_report(profile, fitting, checks, not bad), indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(_table(profile, fitting, checks)))
        for line in _errors(profile, bad):
            click.echo(line, err=True)
    return not bad


def _fitting(profile: TargetFile, here: Places, names: Catalogue) -> Fitting:
    """Resolve every exercise within reach. One that does not fit is another target's, unless none fits."""
    from sim.checking import resolved
    from sim.loading import Selected, load_scenario, scenario_files, shown
    from sim.problem import InvalidFile

    plans: dict[str, Plan] = {}
    others: dict[str, str] = {}
    for file in scenario_files(here):
        own = file.is_relative_to(here.scenario_dirs[0])
        try:
            scenario = load_scenario(file)
        except InvalidFile as error:
            if own:
                others[shown(file)] = error.problems[0].message
            continue
        for name, exercise in scenario.exercises.items():
            if name in plans or name in others:
                continue
            selected = Selected(file, name, exercise, scenario.document)
            made = resolved(selected, profile.target, names, profile.file.parent)
            if made.plan is not None:
                plans[name] = made.plan
            elif own:
                others[name] = made.problems[0].message
    return Fitting(tuple(plans.values()), others)


def _checks(profile: TargetFile, fitting: Fitting, stack_name: str, here: Places, names: Catalogue) -> list[Check]:
    from sim import stack
    from sim.doctor import Check, Patient, examine
    from sim.secret import Secrets

    exports: dict[str, str] = {}
    if profile.target.stack is not None:
        made = stack.find(stack_name, here)
        if made is None:
            cure = f"bring it up: sim up --target {profile.target.target}"
            return [Check("stack", "missing", f"the stack {stack_name} is not up", ("stack",), True, cure)]
        exports = dict(made.exports)
    patient = Patient(profile.target, fitting.plans, names, Secrets(), exports, profile.file.parent)
    checks = asyncio.run(examine(patient))
    if not fitting.plans:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(fitting.others.items())[:3])
        text = "none within reach fits this target" + (f" ({why})" if why else "")
        cure = f"write one, or see why: sim check --target {profile.target.target}"
        checks.append(Check("exercises", "missing", text, (), True, cure))
    return checks


def _place(profile: TargetFile, check: Check) -> str:
    from sim.loading import shown

    mark = profile.document.mark(check.loc, key=True)
    return f"{shown(profile.file)}:{mark.line}:{mark.col}"


def _table(profile: TargetFile, fitting: Fitting, checks: list[Check]) -> list[str]:
    from sim.loading import shown
    from sim.problem import visible

    target = profile.target
    lines = [f"{target.target} ({target.environment}): {shown(profile.file)}"]
    wide = max(len(check.what) for check in checks)
    for check in checks:
        aside = "" if check.needed else " (no exercise needs it)"
        lines.append(f"  {check.what:{wide}}  {check.state:11}  {visible(check.detail)}{aside}".rstrip())
    if fitting.plans and fitting.others:
        lines.append(f"  not for this target: {', '.join(fitting.others)}")
    return lines


def _errors(profile: TargetFile, bad: list[Check]) -> list[str]:
    """Return one error a cause, with its place in the profile and its cure: what many suffer from is told once."""
    causes: dict[tuple[str, str], list[Check]] = {}
    for check in (each for each in bad if each.state != "unknown"):
        causes.setdefault((check.state, check.cure), []).append(check)
    lines = []
    for (state, cure), several in causes.items():
        who = ", ".join(check.what for check in several)
        lines.append(f"{_place(profile, several[0])}: error: {who}: {state}" + (f"; {cure}" if cure else ""))
    return lines


def _report(profile: TargetFile, fitting: Fitting, checks: list[Check], well: bool) -> dict[str, JSON]:
    return {
        "ok": well,
        "target": profile.target.target,
        "environment": profile.target.environment,
        "exercises": [plan.exercise for plan in fitting.plans],
        "checks": [
            {
                "what": check.what,
                "state": check.state,
                "ok": check.ok,
                "needed": check.needed,
                "detail": check.detail,
                "place": _place(profile, check),
                "cure": check.cure or None,
            }
            for check in checks
        ],
    }
