"""`python -m mbp.past --remote-write URL --out FILE`: push the healthy past once, say so in FILE, and end."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mbp.past.push import PushFailed, push


def main(argv: list[str] | None = None) -> int:
    """Return 0 when the past is there (also from an earlier run), 1 when it could not be pushed."""
    parser = argparse.ArgumentParser(prog="python -m mbp.past", description=__doc__)
    parser.add_argument("--remote-write", required=True, help="such as http://127.0.0.1:9090/api/v1/write")
    parser.add_argument("--out", type=Path, required=True, help="what was pushed; while it exists, nothing is pushed")
    args = parser.parse_args(argv)
    if args.out.exists():
        print(f"past: already there: {args.out}")
        return 0
    try:
        result = push(args.remote_write, args.out)
    except (PushFailed, OSError) as error:
        print(f"past: {error}", file=sys.stderr)
        return 1
    print(f"past: {result['samples']} samples of {result['series']} series, {result['from']} to {result['until']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
