"""The process: the API's listener, the proxies it begins with, and a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import secrets
import signal
from collections.abc import Callable
from typing import Any

from aiohttp import web

from injectors._proxy import address, timer
from injectors._proxy.api import Api
from injectors._proxy.clock import Clock
from injectors._proxy.proxy import Settings
from injectors._proxy.registry import Populated, Registry
from sim.refusal import Refusal

#: How long the dialling of an upstream may take, seconds.
DIAL_S = 10.0

#: How long answers under way may take once the process is to end, seconds.
END_S = 1.0


class Taken(Refusal):
    """An address to listen at is in use, or cannot be had."""

    exit_code = 4


class Server:
    """A proxy server in a running event loop: `start` it, and `close` it."""

    def __init__(
        self,
        *,
        seed: int | None = None,
        dial_s: float = DIAL_S,
        token: str | None = None,
        tell: Callable[[str], None],
        clock: Clock | None = None,
    ) -> None:
        self.seed = secrets.randbits(32) if seed is None else seed
        self._clock = clock or timer.best(asyncio.get_running_loop())
        self.registry = Registry(Settings(self._clock, self.seed, dial_s, tell))
        self._api = Api(self.registry, token)
        self._runner: web.ServerRunner | None = None
        self.url = ""

    async def start(self, listen: str, proxies: list[Any]) -> None:
        """Make `proxies`, then answer at `listen`. Raises `Refusal` (3: the address is none), `Taken` (4)."""
        try:
            host, port = await address.resolve(listen)
        except address.AddressError as error:
            raise Refusal(f"--listen {listen}: {error}; write host:port") from error
        try:
            socket = address.bind(host, port)
        except address.AddressError as error:
            raise _taken(error, "the API") from error
        try:
            await self.registry.populate(proxies)
        except Populated as some:
            socket.close()
            self.registry.close()
            raise _not_made(some, proxies) from some
        self.url = f"http://{address.bound(socket)}"
        self._runner = web.ServerRunner(web.Server(self._api.handle, access_log=None), shutdown_timeout=END_S)
        await self._runner.setup()
        await web.SockSite(self._runner, socket, backlog=address.BACKLOG).start()

    async def close(self) -> None:
        """Close every listener and every connection."""
        self.registry.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if isinstance(self._clock, timer.FineClock):
            self._clock.close()


async def serve(
    listen: str,
    proxies: list[Any],
    *,
    seed: int | None,
    dial_s: float,
    token: str | None,
    ready: Callable[[Server], None],
    tell: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is called once everything listens. Raises `Refusal`."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, ending.set)
    _more_descriptors()
    server = Server(seed=seed, dial_s=dial_s, token=token, tell=tell)
    try:
        await server.start(listen, proxies)
        ready(server)
        await ending.wait()
    finally:
        await server.close()


def _more_descriptors() -> None:
    """Allow as many connections as the machine does: each takes two descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _taken(error: address.AddressError, what: str) -> Refusal:
    if error.number == errno.EADDRINUSE:
        return Taken(
            f"{what}: {error}; another process listens there: end it, or choose another port (0: any free one)"
        )
    return Taken(f"{what}: {error}")


def _not_made(some: Populated, proxies: list[Any]) -> Refusal:
    failed = proxies[len(some.done)] if len(some.done) < len(proxies) else {}
    name = failed.get("name") if isinstance(failed, dict) else None
    kind = Taken if some.error.status == 500 else Refusal
    return kind(f"proxy {name!r}: {some.error.text}")
