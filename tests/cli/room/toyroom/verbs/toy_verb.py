"""A verb that a room brings."""

import click


@click.command(name="toy-verb")
@click.option("--how", type=click.Choice(["well", "interrupt", "bug"]), default="well")
def command(how):
    """A verb that a room brings."""
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "bug":
        raise RuntimeError("something we did not think of")
    click.echo("well")
