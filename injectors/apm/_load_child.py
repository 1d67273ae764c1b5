"""The load generator's process: started in a group of its own, kept alive by a lease, ended and looked for by anybody.

Everything goes by the folder that the receipt names: its name is random, it is this user's alone, and it stands in the
command line of the generator and nowhere else, so any process that has the receipt finds what is still running, also
when the one that started it died before it could write down a process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from itertools import pairwise
from pathlib import Path

import psutil

from sim.event import JSON
from sim.injector import InjectionError

#: How long a generator that was told to stop may take, seconds; then it is killed.
STOP_S = 3.0
_LOOK_S = 0.05
#: What Locust's own `-t` allows beyond the schedule, seconds: a last resort behind the lease.
MARGIN_S = 60.0

#: Ours, by folder: a child that ended is reaped here.
_started: dict[str, list[subprocess.Popen[bytes]]] = {}


def check_installed() -> None:
    """Raise `InjectionError` when there is no Locust. Looked for, never imported: that would patch our sockets."""
    if importlib.util.find_spec("locust") is None:
        raise InjectionError("Locust is not installed, and it is what makes the load: pip install 'sim-harness[load]'")


def start(
    folder: Path, config: Mapping[str, JSON], seconds: float, authorization: str | None, workers: int = 1
) -> None:
    """Make `folder` and start the generators in it. Raises `InjectionError`."""
    check_installed()
    try:
        folder.mkdir(mode=0o700)
        for number in range(workers):
            _begin(folder / str(number), {**config, "first": number, "stride": workers}, seconds, authorization)
    except OSError as error:
        raise InjectionError(f"the load generator cannot be started: {error}") from error


def _begin(folder: Path, config: Mapping[str, JSON], seconds: float, authorization: str | None) -> None:
    folder.mkdir(mode=0o700)
    source = resources.files("injectors.apm").joinpath("_load_locustfile.txt").read_text(encoding="utf-8")
    (folder / "locustfile.py").write_text(source, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "lease").touch()
    command = [
        sys.executable, "-m", "locust", "-f", str(folder / "locustfile.py"), "--headless", "-u", "1", "-r", "1",
        "-t", f"{int(seconds + MARGIN_S)}s", "--skip-log-setup", "--only-summary", "--exit-code-on-error", "0",
    ]  # fmt: skip
    # Nothing of the caller's environment but what Python needs; no configuration file of Locust's but none.
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV") if name in os.environ}
    given = {**kept, "HOME": str(folder), "NO_PROXY": "*", "PYTHONDONTWRITEBYTECODE": "1"}
    if authorization is not None:
        given["SIM_LOAD_AUTHORIZATION"] = authorization
    with (folder / "out.log").open("wb") as out:
        child = subprocess.Popen(
            command, cwd=folder, env=given, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    _started.setdefault(str(folder.parent), []).append(child)


def renew(folder: Path) -> None:
    """Renew the lease of every generator in `folder`. Raises `InjectionError` when there is none to renew."""
    try:
        leases = sorted(folder.glob("*/lease"))
        for lease in leases:
            os.utime(lease)
    except OSError as error:
        raise InjectionError(f"the load's lease cannot be renewed: {error}") from error
    if not leases:
        raise InjectionError("the load's lease cannot be renewed: it was taken away")


def running(folder: Path) -> list[psutil.Process]:
    """Return the generators of `folder` that run, whichever process started them; another user's is none of ours.

    Nor is what else names the folder: somebody may be reading what the generator says.
    """
    for child in _started.get(str(folder), []):
        child.poll()  # reap it: a zombie does not run
    found = []
    inside = f"{folder}{os.sep}"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mine = process.pid != os.getpid() and process.uids().effective == os.geteuid()
            if mine and any(_is_ours(*words, inside) for words in pairwise(process.cmdline())):
                found.append(process)
    return found


def _is_ours(option: str, file: str, inside: str) -> bool:
    return option == "-f" and file.startswith(inside) and file.endswith("locustfile.py")


async def stop(folder: Path) -> None:
    """End every generator of `folder`: no new one begins, those that run write what they have, the rest is killed.

    Raises `InjectionError` when one is still there.
    """
    _take_leases(folder)
    for number, patience in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, 1.0)):
        for process in running(folder):
            _signal_group(process, number)
        for _ in range(int(patience / _LOOK_S)):
            if not running(folder):
                return
            await asyncio.sleep(_LOOK_S)
    left = ", ".join(str(process.pid) for process in running(folder))
    if left:
        raise InjectionError(f"load generator {left} does not end")


def _take_leases(folder: Path) -> None:
    for lease in folder.glob("*/lease"):
        lease.unlink(missing_ok=True)


def _signal_group(process: psutil.Process, number: int) -> None:
    """Signal the process's group; psutil has made sure that the id still is that process's."""
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        if process.is_running():
            group = os.getpgid(process.pid)
            if group == process.pid:
                os.killpg(group, number)
            else:
                process.send_signal(number)


def clear(folder: Path) -> None:
    """Remove what the generators wrote; what is not there is no error."""
    for child in _started.pop(str(folder), []):
        child.poll()
    shutil.rmtree(folder, ignore_errors=True)


def last_words(folder: Path) -> str:
    """Return the end of what the generators printed, for an error message."""
    texts = []
    for path in sorted(folder.glob("*/out.log")):
        with contextlib.suppress(OSError):
            texts.append(path.read_text(encoding="utf-8", errors="replace")[-400:].strip())
    return " | ".join(filter(None, texts))
