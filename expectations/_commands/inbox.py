"""``sim inbox``: record what a webhook is told, so that an exercise can see who was told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import click


def _listen(_: click.Context, __: click.Parameter, value: str) -> tuple[str, int]:
    host, colon, port = value.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 65536):
        raise click.BadParameter(f"write HOST:PORT, not {value!r}")
    return host.strip("[]"), int(port)


@click.command("inbox")
@click.option("--listen", default="127.0.0.1:9095", show_default=True, metavar="HOST:PORT", callback=_listen)
@click.option("--token", metavar="REF", help="Bearer token asked of writers and readers: env:NAME or file:PATH.")
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="Keep messages there across restarts.")
def command(listen: tuple[str, int], token: str | None, file: Path | None) -> None:
    """Record what a webhook is told, so that an exercise can see who was told. Runs until it is interrupted.

    Give Alertmanager a receiver with the URL http://HOST:PORT/webhook/ADDRESS, and the profile an observer of kind
    inbox, channel webhook. Beyond this machine it listens only with --token.
    """
    from expectations._recorder import Messages
    from sim.problem import Usage
    from sim.secret import SecretMissing, Secrets
    from sim.whereabouts import loopback

    host, port = listen
    if token is None and not loopback(host):
        raise Usage(f"--listen {host}:{port} is open to others: give --token env:NAME or file:PATH")
    try:
        secret = None if token is None else Secrets().token(token)
    except SecretMissing as error:
        raise Usage(f"--token: {error}") from error
    except ValueError as error:  # what was given may be the secret itself: it is not repeated
        raise Usage("--token: a secret is given only by reference: env:NAME or file:PATH") from error
    try:
        messages = Messages(file)
    except (OSError, ValueError) as error:
        raise Usage(f"--file: {error}") from error
    try:
        asyncio.run(_serve(messages, secret, host, port, click.echo))
    except OSError as error:
        raise Usage(f"--listen {host}:{port}: {error.strerror or error}") from error
    finally:
        messages.close()


async def _serve(messages: object, secret: str | None, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM."""
    import signal

    from aiohttp import web

    from expectations._recorder import Messages, application

    assert isinstance(messages, Messages)
    ended = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, ended.set)
    runner = web.AppRunner(application(messages, secret, say), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0]
        say(f"recording at http://{bound[0]}:{bound[1]}")
        await ended.wait()
    finally:
        await runner.cleanup()
