"""``sim init``: write the first profile and the first exercise of a platform of one's own."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

if TYPE_CHECKING:
    from expectations._drafts import Draft


@click.command("init")
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="What the target is called: a-z, 0-9, dots and dashes.")
@click.option("--environment", help="What the live platform must report itself to be, such as shop-staging.")
@click.option("--prometheus", metavar="URL", help="Where Prometheus answers.")
@click.option("--alertmanager", metavar="URL", help="Where Alertmanager answers.")
@click.option("--webhook", "--inbox", "inbox", metavar="URL", help="Where one can read what the webhook was told.")
@click.option("--token", metavar="REF", help="Bearer token for these: env:NAME or file:PATH.")
@click.option("--identity", metavar="URL", help="JSON that says what the platform is; default: a label in Prometheus.")
@click.option("--identity-at", metavar="PATH", help="Where in it the environment stands, such as data.*.env.")
@click.option("--alert", metavar="NAME", help="The alert that the first exercise must set off.")
@click.option("--owner", help="Who must be told; default: the label owner or team of the alert's rule.")
@click.option("--address", help="The address at which the webhook tells the owner; default: the receiver's name.")
@click.option("--rules", multiple=True, metavar="FILE", help="A rule file that declares the alerts (several).")
@click.option("--inject", metavar="CALL", help="What breaks it: \"http.fault('checkout', 'error')\".")
@click.option("--door", "doors", multiple=True, metavar="NAME=URL", help="A way in that the fault takes (several).")
@click.option("--door-token", metavar="REF", help="Bearer token for the doors: env:NAME or file:PATH.")
@click.option("--start", metavar="COMMAND", help="Instead of --inject: a command that breaks it ...")
@click.option("--verify", metavar="COMMAND", help="... one that ends with 0 while it is broken ...")
@click.option("--stop", metavar="COMMAND", help="... one that mends it, however often it is called ...")
@click.option("--gone", metavar="COMMAND", help="... and one that ends with 0 when it is mended.")
@click.option("--force", is_flag=True, help="Overwrite the two files.")
def command(folder: Path, force: bool, rules: tuple[str, ...], doors: tuple[str, ...], **given: Any) -> None:
    """Write scenarios/targets/NAME.yaml and scenarios/NAME.yaml for a platform of your own, in FOLDER.

    On a terminal it asks for what is not given; elsewhere it names all that is missing. Where Prometheus and
    Alertmanager can be reached it looks at them: which alerts there are, who is told, how long that takes, what is
    normal. What it writes passes sim check. Nothing is overwritten without --force.

    Exit codes: 0 written; 2 something is missing, does not fit, or is there already; 3 what would be written is
    invalid, such as an unknown fault (nothing is written then).
    """
    from expectations._interview import Answers, gathered

    answers = Answers(**given, rules=_beside(rules, folder), doors=_doors(doors))
    suggested = re.sub(r"[^a-z0-9._-]+", "-", folder.absolute().name.lower()).strip("-._") or None
    draft, notes = asyncio.run(gathered(answers, _at_terminal(), suggested))
    for path in _written(folder, draft, force):
        click.echo(f"wrote {path}")
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if draft.inbox:
        click.echo(f"\nLet Alertmanager tell the webhook too: {_receiver(draft)}")
    click.echo("\nNow:")
    if folder != Path():
        click.echo(f"  cd {shlex.quote(str(folder))}")
    name = draft.name
    click.echo(f"  sim check --target {name} scenarios/targets/{name}.yaml scenarios/{name}.yaml")
    click.echo(f"  sim doctor --target {name}")
    click.echo(f"  sim run {draft.exercise} --target {name}")


def _at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _receiver(draft: Draft) -> str:
    inbox, address = (draft.inbox or "").rstrip("/"), quote(draft.address, safe="")
    return f"a receiver with webhook_configs, url {inbox}/webhook/{address}"


def _doors(doors: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in doors:
        name, equals, url = text.partition("=")
        if not (equals and re.fullmatch(r"[a-z][a-z0-9_]*", name) and url):
            raise click.UsageError(f"--door takes NAME=URL, not {text!r}")
        found[name] = url
    return found


def _beside(rules: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Return the rule files as the profile, two folders down, would name them."""
    for path in rules:
        if not Path(path).is_file():
            raise click.UsageError(f"--rules: there is no file {path!r}")
    return tuple(os.path.relpath(path, folder / "scenarios" / "targets") for path in rules)


def _written(folder: Path, draft: Draft, force: bool) -> list[Path]:
    """Check both texts as `sim check` does, then write them. Raises `Usage`, `InvalidFile`."""
    from expectations._drafts import profile, scenario
    from sim.places import MARKER, is_root
    from sim.problem import Usage

    target_file = folder / "scenarios" / "targets" / f"{draft.name}.yaml"
    exercise_file = folder / "scenarios" / f"{draft.name}.yaml"
    there = [str(path) for path in (target_file, exercise_file) if path.exists()]
    if there and not force:
        are = "is" if len(there) == 1 else "are"
        raise Usage(f"{' and '.join(there)} {are} there already; --force overwrites, --name takes another name")
    texts = {target_file: profile(draft), exercise_file: scenario(draft)}
    # The folder from which the rule files are named need not be there yet.
    rules = tuple(os.path.normpath(folder.absolute() / "scenarios" / "targets" / path) for path in draft.rules)
    _sound({**texts, target_file: profile(replace(draft, rules=rules))}, target_file, exercise_file)
    made = []
    try:
        target_file.parent.mkdir(parents=True, exist_ok=True)
        absolute = folder.absolute()
        if not any(is_root(each) for each in (absolute, *absolute.parents)):
            (folder / MARKER).write_text(f'target = "{draft.name}"\n', encoding="utf-8")
            made.append(folder / MARKER)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
            made.append(path)
    except OSError as error:
        raise Usage(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    return made


def _sound(texts: dict[Path, str], target_file: Path, exercise_file: Path) -> None:
    """Raise `InvalidFile` with everything that `sim check` would find in the two texts."""
    from sim.catalogue import catalogue
    from sim.checking import check_profile, resolved
    from sim.exercise import ExerciseFile
    from sim.loading import Selected, TargetFile, shown
    from sim.problem import InvalidFile
    from sim.target import Target
    from sim.validation import validate
    from sim.yamlfile import parse

    names = catalogue()
    document = parse(texts[target_file], shown(target_file))
    target = validate(document, Target)
    problems = check_profile(TargetFile(target_file, target, document), names)
    written = parse(texts[exercise_file], shown(exercise_file))
    for name, exercise in validate(written, ExerciseFile, under="exercises").exercises.items():
        selected = Selected(exercise_file, name, exercise, written)
        problems += resolved(selected, target, names, target_file.parent).problems
    if problems:
        raise InvalidFile(problems)
