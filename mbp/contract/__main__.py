"""`python -m mbp.contract --port N --api URL`: probe the running service as a consumer of its contract."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from mbp._asgi import run
from mbp._service import http_url, port_number
from mbp._trace import Tracing
from mbp.contract.app import build
from mbp.contract.document import Contract, ContractUnusable
from mbp.contract.probe import HttpApi

KEPT = Path(__file__).parents[1] / "schemas" / "mbp" / "openapi.v1.json"


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m mbp.contract", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True)
    parser.add_argument("--api", type=http_url, required=True, help="base URL of the public entry")
    parser.add_argument("--contract", type=Path, default=KEPT, help="the OpenAPI document that is held against it")
    args = parser.parse_args(argv)
    try:
        contract = Contract.load(args.contract)
        tracing = Tracing.of_process("contract")
        app = build(contract, HttpApi(args.api), wall=time.time, clock=time.monotonic, tracing=tracing)
        return run(app, args.port)
    except (ContractUnusable, OSError) as error:
        print(f"contract: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
