"""``sim recover``: withdraw and put back what a killed run left, from its journal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sim.undo import Open


_WORDS = {
    "fault.withdrawing": "withdrawing",
    "fault.gone": "read back gone",
    "fault.stuck": "NOT GONE",
    "restore.called": "putting back",
}


@click.command("recover")
@click.argument("run", required=False)
@click.option("--all", "all_", is_flag=True, help="Every unfinished run; so it is when no RUN is named.")
@click.option("--dry-run", is_flag=True, help="Say what is open, and touch nothing.")
@click.option("--runs", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where run folders are.")
def command(run: str | None, all_: bool, dry_run: bool, runs: Path | None) -> None:
    """Finish RUN (a folder, or a name below runs/), or every unfinished run when none is named.

    Exit code 0: nothing is open (any more). 6: something is; what, and why, is printed.
    """
    from sim import machine, undo

    if run and all_:
        raise click.UsageError("name a RUN, or say --all, not both")
    codes = []
    for path in _journals(run, runs):
        try:
            journal = undo.read(path)
            if journal.unfinished or run is not None:
                codes.append(_shown(journal) if dry_run else _finish(journal))
        except (undo.JournalError, machine.MachineError) as error:  # the next run's faults are still tried
            click.echo(f"error: {error}", err=True)
            codes.append(6)
    if not codes:
        click.echo("nothing is open")
    sys.exit(max(codes, default=0))


def _journals(run: str | None, folder_of_runs: Path | None) -> list[Path]:
    """Return the journals to look at; of a run that never got as far as writing one there is none."""
    from sim import undo
    from sim.cli.judge import folder_of
    from sim.places import places

    runs = folder_of_runs or places().runs
    if run is None:
        return sorted(runs.glob(f"*/{undo.FILE}")) if runs.is_dir() else []
    folder = next((each for each in (Path(run), runs / run) if (each / undo.FILE).is_file()), None)
    path = (folder or folder_of(run, runs)) / undo.FILE
    return [path] if path.exists() else []


def _shown(journal: Open) -> int:
    from sim.problem import visible

    name = journal.path.parent.name
    if not journal.unfinished:
        click.echo(f"{name}: nothing is open")
        return 0
    for fault, record in journal.faults.items():
        click.echo(visible(f"{name}: would withdraw {fault} ({record.get('injector')})"))
    for company, record in journal.companies.items():
        click.echo(visible(f"{name}: would end the traffic of {company} (pid {record.get('pid')}) if it still runs"))
    for fact, record in journal.restores.items() if journal.intended else ():
        click.echo(visible(f"{name}: would put back {fact} to {record.get('prior')!r} where it differs"))
    return 6


def _finish(journal: Open) -> int:
    from sim import machine, recover

    folder = journal.path.parent
    if not journal.unfinished:
        click.echo(f"{folder.name}: nothing is open")
        return 0
    if recover.owner_alive(journal.header):
        owner: Any = journal.header["owner"]
        click.echo(f"{folder.name}: its runner (pid {owner['pid']}) is still at work; stop it first", err=True)
        return 6
    if recover.ended_with_its_stack(journal):
        return _finished(journal, "the stack it was in is down, and its faults with it: nothing is open")
    try:
        hold = machine.hold(str(journal.header.get("target")), str(journal.header.get("instance")), folder.name)
    except machine.Taken as taken:  # the runner, its watchdog, or another recover: two must not meet on one target
        click.echo(f"{folder.name}: {taken}; wait for it, or stop it first", err=True)
        return 6
    try:
        return _finished(journal)
    finally:
        hold.release()


def _finished(journal: Open, ended: str = "") -> int:
    """Finish one run whose target is held, or whose stack has `ended`, as that says."""
    from sim import recover
    from sim.catalogue import catalogue
    from sim.problem import visible
    from sim.secret import Secrets

    folder, secrets = journal.path.parent, Secrets()

    def say(kind: str, data: Mapping[str, Any]) -> None:
        told = ", ".join(f"{name} {value}" for name, value in data.items())
        click.echo(visible(secrets.redact(f"  {_WORDS.get(kind, kind)}: {told}")))

    if ended:
        left = asyncio.run(recover.finish_here(journal, catalogue(), secrets, say, "recover"))
    else:
        left = asyncio.run(recover.recover(folder, catalogue(), secrets, say))
    for reason in left.reasons:
        click.echo(f"{folder.name}: {visible(secrets.redact(reason))}", err=True)
    click.echo(f"{folder.name}: {'still open' if left.reasons else ended or 'withdrawn and put back'}")
    return 6 if left.reasons else 0
