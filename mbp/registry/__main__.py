"""`python -m mbp.registry --port N --data DIR [--seed FOLDER] [--policy FILE]`: run the schema registry."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from pathlib import Path

from mbp._asgi import run
from mbp._service import StartRefused, hold_data_folder, port_number
from mbp.registry import policy
from mbp.registry.app import build
from mbp.registry.registry import Registry
from mbp.registry.seed import DEFAULT_SEED, sow
from mbp.registry.store import Store


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m mbp.registry", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder for what must survive a kill")
    parser.add_argument("--seed", type=Path, default=DEFAULT_SEED, help="folder of the platform's schemas")
    parser.add_argument("--policy", type=Path, default=policy.DEFAULT_POLICY, help="the platform's declared policy")
    args = parser.parse_args(argv)
    try:
        declared = policy.load(args.policy)
        with hold_data_folder(args.data, "registry"):
            store = Store(args.data / "registry.sqlite3")
            try:
                registry = Registry(store, declared)
                sow(registry, args.seed)
                return run(build(registry), args.port)
            finally:
                store.close()
    except (StartRefused, OSError, sqlite3.Error) as error:
        print(f"registry: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
