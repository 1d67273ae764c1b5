"""The points that a run passes: written down, and killed at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any


class Points:
    """Names the points that are passed, writes them down, and kills at one of them."""

    def __init__(self, folder: Path, at: str | None, how: str | None) -> None:
        self.folder, self.at, self.how = folder, at, how
        self.seen: set[str] = set()
        self.dog: int | None = None
        self.again = False
        self._withdrawing = False
        self._trace = os.open(folder / "points.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def reach(self, point: str, note: str = "") -> None:
        """Pass a point; the first time it may be the one to be killed at."""
        if self.again and (self._withdrawing or point.startswith("write verdicts")):
            self.again = False
            os.kill(os.getpid(), signal.SIGTERM)  # in the middle of the withdrawal that the first one began
        self._withdrawing |= point.startswith("call withdraw")
        if point in self.seen:
            return
        self.seen.add(point)
        self._write({"point": point, "dog": _alive(self.dog), **({"note": note} if note else {})})
        if point == self.at and self.how is not None:
            self._write({"killed": time.monotonic(), "how": self.how})
            self._kill(self.how)

    def _write(self, line: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a full disk is full for this, too
            os.write(self._trace, json.dumps(line).encode() + b"\n")

    def _kill(self, how: str) -> None:
        match how:
            case "SIGINT" | "SIGTERM" | "SIGHUP" | "SIGKILL":
                os.kill(os.getpid(), getattr(signal, how))
            case "SIGTERM twice":
                os.kill(os.getpid(), signal.SIGTERM)
                self.again = True
            case "group":
                os.killpg(0, signal.SIGKILL)
            case "watchdog":
                self._kill_dog()
            case "everything":
                self._kill_dog()
                os.kill(os.getpid(), signal.SIGKILL)
            case "SIGSTOP":
                os.kill(os.getpid(), signal.SIGSTOP)
            case _:
                raise ValueError(how)

    def _kill_dog(self) -> None:
        if self.dog is not None and _alive(self.dog):
            os.kill(self.dog, signal.SIGKILL)


def _alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False
