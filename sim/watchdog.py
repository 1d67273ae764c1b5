"""The dead man's switch: a process of its own that finishes a run whose runner is gone or hangs.

Started before the first intent, in a session of its own, holding the read end of a pipe whose only write end is the
runner's: end of file means that the runner is gone, however it went. It then withdraws from the journal alone, waits
until a request that was in flight must have landed, reads back twice, and only then writes ``withdrawn by=watchdog``;
what actions changed is put back as the profile says. A runner that lives and hangs is overtaken at hold time + grace.

It is given the runner's lock (so that no other run starts while it cleans up) and the descriptor that holds the stack
up. It speaks to nobody but the target, and ends when there is nothing left to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.undo import FILE

#: The longest wait for a request in flight to land, seconds: the injector's client time-out and as much again.
SETTLE_S = 4.0

#: How much later than the hold time a runner that still lives is overtaken, seconds.
GRACE_S = 15.0

#: How long the runner waits for a watchdog that has nothing to do, seconds.
ENDS_S = 2.0

#: How often what could not be finished is tried again, and how long, seconds.
AGAIN_S, AT_MOST_S = 5.0, 600.0


@dataclass(slots=True)
class Watchdog:
    """The runner's end of the pipe."""

    process: subprocess.Popen[bytes]
    _fd: int

    def overtake_at(self, monotonic: float) -> None:
        """Ask to be overtaken at that moment of the machine's monotonic clock."""
        self._say(f"at {monotonic:.3f}")

    def withdrawn(self) -> None:
        """Say that every fault is read back gone: there is nothing to overtake any more."""
        self._say("withdrawn")

    def close(self) -> None:
        """Let it look at the journal one last time and end; where something is left to do, it goes on alone."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDS_S)

    def alive(self) -> bool:
        """Whether it still watches."""
        return self.process.poll() is None

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # it is gone: `alive` tells, and the run says so
            os.write(self._fd, line.encode() + b"\n")


def start(folder: Path, keep: Sequence[int] = (), settle_s: float = SETTLE_S) -> Watchdog:
    """Start the watchdog of the run in `folder`, whose journal is there. Raises `OSError`.

    `keep` are descriptors that it holds open. It is given the journal itself, too: the folder may be removed.
    """
    folder = folder.resolve()  # it stands elsewhere
    book = os.open(folder / FILE, os.O_RDONLY)
    read, write = os.pipe()
    command = [sys.executable, "-P", "-m", "sim.watchdog", str(folder), str(read), str(book), f"{settle_s:g}"]
    try:
        with (folder / "watchdog.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(read, book, *keep),
                cwd=folder,
            )
    except OSError:
        os.close(write)
        raise
    finally:
        os.close(read)
        os.close(book)
    return Watchdog(process, write)


def watch(fd: int) -> str:
    """Wait until the runner is gone (``gone``) or past its time (``late``)."""
    overtake_at: float | None = None
    told = b""
    while True:
        wait_s = None if overtake_at is None else max(0.0, overtake_at - time.monotonic())
        ready, _, _ = select.select([fd], [], [], wait_s)
        if not ready:
            return "late"
        said = os.read(fd, 4096)
        if not said:
            return "gone"
        *lines, told = (told + said).split(b"\n")
        for line in lines:
            word, _, value = line.partition(b" ")
            overtake_at = float(value) if word == b"at" else None


async def finish(folder: Path, settle_s: float) -> bool:
    """Withdraw and put back what the journal leaves open, again and again until it is done or time is up."""
    from sim import recover
    from sim.catalogue import catalogue
    from sim.secret import Secrets
    from sim.undo import JournalError

    names, secrets = catalogue(), Secrets()
    give_up = time.monotonic() + AT_MOST_S
    while True:
        try:
            left = await recover.recover(folder, names, secrets, _say, by="watchdog", settle_s=settle_s)
            reasons = left.reasons
        except JournalError as error:  # a disk may come back
            reasons = (str(error),)
        if not reasons:
            return True
        for reason in reasons:
            _note(secrets.redact(reason))
        if time.monotonic() > give_up:
            return False
        await asyncio.sleep(AGAIN_S)


def _say(kind: str, data: object) -> None:
    _note(f"{kind} {data}")


def _note(text: str) -> None:
    sys.stdout.write(text + "\n")  # it is watchdog.log in the run folder
    sys.stdout.flush()


def _rescue(journal: Path, raw: bytes) -> None:
    """Put the journal of a run folder that was removed back where it stood."""
    _note("the run folder is gone; putting its journal back")
    journal.parent.mkdir(parents=True, exist_ok=True)
    os.chdir(journal.parent)
    with os.fdopen(os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def main(folder: Path, fd: int, book: int, settle_s: float) -> int:
    """Watch one run to its end; return 0 when nothing is left open."""
    from sim import undo

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # it ends by itself, when nothing is left to do
    journal = folder / undo.FILE
    with os.fdopen(book, "rb") as kept:
        why = watch(fd)
        said = kept.read()
    if not journal.exists():
        if b'"record":"closed"' in said:
            return 0
        _rescue(journal, said)
    if undo.read(journal).unfinished:
        _note(f"the runner is {why}")
        if not asyncio.run(finish(folder, settle_s)):
            return 6
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
