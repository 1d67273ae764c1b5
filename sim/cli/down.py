"""``sim down``: take a stack down, in whatever condition it is."""

from __future__ import annotations

import click


@click.command("down")
@click.option("--stack", "name", default="default", show_default=True, help="Which stack.")
@click.option("--all", "everything", is_flag=True, help="Every stack of this project.")
def command(name: str, everything: bool) -> None:
    """Take a stack down: its supervisor, its processes, its data. The logs stay until its next start.

    Works on a half-dead stack too, and says so when there is nothing to take down.
    """
    from sim import stack
    from sim.places import places
    from sim.problem import Refusal

    here = places()
    failed: list[Refusal] = []
    chosen = stack.names(here) if everything else [name]
    for each in chosen:
        try:
            was_up = stack.down(each, here)
        except Refusal as refusal:  # the others go down all the same
            failed.append(refusal)
        else:
            click.echo(f"the stack {each} {'is down' if was_up else 'was not up'}")
    if not chosen:
        click.echo("no stack was up")
    if failed:
        raise stack.StackError("\n".join(str(refusal) for refusal in failed))
