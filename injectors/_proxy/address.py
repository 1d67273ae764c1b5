"""Addresses as Go writes them: ``host:port``, ``[::1]:port``, ``:port``; and listening sockets at them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket

#: Where a listener is that names no host. (Toxiproxy listens on all interfaces then.)
LOOPBACK = "127.0.0.1"

#: Connections that may wait to be accepted.
BACKLOG = 1024


class AddressError(Exception):
    """An address that cannot be used; worded as Go's ``net.Listen`` words it."""

    def __init__(self, text: str, number: int | None = None) -> None:
        super().__init__(text)
        self.number = number  #: the errno, where there is one


def split(text: str) -> tuple[str, int]:
    """Return host and port. Raises `AddressError`."""
    host, colon, port = text.rpartition(":")
    if not colon or (host.startswith("[") != host.endswith("]")):
        raise AddressError(f"address {text}: missing port in address")
    if ":" in host and not host.startswith("["):
        raise AddressError(f"address {text}: too many colons in address")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise AddressError(f"address {text}: invalid port")
    return host.strip("[]"), int(port)


def join(host: str, port: int) -> str:
    """Return ``host:port``, with brackets where the host has colons."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def resolve(listen: str) -> tuple[str, int]:
    """Return the IP address and port to listen at for ``host:port``; no host, or no text, is loopback.

    A name is looked up, IPv4 first, as Go does. Raises `AddressError`.
    """
    host, port = split(listen) if listen else ("", 0)
    if not host:
        return LOOPBACK, port
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host)), port
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressError(f"lookup {host}: no such host") from error
    addresses = sorted(found, key=lambda each: each[0] != socket.AF_INET)
    return str(addresses[0][4][0]), port


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an IP address, and accepts connections. Raises `AddressError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY on such ones only
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setblocking(False)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise AddressError(f"listen tcp {join(host, port)}: bind: {_text(error)}", error.errno) from error
    return made


def bound(made: socket.socket) -> str:
    """Return where a socket listens."""
    host, port = made.getsockname()[:2]
    return join(host, port)


def _text(error: OSError) -> str:
    """Return what went wrong as Go spells it."""
    if error.errno == errno.EADDRNOTAVAIL:
        return "cannot assign requested address"
    return os.strerror(error.errno).lower() if error.errno else str(error)
