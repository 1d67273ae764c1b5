"""A stack of containers, brought up by a stand-in for Compose that writes down what it is asked: the kernel's half."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from sim import stack
from sim.cli import cli
from sim.places import Places, places
from sim.problem import InvalidFile
from sim.stack import compose, procs, spec
from sim.stack.refs import Refs
from sim.stack.state import Home, ProcessRecord
from tests.conftest import ROOT

#: Speaks as much of Compose's command line as the kernel uses. What it is to do stands in files of its folder:
#: `containers` (what `ps` says), `up.code`, `down.code`, `ps.code` (one line a call, used up), `up.says`, the second
#: time `up.says.next`.
FAKE = """#!{python}
import json, os, sys
from pathlib import Path
here = Path({folder!r})
words = sys.argv[1:]
verb = next((word for word in words if word in ("version", "up", "ps", "down", "logs")), "?")
told = ("SIM_PORT", "SIM_STACK", "SIM_INST", "DOCKER_HOST")
kept = {{key: os.environ[key] for key in sorted(os.environ) if key.startswith(told)}}
with (here / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps({{"verb": verb, "words": words, "env": kept, "cwd": os.getcwd()}}) + "\\n")
def script(name):
    path = here / name
    lines = path.read_text().splitlines() if path.exists() else []
    if lines:
        path.write_text("\\n".join(lines[1:]))
    return lines[0] if lines else "0"
containers = here / "containers"
if verb == "version":
    print("Docker Compose version v2.40.3")
elif verb == "up":
    print((here / "up.says").read_text() if (here / "up.says").exists() else "Started")
    if (here / "up.says.next").exists():
        (here / "up.says.next").replace(here / "up.says")
    code = int(script("up.code"))
    if code == 0:
        containers.write_text((here / "made").read_text())
    sys.exit(code)
elif verb == "ps":
    code = int(script("ps.code"))
    text = containers.read_text() if containers.exists() else ""
    if "--quiet" in words:
        text = "".join("id\\n" for line in text.splitlines())
    print(text, end="")
    sys.exit(code)
elif verb == "down":
    code = int(script("down.code"))
    if code == 0:
        containers.unlink(missing_ok=True)
    print("Removed", file=sys.stderr)
    sys.exit(code)
elif verb == "logs":
    print("the last words of", words[-1])
"""

PAST = "open('p.json', 'w').write('{\"digest\": \"d\"}')"
RUNNING = '{"Service": "a", "State": "running", "ExitCode": 0}\n{"Service": "b", "State": "running", "ExitCode": 0}\n'


class Engine:
    """The stand-in's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "made").write_text(RUNNING)

    def calls(self, verb: str) -> list[dict[str, Any]]:
        """Return the calls of one verb so far."""
        path = self.folder / "calls.jsonl"
        every = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in every if call["verb"] == verb]

    @property
    def containers(self) -> str:
        """What runs now."""
        path = self.folder / "containers"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The stand-in on PATH, before any other."""
    made = Engine(tmp_path / "engine")
    program = tmp_path / "bin" / "docker-compose"
    program.parent.mkdir()
    program.write_text(FAKE.format(python=sys.executable, folder=str(made.folder)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    monkeypatch.delenv("SIM_COMPOSE_FILES", raising=False)
    return made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    """A project of its own; afterwards no process of its stacks may be left."""
    (tmp_path / "sim.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    found = places(tmp_path)
    yield found
    left = [process for name in stack.names(found) for process in procs.tagged(found.stacks / name)]
    procs.kill_all(left)
    assert left == []


def small(folder: Path, **more: Any) -> Path:
    """Write the file of a small stack of containers, changed by `more`, and return it."""
    (folder / "small.conf").write_text("at ${stack.a} of ${stack.b} in ${stack.dir}\n")
    (folder / "one.yml").write_text("services: {}\n")
    written: dict[str, Any] = {
        "kind": "compose",
        "stack": "small",
        "files": ["one.yml"],
        "timeout": "30s",
        "ports": {"a_port": "auto"},
        "secrets": {"token": "random"},
        "exports": {
            "a": "http://127.0.0.1:${port.a_port}",
            "b": "http://127.0.0.1:1",
            "token": "${secret.token}",
            "docker": "${compose.engine}",
            "project": "${compose.project}",
        },
        "inside": {"a": "http://a:${port.a_port}", "dir": "/etc/small"},
        "env": {"WHO": "7"},
        "render": [{"from": f"{folder}/small.conf", "to": "conf/small.conf"}],
        "once": {"past": {"command": ["${python}", "-c", PAST], "result": "p.json"}},
    }  # fmt: skip
    file = folder / "small.yaml"
    file.write_text(json.dumps({**written, **more}))
    return file


def mode(path: Path) -> int:
    """Return the rights of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


def test_it_comes_up_by_compose_and_goes_with_its_owner(here: Places, engine: Engine) -> None:
    """Compose is told the files, the project and the ports; what is rendered reads as the containers see it."""
    said: list[str] = []
    made = stack.up(small(here.root), "default", here, owned=True, on_progress=said.append)
    home = Home(here.stacks / "default")
    name = f"sim-default-{made.instance[:8]}"
    port = made.exports["a"].rpartition(":")[2]
    (up,) = engine.calls("up")
    assert up["words"] == [
        *("--ansi", "never", "--project-name", name, "--project-directory", str(here.root)),
        *("--file", str(here.root / "one.yml"), "--progress", "plain"),
        *("up", "--detach", "--remove-orphans", "--no-build"),
    ]  # fmt: skip
    assert up["env"] == {
        "DOCKER_HOST": "unix:///nowhere.sock",
        "SIM_INSTANCE": made.instance,
        "SIM_PORT_A_PORT": port,
        "SIM_STACK": "default",
        "SIM_STACK_DIR": str(home.work),
        "SIM_STACK_FOLDER": str(home.folder),
    }
    assert (made.exports["docker"], made.exports["project"]) == ("unix:///nowhere.sock", name)
    assert (made.past, dict(made.processes), said[:-1]) == (
        {"digest": "d"},
        {},
        ["every container was started", "past done"],
    )
    assert (home.work / "conf/small.conf").read_text() == f"at http://a:{port} of http://127.0.0.1:1 in /etc/small\n"
    assert [mode(each) for each in (home.folder, home.work, home.work / "conf", home.work / "secrets/token")] == [
        *(0o700, 0o700, 0o755, 0o644),
    ]  # the containers' users read what is theirs; others of this machine do not get past the folder
    assert stack.containers("default", here)
    assert stack.find("default", here) == made
    made.close()
    assert (engine.containers, stack.containers("default", here), home.work.exists()) == ("", False, False)
    assert (home.logs / "containers.log").read_text() == "the last words of 400\n"
    (down,) = engine.calls("down")
    assert down["cwd"] == "/"
    assert down["words"] == ["--project-name", name, "down", "--volumes", "--remove-orphans", "--timeout", "5"]


def test_a_killed_supervisor_leaves_containers_and_down_or_up_ends_them(here: Places, engine: Engine) -> None:
    """No container is a child: a note in the stack's folder says that it may be there. The state file torn, too."""
    first = stack.up(small(here.root), "default", here, owned=False, on_progress=print)
    home = Home(here.stacks / "default")
    kill(home)
    assert (stack.find("default", here), engine.containers) == (None, RUNNING)
    assert not stack.ended(str(home.folder), first.instance)
    shown = CliRunner().invoke(cli, ["status", "--format", "json"])
    assert (json.loads(shown.output)[0]["phase"], json.loads(shown.output)[0]["kind"]) == ("orphaned", "compose")
    said: list[str] = []
    second = stack.up(small(here.root), "default", here, owned=False, on_progress=said.append)
    assert said[0] == "clearing away what is left of the stack default"
    assert [call["words"][1] for call in engine.calls("down")] == [f"sim-default-{first.instance[:8]}"]
    kill(home)
    home.state.write_text("torn")
    assert (stack.down("default", here), engine.containers, stack.containers("default", here)) == (True, "", False)
    assert stack.down("default", here) is False
    assert [call["words"][1] for call in engine.calls("down")][1:] == [f"sim-default-{second.instance[:8]}"]
    assert stack.ended(str(home.folder), first.instance)


def kill(home: Home) -> None:
    """Kill the supervisor and wait until it is gone."""
    state = home.read()
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    psutil.wait_procs([process for process in psutil.process_iter() if process.pid == state.pid], 5)


def test_an_engine_that_says_no_is_asked_again_and_then_told(here: Places, engine: Engine) -> None:
    """A busy engine refuses once and has done it the next time; one that never does leaves the note, and the cure."""
    made = stack.up(small(here.root), "default", here, owned=True, on_progress=print)
    (engine.folder / "down.code").write_text("1\n1\n0")
    made.close()
    assert (len(engine.calls("down")), engine.containers) == (3, "")
    made = stack.up(small(here.root), "default", here, owned=True, on_progress=print)
    (engine.folder / "down.code").write_text("1\n" * 12)
    name = f"sim-default-{made.instance[:8]}"
    with pytest.raises(stack.StackError) as told:
        made.close()
    by_hand = f"DOCKER_HOST=unix:///nowhere.sock docker compose --project-name {name} down --volumes"
    assert f"by hand: {by_hand}:" in str(told.value)
    assert str(told.value).endswith(f"gone for good, and they with it: remove {here.stacks / 'default' / compose.NOTE}")
    assert (engine.containers, stack.containers("default", here)) == (RUNNING, True)
    assert phase() == "orphaned", "its supervisor has ended in order, and its containers are there"
    Home(here.stacks / "default").state.write_text("torn")
    assert phase() == "orphaned"
    (engine.folder / "down.code").unlink()
    assert (stack.down("default", here), engine.containers) == (True, "")
    assert phase() == "down"


def phase() -> str:
    """Return what `sim status` calls the stack."""
    shown = CliRunner().invoke(cli, ["status", "--format", "json"])
    return str(json.loads(shown.output)[0]["phase"])


def test_what_is_no_container_does_not_hold_a_stack_up(here: Places, engine: Engine) -> None:
    """An engine that keeps a network for itself is told; no later start has its name, so none can meet what is left."""
    made = stack.up(small(here.root), "default", here, owned=True, on_progress=print)
    (engine.folder / "down.code").write_text("1\n" * 3)
    (engine.folder / "containers").unlink()
    made.close()
    home = Home(here.stacks / "default")
    assert "the engine kept something of" in home.supervisor_log.read_text()
    again = stack.up(small(here.root), "default", here, owned=True, on_progress=print)
    assert again.exports["project"] != made.exports["project"]
    again.close()


@pytest.mark.parametrize(
    ("code", "says", "made", "more", "words"),
    [
        ("1", "no such image: x", RUNNING, {"hint": "build it"}, ["no such image: x", "build it"]),
        ("1\n1\n1", "port is already allocated", RUNNING, {}, ["taken by somebody else, 3 times over"]),
        (
            "0",
            "",
            RUNNING.replace("running", "exited", 1),
            {},
            ["a ended with exit code 0 during the start", "words of a"],
        ),
        ("0", "", RUNNING, {"timeout": "1s"}, ["was not ready within 1 s", "nobody is there"]),
        ("0", "", RUNNING, {"once": {"p": {"command": ["${python}", "-c", "exit(3)"]}}}, ["p ended with exit code 3"]),
        ("0", "", RUNNING, {"files": ["two.yml"]}, ["no Compose file", "two.yml"]),
    ],
)
def test_what_cannot_come_up_says_why_and_leaves_nothing(
    here: Places, engine: Engine, code: str, says: str, made: str, more: dict[str, Any], words: list[str]
) -> None:
    """Whatever goes wrong at the start: the reason is told, and every container is gone."""
    (engine.folder / "up.code").write_text(code)
    (engine.folder / "up.says").write_text(says)
    (engine.folder / "made").write_text(made)
    ready = [{"what": "nobody is there", "http": "http://127.0.0.1:1/"}]
    with pytest.raises(stack.StackError) as told:
        stack.up(small(here.root, **{"ready": ready, **more}), "default", here, owned=True, on_progress=print)
    assert [word for word in words if word not in str(told.value)] == []
    assert (engine.containers, stack.containers("default", here)) == ("", False)
    assert len(engine.calls("up")) == (0 if "files" in more else len(code.split()))


def test_what_an_earlier_try_said_is_no_reason_of_the_next(here: Places, engine: Engine) -> None:
    """A port was taken, and with other ports something else is wrong: that is told, and not tried again."""
    (engine.folder / "up.code").write_text("1\n1\n1")
    (engine.folder / "up.says").write_text("port is already allocated")
    (engine.folder / "up.says.next").write_text("no such image: x")
    with pytest.raises(stack.StackError, match="no such image: x"):
        stack.up(small(here.root), "default", here, owned=True, on_progress=print)
    assert len(engine.calls("up")) == 2


def test_the_engine_is_the_one_of_dockers_own_client(
    here: Places, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without DOCKER_HOST the client's context says which: rootless and desktop engines are elsewhere."""
    program = Path(os.environ["PATH"].split(":")[0]) / "docker"
    program.write_text('#!/bin/sh\n[ "$1 $2" = "context inspect" ] || exit 9\necho unix:///run/user/7/docker.sock\n')
    program.chmod(0o755)
    monkeypatch.delenv("DOCKER_HOST")
    made = stack.up(small(here.root), "default", here, owned=True, on_progress=print)
    assert made.exports["docker"] == "unix:///run/user/7/docker.sock"
    made.close()
    assert {call["env"]["DOCKER_HOST"] for verb in ("up", "down") for call in engine.calls(verb)} == {
        "unix:///run/user/7/docker.sock"
    }
    program.write_text("#!/bin/sh\nexit 1\n")
    assert compose.engine_address() == "unix:///var/run/docker.sock", "a client that knows no contexts"
    monkeypatch.setenv("PATH", str(here.root))
    assert compose.engine_address() == "unix:///var/run/docker.sock"


@pytest.mark.parametrize("address", ["ssh://me@far", "tcp://10.0.0.9:2376", "tcp://docker:2375", "http://127.0.0.1:1"])
def test_an_engine_of_another_machine_is_refused_at_once(
    here: Places, engine: Engine, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """It would make empty folders there of what is mounted from here, and publish where nobody reaches it."""
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(stack.StackError, match=f"the Docker engine {address} is not of this machine.*DOCKER_HOST=unix"):
        stack.up(small(here.root), "default", here, owned=True, on_progress=print)
    assert (engine.calls("up"), stack.containers("default", here)) == ([], False)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert compose.engine_address() == "tcp://127.0.0.1:2375"


def test_compose_1_is_none_and_the_cure_is_told(here: Places, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found instead is told, and what brings Compose 2: `sim setup` does not."""
    for name in ("docker-compose", "docker"):
        program = here.root / "bin" / name
        program.write_text(f"#!/bin/sh\necho '{name} version 1.29.2, build unknown'\n")
        program.chmod(0o755)
    (here.root / "tools.yaml").write_text((ROOT / "compose" / "tools.yaml").read_text())
    with pytest.raises(stack.StackError) as told:
        stack.up(small(here.root), "default", here, owned=True, on_progress=print)
    words = ["needs Docker Compose 2", "version 1.29.2", "docker-compose-v2", "scripts/compose.sh"]
    assert [word for word in words if word not in str(told.value)] == []
    assert [word for word in ("sim setup", "prometheus") if word in str(told.value)] == []


def test_a_context_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names one means no other engine."""
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'context not found' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONTEXT", "wrok")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    with pytest.raises(stack.StackError, match="DOCKER_CONTEXT=wrok: context not found"):
        compose.engine_address()


def test_further_compose_files_are_laid_over_it(here: Places, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIM_COMPOSE_FILES names them: beside the stack file, or by their whole path."""
    (here.root / "over.yml").write_text("services: {}\n")
    (here.root / "more").mkdir()
    (here.root / "more/last.yml").write_text("services: {}\n")
    monkeypatch.setenv("SIM_COMPOSE_FILES", f"over.yml:{here.root}/more/last.yml")
    stack.up(small(here.root), "default", here, owned=True, on_progress=print).close()
    words = engine.calls("up")[0]["words"]
    assert [words[at + 1] for at, word in enumerate(words) if word == "--file"] == [
        str(here.root / name) for name in ("one.yml", "over.yml", "more/last.yml")
    ]


class Desk:
    """What the kind sees of a supervisor: enough to mind a stack that is up."""

    def __init__(self, folder: Path) -> None:
        self.home, self.source, self.instance = Home(folder), "small.yaml", "0123456789abcdef"
        self.said: list[str] = []
        self.changes = 0

    def say(self, what: str) -> None:
        self.said.append(what)

    def touched(self) -> None:
        self.changes += 1


def test_how_the_containers_are_is_the_stacks_phase(tmp_path: Path) -> None:
    """All run: ready. One restarts: recovering. One has ended or is gone: degraded. What changed is told once."""
    desk = Desk(tmp_path)
    kind = compose.Compose(spec.load(small(tmp_path))[0], desk)  # type: ignore[arg-type]
    seen = []
    for text in (
        RUNNING,
        RUNNING.replace("running", "restarting", 1),
        RUNNING.replace("running", "paused", 1),
        RUNNING.splitlines()[1],
        RUNNING,
    ):
        kind._note(compose.parse(text))
        kind._looked_at = float("inf")  # nothing is asked of anybody here
        seen.append(kind.mind())
    assert seen == ["ready", "recovering", "ready", "degraded", "ready"]
    assert desk.said == ["a is restarting", "a is ready", "a is dead", "a is ready"]
    assert desk.changes == 5


def test_an_engine_that_does_not_answer_makes_the_stack_unwell(tmp_path: Path, engine: Engine) -> None:
    """What was last seen of the containers says nothing once nobody can look: one look may fail, not two in a row."""
    desk = Desk(tmp_path)
    desk.home.work.mkdir()
    kind = compose.Compose(spec.load(small(tmp_path))[0], desk)  # type: ignore[arg-type]
    kind._base, kind._refs = [str(tmp_path / "bin/docker-compose")], Refs(desk.home.work, "i", {}, {}, str)
    kind.references()
    (engine.folder / "containers").write_text(RUNNING)
    (engine.folder / "ps.code").write_text("0\n1\n0\n1\n1\n1\n0")
    seen = []
    for _ in range(7):
        kind._looked_at = 0.0
        kind.mind()
        assert kind._look is not None
        kind._look.wait(20)
        seen.append(kind.mind())
    assert seen == ["ready", "ready", "ready", "ready", "degraded", "degraded", "ready"]
    assert desk.said == [
        "the engine unix:///nowhere.sock does not tell how the containers are",
        "the engine unix:///nowhere.sock tells again how the containers are",
    ]


def test_a_plugin_does_not_outlive_dockers_client(tmp_path: Path) -> None:
    """The client ends at once when told to, its plugin does not: it would make containers while they are removed."""
    script = '(trap "" TERM; echo 1 >ready; exec tail -f /dev/null) & echo $! >p; mv p pid; exec tail -f /dev/null'
    with (tmp_path / "log").open("wb") as out:
        client = compose.spawn(["sh", "-c", script], os.environ, tmp_path, out, out)
    while not (tmp_path / "ready").exists() or not (tmp_path / "pid").exists():
        assert client.poll() is None
    plugin = psutil.Process(int((tmp_path / "pid").read_text()))
    compose.end(client)
    assert psutil.wait_procs([plugin], 10)[1] == []
    compose.end(client)


def test_who_was_given_the_pid_of_a_compose_that_ended_is_not_killed() -> None:
    """What is killed after its end is what it left of its group, and nobody who goes by its number now."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as stranger:
        ended = subprocess.Popen(["true"])
        ended.wait()
        ended.pid = stranger.pid
        compose._signal(ended, signal.SIGKILL)
        stranger.communicate()
    assert stranger.returncode == 0


def test_what_compose_says_is_read_in_both_its_forms() -> None:
    """Newer versions print an object a line, older ones a list; what is neither says nothing."""
    lines = '{"Service": "a", "State": "running"}\n{"Service": "b", "State": "exited", "ExitCode": 137}\n'
    records = {"a": ProcessRecord(state="ready"), "b": ProcessRecord(state="dead", exit_code=137)}
    assert compose.parse(lines) == records
    assert compose.parse("[" + lines.strip().replace("\n", ",") + "]") == records
    assert (compose.parse("Error: no"), compose.parse("")) == ({}, {})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"files": []}, "files"),
        ({"processes": {"a": {"command": ["t"]}}}, "processes"),
        ({"files": ["/etc/passwd"]}, "files"),
        ({"once": {"a": {"command": ["t"], "after": ["x"]}}}, "use first"),
        ({"ports": {"a": 70000}}, "a port is 1 to 65535"),
    ],
)
def test_a_file_that_is_no_stack_of_containers_is_refused(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    """Each mistake is told at its place."""
    with pytest.raises(InvalidFile, match=words):
        spec.load(small(tmp_path, **more))


def test_a_change_of_a_compose_file_is_a_change_of_the_stack(tmp_path: Path) -> None:
    """The digest of a stack covers the files that it names."""
    file = small(tmp_path)
    before = spec.load(file)[1]
    (tmp_path / "one.yml").write_text("services: {a: {}}\n")
    assert spec.load(file)[1] != before
