"""`python -m injectors._proxy`: what ``sim proxy`` runs, for stacks."""

from __future__ import annotations

import sys

import click

from injectors._proxy.command import command
from sim.refusal import Refusal


def main() -> None:
    """Run the command. A `Refusal` ends with its own exit code."""
    try:
        command(prog_name="sim proxy")
    except Refusal as refusal:
        click.echo(f"error: {refusal}", err=True)
        sys.exit(refusal.exit_code)


if __name__ == "__main__":
    main()
