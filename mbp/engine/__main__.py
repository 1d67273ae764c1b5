"""`python -m mbp.engine --port N --data DIR`: run the engine on 127.0.0.1."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import time
from pathlib import Path

from mbp._asgi import run
from mbp._service import StartRefused, hold_data_folder, port_number, read_token, switch_is_on
from mbp._trace import Tracing
from mbp.engine.app import build
from mbp.engine.exchange import Exchange
from mbp.engine.store import Store


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m mbp.engine", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder for what must survive a kill")
    args = parser.parse_args(argv)
    try:
        token = read_token(os.environ.get("MBP_FAULT_TOKEN_FILE"), "MBP_FAULT_TOKEN_FILE") if _faults_on() else None
        with hold_data_folder(args.data, "engine"):
            store = Store(args.data / "engine.sqlite3")
            try:
                deaf = switch_is_on("MBP_ENGINE_DEAF_FAULTS")
                exchange = Exchange(store, monotonic=time.monotonic, wall=time.time, deaf=deaf)
                return run(build(exchange, store, token, Tracing.of_process("engine")), args.port)
            finally:
                store.close()
    except (StartRefused, OSError, sqlite3.Error) as error:
        print(f"engine: {error}", file=sys.stderr)
        return 2


def _faults_on() -> bool:
    return switch_is_on("SIM_FAULTS")


if __name__ == "__main__":
    raise SystemExit(main())
