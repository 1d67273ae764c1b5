"""`python -m mbp.data.cdc --port N --source URL [--warehouse URL]`: run the CDC consumer on 127.0.0.1."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time

from mbp._asgi import run
from mbp._faults import Faults
from mbp._service import StartRefused, port_number, read_token, switch_is_on
from mbp._trace import Tracing
from mbp.data.cdc.app import build, point
from mbp.data.cdc.consumer import SILENT_S, Clocks, Consumer
from mbp.data.cdc.line import LIMIT_BYTES, Line
from mbp.data.cdc.state import State
from mbp.data.cdc.witness import watch


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m mbp.data.cdc", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True)
    parser.add_argument("--source", required=True, help="postgresql://USER@HOST:PORT/DATABASE of the hot tables")
    parser.add_argument("--warehouse", help="the same of the schema wh, when it is reached another way")
    parser.add_argument("--silent", type=float, default=SILENT_S, help="seconds without a word of the server")
    parser.add_argument("--queue-bytes", type=int, default=LIMIT_BYTES, help="what may wait before reading pauses")
    args = parser.parse_args(argv)
    try:
        faults_on = switch_is_on("SIM_FAULTS")
        token = read_token(os.environ.get("MBP_FAULT_TOKEN_FILE"), "MBP_FAULT_TOKEN_FILE") if faults_on else None
        warehouse, line, clocks, stop = (
            args.warehouse or args.source,
            Line(args.queue_bytes),
            Clocks(time.monotonic, time.time),
            threading.Event(),
        )
        state = State(line, monotonic=clocks.monotonic, wall=clocks.wall)
        tracing = Tracing.of_process("cdc")
        tracing.export_to(state.registry)
        consumer = Consumer(args.source, warehouse, line, state, clocks, args.silent, tracing)
        faults = Faults([point(line, consumer.wake)], monotonic=time.monotonic, wall=time.time)
        threads = [
            threading.Thread(target=consumer.run, name="consumer", daemon=True),
            threading.Thread(target=watch, args=(warehouse, state, stop), name="witness", daemon=True),
        ]

        def end() -> None:
            stop.set()
            consumer.stop()

        return run(build(state, line, faults, token, threads, end), args.port)
    except (StartRefused, OSError) as error:
        print(f"cdc: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
