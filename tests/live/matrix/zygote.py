"""Forks victims: a process that has imported everything once, so that each run costs a fork and not a start.

One JSON object a line comes in (a job, or whom to kill); one goes out for each victim that ended.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from expectations.observers import http_state  # noqa: F401 - imported once, before the forks
from sim.catalogue import Catalogue, catalogue
from tests.live.matrix import drill, fakes, victim


def main() -> int:
    """Serve jobs until standard input ends; then end whatever is left."""
    names = catalogue()
    plan = victim.planned(names)
    for name in names.injectors:
        with contextlib.suppress(Exception):  # told by the host that needs it
            fakes.brought(name)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    children: dict[int, str] = {}
    rest = b""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _reap(children)
        if 0 in ready:
            said = os.read(0, 65536)
            if not said:
                break
            *lines, rest = (rest + said).split(b"\n")
            for line in lines:
                _do(json.loads(line), names, plan, children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    return 0


def _reap(children: dict[int, str]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"id": children.pop(pid), "pid": pid, "code": code}), flush=True)


def _do(job: dict[str, Any], names: Catalogue, plan: Any, children: dict[int, str]) -> None:
    if "kill" in job:
        if job["how"] in ("watchdog", "everything"):
            _kill_dog(Path(job["folder"]))
        for pid in [pid for pid, name in children.items() if name == job["kill"]]:
            _kill(pid, job["how"])
        return
    pid = os.fork()
    if pid == 0:
        os._exit(_victim(job, names, plan))
    children[pid] = job["id"]


def _victim(job: dict[str, Any], names: Catalogue, plan: Any) -> int:
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        folder = Path(job["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        log = "host.log" if job.get("do") == "host" else "victim.log"
        out = os.open(folder / log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (out, 1), (out, 2)):
            os.dup2(fd, target)
        if job.get("faults"):
            plan = victim.planned(names, tuple(job["faults"]), job.get("hold", "witnessed"))
        match job.get("do", "run"):
            case "host":
                if not job["shared"]:  # a server runs as another user, who must come to its files
                    drill.at_home(folder)
                code = fakes.host(folder, float(job["most_s"]))
            case "drill":
                code = drill.live(job, names)
            case "recover":
                code = victim.finish(job, names)
            case _:
                code = victim.live(job, names, plan)
    except BaseException:  # noqa: BLE001 - a victim must never return into the zygote's loop
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _kill(pid: int, how: str) -> None:
    """Kill a child that was not reaped yet, in one of the ways of the matrix."""
    match how:
        case "SIGTERM twice":
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGTERM)
        case "group":
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:  # it was forked a moment ago, and is no group yet
                os.kill(pid, signal.SIGKILL)
        case "everything":
            os.kill(pid, signal.SIGKILL)
        case "watchdog":
            pass
        case _:
            os.kill(pid, getattr(signal, how))


def _kill_dog(folder: Path) -> None:
    try:
        pid = int((folder / "dog.pid").read_text())
        ours = str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return  # none was started yet, or it has ended
    if ours:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
