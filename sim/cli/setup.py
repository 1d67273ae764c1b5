"""``sim setup``: provide the tools that the local stack needs."""

from __future__ import annotations

import click


@click.command("setup")
@click.option("--tools", "tools_file", type=click.Path(dir_okay=False), help="Tools file; default: compose/tools.yaml.")
def command(tools_file: str | None) -> None:
    """Find or provide the tools that the local stack needs.

    Looks on PATH, then in the project's tools folder; on Debian and Ubuntu downloads and unpacks the package there,
    without root and without touching the system; else takes a release archive whose digest is known. Twice is as good
    as once.
    """
    from sim import tools
    from sim.cli.doctor import file_of, line
    from sim.places import places

    here = places()
    for found in tools.setup(tools.load(file_of(tools_file), here), here, click.echo):
        click.echo(line(found))
