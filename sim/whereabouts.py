"""Which machine a run was on: a fault there is not gone because another machine, or another container, knows nothing
of it.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sim.event import JSON

BOOT = Path("/proc/sys/kernel/random/boot_id")
SPACES = Path("/proc/self/ns")


def here() -> dict[str, JSON]:
    """Return what tells this machine, and the world of processes and addresses in it, from others."""
    return {"host": socket.gethostname(), "boot": _boot(), "pid": _space("pid"), "net": _space("net")}


def elsewhere(said: Any, *spaces: str) -> str:
    """Return where it is that `here` was told, if that is not where we are; empty if it is, or was never told.

    `spaces` are the parts of a machine (``pid``, ``net``) that must be the same, too. A machine that was started anew
    is the same one.
    """
    if not isinstance(said, Mapping):
        return ""
    now, name = here(), str(said.get("host"))
    if not said.get("boot") or said["boot"] != now["boot"]:
        return "" if said.get("host") == now["host"] else f"machine {name}"
    apart = [space for space in spaces if said.get(space) != now[space]]
    return f"another container of this machine ({name}), or outside of this one" if apart else ""


def bound(doors: Mapping[str, Any], on_machine: bool) -> tuple[str, ...] | None:
    """Return by which parts of a machine a fault is bound to it; null where it can be undone from any machine."""
    urls = [urlsplit(str(door.get("url"))) for door in doors.values()]
    sockets = any(url.scheme == "unix" for url in urls)
    spaces = []
    if any(url.scheme == "file" for url in urls) or (on_machine and not urls):
        spaces.append("pid")
    if any(loopback(url.hostname or "") for url in urls):
        spaces.append("net")
    return tuple(spaces) if spaces or sockets or on_machine else None


def loopback(host: str) -> bool:
    """Whether a host, as a URL or an option names it, is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _boot() -> str:
    try:
        return BOOT.read_text(encoding="ascii").strip()
    except OSError:  # a system that has none: there its name must do
        return ""


def _space(name: str) -> int | None:
    try:
        return (SPACES / name).stat().st_ino
    except OSError:
        return None
