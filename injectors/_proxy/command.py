"""The command line of the proxy. What it runs is imported when it runs, so that help costs nothing."""

from __future__ import annotations

import contextlib
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from injectors._proxy.serve import Server

#: The longest line that is told, characters: what a pipe that is not full takes for certain.
_LINE = 1000


@click.command("proxy")
@click.option(
    "--listen",
    default="127.0.0.1:8474",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the API answers. It can break every link that leads through the proxy: keep it on loopback.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help='JSON array of proxies, as for POST /populate; each may carry "toxics".',
)
@click.option(
    "--proxy", "given", multiple=True, metavar="NAME=LISTEN=UPSTREAM", help="One more proxy; may be repeated."
)
@click.option("--seed", type=int, help="Seed of all dice. Without it one is drawn, and shown.")
@click.option(
    "--dial-timeout",
    "dial_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long connecting an upstream may take, seconds.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Answer only requests with the bearer token in this file. (Clients of Toxiproxy send none.)",
)
@click.option("--uvloop", is_flag=True, help="Run on uvloop, if it is installed.")
def command(
    listen: str,
    config: Path | None,
    given: tuple[str, ...],
    seed: int | None,
    dial_s: float,
    token_file: Path | None,
    uvloop: bool,
) -> None:
    """Run a fault-injecting TCP proxy with Toxiproxy's HTTP API, until it is told to end.

    One line says when it is ready. It ends with code 0 on SIGTERM or SIGINT, its listeners closed; with 3 for a file or
    an address that cannot be used, 4 where an address is taken.
    """
    from injectors._proxy import config as files

    proxies: list[Any] = files.load(config) if config is not None else []
    proxies += [files.given(text) for text in given]
    files.check(proxies, "proxies" if config is None else str(config))
    token = _token(token_file)
    from injectors._proxy.serve import serve  # an HTTP server: loaded when all else is right

    with _runner(uvloop) as runner:
        runner.run(serve(listen, proxies, seed=seed, dial_s=dial_s, token=token, ready=_ready, tell=_tell))


def _runner(uvloop: bool) -> Any:
    import asyncio

    if not uvloop:
        return asyncio.Runner()
    try:
        from importlib import import_module

        return asyncio.Runner(loop_factory=import_module("uvloop").new_event_loop)
    except ImportError as error:
        from sim.refusal import Usage

        raise Usage("--uvloop: uvloop is not installed (pip install uvloop), or leave the option out") from error


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    from sim.refusal import Refusal

    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path}: cannot be read: {error}") from error
    if not token:
        raise Refusal(f"{path}: holds no token: write one line of text that nobody can guess")
    return token


def _ready(server: Server) -> None:
    count = len(server.registry.proxies)
    many = "1 proxy" if count == 1 else f"{count} proxies"
    click.echo(f"sim proxy: ready at {server.url}, {many}, seed {server.seed}")


def _tell(text: str) -> None:
    """Write a line to stderr where somebody takes it: one who has gone, or does not read, must not stop the proxy."""
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [sys.stderr], [], 0)[1]:
            click.echo(f"sim proxy: {text:.{_LINE}}", err=True)
