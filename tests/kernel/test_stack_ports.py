"""Ports of stacks: free, all different, and nobody else's from the look at them on."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.stack import StackError, ports
from sim.stack.ports import free_ports, is_taken
from tests.kernel.test_stack_parts import spec_of


@given(st.integers(min_value=1, max_value=40))
def test_free_ports_are_free_and_all_different(count: int) -> None:
    """No two names of a stack get the same port, and each can be bound."""
    found = free_ports(spec_of(ports={f"p{index}": "auto" for index in range(count)}))
    assert len(set(found.values())) == len(found) == count
    assert not any(is_taken(port) for port in found.values())
    ports.give_back(found.values())


def test_a_fixed_port_that_is_taken_is_refused() -> None:
    """A port given by number is used as it is, or refused by number when somebody has it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_address[1]
        with pytest.raises(StackError, match=f"port {port} of 127.0.0.1 cannot be had"):
            free_ports(spec_of(ports={"p": port}))
    assert free_ports(spec_of(ports={"p": port})) == {"p": port}


def test_a_preferred_port_is_had_where_it_is_free() -> None:
    """Preferred is not fixed: a second stack on this machine gets another port instead of an error."""
    wish = {"ports": {"p": {"prefer": free_ports(spec_of(ports={"p": "auto"}))["p"]}}}
    port = free_ports(spec_of(**wish))["p"]
    assert wish == {"ports": {"p": {"prefer": port}}}
    with socket.create_server(("127.0.0.1", port)):
        assert free_ports(spec_of(**wish))["p"] != port


#: Takes a port as a stack does that has not begun to listen yet; ends with its input.
STARTS_BESIDE = """
import sys
from sim.stack import ports
from sim.stack.spec import Spec
ports._NAMES = sys.argv[1] == "True"
beside = {"stack": "beside", "processes": {"a": {"command": ["true"]}}, "ports": {"p": "auto"}}
print(ports.free_ports(Spec.model_validate(beside))["p"], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("names", [True, False])
def test_a_port_of_a_stack_that_starts_beside_is_nobody_elses(monkeypatch: pytest.MonkeyPatch, names: bool) -> None:
    """Two stacks that start side by side have no port in common, though neither listens yet."""
    monkeypatch.setattr(ports, "_NAMES", names and sys.platform == "linux")
    command = [sys.executable, "-c", STARTS_BESIDE, str(ports._NAMES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as beside:
        assert beside.stdout is not None
        port = int(beside.stdout.readline())
        with pytest.raises(StackError, match=f"port {port} of 127.0.0.1 cannot be had: another stack has it"):
            free_ports(spec_of(ports={"p": port}))
        assert free_ports(spec_of(ports={"p": {"prefer": port}}))["p"] != port
        assert not is_taken(port), "it is reserved, not held: its service has to bind it"
    assert free_ports(spec_of(ports={"p": port})) == {"p": port}
    ports.give_back([port])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the lock is a file")
def test_a_port_is_locked_wherever_temporary_files_are(tmp_path: Path) -> None:
    """Two stacks whose TMPDIR differs share the ports of the machine, and so the locks; given back, one is free."""
    port = free_ports(spec_of(ports={"p": "auto"}))["p"]

    def beside() -> subprocess.CompletedProcess[str]:
        code = STARTS_BESIDE.replace('"auto"', str(port))
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", code, "True"]
        return subprocess.run(command, env=environment, input="", capture_output=True, text=True, check=False)

    assert f"port {port} of 127.0.0.1 cannot be had: another stack has it" in beside().stderr
    ports.give_back([port])
    assert beside().stdout == f"{port}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the lock is a file")
def test_a_name_that_cannot_be_had_is_told_with_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor left is not somebody else's port."""

    def none_left(_: int) -> bool:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(ports, "_name", none_left)
    with pytest.raises(StackError, match=r"port \d+ of 127.0.0.1 cannot be locked: Too many open files"):
        free_ports(spec_of(ports={"p": "auto"}))


def test_ports_that_cannot_be_locked_are_told_with_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link in place of the file of locks leads nowhere: one error that names it, and no port without a lock."""
    path = tmp_path / f"sim.ports.{os.getuid()}"
    path.symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(ports, "_NAMES", False)
    ports._locks.cache_clear()
    try:
        for wish in ("auto", {"prefer": 20000}, 20000):
            with pytest.raises(StackError, match=f"cannot use {path}: .*; remove it, or set TMPDIR"):
                free_ports(spec_of(ports={"p": wish}))
    finally:
        ports._locks.cache_clear()
    assert not (tmp_path / "elsewhere").exists()
