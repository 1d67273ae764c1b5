"""``sim judge``: judge a finished run again, from its plan and its record alone."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sim.event import Event


@click.command("judge")
@click.argument("run")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--check", is_flag=True, help="Fail when there is no verdicts.json to compare with.")
def command(run: str, form: str, check: bool) -> None:
    """Repeat the judgement of RUN (a folder, or the name of one below runs/) offline.

    The record's hash chain is checked first, and the result is compared with the run's own verdicts.json, byte by byte.
    The exit code is that of the run's outcome; 8 when plan, record or verdicts were altered or cannot be read.
    """
    from sim import log
    from sim.judge import judge
    from sim.log import canonical
    from sim.places import places
    from sim.problem import visible
    from sim.report import NotARun, read_plan

    folder = folder_of(run, places().runs)
    try:
        plan = read_plan(folder)
        events = tuple(log.read(folder / "log.jsonl"))
        altered = _altered(folder, events)
        judgement = judge(plan, events)
    except OSError as error:
        raise click.UsageError(str(error)) from error
    except (NotARun, log.BrokenRecord) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(8)
    if altered:
        click.echo(f"error: {altered}", err=True)
        sys.exit(8)
    text = canonical(judgement.as_json()) + "\n"
    if form == "json":
        click.echo(text, nl=False)
    else:
        click.echo(f"{judgement.outcome}: {plan.exercise}" + (f" (link: {judgement.link})" if judgement.link else ""))
        for verdict in judgement.verdicts:
            took = "" if verdict.took_s is None else f"  {verdict.took_s:+.2f} s"
            why = visible(verdict.reason or verdict.actual)
            click.echo(f"  {verdict.value:8} {verdict.clause:16}{took}  {why}")
    recorded = folder / "verdicts.json"
    if not recorded.exists():
        click.echo("note: no verdicts.json: the run was cut short, and nothing tells where its record ended", err=True)
        sys.exit(8 if check else judgement.exit_code)
    if recorded.read_bytes() != text.encode():
        click.echo("error: verdicts.json differs from what the record proves: one of them was altered", err=True)
        sys.exit(8)
    sys.exit(judgement.exit_code)


def _altered(folder: Path, events: Sequence[Event]) -> str | None:
    """Say why the plan is not the one that the record was made of; null when it is."""
    stored = hashlib.sha256((folder / "plan.json").read_bytes().removesuffix(b"\n")).hexdigest()
    if not events or events[0].kind != "run.opened":
        return f"{folder / 'log.jsonl'} is empty or does not begin with the opening of a run"
    if events[0].data.get("plan") != stored:
        return f"{folder / 'plan.json'} is not the plan that this record was made of: its digest differs"
    return None


def folder_of(run: str, runs: Path) -> Path:
    """Return the folder of a run given by path or by name. Raises `click.UsageError`, with the nearest name."""
    for candidate in (Path(run), runs / run):
        if (candidate / "plan.json").is_file():
            return candidate
    from sim.problem import did_you_mean

    known = sorted(path.name for path in runs.iterdir()) if runs.is_dir() else []
    hint = did_you_mean(run, known, "runs")
    more = f" ({hint})" if hint else ""
    raise click.UsageError(f"{run!r} is no run: neither a folder with a plan.json nor one below {runs}{more}")
