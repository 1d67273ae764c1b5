"""``python -m mbp.sinks --port N --smtp-port N --data DIR``: where notifications go, all in one process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mbp._asgi import run
from mbp._service import StartRefused, hold_data_folder, port_number
from mbp.sinks.app import Sinks, build


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; 0 then, 1 when it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m mbp.sinks", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True, help="HTTP port on 127.0.0.1")
    parser.add_argument("--smtp-port", type=port_number, required=True, help="SMTP port on 127.0.0.1")
    parser.add_argument("--data", type=Path, required=True, help="folder for what was received")
    arguments = parser.parse_args(argv)
    try:
        with hold_data_folder(arguments.data, "sinks"):
            return run(build(Sinks(arguments.data), arguments.smtp_port), arguments.port)
    except (StartRefused, OSError) as error:
        print(f"sinks: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
