"""Stacks under every kill: nothing of a stack outlives what holds it up, and a dead child comes back, within limits.

The last tests use the real parts: Debian's package fetched by another user, and the bundled target's stack.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sim import stack, tools
from sim.places import Places, places, shipped
from sim.stack import procs
from sim.stack.state import Home

pytestmark = pytest.mark.live

ROOT = Path(stack.__file__).resolve().parents[2]
SERVICE = """
import http.server, sys
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
"""
#: Brings a stack up as `sim run` (owned) or `sim up` does, says "up", and then does nothing.
RUNNER = """
import sys, time
from pathlib import Path
from sim import stack
from sim.places import places
made = stack.up(Path(sys.argv[1]), "default", places(), sys.argv[2] == "owned", lambda what: print(what, flush=True))
print("up", flush=True)
time.sleep(120)
"""


def eventually(condition: Callable[[], bool], what: str, within_s: float = 20.0) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """A project with a stack of two services; afterwards nothing of it may be left."""
    (tmp_path / "sim.toml").write_text("")
    (tmp_path / "service.py").write_text(SERVICE)
    service = {"command": ["${python}", f"{tmp_path}/service.py"]}
    spec: dict[str, Any] = {
        "stack": "two",
        "timeout": "30s",
        "stop_timeout": "1s",
        "ports": {"a": "auto", "b": "auto"},
        "exports": {name: "http://127.0.0.1:${port." + name + "}" for name in "ab"},
        "processes": {
            name: {
                "command": [*service["command"], "${port." + name + "}"],
                "ready": {"http": "${stack." + name + "}/"},
            }
            for name in "ab"
        },
    }
    (tmp_path / "two.yaml").write_text(json.dumps(spec))
    monkeypatch.chdir(tmp_path)
    found = places(tmp_path)
    yield found
    left = [process for name in stack.names(found) for process in procs.tagged(found.stacks / name)]
    procs.kill_all(left)
    assert left == []


def up(here: Places) -> stack.Stack:
    """Bring the two services up, to stay."""
    return stack.up(here.root / "two.yaml", "default", here, owned=False, on_progress=print)


def none_left(here: Places) -> bool:
    """Say whether no process of the stack is left."""
    return not procs.tagged(here.stacks / "default")


def supervisor(here: Places) -> int:
    """Return the supervisor's pid."""
    state, _ = stack.read("default", here)
    assert state is not None
    return state.pid


def runner(here: Places, mode: str, until: str) -> subprocess.Popen[str]:
    """Start a runner in a process group of its own and wait until it has said `until`."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(here.root / "two.yaml"), mode],
        stdout=subprocess.PIPE,
        text=True,
        cwd=here.root,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(until):
            return process
    raise AssertionError(f"the runner ended with {process.wait()}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("mode", "until"), [("owned", "up"), ("owned", "a is up"), ("free", "b is up")])
def test_a_stack_goes_with_the_runner_that_holds_it(here: Places, mode: str, until: str, number: int) -> None:
    """Whichever way the runner ends, an owned stack goes with it; one that is to stay, only while not yet ready."""
    with runner(here, mode, until) as process:
        os.killpg(process.pid, number)
        process.wait(20)
    if mode == "owned":
        eventually(lambda: none_left(here), "no process left")
        eventually(lambda: not (here.stacks / "default" / "work").exists(), "no data left")
    elif stack.find("default", here) is not None:  # it was ready before the signal came
        assert stack.down("default", here) is True
    else:
        eventually(lambda: none_left(here), "no process left")


def test_a_stack_that_is_to_stay_outlives_its_runner(here: Places) -> None:
    """After `sim up` has said that the stack is up, not even SIGKILL of its whole group takes the stack along."""
    with runner(here, "free", "up") as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)
    found = stack.find("default", here)
    assert found is not None
    assert set(found.processes) == {"a", "b"}
    assert stack.down("default", here) is True


def test_a_watchdog_holds_an_owned_stack_until_it_ends(here: Places) -> None:
    """A process that was given `owner_fd` keeps the stack up after its runner's SIGKILL; then the stack goes too."""
    code = RUNNER.replace('print("up"', (
        "import subprocess\n"
        "dog = subprocess.Popen(['sleep', '60'], pass_fds=(made.owner_fd,), start_new_session=True)\n"
        "print('dog', dog.pid, flush=True)\nprint(\"up\""
    ))  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(here.root / "two.yaml"), "owned"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    with process:
        words = next(line.split() for line in process.stdout if line.startswith("dog "))
        assert process.stdout.readline() == "up\n"
        process.kill()
        process.wait(20)
    time.sleep(1.0)
    assert stack.find("default", here) is not None
    os.kill(int(words[1]), signal.SIGKILL)
    eventually(lambda: none_left(here), "no process left")


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_no_child_outlives_its_supervisor(here: Places, number: int, torn: bool) -> None:
    """A killed supervisor takes its children along (Linux); a hung one is ended by `down`, state file torn or not."""
    up(here)
    os.kill(supervisor(here), number)
    if number == signal.SIGKILL and sys.platform == "linux":
        eventually(lambda: none_left(here), "no process left", 5.0)
        assert stack.find("default", here) is None
    if torn:
        Home(here.stacks / "default").state.write_text("{")
    assert stack.down("default", here) is True
    assert none_left(here)
    assert stack.down("default", here) is False


def test_a_half_dead_stack_is_cleared_before_the_next(here: Places) -> None:
    """With the supervisor killed and a child stopped, `up` brings up a new instance on a clean ground."""
    first = up(here)
    os.kill(first.processes["a"], signal.SIGSTOP)
    _, supervised = stack.read("default", here)
    assert supervised
    os.kill(supervisor(here), signal.SIGKILL)
    eventually(lambda: not stack.read("default", here)[1], "the supervisor is gone")
    second = up(here)
    assert second.instance != first.instance
    assert set(second.processes) == {"a", "b"}
    assert stack.down("default", here) is True


def test_a_dead_child_comes_back_within_limits(here: Places) -> None:
    """A killed process is restarted on its port and recorded; killed again and again, it is given up: degraded."""
    made = up(here)
    pid = made.processes["a"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: made.processes.get("a", pid) != pid, "a is restarted")
    found = stack.find("default", here)
    assert found is not None
    with urllib.request.urlopen(found.exports["a"], timeout=5) as answer:
        assert answer.status == 200
    for _ in range(5):
        eventually(lambda: "a" in made.processes or _phase(here) == "degraded", "a runs or is given up")
        if pid := made.processes.get("a"):
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: made.processes.get("a") != pid, "a is dead, or there again")
    eventually(lambda: _phase(here) == "degraded", "given up")
    state, _ = stack.read("default", here)
    assert state is not None
    told = [event.what for event in state.events if event.what.startswith("a was ended")]
    assert told == [
        *(f"a was ended by SIGKILL; restart {number}" for number in range(1, 6)),
        "a was ended by SIGKILL; not restarted",
    ]
    assert stack.find("default", here) is None
    assert stack.down("default", here) is True


def _phase(here: Places) -> str | None:
    state, _ = stack.read("default", here)
    return None if state is None else state.phase


def test_a_stopped_child_stays_part_of_a_healthy_stack_and_goes_down(here: Places) -> None:
    """SIGSTOP of a child is somebody's experiment, not the supervisor's business; `down` ends it all the same."""
    made = up(here)
    os.kill(made.processes["a"], signal.SIGSTOP)
    time.sleep(0.5)
    assert stack.find("default", here) == made
    assert stack.down("default", here) is True


def _as_nobody(home: Path) -> int:
    """Run setup in a forked process that gives up root, and return its exit code; what it says goes to ``said``.

    Forked, not started: the interpreter itself may stand where only root can read.
    """
    from sim import tools_supply
    from sim.stack import state

    assert tools_supply and state  # imported while that is possible
    known, found = tools.load(None), places(home)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME=str(home))
            os.chdir(home)
            with (home / "said").open("w") as said:
                try:
                    tools.setup(known, found, lambda what: print(what, file=said))
                    os._exit(0)
                except Exception as error:  # noqa: BLE001 (a forked test must not run on as pytest)
                    print(repr(error), file=said, flush=True)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.skipif("debian" not in tools.system_names(), reason="needs apt-get")
def test_setup_fetches_the_debian_packages_as_nobody(tmp_path: Path) -> None:
    """Without root: both packages unpacked into the project's folder, the system's lists untouched, nothing started."""
    home = Path("/var/tmp") / f"sim-{os.getpid()}"
    lists = Path("/var/lib/apt/lists")
    before = sorted((path.name, path.stat().st_mtime_ns) for path in lists.iterdir())
    home.mkdir()
    try:
        (home / "sim.toml").write_text("")
        os.chown(home, 65534, 65534)
        assert _as_nobody(home) == 0, (home / "said").read_text()
        versions = [
            subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.split(",")[0]
            for path in sorted((home / ".sim" / "tools" / "bin").iterdir())
        ]
        assert versions == ["amtool", "prometheus", "alertmanager", "promtool"]
        assert sorted((path.name, path.stat().st_mtime_ns) for path in lists.iterdir()) == before
        assert not [path for path in (home / ".sim" / "tools").iterdir() if path.name.startswith(".new-")]
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A project with the tools that the bundled target's stack needs."""
    root = tmp_path_factory.mktemp("bundled")
    (root / "sim.toml").write_text("")
    found = places(root)
    tools.setup(tools.load(None, found), found, print)
    return found


def test_the_bundled_stack_comes_up_twice_side_by_side(bundled: Places) -> None:
    """Two whole stacks, each ready by all its gates, with its own ports, instance and past; and no process after."""
    folder = shipped("compose")
    assert folder is not None
    one = stack.up(folder / "local.yaml", "one", bundled, owned=True, on_progress=print)
    try:
        two = stack.up(folder / "local.yaml", "two", bundled, owned=True, on_progress=print)
        try:
            assert one.instance != two.instance
            assert not set(one.exports.values()) & set(two.exports.values())
            for made in (one, two):
                assert made.past is not None
                with urllib.request.urlopen(f"{made.exports['engine']}/identity", timeout=5) as answer:
                    told = json.load(answer)
                assert (told["environment"], told["instance"]) == ("sim-local", made.instance)
        finally:
            pids = {**one.processes, **two.processes}
            two.close()
    finally:
        one.close()
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids.values()), "no process left")
    assert [procs.tagged(bundled.stacks / name) for name in ("one", "two")] == [set(), set()]
