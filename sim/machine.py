"""What all runners of one machine share: one lock a target, so that two never meet, and one lever that halts them all.

Both are plain files in one folder: a lock that the kernel drops with its last holder (no stale lock is possible), and a
lever file that anybody at the machine can set. Nothing listens anywhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.problem import Refusal

#: Names another folder, for tests and for machines whose users have temporary folders of their own.
VARIABLE = "SIM_MACHINE_DIR"

LEVER = "HALT"

#: Where the folder is, unless it is named: not where TMPDIR says, which differs between users, shells and services of
#: one machine. Who pulled the lever in one of these would be told that no run is at work, and another's would go on.
COMMON = Path("/tmp")  # noqa: S108 - what is in it is checked

#: A lock that is only being looked at (`held`) is free again within this, seconds; tried so many times.
TRY_S, TRIES = 0.02, 5


class MachineError(Refusal):
    """The shared folder cannot be used. Says which, and why."""

    exit_code = 4


class Taken(Exception):
    """Another runner holds the target. `run` is its run, `pid` its process."""

    def __init__(self, run: str, pid: int | None) -> None:
        who = f"run {run} (pid {pid or 'unknown'})"
        if pid is not None and _dead(pid):
            who = f"the watchdog of run {run} (its runner, pid {pid}, is gone)"
        super().__init__(f"{who} is at work on this target")
        self.run, self.pid = run, pid


def _dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def folder() -> Path:
    """Return the shared folder, made if needed: everybody may add to it, nobody may remove what is another's.

    A folder that is there already keeps its permissions: it may be somebody's home. Raises `MachineError`.
    """
    path = Path(os.environ.get(VARIABLE) or COMMON / "sim.machine")
    try:
        if not os.environ.get(VARIABLE) and not (path.exists() or os.access(COMMON, os.W_OK | os.X_OK)):
            path = Path(tempfile.gettempdir()) / path.name
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            path.chmod(0o1777)  # not by mkdir, which the umask would bend
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise MachineError(f"{path} is not a folder; remove it, or set {VARIABLE}")
    except OSError as error:
        raise MachineError(
            f"cannot use {path}: {error.strerror}; set {VARIABLE} to a folder that can be written"
        ) from error
    return path


@dataclass(frozen=True, slots=True)
class Hold:
    """A target held. The lock lasts as long as any process has `fd` open: give it to the watchdog, too."""

    fd: int

    def release(self) -> None:
        """Let go of it in this process."""
        os.close(self.fd)


def hold(target: str, instance: str, run: str) -> Hold:
    """Hold one instance of one target for `run`. Raises `Taken`, `MachineError`."""
    digest = hashlib.sha256(f"{target}\0{instance}".encode()).hexdigest()[:16]
    path = folder() / f"target-{digest}"
    try:
        try:
            fd = os.open(
                path, os.O_RDWR | os.O_NOFOLLOW
            )  # without O_CREAT first: it is refused on others' files in /tmp
        except FileNotFoundError:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o666)
            os.fchmod(fd, 0o666)
    except OSError as error:
        raise MachineError(f"cannot lock {path}: {error.strerror}") from error
    said = json.dumps({"run": run, "pid": os.getpid(), "target": target, "instance": instance}).encode()
    try:
        for left in reversed(range(TRIES)):
            if _locked(fd):
                os.ftruncate(fd, 0)
                os.pwrite(fd, said, 0)
                return Hold(fd)
            if left:
                time.sleep(TRY_S)
        raise _taken(fd)
    except OSError as error:
        os.close(fd)
        raise MachineError(f"cannot lock {path}: {error.strerror}") from error
    except Taken:
        os.close(fd)
        raise


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _taken(fd: int) -> Taken:
    said = _read(os.pread(fd, 4096, 0))
    pid = said.get("pid")
    return Taken(str(said.get("run", "unknown")), pid if isinstance(pid, int) else None)


def held() -> list[Taken]:
    """Return the runs that hold a target now."""
    found = []
    for path in sorted(folder().glob("target-*")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, with permissions of its own: it will see the lever itself
        try:
            if not _locked(fd):
                found.append(_taken(fd))
        finally:
            os.close(fd)
    return found


def halt(reason: str) -> bool:
    """Pull the lever. Returns whether it was not pulled already. Raises `MachineError`."""
    path = folder() / LEVER
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    except FileExistsError:
        return False
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump({"reason": reason, "pid": os.getpid()}, file)
    return True


def release() -> bool:
    """Put the lever back. Returns whether it was pulled. Raises `MachineError`."""
    path = folder() / LEVER
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise MachineError(f"cannot remove {path}: {error.strerror}; whoever halted must release") from error
    return True


def halted() -> str | None:
    """Return why this machine is halted; null when it is not. A lever that cannot be read halts."""
    try:
        path = folder() / LEVER
    except MachineError as error:
        return str(error)
    try:
        # A link or a pipe in its place is somebody's trick or mistake: it must neither release nor hang a runner.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return f"{path} cannot be read: it is not a plain file"
        return str(_read(os.read(fd, 4096)).get("reason") or "no reason given")
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    finally:
        os.close(fd)


def _read(raw: bytes) -> dict[str, Any]:
    try:
        said = json.loads(raw)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
