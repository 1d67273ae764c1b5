"""``python -m injectors._reaper --listen HOST:PORT --proxy URL``: run the reaper until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable

import aiohttp
from aiohttp import web

from injectors._reaper.beats import Refused
from injectors._reaper.reaper import CALL_S, Proxy, Reaper

_BODY_BYTES = 4096


def app(reaper: Reaper, clock: Callable[[], float]) -> web.Application:
    """Return the reaper's HTTP side."""

    async def beat(request: web.Request) -> web.Response:
        try:
            body = await request.json()
            ttl_s = reaper.beats.beat(request.match_info["id"], body["ttl_s"], clock())
        except Refused as error:
            return web.json_response({"error": str(error)}, status=400)
        except (ValueError, KeyError, TypeError):
            return web.json_response({"error": 'the body must be {"ttl_s": seconds}'}, status=400)
        reaper.heard()
        return web.json_response({"id": request.match_info["id"], "ttl_s": ttl_s, "expires_in_s": ttl_s})

    async def end(request: web.Request) -> web.Response:
        reaper.beats.end(request.match_info["id"])
        return web.Response(status=204)

    async def shown(_: web.Request) -> web.Response:
        return web.json_response(reaper.shown())

    async def health(_: web.Request) -> web.Response:
        trouble = await reaper.trouble()
        if trouble is not None:
            return web.json_response({"error": trouble}, status=503)
        return web.json_response({"status": "ok"})

    made = web.Application(client_max_size=_BODY_BYTES)
    made.add_routes(
        [
            web.put("/heartbeat/{id}", beat),
            web.delete("/heartbeat/{id}", end),
            web.get("/heartbeats", shown),
            web.get("/healthz", health),
        ]
    )
    return made


async def serve(host: str, port: int, proxy: str) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CALL_S)) as session:
        reaper = Reaper(Proxy(session, proxy), time.monotonic)
        runner = web.AppRunner(app(reaper, time.monotonic), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        work = asyncio.create_task(reaper.run())
        stopped = asyncio.create_task(stop.wait())
        try:
            await web.TCPSite(runner, host, port).start()
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return int(work.done())
        finally:
            for task in (work, stopped):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            await runner.cleanup()


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m injectors._reaper", description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8475", help="HOST:PORT (default: %(default)s)")
    parser.add_argument("--proxy", required=True, help="base URL of the Toxiproxy server, which must be ours alone")
    args = parser.parse_args(argv)
    host, _, port = args.listen.rpartition(":")
    try:
        return asyncio.run(serve(host, int(port), args.proxy))
    except (OSError, ValueError) as error:
        print(f"reaper: {args.listen}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
