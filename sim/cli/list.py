"""List what there is: exercises and whether they can run, targets, injectors, observers, chains, reports."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import click

from sim.catalogue import Catalogue, catalogue
from sim.checking import resolved
from sim.exercise import Call, Exercise
from sim.loading import (
    DEFAULT_TARGET,
    NothingSelected,
    Selected,
    TargetFile,
    default_target,
    load_scenario,
    load_target_file,
    scenario_files,
    shown,
    tags_of,
    target_files,
)
from sim.places import Places, places
from sim.problem import InvalidFile, Problem, Usage
from sim.target import Target


@dataclass(frozen=True, slots=True)
class Row:
    """One exercise of the list. `why_not` is empty when it can run."""

    name: str
    file: str
    tags: tuple[str, ...]
    hook: str | None
    why_not: str


@click.command(name="list")
@click.option("--tag", "tags", multiple=True, help="Only exercises with this tag (several: with one of them).")
@click.option("--target", "target_name", metavar="NAME|FILE", help="The target to run them on.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(tags: tuple[str, ...], target_name: str | None, format_: str) -> None:
    """List what there is: exercises and whether they can run, targets, injectors, observers, chains, reports."""
    here, names = places(), catalogue()
    profile = _target(target_name, here)
    target = profile.target if profile else None
    rows, faults = _rows(here, profile, names)
    if tags:
        rows = [row for row in rows if set(tags) & set(row.tags)]
        if not rows:
            raise NothingSelected(f"no exercise has the tag {' or '.join(map(repr, tags))}")
    found = {
        "targets": sorted(target_files(here)),
        "injectors": list(names.injectors),
        "observers": list(names.observers),
        "chains": list(names.chains),
        "reports": list(names.reports),
    }
    if format_ == "json":
        listed = {
            "target": target.target if target else None,
            "exercises": [{**asdict(row), "runnable": not row.why_not} for row in rows],
            **found,
            "problems": [fault.as_json() for fault in faults],
            "broken": list(names.broken),
        }
        click.echo(json.dumps(listed, indent=2, ensure_ascii=False))
    else:
        _print(rows, found, target)
        for line in [*(fault.headline() for fault in faults), *(f"warning: {reason}" for reason in names.broken)]:
            click.echo(line, err=True)
    if faults:
        raise click.exceptions.Exit(InvalidFile.exit_code)


def _target(name: str | None, here: Places) -> TargetFile | None:
    """Return the target asked for; without one asked for, the default where there is one."""
    try:
        return load_target_file(name, here)
    except Usage:
        if name is not None or default_target(here) != DEFAULT_TARGET:
            raise
        return None


def _rows(here: Places, profile: TargetFile | None, names: Catalogue) -> tuple[list[Row], list[Problem]]:
    rows: dict[str, Row] = {}
    faults: list[Problem] = []
    for folder in here.scenario_dirs:
        nearer = set(rows)
        for file in (each for each in scenario_files(here) if each.is_relative_to(folder)):
            try:
                scenario = load_scenario(file)
            except InvalidFile as error:
                faults += error.problems
                continue
            for name, exercise in scenario.exercises.items():
                if name not in nearer:
                    selected = Selected(file, name, exercise, scenario.document)
                    key = name if name not in rows else f"{shown(file)}::{name}"
                    rows[key] = _row(key, selected, profile, names)
    return list(rows.values()), faults


def _row(key: str, selected: Selected, profile: TargetFile | None, names: Catalogue) -> Row:
    exercise, target = selected.exercise, profile.target if profile else None
    if profile is None:
        why_not = f"no target profile {DEFAULT_TARGET!r} was found; choose one with --target"
    else:
        why_not = "; ".join(
            problem.message for problem in resolved(selected, profile.target, names, profile.file.parent).problems
        )
    tags = tags_of(selected.name, exercise, target)
    return Row(key, shown(selected.file), tags, _hook(selected.name, exercise, target), why_not)


def _hook(name: str, exercise: Exercise, target: Target | None) -> str | None:
    """Return the hook an exercise is bound to: named by it, named by the profile, or the one with its faults."""
    binding = target.exercises.get(name) if target else None
    named = exercise.hook or (binding.hook if binding else None)
    if named or target is None:
        return named
    used = {each.call if isinstance(each, Call) else each.partition("(")[0].strip() for each in exercise.inject}
    fitting = [hook for hook, spec in target.hooks.items() if used & set(spec.faults)]
    return fitting[0] if len(fitting) == 1 else None


def _print(rows: list[Row], found: dict[str, list[str]], target: Target | None) -> None:
    click.echo(f"exercises on {target.target}" if target else "exercises")
    width = max((len(row.name) for row in rows), default=0)
    for row in rows:
        about = [row.file, f"hook {row.hook}" if row.hook else "no hook"]
        about += [f"tags {', '.join(row.tags)}"] if row.tags else []
        click.echo(f"  {row.name:{width}}  {'can run' if not row.why_not else 'cannot run'}  {'  '.join(about)}")
        if row.why_not:
            click.echo(f"  {'':{width}}  because: {row.why_not}")
    if not rows:
        click.echo("  none")
    for title, names in found.items():
        click.echo(f"{title}: {', '.join(names) or 'none'}")
