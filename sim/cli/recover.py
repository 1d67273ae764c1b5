"""``sim recover``: withdraw and put back what a killed run left, from its journal."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import click


@click.command("recover")
@click.argument("run", required=False)
def command(run: str | None) -> None:
    """Finish RUN (a folder, or a name below runs/), or every unfinished run when none is named.

    Exit code 0: nothing is open (any more). 6: something is; what, and why, is printed.
    """
    from sim import recover, undo
    from sim.catalogue import catalogue
    from sim.cli.judge import folder_of
    from sim.places import places
    from sim.secret import Secrets

    here = places()
    try:
        open_ones = [undo.read(folder_of(run, here.runs) / undo.FILE)] if run else recover.unfinished(here.runs)
        names, secrets = catalogue(), Secrets()
        code = 0
        for journal in open_ones:
            folder = journal.path.parent
            if not journal.unfinished:
                click.echo(f"{folder.name}: nothing is open")
                continue
            if recover.owner_alive(journal.header):
                owner: Any = journal.header["owner"]
                click.echo(f"{folder.name}: its runner (pid {owner['pid']}) is still at work; stop it first", err=True)
                code = 6
                continue
            left = asyncio.run(recover.recover(folder, names, secrets, _say))
            for reason in left.reasons:
                click.echo(f"{folder.name}: {secrets.redact(reason)}", err=True)
            click.echo(f"{folder.name}: {'still open' if left.reasons else 'withdrawn and put back'}")
            code = 6 if left.reasons else code
    except undo.JournalError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(6)
    if not open_ones:
        click.echo("nothing is open")
    sys.exit(code)


def _say(kind: str, data: Mapping[str, Any]) -> None:
    words = {
        "fault.withdrawing": "withdrawing",
        "fault.gone": "read back gone",
        "fault.stuck": "NOT GONE",
        "restore.called": "putting back",
    }
    click.echo(f"  {words.get(kind, kind)}: {', '.join(f'{name} {value}' for name, value in data.items())}")
