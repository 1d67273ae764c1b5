"""`python -m mbp.pipeline --port N --data DIR --prom URL [--release URL] [--fe URL]`: run the deploy pipeline."""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import time
from pathlib import Path

import aiohttp

from mbp._asgi import serve
from mbp._service import CLIENT_KEEP_ALIVE_S, StartRefused, hold_data_folder, http_url, port_number
from mbp._watchers import Prometheus
from mbp.pipeline.app import build
from mbp.pipeline.components import components
from mbp.pipeline.pipeline import Pipeline
from mbp.pipeline.store import Store


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m mbp.pipeline", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder for what must survive a kill")
    parser.add_argument("--prom", type=http_url, required=True, help="base URL of the Prometheus that watches")
    parser.add_argument("--release", type=http_url, help="base URL of the release controller")
    parser.add_argument("--fe", type=http_url, help="base URL of the page's release controller")
    args = parser.parse_args(argv)
    try:
        with hold_data_folder(args.data, "pipeline"):
            store = Store(args.data / "pipeline.sqlite3", time.time())
            try:
                return asyncio.run(_serve(args, store))
            finally:
                store.close()
    except (StartRefused, OSError, sqlite3.Error) as error:
        print(f"pipeline: {error}", file=sys.stderr)
        return 2


async def _serve(args: argparse.Namespace, store: Store) -> int:
    connector = aiohttp.TCPConnector(limit=16, keepalive_timeout=CLIENT_KEEP_ALIVE_S)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    ) as session:
        served = components(session, dec=args.release, fe=args.fe)
        pipeline = Pipeline(store, Prometheus(session, args.prom), served, time.time)
        return await serve(build(pipeline), args.port)


if __name__ == "__main__":
    raise SystemExit(main())
