"""`python -m mbp.data.postgres --port N --data DIR`: run PostgreSQL on 127.0.0.1 until SIGTERM.

Database and user are `mbp`, with trust: on this machine's own address only. A target to be thrown away: nothing is
synced, so it outlives a killed process, not a power cut.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from mbp._service import StartRefused, hold_data_folder, port_number
from mbp.data.postgres import binaries, cluster

FAST_WAIT_S = 2.5  # a fast shutdown waits for replication clients to confirm all; one that holds back must not hold us
LAST_WAIT_S = 1.0
_SET_PDEATHSIG = 1


def leash() -> Callable[[], None] | None:
    """Return what ties a child to this process (Linux), to be called in the child after it changed its user."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def tie() -> None:
        # SIGQUIT: the postmaster ends its children too, at once.
        if prctl(_SET_PDEATHSIG, int(signal.SIGQUIT), 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(1)

    return tie


def start(programs: Path, pgdata: Path, port: int, who: binaries.Account | None) -> subprocess.Popen[bytes]:
    """Start the server. It is handed its folder open: the folders above may be closed to the user that it runs as."""
    folder = os.open(pgdata, os.O_RDONLY | os.O_DIRECTORY)
    try:
        where = f"/proc/self/fd/{folder}" if who is not None and sys.platform == "linux" else str(pgdata)
        settings = [f"--{name}={value}" for name, value in cluster.SETTINGS.items()]
        return subprocess.Popen(
            [str(programs / "postgres"), "-D", where, "-p", str(port), *settings],
            stdin=subprocess.DEVNULL, pass_fds=(folder,), preexec_fn=leash(), **cluster.identity(who),
        )  # fmt: skip
    finally:
        os.close(folder)


def serve(server: subprocess.Popen[bytes]) -> int:
    """Wait for the server's end, or end it when we are told to; return our exit code."""
    steps = [signal.SIGKILL, signal.SIGQUIT]
    asked = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        server.send_signal(signal.SIGINT)  # fast: sessions are cut, the log is closed
        signal.setitimer(signal.ITIMER_REAL, FAST_WAIT_S, LAST_WAIT_S)

    def insist(_number: int, _frame: FrameType | None) -> None:
        if steps:
            server.send_signal(steps.pop())

    signal.signal(signal.SIGALRM, insist)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    code = server.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if asked:
        return 0
    print(f"postgres: the server ended with {code}", file=sys.stderr)
    return 1


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM; return the exit code (1: the server ended by itself, 2: it cannot start as it was told to)."""
    parser = argparse.ArgumentParser(prog="python -m mbp.data.postgres", description=__doc__)
    parser.add_argument("--port", type=port_number, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder for what must survive a kill")
    args = parser.parse_args(argv)
    try:
        with hold_data_folder(args.data, "postgres"):
            found, who = binaries.find(), binaries.account()
            programs, pgdata = binaries.usable(found, who), args.data / "pgdata"
            cluster.prepare(pgdata, found, who)
            cluster.end_earlier(pgdata)
            return serve(start(programs, pgdata, args.port, who))
    except (StartRefused, OSError, subprocess.SubprocessError) as error:
        print(f"postgres: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
