"""The bundled target as containers, on a real engine: the seed's exercises pass there too, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.places import places
from sim.stack.state import Home
from tests.conftest import ROOT, missing, tool
from tests.live.links import EXPECTED

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(7200)]

#: Those that need no load and no browser: first, since what breaks them breaks the others too.
LIGHT = ("invariant_breach", "schema_drift", "api_contract", "resolution_sla")
STACK = "containers"


def sim(*words: str, timeout_s: float = 3600) -> subprocess.CompletedProcess[str]:
    """Call the command line in the project's folder, with the images that were built here."""
    environment = {**os.environ, "SIM_COMPOSE_FILES": "docker-compose.offline.yml", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "sim.cli", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def home() -> Home:
    """Return the stack's folder."""
    return Home(places(ROOT).stacks / STACK)


def docker(*words: str) -> str:
    """Call the Docker client."""
    ran = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout.strip()


def left() -> list[str]:
    """Return the containers and volumes of this stack that are there."""
    mine = ("--filter", f"label=sim.stack={STACK}")
    names = docker("ps", "--all", "--format", "{{.Names}}", *mine) + "\n" + docker("volume", "ls", "--quiet", *mine)
    return names.split()


@pytest.fixture(scope="module")
def images() -> None:
    """A Docker engine, Compose 2, and every image; what is missing is built, and what cannot be is named."""
    try:
        docker("version")
    except (OSError, subprocess.SubprocessError) as error:
        missing("a Docker engine", f"scripts/engine.sh starts one ({error})")
    for script in ("compose.sh", "images.sh"):
        built = subprocess.run([ROOT / "scripts" / script], capture_output=True, text=True, timeout=3000)
        if built.returncode:
            missing("the images of the Compose stack", f"scripts/{script}: {built.stderr[-2000:]}")
    tool("docker-compose")


@pytest.fixture(scope="module")
def exports(images: None) -> Iterator[dict[str, str]]:
    """The stack, up; afterwards down, and nothing of it left."""
    up = sim("up", "--target", "mbp-compose", "--stack", STACK)
    assert up.returncode == 0, up.stdout[-2000:] + up.stderr[-4000:]
    state = home().read()
    assert state is not None
    yield dict(state.exports)
    down = sim("down", "--stack", STACK)
    assert (down.returncode, left()) == (0, []), down.stderr


def passed(*words: str) -> list[tuple[str, str, list[str]]]:
    """Run exercises on the stack, and return what each came to."""
    ran = sim("run", *words, "--target", "mbp-compose", "--stack", STACK, "--format", "json")
    told = json.loads(ran.stdout)
    runs = told.get("runs", [told])
    return [(each["exercise"], each["outcome"], each["reasons"]) for each in runs]


def test_every_container_is_as_hardened_as_it_is_written(exports: dict[str, str]) -> None:
    """What the engine says of each container, not the file: labels, root, capabilities, user, ports, mounts."""
    names = docker("ps", "--filter", f"label=sim.stack={STACK}", "--format", "{{.Names}}").split()
    for seen in json.loads(docker("inspect", *names)):
        host, config = seen["HostConfig"], seen["Config"]
        assert config["Labels"]["sim.environment"] == "sim-compose"
        assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False), seen["Name"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert config["User"] not in ("", "0", "root", "0:0")
        published = [port for ports in seen["NetworkSettings"]["Ports"].values() for port in ports or ()]
        assert {port["HostIp"] for port in published} <= {"127.0.0.1"}
        assert not any("docker.sock" in mount["Source"] for mount in seen["Mounts"] if mount["Type"] == "bind")
        assert all(not mount["RW"] for mount in seen["Mounts"] if mount["Type"] == "bind")
    assert len(names) == 19


@pytest.mark.parametrize("exercise", LIGHT)
def test_a_light_exercise_passes(exports: dict[str, str], exercise: str) -> None:
    """The chain closes over containers as it does over processes."""
    assert passed(exercise) == [(exercise, "passed", [])]


def test_a_heartbeat_that_stops_resets_the_real_proxy(exports: dict[str, str]) -> None:
    """A toxic whose owner falls silent is taken away by the reaper, on the real Toxiproxy."""
    toxic = {"name": "slow", "type": "latency", "attributes": {"latency": 50}}
    call("POST", f"{exports['proxy']}/proxies/sinks/toxics", toxic)
    call("PUT", f"{exports['reaper']}/heartbeat/somebody", {"ttl_s": 1})
    deadline = time.monotonic() + 30
    while call("GET", f"{exports['reaper']}/heartbeats")["resets"] == 0 and time.monotonic() < deadline:
        time.sleep(0.2)
    shown = call("GET", f"{exports['reaper']}/heartbeats")
    proxies = call("GET", f"{exports['proxy']}/proxies")
    assert (shown["live"], shown["expired"], shown["last"]["how"]) == ([], [], "reset")
    assert {name: (proxy["enabled"], proxy["toxics"]) for name, proxy in proxies.items()} == {
        name: (True, []) for name in ("postgres_api", "postgres_cdc", "sinks", "engine_metrics")
    }


def call(method: str, url: str, body: Any = None) -> Any:
    """Send one request and return its JSON."""
    request = urllib.request.Request(url, method=method, headers={"Content-Type": "application/json"})
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data, timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def test_all_seven_pass(exports: dict[str, str]) -> None:
    """The seed's exercises by their tag, in the file's order, one after the other."""
    assert passed("--tag", "s2") == [(name, "passed", []) for name in EXPECTED]


def test_a_killed_supervisor_leaves_what_the_next_down_ends(exports: dict[str, str], tmp_path: Path) -> None:
    """Its containers run on: `sim status` says so, and `sim up` clears them away and makes others."""
    state = home().read()
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    before = left()
    status = json.loads(sim("status", "--stack", STACK, "--format", "json").stdout)[0]
    assert (status["phase"], len(before) > 19) == ("orphaned", True)
    down = sim("down", "--stack", STACK)
    assert (down.returncode, left()) == (0, []), down.stderr
    again = sim("up", "--target", "mbp-compose", "--stack", STACK)
    assert again.returncode == 0, again.stderr[-4000:]
    after = home().read()
    assert after is not None
    assert after.instance != state.instance
