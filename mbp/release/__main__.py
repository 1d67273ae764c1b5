"""`python -m mbp.release --port N --data DIR --stable URL --candidate URL`: run the release controller."""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from pathlib import Path

from mbp._asgi import run
from mbp._service import StartRefused, hold_data_folder, http_url, port_number
from mbp._trace import Tracing
from mbp.release.app import build
from mbp.release.controller import Controller
from mbp.release.profiles import Profiles
from mbp.release.proxy import HttpUpstream
from mbp.release.store import Store


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m mbp.release", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder for what must survive a kill")
    parser.add_argument("--stable", type=http_url, required=True, help="base URL of the stable release")
    parser.add_argument("--candidate", type=http_url, required=True, help="base URL of the candidate")
    args = parser.parse_args(argv)
    try:
        with hold_data_folder(args.data, "release"):
            store = Store(args.data / "release.sqlite3", time.time())
            try:
                upstream = HttpUpstream({"stable": args.stable, "candidate": args.candidate})
                profiles = Profiles(args.data / "profiles")
                tracing = Tracing.of_process("release")
                return run(build(Controller(store, time.time), upstream, profiles, tracing=tracing), args.port)
            finally:
                store.close()
    except (StartRefused, OSError, sqlite3.Error) as error:
        print(f"release: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
