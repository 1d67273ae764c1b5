"""What every service of the platform shares and needs no web framework for: identity, error shape, limits, data folder.

Kept free of FastAPI so that the small services (traffic, past) start without paying for it; the ASGI half is
:mod:`mbp._asgi`.
"""

from __future__ import annotations

import argparse
import fcntl
import ipaddress
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
BODY_LIMIT = 64 * 1024  # bytes; a larger request is refused with 413 before it is read
BODY_WAIT_S = 10.0  # a client that takes longer to send its body is refused with 408
KEEP_ALIVE_S = 75  # servers keep an idle connection longer than our clients do, so no client meets a closed one
CLIENT_KEEP_ALIVE_S = 30.0
STOP_WAIT_S = 1  # after SIGTERM, requests in flight have this long to end


class StartRefused(Exception):
    """The service cannot start as it was told to; the text names the cause and the cure."""


def identity(service: str) -> dict[str, str]:
    """Return who this process is: environment label, instance id (both from the environment) and service name."""
    return {
        "environment": os.environ.get("MBP_ENVIRONMENT", "unlabelled"),
        "instance": os.environ.get("MBP_INSTANCE", "unlabelled"),
        "service": service,
    }


def problem(code: str, detail: str) -> dict[str, str]:
    """Return the one error body of the platform, safe to encode whatever the client sent (lone surrogates too)."""
    return {"error": code, "detail": detail.encode("utf-8", "backslashreplace").decode("utf-8")}


def wall_text(seconds: float) -> str:
    """Return a wall-clock time (Unix seconds) as RFC 3339 in UTC with microseconds, ending in ``Z``."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def listen_address() -> str:
    """Return the address to listen on: this machine's own, unless ``MBP_LISTEN`` names another.

    It is for a container only, whose own loopback nobody else can reach; there the ports are published on the host's
    loopback. Raises :class:`StartRefused` for what is no IPv4 address: a host name could mean anything.
    """
    text = os.environ.get("MBP_LISTEN", LOOPBACK)
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise StartRefused(f"MBP_LISTEN: {text!r} is not an IPv4 address such as {LOOPBACK}") from None


def switch_is_on(name: str) -> bool:
    """Tell whether an environment switch is on: only the exact text ``1`` is; ``true``, ``yes`` and ``on`` are off."""
    return os.environ.get(name) == "1"


def port_number(text: str) -> int:
    """Parse a TCP port for argparse; raises :class:`argparse.ArgumentTypeError` outside 1 to 65535."""
    try:
        port = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number (1 to 65535)") from None
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port number (1 to 65535)")
    return port


def http_url(text: str) -> str:
    """Check a base URL for argparse (`http://host:port`, no path) and return it without a trailing slash."""
    parts = urlsplit(text)
    try:
        bad = parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or bool(parts.query)
        bad = bad or parts.port == 0
    except ValueError:
        bad = True
    if bad:
        raise argparse.ArgumentTypeError(f"{text!r} is not a base URL such as http://127.0.0.1:8080")
    return text.rstrip("/")


def hold_data_folder(folder: Path, service: str) -> IO[str]:
    """Create ``folder`` (0700) and lock it for this process; keep the returned file open as long as the lock is needed.

    Raises :class:`StartRefused` when another process holds it: two writers over one store would answer from two truths.
    The kernel drops the lock with the process, so a ``kill -9`` leaves nothing to clean up.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = (folder / f"{service}.lock").open("a+", encoding="ascii")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise StartRefused(f"{folder} is in use by another {service}; stop it or give another --data") from None
    return handle


def read_token(path_text: str | None, variable: str) -> str:
    """Read a shared token from the file that ``variable`` names; raises :class:`StartRefused` when there is none."""
    if not path_text:
        raise StartRefused(f"{variable} is not set; name a file with the token in it")
    try:
        token = Path(path_text).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartRefused(f"{variable}: cannot read {path_text}: {error}") from None
    if len(token) < 16:
        raise StartRefused(f"{variable}: the token in {path_text} is shorter than 16 characters")
    return token
