"""The two servers that links can run through, started for one test: `sim proxy`, and the real Toxiproxy 2.12."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sim.stack import procs
from tests.conftest import ROOT, missing
from tests.ports import free_port

#: The servers, by the names that tests show.
SERVERS = ("sim proxy", "Toxiproxy 2.12")
_START_S = 20.0


def binary() -> Path:
    """Return the real server that scripts/toxiproxy.sh builds; in CI the test fails without it."""
    path = ROOT / ".sim" / "toxiproxy" / "bin" / "toxiproxy-server"
    if not path.is_file():
        missing("toxiproxy", "not built: run scripts/toxiproxy.sh (needs Go)")
    return path


def node_client() -> Path:
    """Return the folder that scripts/node_client.sh installs into; in CI the test fails without it."""
    folder = ROOT / ".sim" / "conformance"
    if not (folder / "node_modules" / "toxiproxy-node-client").is_dir():
        missing("toxiproxy-node-client", "not installed: run scripts/node_client.sh (needs npm)")
    return folder


def command(name: str, port: int) -> list[str]:
    """Return what starts a server at a port of this machine."""
    if name == "sim proxy":
        return [sys.executable, "-m", "injectors._proxy", "--listen", f"127.0.0.1:{port}"]
    return [str(binary()), "-host", "127.0.0.1", "-port", str(port)]


@contextmanager
def serving(name: str, *, owned: bool = False) -> Iterator[str]:
    """Serve, and give the address. An `owned` one is marked as of a stack, and started again when it dies."""
    port = free_port()
    argv = command(name, port)
    environment = {**os.environ, "LOG_LEVEL": "error"} | ({procs.TAG: "the-test"} if owned else {})
    ended = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        running[:] = [subprocess.Popen(argv, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)]
        return running[0]

    def supervise() -> None:
        while not ended.is_set():
            running[0].wait()
            if not owned or ended.wait(0.1):
                return
            start()

    start()
    supervisor = threading.Thread(target=supervise, daemon=True)
    supervisor.start()
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url)
        yield url
    finally:
        ended.set()
        running[0].kill()
        supervisor.join(5)
        running[0].wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{url}/version", timeout=1).close()
            return
        assert time.monotonic() < deadline, f"{url} did not answer within {_START_S:g} s"
        time.sleep(0.05)


class Upstream:
    """A service behind a link: sends back what it gets, or, asked ``bulk``, sends until nobody takes it any more."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while got := client.recv(65536):
                if got == b"bulk":
                    while True:
                        self.sent += client.send(b"x" * 65536)
                client.sendall(got)

    def close(self) -> None:
        """Listen no more; what is open ends with the other side."""
        self._listener.close()
