"""Run as a script: ``leash.py PARENT COMMAND…`` becomes COMMAND, and dies with PARENT however that ends (Linux).

Elsewhere the system has no such leash; there `sim down` and the next `sim up` find what is left by pid and start time.
Kept free of imports of ours: it is started once a process.
"""

import os
import signal
import sys


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(pr_set_pdeathsig, int(signal.SIGKILL), 0, 0, 0) != 0:
            sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the leash was on
        sys.exit("the supervisor is gone")
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):  # and an ignored signal stays so across exec
        signal.signal(ignored_by_python, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 (an argv list, no shell)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
