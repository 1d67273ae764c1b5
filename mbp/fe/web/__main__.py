"""`python -m mbp.fe.web --port N --data DIR --rum URL --api URL [--prom URL]`: serve the page and its controller."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import time
from pathlib import Path

from mbp._asgi import run
from mbp._faults import Faults
from mbp._service import StartRefused, hold_data_folder, http_url, port_number, read_token, switch_is_on
from mbp._trace import Tracing
from mbp.fe.web.app import API, build, points
from mbp.fe.web.bundles import Bundles
from mbp.fe.web.controller import Controller
from mbp.fe.web.store import Store
from mbp.fe.web.watcher import Prometheus
from mbp.release.proxy import HttpUpstream


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m mbp.fe.web", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder for what must survive a kill")
    parser.add_argument("--rum", type=http_url, required=True, help="base URL of the RUM collector")
    parser.add_argument("--api", type=http_url, required=True, help="base URL of the public API")
    parser.add_argument("--prom", type=http_url, help="base URL of the Prometheus that is asked before a deploy")
    parser.add_argument("--env", default="local", help="label of the views (default: local)")
    parser.add_argument("--market", default="resident", help="the market that the page quotes (default: resident)")
    args = parser.parse_args(argv)
    try:
        faults_on = switch_is_on("SIM_FAULTS")
        token = read_token(os.environ.get("MBP_FAULT_TOKEN_FILE"), "MBP_FAULT_TOKEN_FILE") if faults_on else None
        with hold_data_folder(args.data, "fe"):
            store = Store(args.data / "fe.sqlite3", time.time())
            try:
                bundles = Bundles(page="/", env=args.env, rum=args.rum, market=args.market)
                faults = Faults(points(), monotonic=time.monotonic, wall=time.time)
                upstream = HttpUpstream({API: args.api})
                controller = Controller(store, time.time)
                watcher, tracing = Prometheus(args.prom), Tracing.of_process("fe")
                return run(build(controller, bundles, upstream, watcher, faults, token, tracing), args.port)
            finally:
                store.close()
    except (StartRefused, OSError, sqlite3.Error) as error:
        print(f"fe: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
