"""`python -m mbp.data.relay --port N --engine URL --postgres URL`: run the relay on 127.0.0.1."""

from __future__ import annotations

import argparse
import sys
import threading
import time

from mbp._asgi import run
from mbp._service import StartRefused, http_url, port_number
from mbp._trace import Tracing
from mbp.data.relay.app import build
from mbp.data.relay.feed import Feed
from mbp.data.relay.relay import Relay, Watch


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m mbp.data.relay", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True)
    parser.add_argument("--engine", type=http_url, required=True, help="base URL of the engine")
    parser.add_argument("--postgres", required=True, help="postgresql://USER@HOST:PORT/DATABASE of the hot tables")
    parser.add_argument("--sample", action="append", default=[], metavar="MARKET", help="sample its price each second")
    args = parser.parse_args(argv)
    try:
        watch = Watch(time.monotonic, time.time)
        tracing = Tracing.of_process("relay")
        relay = Relay(args.postgres, Feed(args.engine), args.sample, watch, tracing)
        thread = threading.Thread(target=relay.run, name="relay", daemon=True)
        return run(build(watch, thread, relay.stop, tracing), args.port)
    except (StartRefused, OSError) as error:
        print(f"relay: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
