"""Check exercise files and target profiles: form, names and types, without touching anything."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sim.catalogue import Catalogue, catalogue
from sim.checking import Checked, check_file
from sim.loading import TARGETS, TargetFile, load_target_file, scenario_files, target_files
from sim.places import places
from sim.problem import InvalidFile, Problem, Usage


@click.command(name="check")
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--target", "target_name", metavar="NAME|FILE", help="The target to check against.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(paths: tuple[Path, ...], target_name: str | None, format_: str) -> None:
    """Check exercise files and target profiles: form, names and types, without touching anything.

    PATHS are files and folders; without any, everything of this project is checked. Exercises are checked against one
    target: --target, else what sim.toml names, else mbp-local. Every finding is listed, with its line and column. Exits
    with 3 if there is one.
    """
    names = catalogue()
    files = _files(paths)
    target, wrong, missing = _target(target_name, files)
    against = (target.target, target.file.parent) if target else (None, Path())
    checked = [check_file(file, against[0], names, base=against[1]) for file in files]
    problems = [*wrong, *(problem for each in checked for problem in each.problems)]
    problems = list(dict.fromkeys(problems))
    if format_ == "json":
        click.echo(json.dumps(_as_json(checked, problems), indent=2, ensure_ascii=False))
    else:
        for problem in problems:
            click.echo(problem.render())
        click.echo(_summary(checked, problems, names), err=True)
    if problems:
        raise click.exceptions.Exit(InvalidFile.exit_code)
    if missing is not None:
        raise missing


def _files(paths: tuple[Path, ...]) -> list[Path]:
    """Return the files that `paths` stand for, each once."""
    if not paths:
        here = places()
        found = [*scenario_files(here), *target_files(here).values()]
        own = [file for file in found if file.is_relative_to(here.scenario_dirs[0])]
        found = own or found  # the shipped ones are of another project, and of its targets
    else:
        found = [file for path in paths for file in ([path] if not path.is_dir() else sorted(path.rglob("*.y*ml")))]
    if not found:
        raise Usage("no files to check: give PATHS, or make a folder scenarios/ beside sim.toml")
    return list({file.resolve(): file for file in found}.values())


def _target(name: str | None, files: list[Path]) -> tuple[TargetFile | None, tuple[Problem, ...], Usage | None]:
    """Return the target to check against, or what is wrong with its profile, or that there is none.

    Profiles alone need no target. Where it is missing the form is still checked, and the check as a whole not passed.
    """
    if name is None and all(file.resolve().parent.name == TARGETS for file in files):
        return None, (), None
    try:
        return load_target_file(name, places()), (), None
    except InvalidFile as error:
        return None, error.problems, None
    except Usage as error:
        return None, (), Usage(f"only the form was checked: {error}")


def _as_json(checked: list[Checked], problems: list[Problem]) -> dict[str, object]:
    return {
        "files": len(checked),
        "exercises": sum(each.exercises for each in checked),
        "problems": [problem.as_json() for problem in problems],
    }


def _summary(checked: list[Checked], problems: list[Problem], names: Catalogue) -> str:
    counted = (
        f"{_count(len(checked), 'file')}, {_count(sum(each.exercises for each in checked), 'exercise')}: "
        f"{_count(len(problems), 'problem')}"
    )
    return "\n".join([counted, *(f"warning: {reason}" for reason in names.broken)])


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
