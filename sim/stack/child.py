"""One child of the supervisor: a mirakuru executor, started without blocking, restarted within limits.

mirakuru brings the process group, the readiness checks and the sweep of grandchildren (by an environment mark). What
it does by blocking (`start`, `stop`) is done here in steps, so that one thread can start everything side by side: it
must be the main thread, since the leash of a child is tied to the thread that forked it.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import mirakuru.base
from mirakuru import HTTPExecutor, SimpleExecutor, TCPExecutor
from mirakuru.exceptions import ProcessExitedWithError

from sim.stack import leash
from sim.stack.procs import Proc
from sim.stack.state import ProcessRecord, ProcessState

PROBE_TIMEOUT_S = 1.0
MAX_RESTARTS = 5
RESTART_WINDOW_S = 60.0
MAX_LOG_BYTES = 16 << 20
TAIL_BYTES = 4096
TAIL_LINES = 12

# Whoever imports mirakuru kills at its exit every process of the machine whose mark *contains* its pid as text: with a
# pid of few digits, those of other stacks. So it is undone where it is imported, for every process that does.
atexit.unregister(mirakuru.base.cleanup_subprocesses)


class Child:
    """A process or a once of the stack. Every method returns at once (a readiness check within `PROBE_TIMEOUT_S`)."""

    def __init__(
        self,
        name: str,
        command: list[str],
        env: dict[str, str],
        folder: Path,
        log: Path,
        *,
        http: str | None = None,
        tcp: str | None = None,
        timeout_s: float = 60.0,
        after: tuple[str, ...] = (),
        restart: bool = False,
        once: bool = False,
    ) -> None:
        self.name, self.log, self.after, self.once = name, log, after, once
        self.command, self.timeout_s = command, timeout_s
        self.state: ProcessState = "waiting"
        self.restarts = 0
        self.exit_code: int | None = None
        self.proc: Proc | None = None
        self.deadline = 0.0  # of the start, or the moment of the next restart
        self._may_restart = restart
        self._restarted_at: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._output: IO[bytes] | None = None
        leashed = [sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid()), *command]
        self._arguments = {"command": leashed, "cwd": str(folder), "envvars": env, "timeout": timeout_s}
        self._http, self._tcp = http, tcp
        self._executor: SimpleExecutor | None = None

    def start(self, now: float) -> None:
        """Start the process; it is ready when `poll` says so, at the latest `timeout_s` after `now`."""
        self._output = self.log.open("ab")
        self._executor = self._make(self._output)
        SimpleExecutor.start(self._executor)
        process = self._executor.process
        if process is None:
            raise AssertionError("mirakuru started no process")
        self.proc = Proc.of(process.pid) or Proc(process.pid, -1.0)  # -1: it ended already
        self.state, self.exit_code, self.deadline = "starting", None, now + self.timeout_s

    def _make(self, output: IO[bytes]) -> SimpleExecutor:
        arguments: dict[str, Any] = {
            **self._arguments,
            "stdin": subprocess.DEVNULL,
            "stdout": output,
            "stderr": subprocess.STDOUT,
        }
        if self._http is not None:
            return HTTPExecutor(url=self._http, method="GET", request_timeout=PROBE_TIMEOUT_S, **arguments)
        if self._tcp is not None:
            at = urlsplit(f"//{self._tcp}")
            return TCPExecutor(host=at.hostname or "", port=at.port or 0, **arguments)
        return SimpleExecutor(**arguments)

    def ended(self) -> bool:
        """Say whether the process that was started has ended; then `exit_code` is set (negative: by that signal)."""
        if self._executor is None or self._executor.process is None:
            return False
        code = self._executor.process.poll()
        if code is None:
            return False
        self.exit_code = code
        return True

    def poll(self) -> bool:
        """Say whether the process is ready now. Call `ended` first: one that has ended is never ready."""
        if self.once or self._executor is None:
            return False
        if not isinstance(self._executor, TCPExecutor):
            return True
        try:
            return bool(self._executor.check_subprocess())
        except ProcessExitedWithError as error:
            self.exit_code = error.exit_code
            return False

    def schedule_restart(self, now: float) -> bool:
        """Plan the next start of a process that ended, or say that it has used up its restarts (or may have none)."""
        if not self._may_restart or self.exit_code == 0:
            return False
        recent = [at for at in self._restarted_at if now - at < RESTART_WINDOW_S]
        if len(recent) >= MAX_RESTARTS:
            return False
        self._restarted_at.append(now)
        self.restarts += 1
        self.state, self.deadline = "restarting", now + min(0.1 * 2 ** len(recent), 5.0)
        return True

    def terminate(self) -> None:
        """Ask the process and its group to end; a stopped one is woken to hear it."""
        if self.proc is not None and self.running():
            for number in (signal.SIGTERM, signal.SIGCONT):
                try:
                    os.killpg(self.proc.pid, number)
                except (ProcessLookupError, PermissionError):  # gone, or a group of zombies (macOS)
                    return

    def running(self) -> bool:
        """Say whether the process runs."""
        return self._executor is not None and self._executor.process is not None and not self.ended()

    def reap(self) -> None:
        """Kill what is left of the process, its group and its offspring, and free what it held."""
        if self._executor is not None:
            self.ended()
            self._executor.kill()
            self._executor = None
        if self._output is not None:
            self._output.close()
            self._output = None

    def trim_log(self) -> None:
        """Keep the log bounded: past `MAX_LOG_BYTES` it is moved aside, once, and begun anew."""
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            # Copied and cut, not renamed: the process holds the file open, for appending.
            self.log.with_suffix(".log.1").write_bytes(self.log.read_bytes())
            os.truncate(self.log, 0)

    def record(self) -> ProcessRecord:
        """Return this child as the state file keeps it."""
        pid, started = (None, None) if self.proc is None else (self.proc.pid, self.proc.started)
        return ProcessRecord(
            state=self.state, pid=pid, started=started, restarts=self.restarts, exit_code=self.exit_code
        )


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of `log`, indented, or a note that there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        text = ""
    last = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line[:400]}" for line in last) or "    (it wrote nothing)"


def ending(code: int | None) -> str:
    """Return how a process ended, in words."""
    if code is None:
        return "ended"
    if code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"ended with exit code {code}"
