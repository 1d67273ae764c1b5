"""`python -m mbp.dec --port N --release R --engine URL [--postgres URL]`: run one release of the decision API."""

from __future__ import annotations

import argparse
import os
import sys

from mbp._asgi import run
from mbp._service import StartRefused, http_url, port_number, read_token, switch_is_on
from mbp._trace import Tracing
from mbp.dec.app import build
from mbp.dec.engine_client import EngineClient


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m mbp.dec", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True)
    parser.add_argument("--release", choices=("stable", "candidate"), required=True)
    parser.add_argument("--engine", type=http_url, required=True, help="base URL of the engine")
    parser.add_argument("--postgres", help="postgresql://USER@HOST:PORT/DATABASE of the price history")
    args = parser.parse_args(argv)
    try:
        faults_on = switch_is_on("SIM_FAULTS")
        token = read_token(os.environ.get("MBP_FAULT_TOKEN_FILE"), "MBP_FAULT_TOKEN_FILE") if faults_on else None
        tracing = Tracing.of_process("dec", args.release)
        engine = EngineClient(args.engine)
        app = build(args.release, engine, token=token, tracing=tracing, postgres=args.postgres)
        return run(app, args.port)
    except (StartRefused, OSError) as error:
        print(f"dec: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
