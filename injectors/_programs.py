"""Programs of this machine as faults are brought by them: no shell, no input, bounded in time and in what they say.

Each runs in a session and process group of its own, with the signals as a shell would start it (a watchdog ignores
some, and what ignores SIGTERM hands that down), and with nothing in its environment but what it is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from sim.injector import InjectionError

#: How long a program may take between SIGTERM and SIGKILL, seconds.
LET_GO_S = 0.5

#: The most that a program may say before it is ended, and how much of its end is kept, bytes and characters.
MAX_OUTPUT, TAIL = 4 * 1024 * 1024, 500

#: How often the size of what it says is looked at, seconds.
_LOOK_S = 0.05

#: How much of the output is read for its tail, so that a secret is seen whole before the cut, bytes.
_READ = 64 * 1024

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h

#: Stands before a program that acts; a program of its own.
_GUARD = Path(__file__).with_name("_guard.py")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code (128 + the number of the signal that ended it), the end of what it said."""

    code: int
    said: str


@dataclass(frozen=True, slots=True)
class Room:
    """Where programs run: the working folder, the whole environment, and what blacks secrets out of their words."""

    cwd: str
    env: Mapping[str, str]
    redact: Callable[[str], str]


async def run(argv: Sequence[str], room: Room, limit_s: float, *, leaves: bool = False) -> Ended:
    """Run one program to its end and return how it ended.

    `leaves`: it acts, and may leave processes of its group behind, which are the fault. It is guarded: when this
    process is killed before the program is done, the program ends with all that it has called. Otherwise it only looks:
    what it leaves behind is ended.
    Raises `InjectionError` when it cannot be started, takes longer than `limit_s` seconds or says more than
    `MAX_OUTPUT`; its whole group is ended then, and also when this task is cancelled.
    """
    # A file, not a pipe: what `start` leaves behind may go on writing, and must not die of a reader that went away.
    with tempfile.TemporaryFile() as out, contextlib.ExitStack() as held:
        process, trouble = await (_guarded(argv, room, out, held) if leaves else _started(argv, room, out)), ""
        try:
            trouble = await _watched(process, out, limit_s)
            if trouble:
                await _asked_to_end(process)
        finally:
            if process.returncode is None or trouble or not leaves:
                _kill(process.pid, signal.SIGKILL)
            code = await process.wait()
        said = _tail(out, room.redact)
    if trouble:
        raise InjectionError(f"{argv[0]} {trouble}, and was ended with all it had started{f': {said}' if said else ''}")
    return Ended(code if code >= 0 else 128 - code, said)


async def _guarded(argv: Sequence[str], room: Room, out: IO[bytes], held: contextlib.ExitStack) -> Process:
    """Start a program behind the guard; `held` keeps the pipe open by which the guard knows that we live."""
    read, write = os.pipe()
    held.callback(os.close, write)
    try:
        guard = [sys.executable, "-I", "-S", str(_GUARD), ",".join(room.env)]
        return await _started([*guard, *argv], room, out, stdin=read, alone=_as_by_default)
    except InjectionError as error:
        raise InjectionError(str(error).replace(sys.executable, argv[0], 1)) from error
    finally:
        os.close(read)


async def _started(
    argv: Sequence[str],
    room: Room,
    out: IO[bytes],
    *,
    stdin: int = DEVNULL,
    alone: Callable[[], None] | None = None,
) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=out,
            stderr=STDOUT,
            cwd=room.cwd,
            env=dict(room.env),
            start_new_session=True,
            preexec_fn=alone or _alone(os.getpid()),
        )
    except (OSError, ValueError) as error:
        raise InjectionError(f"{argv[0]} cannot be started in {room.cwd}: {error}") from error


def _as_by_default() -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _alone(parent: int) -> Callable[[], None]:
    """Return what a program that only looks does first: signals as by default, an end with whoever waits for it."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def first() -> None:
        _as_by_default()
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return first


async def _watched(process: Process, out: IO[bytes], limit_s: float) -> str:
    """Wait for the end; return why it must be ended, or nothing when it ended by itself."""
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(process.wait())
    until = loop.time() + limit_s
    try:
        while True:
            left_s = until - loop.time()
            await asyncio.wait({waiting}, timeout=max(0.0, min(_LOOK_S, left_s)))
            if os.fstat(out.fileno()).st_size > MAX_OUTPUT:
                return f"said more than {MAX_OUTPUT} bytes"
            if waiting.done():
                return ""
            if left_s <= 0:
                return f"did not end within {limit_s:g} s"
    finally:
        waiting.cancel()


async def _asked_to_end(process: Process) -> None:
    _kill(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), LET_GO_S)


def _kill(group: int, number: signal.Signals) -> None:
    """Signal the group that our child led. A pid is not given away while a group goes by it, but after that it is."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if psutil.Process(group).ppid() != os.getpid():
            return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended; or it became another user's (sudo)
        os.killpg(group, number)


def _tail(out: IO[bytes], redact: Callable[[str], str]) -> str:
    """Return the end of the output on one line; secrets go first, lest the cut leaves half of one."""
    size = out.seek(0, os.SEEK_END)
    out.seek(max(0, size - _READ))
    return " ".join(redact(out.read(_READ).decode("utf-8", "replace")).split())[-TAIL:].strip()
