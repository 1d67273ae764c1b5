"""A stack of tiny processes, for real: up, found, down, and every way in which it must not come up."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from sim import stack
from sim.cli import cli
from sim.places import Places, places
from sim.stack import control, procs
from sim.stack.state import Home, try_lock

SERVICE = """
import http.server, os, sys
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"who {os.environ['WHO']}\\nn 2\\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
print("serving", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
"""


def tiny(folder: Path, **more: Any) -> Path:
    """Write the file of a stack with one service and a once, changed by `more`, and return it."""
    (folder / "service.py").write_text(SERVICE)
    (folder / "tiny.conf").write_text("at ${stack.a}\n")
    spec: dict[str, Any] = {
        "stack": "tiny",
        "timeout": "20s",
        "stop_timeout": "1s",
        "ports": {"a": "auto"},
        "secrets": {"token": "random"},
        "exports": {"a": "http://127.0.0.1:${port.a}", "token": "${secret.token}"},
        "env": {"WHO": "7"},
        "render": [{"from": f"{folder}/tiny.conf", "to": "conf/tiny.conf"}],
        "processes": {
            "a": {
                "command": ["${python}", f"{folder}/service.py", "${port.a}"],
                "ready": {"http": "${stack.a}/healthz"},
            }
        },
        "once": {
            "past": {
                "command": ["${python}", "-c", "open('past.json', 'w').write('{\"digest\": \"d\"}')"],
                "after": ["a"],
                "result": "past.json",
            }
        },
        "ready": [{"what": "n is two", "http": "${stack.a}/metrics", "sample": "n", "at_least": 2}],
    }
    file = folder / "tiny.yaml"
    file.write_text(json.dumps({**spec, **more}))
    return file


def running(pid: int) -> bool:
    """Say whether `pid` is a process that runs (a zombie that nobody has yet waited for does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """A project of its own; afterwards no process of any of its stacks may be left."""
    (tmp_path / "sim.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    found = places(tmp_path)
    yield found
    left = [process for name in stack.names(found) for process in procs.tagged(found.stacks / name)]
    procs.kill_all(left)
    assert left == []


def test_an_owned_stack_comes_up_ready_and_goes_when_closed(here: Places) -> None:
    """Rendered, started, seeded and read back ready; closed, no process, data or secret is left, but the logs are."""
    said: list[str] = []
    made = stack.up(tiny(here.root), "default", here, owned=True, on_progress=said.append)
    home = Home(here.stacks / "default")
    assert (made.name, made.owned, made.past, set(made.processes)) == ("default", True, {"digest": "d"}, {"a"})
    assert (home.work / "conf" / "tiny.conf").read_text() == f"at {made.exports['a']}\n"
    assert made.exports == {
        "a": made.exports["a"],
        "token": str(home.work / "secrets" / "token"),
        "dir": str(home.work),
        "instance": made.instance,
    }
    assert said[:-1] == ["a is up", "past done", "n is two"]
    assert said[-1].startswith("ready after ")
    found = stack.find("default", here)
    assert found == made
    assert found is not None
    assert not found.owned
    pids = made.processes
    made.close()
    assert not any(map(running, pids.values()))
    assert (stack.find("default", here), home.work.exists(), home.logs.joinpath("a.log").read_text()) == (
        None,
        False,
        "serving\n",
    )
    made.close()


def test_up_twice_is_one_stack_and_down_twice_is_one_down(here: Places) -> None:
    """A second `up` returns the stack that is up, and says if its file has changed; the second `down` finds nothing."""
    first = stack.up(tiny(here.root), "default", here, owned=False, on_progress=print)
    said: list[str] = []
    again = stack.up(tiny(here.root, timeout="21s"), "default", here, owned=True, on_progress=said.append)
    assert (again, again.owned) == (first, False)
    assert said == ["note: tiny.yaml has changed since the stack default came up from it"]
    again.close()
    assert stack.find("default", here) == first
    assert (stack.down("default", here), stack.down("default", here), stack.find("default", here)) == (
        True,
        False,
        None,
    )


def test_two_stacks_stand_side_by_side_and_names_do_not_mix(here: Places) -> None:
    """Two names: two instances, other ports, other data. One name for two files is refused with the cure."""
    file = tiny(here.root)
    one = stack.up(file, "one", here, owned=True, on_progress=print)
    two = stack.up(file, "two", here, owned=True, on_progress=print)
    assert one.instance != two.instance
    assert one.exports["a"] != two.exports["a"]
    assert one.exports["dir"] != two.exports["dir"]
    other = here.root / "other.yaml"
    other.write_text(file.read_text())
    with pytest.raises(stack.StackError, match=r"is up from .*tiny\.yaml, not from .*other\.yaml; .*--stack one"):
        stack.up(other, "one", here, owned=True, on_progress=print)
    one.close()
    assert stack.find("two", here) == two
    two.close()
    assert stack.names(here) == ["one", "two"]


def argv(code: str) -> dict[str, Any]:
    """Return a process that runs `code`."""
    return {"command": [sys.executable, "-c", code]}


def only_a(command: list[str]) -> dict[str, Any]:
    """Return what makes `command` the whole stack."""
    return {"processes": {"a": {"command": command}}, "once": {}, "ready": [{"what": "w", "http": "${stack.a}/"}]}


SLEEP = argv("import time; time.sleep(60)")
THREE = {"what": "n is three", "http": "${stack.a}/", "sample": "n", "at_least": 3}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            only_a(argv("print('my last word'); raise SystemExit(3)")["command"]),
            "a ended with exit code 3 during the start; its log",
        ),
        (only_a(["no-such-program-here"]), "cannot run no-such-program-here: No such file"),
        ({"once": {"past": {**argv("raise SystemExit('no past')"), "after": ["a"]}}}, "no past"),
        ({"once": {"past": {**argv("pass"), "result": "past.json"}}}, "past left no JSON at"),
        ({"once": {"past": {**SLEEP, "timeout": "0.3s"}}}, "past was not done within 0.3 s"),
        (
            {"ready": [THREE], "timeout": "1s"},
            "the stack was not ready within 1 s, waiting for: n is three (1 of 1 at n not >= 3: 2.0)",
        ),
        ({"exports": {"a": "x", "b": "${port.nope}"}}, "tiny.yaml: exports.b: ${port.nope} names no port"),
        (only_a(["${tool:nope}"]), "no tool 'nope' in the tools file"),
        ({"render": [{"from": "/no/such/file", "to": "x"}]}, "tiny.yaml: render.0: no file /no/such/file"),
    ],
)
def test_a_stack_that_cannot_be_ready_is_taken_down_and_says_why(
    here: Places, change: dict[str, Any], reason: str
) -> None:
    """The reason is named, with the log's last lines where a process is to blame; nothing is left but logs."""
    with pytest.raises(stack.StackError) as caught:
        stack.up(tiny(here.root, **change), "default", here, owned=False, on_progress=print)
    assert reason in str(caught.value)
    if "my last word" in json.dumps(change):
        assert str(caught.value).endswith("    my last word")
    assert (stack.find("default", here), (here.stacks / "default" / "work").exists()) == (None, False)
    state, supervised = stack.read("default", here)
    assert state is not None
    assert (state.phase, supervised, state.error) == ("failed", False, str(caught.value))
    assert stack.down("default", here) is False


def test_a_port_that_somebody_took_meanwhile_costs_another_try(here: Places) -> None:
    """A process that ends because its port was taken between look and bind is started again on another port."""
    mark = here.root / "taken"
    squatter = "import socket, sys, time; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1])))"
    thief = (
        "import os, runpy, subprocess, sys\n"
        f"mark, service = {str(mark)!r}, {str(here.root / 'service.py')!r}\n"
        "if os.path.exists(mark):\n"
        "    runpy.run_path(service, run_name='__main__')\n"
        "open(mark, 'w').write(sys.argv[1])\n"
        f"code = {squatter + '; print(1, flush=True); time.sleep(60)'!r}\n"
        "subprocess.Popen([sys.executable, '-c', code, sys.argv[1]], stdout=subprocess.PIPE).stdout.readline()\n"
        "os._exit(1)\n"
    )
    process = {"command": ["${python}", "-c", thief, "${port.a}"], "ready": {"tcp": "127.0.0.1:${port.a}"}}
    file = tiny(here.root, processes={"a": process}, once={})
    said: list[str] = []
    made = stack.up(file, "default", here, owned=True, on_progress=said.append)
    made.close()
    assert f"port {mark.read_text()} of a was taken by somebody else; again with other ports" in said
    assert not made.exports["a"].endswith(f":{mark.read_text()}")


def test_an_interrupt_while_coming_up_leaves_nothing(here: Places) -> None:
    """Ctrl-C between the first process and readiness takes everything down before it goes on."""

    def interrupt(what: str) -> None:
        if what == "a is up":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stack.up(tiny(here.root), "default", here, owned=False, on_progress=interrupt)
    assert (stack.find("default", here), procs.tagged(here.stacks / "default")) == (None, set())


@pytest.mark.parametrize("damage", ["torn", "gone"])
def test_down_and_up_need_no_state_file(here: Places, damage: str) -> None:
    """A torn or missing state file hides no process: `up` clears away and starts anew, `down` takes all down."""
    home = Home(here.stacks / "default")
    first = stack.up(tiny(here.root), "default", here, owned=False, on_progress=print)
    pids = set(first.processes.values())

    def spoil() -> None:
        home.state.write_text('{"format": 1, "na') if damage == "torn" else home.state.unlink()

    spoil()
    said: list[str] = []
    second = stack.up(tiny(here.root), "default", here, owned=False, on_progress=said.append)
    assert second.instance != first.instance
    assert said[0] == "clearing away what is left of the stack default"
    assert not any(map(running, pids))
    spoil()
    assert stack.down("default", here) is True
    assert procs.tagged(home.folder) == set()


def test_a_stack_whose_supervisor_is_not_seen_is_left_as_it_is(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder shared with a container: no stack there is called down or loses its data while its supervisor lives."""
    home = Home(here.stacks / "default")
    home.work.mkdir(parents=True)
    lock = try_lock(home.supervisor_lock)
    assert lock is not None
    monkeypatch.setattr(control, "_UNSEEN_S", 0.0)
    refused = "'default' is up, but its supervisor is not seen from here: .*supervisor.lock.; take it down there"
    try:
        with pytest.raises(stack.StackError, match=refused):
            stack.down("default", here)
        with pytest.raises(stack.StackError, match=refused):
            stack.up(tiny(here.root), "default", here, owned=False, on_progress=print)
        assert home.work.is_dir()
    finally:
        os.close(lock)
    assert stack.down("default", here) is True


@pytest.mark.parametrize("verb", ["down", "up"])
def test_the_copy_of_a_project_ends_nothing_of_the_stack_that_was_up(here: Places, verb: str) -> None:
    """What a copied folder says of processes and containers is said of another stack: its own is not up."""
    first = stack.up(tiny(here.root), "first", here, owned=True, on_progress=print)
    home = Home(here.stacks / "copy")
    shutil.copytree(here.stacks / "first", home.folder)
    (home.folder / "compose.json").write_text(json.dumps({"command": ["false"], "engine": "e", "project": "first's"}))
    try:
        assert stack.read("copy", here) == (None, False)
        if verb == "down":
            assert stack.down("copy", here) is True, "its data is there"
            assert not home.work.exists()
        else:
            stack.up(here.root / "tiny.yaml", "copy", here, owned=True, on_progress=print).close()
        assert stack.find("first", here) == first
        assert not (home.folder / "compose.json").exists()
    finally:
        first.close()


def profile(here: Places) -> Callable[..., Any]:
    """Write a target profile that names the tiny stack, and return the command line."""
    tiny(here.root)
    (here.root / "scenarios" / "targets").mkdir(parents=True)
    (here.root / "scenarios" / "targets" / "t.yaml").write_text("target: t\nenvironment: e\nstack: tiny.yaml\n")
    (here.root / "scenarios" / "targets" / "bare.yaml").write_text("target: bare\nenvironment: e\n")
    return lambda *args: CliRunner().invoke(cli, list(args))


def test_the_verbs_bring_up_show_and_take_down(here: Places) -> None:
    """`up`, `status`, `down` with their exit codes: ready 0, not ready 4, no stack in the profile 2, bad file 3."""
    sim = profile(here)
    assert (sim("status").exit_code, sim("status").stdout) == (0, "no stack has been up here\n")
    assert sim("status", "--stack", "s1").exit_code == 4
    raised = sim("up", "--target", "t", "--stack", "s1")
    assert (raised.exit_code, raised.stderr) == (0, "")
    shown = json.loads(sim("status", "--stack", "s1", "--format", "json").stdout)[0]
    assert (shown["stack"], shown["phase"], shown["owned"]) == ("s1", "ready", False)
    assert shown["processes"]["a"]["state"] == "ready"
    assert f"instance {shown['instance']}" in raised.stdout
    text = sim("status", "--stack", "s1")
    assert (text.exit_code, text.stdout.splitlines()[0]) == (0, "s1: ready")
    lowered = sim("down", "--all")
    assert (lowered.exit_code, lowered.stdout) == (0, "the stack s1 is down\n")
    assert sim("down", "--stack", "s1").stdout == "the stack s1 was not up\n"
    assert json.loads(sim("status", "--format", "json").stdout)[0]["phase"] == "down"
    assert sim("up", "--target", "bare").exit_code == 2
    assert sim("up", "--target", "t", "--stack", "../s1").exit_code == 4
    (here.root / "tiny.yaml").write_text("stack: tiny\n")
    assert sim("up", "--target", "t").exit_code == 3
