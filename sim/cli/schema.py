"""Print the JSON Schema of exercise files or of target profiles, for editors."""

from __future__ import annotations

import click

from sim.schemas import KINDS, committed, generate


@click.command(name="schema")
@click.option("--kind", type=click.Choice(sorted(KINDS)), default="exercise", show_default=True)
@click.option("--fresh", is_flag=True, help="Make it from the models now instead of printing the committed file.")
def command(kind: str, fresh: bool) -> None:
    """Print the JSON Schema of exercise files or of target profiles, for editors.

    For an editor with yaml-language-server, write it to a file and begin your own with
    ``# yaml-language-server: $schema=PATH``.
    """
    click.echo(generate(kind) if fresh else committed(kind), nl=False)
