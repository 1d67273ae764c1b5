"""Runs one program, and ends its whole process group if whoever waits for it is killed first.

A program of its own, ``python -I -S _guard.py NAMES PROGRAM [ARGUMENT ...]``, started as the leader of a group, with a
pipe as its input that nobody writes to: end of file means that the one who waits is gone. A parent-death signal reaches
the program alone, and not what it has called; a script's `kubectl` would go on, and bring the fault in behind whoever
has cleaned up by then. NAMES are the variables that the program sees, separated by commas.

Ends as the program ends (128 + the number of the signal that ended it); 127 when it cannot be started.
"""

import _thread
import os
import signal
import sys


def _end_with_the_other_side() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main(names: list[str], argv: list[str]) -> int:
    """Run the program to its end and return its code."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(each, lambda *_: None)  # meant for the program, which gets it too: the group is asked
    # What Python changed for itself (a locale, signals that it ignores) is not handed down.
    env = {name: os.environ[name] for name in names if name in os.environ}
    ignored = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ") if hasattr(signal, name)]
    try:
        pid = os.posix_spawnp(
            argv[0], argv, env, file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)], setsigdef=ignored
        )
    except OSError as error:
        sys.stdout.write(f"{argv[0]} cannot be started: {error.strerror}\n")
        sys.stdout.flush()
        return 127
    _thread.start_new_thread(_end_with_the_other_side, ())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main(sys.argv[1].split(","), sys.argv[2:]))  # the thread is never done
