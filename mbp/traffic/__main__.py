"""`python -m mbp.traffic --port N --api URL`: run the resident trickle, with `/healthz` and `/metrics`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from mbp._service import BODY_LIMIT, STOP_WAIT_S, StartRefused, http_url, identity, listen_address, port_number, problem
from mbp.traffic.trickle import HttpApi, Trickle


def make_app(trickle: Trickle) -> web.Application:
    """Return the small web app beside the trickle."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "service": "traffic"})

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(trickle.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def who(_: web.Request) -> web.Response:
        return web.json_response(identity("traffic"))

    @web.middleware
    async def shape(request: web.Request, handler: Handler) -> web.StreamResponse:
        if (request.content_length or 0) > BODY_LIMIT:
            return web.json_response(problem("body_too_large", f"a body has at most {BODY_LIMIT} bytes"), status=413)
        try:
            return await handler(request)
        except web.HTTPException as error:
            code = {404: "not_found", 405: "method_not_allowed"}.get(error.status, "refused")
            return web.json_response(problem(code, error.reason), status=error.status)

    app = web.Application(client_max_size=BODY_LIMIT, middlewares=[shape])
    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", metrics), web.get("/identity", who)])
    return app


async def serve(port: int, api_url: str) -> int:
    """Run until SIGTERM or SIGINT; return the exit code."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with HttpApi(api_url) as api:
        trickle = Trickle(api, clock=time.monotonic)
        runner = web.AppRunner(make_app(trickle), access_log=None, shutdown_timeout=STOP_WAIT_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, listen_address(), port).start()
            work, stopped = asyncio.create_task(trickle.run()), asyncio.create_task(stop.wait())
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
            crashed = work.done()
            for task in (work, stopped):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await work
            return int(crashed)
        finally:
            await runner.cleanup()


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m mbp.traffic", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True)
    parser.add_argument("--api", type=http_url, required=True, help="base URL of the public entry")
    args = parser.parse_args(argv)
    try:
        return asyncio.run(serve(args.port, args.api))
    except (StartRefused, OSError) as error:
        print(f"traffic: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
