"""Containers of our own for tests: a real engine, one tiny image made without a registry, and nothing left afterwards.

The image is a static busybox and a web server's folder. Every container and network is labelled with the room that
made it, and goes with it; addresses are those of a network of the room's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import secrets
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from tests.conftest import ROOT, missing

IMAGE = "sim-tiny"
LABEL = "sim.test"

#: What the image's busybox is called by, and what its web server serves.
APPLETS = ("sh", "httpd", "sleep", "usleep", "seq", "wget", "nslookup")
PAGES = {"index.html": "well\n", "metrics.txt": "# TYPE depot_up gauge\ndepot_up 1\n"}

SERVE = ["httpd", "-f", "-h", "/www", "-p", "80"]


class _Local(http.client.HTTPConnection):
    """HTTP over a socket of this machine."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=3)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(3)
        self.sock.connect(self.path)


def engine() -> str:
    """Return the address of an engine that answers; see `tests.conftest.missing` for what happens without one."""
    usual = ("/var/run/docker.sock", str(ROOT / ".sim" / "engine" / "docker.sock"))
    tried = [each for each in (os.environ.get("DOCKER_HOST"), *(f"unix://{path}" for path in usual)) if each]
    for url in tried:
        scheme, _, rest = url.partition("://")
        asked = _Local(rest) if scheme == "unix" else http.client.HTTPConnection(rest, timeout=3)
        with contextlib.closing(asked), contextlib.suppress(OSError, http.client.HTTPException):
            asked.request("GET", "/_ping")
            if asked.getresponse().status == 200:
                return url
    return missing("Docker engine", f"none answers at {', '.join(tried)}; scripts/engine.sh starts one")


def _archive(busybox: Path) -> bytes:
    """Return the image's files as a tar archive, the same bytes each time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def put(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.type, entry.mode, entry.linkname = len(data), kind, mode, link
            tar.addfile(entry, io.BytesIO(data))

        for folder in ("bin", "etc", "www"):
            put(folder, kind=tarfile.DIRTYPE, mode=0o755)
        put("bin/busybox", busybox.read_bytes(), mode=0o755)
        for applet in APPLETS:
            put(f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
        for name, text in PAGES.items():
            put(f"www/{name}", text.encode())
    return out.getvalue()


def image(api: docker.APIClient) -> str:
    """Return the image, made if the engine does not have it; named by what is in it."""
    script = [ROOT / "scripts" / "busybox.sh"]
    told = subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)
    if told.returncode:
        missing("static busybox", told.stderr.strip())
    data = _archive(Path(told.stdout.strip()))
    tag = hashlib.sha256(data).hexdigest()[:12]
    if not api.images(f"{IMAGE}:{tag}"):
        api.import_image_from_data(data, repository=IMAGE, tag=tag)
    return f"{IMAGE}:{tag}"


@dataclass
class Room:
    """Containers that belong together, in a network of their own with addresses of their own."""

    api: docker.APIClient
    url: str
    token: str = field(default_factory=lambda: secrets.token_hex(3))
    network: str = ""
    net: str = ""
    image: str = ""
    opener: urllib.request.OpenerDirector = field(
        default_factory=lambda: urllib.request.build_opener(urllib.request.ProxyHandler({}))
    )

    @property
    def door(self) -> str:
        """The address of the door that shows this room alone."""
        return f"{self.url}?label={LABEL}={self.token}"

    @property
    def labels(self) -> dict[str, str]:
        """What marks everything of this room."""
        return {LABEL: self.token, "sim.environment": "sim-test"}

    def name(self, short: str) -> str:
        """Return the whole name of a container or network."""
        return f"sim-{self.token}-{short}"

    def connect(self) -> None:
        """Make the network, at a range of addresses that nobody else has."""
        self.network = self.name("net")
        for _ in range(20):
            self.net = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
            pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=f"{self.net}.0/24")])
            try:
                self.api.create_network(self.network, driver="bridge", ipam=pool, labels=self.labels)
                return
            except docker.errors.APIError as error:
                if "overlap" not in str(error):
                    raise
        raise AssertionError("no range of addresses is free")

    def start(
        self, short: str, command: list[str] | None = None, *, last: int | None = None, alias: str = "",
        host: dict[str, Any] | None = None, **more: Any,
    ) -> str:  # fmt: skip
        """Start a container in the room's network; `last` is the last part of a fixed address. Return its name."""
        place = self.api.create_endpoint_config(
            aliases=[alias] if alias else None, ipv4_address=f"{self.net}.{last}" if last else None
        )
        made = self.api.create_container(
            self.image, command or SERVE, name=self.name(short), labels=self.labels | more.pop("labels", {}),
            host_config=self.api.create_host_config(network_mode=self.network, **(host or {})),
            networking_config=self.api.create_networking_config({self.network: place}), **more,
        )  # fmt: skip
        self.api.start(made["Id"])
        return self.name(short)

    def tell(self, name: str) -> dict[str, Any]:
        """Return how a container stands, in the parts that a fault changes and an undoing restores."""
        raw = self.api.inspect_container(name)
        state, host = raw["State"], raw["HostConfig"]
        return {
            "id": raw["Id"],
            "status": state["Status"],
            "health": (state.get("Health") or {}).get("Status"),
            "cpus": [host["NanoCpus"], max(0, host["CpuQuota"])],
            "networks": {
                name: [
                    sorted(set(told["Aliases"] or ()) - {raw["Id"][:12]}),
                    (told["IPAMConfig"] or {}).get("IPv4Address"),
                    told["Links"] or [],
                    told["DriverOpts"] or {},
                ]
                for name, told in raw["NetworkSettings"]["Networks"].items()
            },
            "stopped": [row[0] for row in self.top(name) if row[1].startswith("T")],
        }

    def top(self, name: str) -> list[list[str]]:
        """Return pid and state of each process of a container; none of one that is down."""
        try:
            return list(self.api.top(name, "-eo pid,stat")["Processes"])
        except docker.errors.APIError:
            return []

    def answers(self, last: int, port: int = 80) -> bool:
        """Whether a container at a fixed address serves a page within a second."""
        try:
            with self.opener.open(f"http://{self.net}.{last}:{port}/", timeout=1) as answer:
                return bool(answer.read() == PAGES["index.html"].encode())
        except (OSError, urllib.error.URLError):
            return False

    def run(self, name: str, *command: str) -> tuple[int, str]:
        """Run a command in a container; return its exit code and what it printed."""
        made = self.api.exec_create(name, list(command))
        out = self.api.exec_start(made["Id"])
        return int(self.api.exec_inspect(made["Id"])["ExitCode"]), out.decode()

    def empty(self) -> None:
        """Remove every container of this room."""
        for each in self.api.containers(all=True, filters={"label": f"{LABEL}={self.token}"}):
            with contextlib.suppress(docker.errors.NotFound):
                self.api.remove_container(each["Id"], force=True, v=True)

    def clear(self) -> None:
        """Remove everything of this room."""
        self.empty()
        for each in self.api.networks(filters={"label": f"{LABEL}={self.token}"}):
            self.api.remove_network(each["Id"])


def until(probe: Callable[[], Any], what: str, wait_s: float = 30.0) -> Any:
    """Return the probe's first true answer."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if found := probe():
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {what} within {wait_s:g} s")


@contextlib.contextmanager
def room() -> Iterator[Room]:
    """Give a room of its own, and remove everything in it afterwards."""
    url = engine()
    with contextlib.closing(docker.APIClient(base_url=url, version="auto", timeout=120)) as api:
        made = Room(api, url)
        try:
            made.image = image(api)
            made.connect()
            yield made
        finally:
            made.clear()
