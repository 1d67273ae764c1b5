"""How long a test waits for what should come soon: in time that the machine had to give, not by the clock on the wall.

Such a bound is no claim about how quick something is; it ends a test whose subject hangs. Beside twenty processes that
start on two cores, ten seconds of the clock are one of work, and a bound by the clock alone fails for the neighbours'
doing. So what the kernel counts as waiting for a processor (pressure stall information, the `some` line) is not held
against the subject, at most nine tenths of the time. Where nothing counts it, the clock is all there is.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_LEAST = 0.1  # of any time that passes, so much counts in any case: a test on a busy machine ends, too
_LOOK_S = 0.02
_SAID_S = 0.2


def stalled_s() -> float:
    """Return for how long, since the machine started, somebody waited for a processor; 0.0 where nobody counts it."""
    try:
        some = Path("/proc/pressure/cpu").read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return 0.0
    return int(some.rpartition("total=")[2]) / 1e6


class Patience:
    """So many seconds of a machine that has time; ask `left` often: what passes between two looks counts as one."""

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        stalled: Callable[[], float] = stalled_s,
    ) -> None:
        """Begin now."""
        self.seconds = seconds
        self._left = seconds
        self._clock, self._stalled = clock, stalled
        self._seen = clock(), stalled()

    def left(self) -> bool:
        """Say whether there is still time."""
        (clock, stalled), self._seen = self._seen, (self._clock(), self._stalled())
        passed = self._seen[0] - clock
        self._left -= max(_LEAST * passed, passed - (self._seen[1] - stalled))
        return self._left > 0


def until(holds: Callable[[], object], seconds: float) -> bool:
    """Ask again and again whether `holds`; return whether it did before the patience was at its end."""
    patience = Patience(seconds)
    while not holds():
        if not patience.left():
            return False
        time.sleep(_LOOK_S)
    return True


def ended(process: subprocess.Popen[bytes] | subprocess.Popen[str], seconds: float) -> int:
    """Return the exit code of a process that is to end. Raises `subprocess.TimeoutExpired` as its `wait` does."""
    if not until(lambda: process.poll() is not None, seconds):
        raise subprocess.TimeoutExpired(process.args, seconds)
    return process.wait()


def finished(process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """Return all that a process that is to end says and complains of. Raises `subprocess.TimeoutExpired`."""
    patience = Patience(seconds)
    while True:
        try:
            return process.communicate(timeout=_SAID_S)
        except subprocess.TimeoutExpired:  # nothing of what was said is lost: it may be asked again
            if not patience.left():
                raise
