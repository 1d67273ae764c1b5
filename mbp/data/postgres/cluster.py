"""The server's data folder: a template made once and copied, its settings, and an end to what an earlier life left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psutil

from mbp._service import LOOPBACK, StartRefused
from mbp.data.postgres.binaries import Account, Binaries, cache, mark, settled, usable

DATABASE = USER = "mbp"
INITDB_WAIT_S = 60.0
END_WAIT_S = 5.0

_INITDB = (
    f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--locale=C", "--wal-segsize=1", "--no-sync",
    "--no-instructions",
)  # fmt: skip

#: A target that is thrown away: nothing is synced to the disk. A commit is still in the log before it is answered
#: (synchronous_commit), or logical decoding would not see it until the log's writer comes by, which is lag of our own.
SETTINGS: dict[str, str] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "wal_level": "logical",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "shared_buffers": "16MB",
    "max_connections": "32",
    "max_worker_processes": "2",
    "max_parallel_workers": "0",
    "max_logical_replication_workers": "0",
    "max_wal_senders": "4",
    "max_replication_slots": "4",
    "max_wal_size": "64MB",
    "autovacuum_naptime": "5min",
    "bgwriter_delay": "1s",
    "wal_writer_delay": "1s",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}

_HBA = f"host all {USER} 127.0.0.1/32 trust\nhost replication {USER} 127.0.0.1/32 trust\n"


def identity(who: Account | None) -> dict[str, Any]:
    """Return the arguments with which a subprocess runs as ``who``."""
    return {} if who is None else {"user": who.uid, "group": who.gid, "extra_groups": []}


def template(found: Binaries, who: Account | None) -> Path:
    """Return an initialised data folder to copy, made once a build of the server; raises :class:`StartRefused`.

    It holds the database already, so that a server on a copy of it is ready as soon as it listens.
    """
    folder = cache(who)
    made = hashlib.sha256(repr((_INITDB, _HBA, who and who.uid)).encode()).hexdigest()[:8]
    target = folder / f"template-{mark(found)}-{made}"
    if target.is_dir():
        return target
    programs = usable(found, who)
    fresh = Path(tempfile.mkdtemp(prefix="making-", dir=folder))
    try:
        if who is not None:
            os.chown(fresh, who.uid, who.gid)
        pgdata = fresh / "pgdata"
        _run([str(programs / "initdb"), f"--pgdata={pgdata}", *_INITDB], who)
        _run([str(programs / "postgres"), "--single", "-D", str(pgdata), "-F", "postgres"], who,
             f"CREATE DATABASE {DATABASE}\n")  # fmt: skip
        (pgdata / "pg_hba.conf").write_text(_HBA, encoding="ascii")
        return settled(pgdata, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _run(command: list[str], who: Account | None, text: str = "") -> None:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=INITDB_WAIT_S, check=False, cwd="/",
            **identity(who),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise StartRefused(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        raise StartRefused(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}")


def prepare(pgdata: Path, found: Binaries, who: Account | None) -> None:
    """Make the data folder if it is not there, whole or not at all. Raises `OSError` and :class:`StartRefused`."""
    if pgdata.is_dir():
        return
    source = template(found, who)
    fresh = Path(tempfile.mkdtemp(prefix="making-", dir=pgdata.parent))
    try:
        copy = fresh / "pgdata"
        shutil.copytree(source, copy)
        if who is not None:
            for folder, _, files in os.walk(copy):
                os.chown(folder, who.uid, who.gid)
                for name in files:
                    os.chown(Path(folder) / name, who.uid, who.gid)
        copy.rename(pgdata)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def end_earlier(pgdata: Path) -> int:
    """End what an earlier life of the server left running in this folder, and return how many processes it was.

    The caller holds the lock on the folder, so nothing in there is anybody's any more. A killed postmaster's children
    notice by themselves, but until then the new one is refused the shared memory; and a killed launcher may have left
    a whole server (where the system has no leash).
    """
    left = running_in(pgdata)
    for number, wait_s in ((signal.SIGQUIT, END_WAIT_S), (signal.SIGKILL, END_WAIT_S)):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        _, left = psutil.wait_procs(left, timeout=wait_s)
        if not left:
            break
    # Its number may be another process' by now, and PostgreSQL would take that for a server.
    (pgdata / "postmaster.pid").unlink(missing_ok=True)
    return len(left)


def running_in(pgdata: Path) -> list[psutil.Process]:
    """Return the server processes whose working folder this is: postmaster and children alike.

    This very folder: a server in a container, seen from its host, stands in a folder that is called alike.
    """
    found = []
    where = str(pgdata.resolve())
    for process in psutil.process_iter(["pid"]):
        try:
            # By its name too: a shell that somebody left in the folder is not ours to end.
            if process.name() == "postgres" and process.cwd() == where and _stands_in(process.pid, pgdata):
                found.append(process)
        except (psutil.Error, OSError):  # gone meanwhile, or somebody else's
            continue
    return found


def _stands_in(pid: int, folder: Path) -> bool:
    """Say whether the process's folder, which is called like ours, is ours. Raises `OSError`."""
    proc = Path(f"/proc/{pid}")
    if not proc.is_dir():  # no such system here
        return True
    # In our root the name is enough, whether or not the folder is there any more.
    return (proc / "root").samefile("/") or (proc / "cwd").samefile(folder)
