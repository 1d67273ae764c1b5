"""``sim halt``: stop every run on this machine, and let no new one start."""

from __future__ import annotations

import time

import click


@click.command("halt")
@click.option("--release", is_flag=True, help="Let runs start again.")
@click.option("--reason", default="", help="Why; it stands in the record of every run that it stops.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="How long to wait for runs to end, seconds.",
)
def command(release: bool, reason: str, wait_s: float) -> None:
    """Stop every run on this machine, whoever started it: each withdraws at once and ends *aborted*.

    New runs are refused until `sim halt --release`. Waits until no run holds a target any more; exit code 0 then, 4 if
    some run is still at work after --wait.
    """
    from sim import machine

    if release:
        click.echo("released" if machine.release() else "this machine was not halted")
        return
    if not machine.halt(reason or "no reason given"):
        click.echo(f"halted already: {machine.halted()}", err=True)
    deadline = time.monotonic() + wait_s
    while held := machine.held():
        if time.monotonic() >= deadline:
            for each in held:
                click.echo(f"still at work: run {each.run} (pid {each.pid})", err=True)
            raise click.exceptions.Exit(4)
        time.sleep(0.1)
    click.echo("halted: no run is at work, and none may start until sim halt --release")
