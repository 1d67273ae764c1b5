"""Ports of 127.0.0.1 that a stack is to have: free when they are looked for, and nobody else's from then on.

Between that look and the moment when a service listens there may be seconds. Another stack that starts meanwhile must
not find the same port: one of the two would be ready by an answer of the other's service. So each port is locked, by a
lock that the kernel drops with the process that took it: on Linux a name in the abstract namespace of Unix sockets,
which is as wide as that of the ports, whoever the user is and wherever his temporary files are; elsewhere one byte of
a file that all stacks of a user share.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from sim.stack.errors import StackError
from sim.stack.spec import Common, Preferred

# Below the ports that systems hand out for outgoing connections (Linux: 32768 up, elsewhere 49152 up): a port taken
# from there could become somebody's outgoing port between our look and the service's bind.
_PORTS = range(20000, 32000)
_TRIES = 200
_NAMES = sys.platform == "linux"

#: Our own names, by port. A process that is forked has none of them, as it is with locks of files.
_named: dict[int, socket.socket] = {}
os.register_at_fork(after_in_child=_named.clear)


class _Taken(StackError):
    """Somebody has this port; another may be free."""


def free_ports(spec: Common) -> dict[str, int]:
    """Return a port of 127.0.0.1 for each name of `spec`, no two alike: this process's own until it ends.

    Raises `StackError` for a fixed port that somebody has, and when no port can be had.
    """
    taken: dict[str, int] = {}
    held: list[socket.socket] = []
    try:
        for name, wish in sorted(spec.ports.items(), key=lambda item: not isinstance(item[1], int)):  # fixed ones first
            sock = _bind(wish) if isinstance(wish, int) else _bind_wished(wish) or _bind_any()
            held.append(sock)
            taken[name] = sock.getsockname()[1]
    finally:
        for sock in held:
            sock.close()
    return taken


def give_back(ports: Iterable[int]) -> None:
    """Let others have `ports`, which this process was given."""
    for port in ports:
        if _NAMES:
            _named.pop(port).close()
        else:
            fcntl.lockf(_locks(), fcntl.LOCK_UN, 1, port)


def is_taken(port: int) -> bool:
    """Say whether somebody listens at `port` of 127.0.0.1, or has it without sharing."""
    try:
        _bound(port).close()
    except _Taken:
        return True
    return False


def _bind(port: int, reuse: bool = True) -> socket.socket:
    sock = _bound(port, reuse)
    try:
        if not (_name(port) if _NAMES else _lock(port)):
            raise _Taken(f"port {port} of 127.0.0.1 cannot be had: another stack has it")
    except OSError as error:
        sock.close()
        raise StackError(f"port {port} of 127.0.0.1 cannot be locked: {error.strerror}") from error
    except StackError:
        sock.close()
        raise
    return sock


def _name(port: int) -> bool:
    if port in _named:
        return True
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.bind(f"\0sim.port.{port}")
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    _named[port] = sock
    return True


def _lock(port: int) -> bool:
    try:
        fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):  # POSIX allows both for "somebody has it"
        return False
    return True


def _bound(port: int, reuse: bool = True) -> socket.socket:
    """Bind `port`. `reuse`: old connections in TIME_WAIT do not count, nor (Linux) another reservation like this."""
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        sock.bind(("127.0.0.1", port))
    except OSError as error:
        sock.close()
        raise _Taken(f"port {port} of 127.0.0.1 cannot be had: {error.strerror}") from error
    return sock


def _bind_wished(wish: Preferred | Literal["auto"]) -> socket.socket | None:
    try:
        return None if wish == "auto" else _bind(wish.prefer, reuse=False)
    except _Taken:
        return None


def _bind_any() -> socket.socket:
    for _ in range(_TRIES):
        try:
            return _bind(_PORTS.start + secrets.randbelow(len(_PORTS)), reuse=False)
        except _Taken:
            continue
    raise StackError(
        f"{_TRIES} ports of 127.0.0.1 between {_PORTS.start} and {_PORTS.stop} were tried, none can be had"
    )


@functools.cache
def _locks() -> int:
    """Open the file of locks, once: these locks belong to the process, and closing any of its descriptors drops all."""
    path = Path("a temporary file")
    try:
        path = Path(tempfile.gettempdir()) / f"sim.ports.{os.getuid()}"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StackError(
            f"cannot use {path}: {error.strerror}; remove it, or set TMPDIR to a folder of yours"
        ) from error
