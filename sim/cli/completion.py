"""``sim completion``: the script that completes verbs and options in a shell."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL; for bash: eval "$(sim completion bash)"."""
    from click.shell_completion import get_completion_class

    from sim.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells offered"
    click.echo(kind(cli, {}, "sim", "_SIM_COMPLETE").source())
