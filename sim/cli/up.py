"""``sim up``: bring a target's stack up and leave it up."""

from __future__ import annotations

import click


@click.command("up")
@click.option("--target", metavar="NAME|FILE", help="The target profile; default: what sim.toml names, else mbp-local.")
@click.option("--stack", "name", default="default", show_default=True, help="Which of several stacks side by side.")
def command(target: str | None, name: str) -> None:
    """Bring a target's stack up and leave it up, until `sim down`.

    Does nothing when it is up already; clears away a half-dead one first. When it cannot be made ready, everything is
    taken down again, and the reason and the last lines of the log in question are shown.
    """
    from sim import stack
    from sim.cli._stackfile import stack_file
    from sim.places import places

    here = places()
    made = stack.up(stack_file(target, here), name, here, owned=False, on_progress=click.echo)
    click.echo(f"the stack {made.name} is up (instance {made.instance})")
    for export, value in made.exports.items():
        click.echo(f"  {export:18} {value}")
