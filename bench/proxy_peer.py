"""The service behind the links of the proxy bench, a process of its own: what is asked of it stands in the first byte.

``e`` sends back what comes; ``d`` and eight bytes sends so many; ``u`` and eight bytes takes so many and answers one;
``b`` sends for as long as somebody takes it. One thread a connection, blocking sockets: it is the same for all.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

_CHUNK = bytes(256 * 1024)


def serve(listener: socket.socket) -> None:
    """Accept until the process is ended."""
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_one, args=(client,), daemon=True).start()


def _one(client: socket.socket) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with client, contextlib.suppress(OSError):
        what = client.recv(1)
        if what == b"e":
            while got := client.recv(65536):
                client.sendall(got)
        elif what == b"b":
            while True:
                client.sendall(_CHUNK)
        elif what in (b"d", b"u"):
            left = int.from_bytes(_exactly(client, 8), "big")
            if what == b"u":
                _swallow(client, left)
                client.sendall(b"!")
                return
            while left > 0:
                client.sendall(_CHUNK[: min(left, len(_CHUNK))])
                left -= len(_CHUNK)


def _exactly(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (chunk := client.recv(count - len(got))):
        got += chunk
    return got


def _swallow(client: socket.socket, left: int) -> None:
    room = bytearray(256 * 1024)
    while left > 0 and (count := client.recv_into(room, min(left, len(room)))):
        left -= count


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        print(server.getsockname()[1], flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            serve(server)
    sys.exit(0)
