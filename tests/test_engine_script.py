"""`scripts/engine.sh`, with a dockerd that only answers a ping, and an apt-get that only says what it was asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: A dockerd that listens on its socket and answers every request with 200; `DIES` makes it end at once.
DOCKERD = """#!{python}
import http.server, os, socketserver, sys
if os.environ.get("DIES"):
    sys.exit("no bridge for you")
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
open(words["--pidfile"], "w").write(str(os.getpid()))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"OK")
    def address_string(self):
        return "it"
socketserver.UnixStreamServer(words["--host"].removeprefix("unix://"), Answer).serve_forever()
"""


class Tree:
    """A checkout with the script, and programs of its own in front of the machine's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        (folder / "scripts").mkdir()
        self.bin.mkdir()
        shutil.copy(ROOT / "scripts" / "engine.sh", folder / "scripts")
        for name in (
            "sh",
            "cat",
            "tr",
            "grep",
            "sleep",
            "kill",
            "rm",
            "mkdir",
            "tail",
            "dirname",
            "pwd",
            "setsid",
            "env",
        ):
            found = shutil.which(name)
            if found:
                (self.bin / name).symlink_to(found)
        self.program("id", "echo 0")

    def program(self, name: str, text: str) -> None:
        """Write a program in front of the machine's."""
        path = self.bin / name
        path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def dockerd(self) -> None:
        """Write the dockerd."""
        self.program("dockerd", DOCKERD.format(python=sys.executable))

    @property
    def address(self) -> str:
        """Where an engine of the script's own answers."""
        return f"unix://{self.folder}/.sim/engine/docker.sock"

    def call(self, *words: str, **more: str) -> tuple[int, str, str]:
        """Call the script; return its exit code, and what it said on both."""
        environment = {"PATH": str(self.bin), "PYTHON": sys.executable, "ENGINE_SOCKETS": "", **more}
        done = subprocess.run(
            [self.folder / "scripts" / "engine.sh", *words],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def tree() -> Iterator[Tree]:
    """Give a checkout with a short path, as sockets need it; stop what is left."""
    with tempfile.TemporaryDirectory(prefix="sim-e", dir="/tmp") as folder:
        made = Tree(Path(folder))
        yield made
        made.call("stop")


def test_an_engine_is_started_once_and_stopped_once(tree: Tree) -> None:
    """Found the second time, stopped with all that it left but its images; a second stop has nothing to do."""
    tree.dockerd()
    assert tree.call() == (0, f"{tree.address}\n", "engine: started dockerd, its log is .sim/engine/dockerd.log\n")
    assert tree.call("--install") == (0, f"{tree.address}\n", "")
    pid = int((tree.folder / ".sim/engine/dockerd.pid").read_text())
    assert tree.call("stop") == (0, "", "engine: stopped dockerd\n")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert tree.call("stop") == (0, "", "")
    assert sorted(path.name for path in (tree.folder / ".sim/engine").iterdir()) == ["dockerd.log"]


def test_a_command_runs_with_the_engine_and_what_was_started_for_it_is_stopped(tree: Tree) -> None:
    """The command's exit code is the script's; an engine that was there before stays."""
    tree.dockerd()
    shown = ("run", "--", "sh", "-c", "echo $DOCKER_HOST; exit 3")
    code, out, told = tree.call(*shown)
    assert (code, out, told.splitlines()[-1]) == (3, f"{tree.address}\n", "engine: stopped dockerd")
    tree.call()
    assert tree.call(*shown) == (3, f"{tree.address}\n", "")
    assert tree.call("--install")[:2] == (0, f"{tree.address}\n")


def test_the_engine_that_docker_host_names_comes_first(tree: Tree) -> None:
    """And is never stopped: it is somebody else's."""
    tree.dockerd()
    with tempfile.TemporaryDirectory(prefix="sim-e", dir="/tmp") as folder:
        (Path(folder) / "x").mkdir()
        other = Tree(Path(folder) / "x")
        other.dockerd()
        other.call()
        try:
            host = {"DOCKER_HOST": other.address}
            assert tree.call(**host) == (0, f"{other.address}\n", "")
            assert tree.call("run", "--", "sh", "-c", "echo $DOCKER_HOST", **host) == (0, f"{other.address}\n", "")
            assert tree.call("stop", **host) == (0, "", "")
            path = other.address.removeprefix("unix://")
            assert tree.call(ENGINE_SOCKETS=f"/no/such.sock {path}") == (0, f"{other.address}\n", "")
        finally:
            other.call("stop")


@pytest.mark.parametrize(
    ("programs", "words", "told"),
    [
        ({"id": "echo 1000"}, (), "no engine answers, and only root can start one"),
        ({}, (), "no engine answers, and no dockerd is installed"),
        ({}, ("--install",), "no engine answers, and there is no apt-get to install one with"),
        ({"apt-get": "echo E: no network; exit 1"}, ("--install",), "docker.io could not be installed: E: no network"),
    ],
)
def test_where_no_engine_can_be_had_it_says_why(
    tree: Tree, programs: dict[str, str], words: tuple[str, ...], told: str
) -> None:
    """Nothing on standard output, and exit 1; `run` runs its command all the same, without DOCKER_HOST."""
    for name, text in programs.items():
        tree.program(name, text)
    code, out, error = tree.call(*words)
    assert (code, out, error.splitlines()[-1]) == (1, "", f"engine: {told}")
    code, out, error = tree.call("run", *words, "--", "sh", "-c", "echo host $DOCKER_HOST; exit 4")
    assert (code, out, error.splitlines()[-1]) == (4, "host\n", f"engine: {told}")


def test_one_that_ends_while_it_starts_is_not_waited_for(tree: Tree) -> None:
    """Its last word is passed on, and nothing of it is left."""
    tree.dockerd()
    code, out, told = tree.call(DIES="1")
    assert (code, out) == (1, "")
    assert told.endswith("dockerd ended, or did not answer within 60 s: no bridge for you\n")
    assert not (tree.folder / ".sim/engine/dockerd.pid").exists()


def test_installing_brings_the_package_and_starts_it(tree: Tree) -> None:
    """As root with apt-get: the package lists, then docker.io and nothing that it merely recommends."""
    asked = tree.folder / "asked"
    dockerd = tree.folder / "dockerd"
    dockerd.write_text(DOCKERD.format(python=sys.executable))
    dockerd.chmod(0o755)
    tree.program("apt-get", f'echo "$*" >>{asked}; [ "$1" = update ] || ln -s {dockerd} {tree.bin}/dockerd')
    (tree.bin / "ln").symlink_to(str(shutil.which("ln")))
    assert tree.call("--install")[:2] == (0, f"{tree.address}\n")
    assert asked.read_text() == "update -qq\ninstall -qq -y --no-install-recommends docker.io\n"


@pytest.mark.parametrize("words", [("run",), ("run", "--"), ("fly",), ("--install", "more")])
def test_a_wrong_call_is_a_usage_error(tree: Tree, words: tuple[str, ...]) -> None:
    """The script says what it takes, and starts nothing."""
    code, out, told = tree.call(*words)
    assert (code, out) == (2, "")
    assert told.startswith("engine: usage: scripts/engine.sh")
