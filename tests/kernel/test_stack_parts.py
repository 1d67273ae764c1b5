"""The parts of a stack that need no process: file, references, readiness probes, state file, restart limits."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.problem import InvalidFile
from sim.stack import StackError, control, probe, procs
from sim.stack.child import MAX_RESTARTS, RESTART_WINDOW_S, Child, ending, tail
from sim.stack.ports import free_ports
from sim.stack.refs import Refs, render, resolve
from sim.stack.spec import Gate, Render, Spec, load
from sim.stack.state import Home, ProcessRecord, State, locked, try_lock

ONE = {"stack": "x", "processes": {"a": {"command": ["true"]}}}


def spec_of(**more: object) -> Spec:
    """Return a stack file with one process and `more`."""
    return Spec.model_validate({**ONE, **more})


def refs_of(folder: Path, **more: object) -> Refs:
    """Return references of a stack at `folder`."""
    given: dict[str, object] = {"ports": {}, "secrets": {}, "tool": lambda name: f"/tools/{name}", **more}
    return Refs(folder, "i1", **given)  # type: ignore[arg-type]


A = "stack: x\nprocesses: {a: {command: [t]}}\n"
AFTER = "stack: x\nprocesses: {a: {command: [t], after: [%s]}, b: {command: [t], after: [%s]}}"


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("stack: x\nprocesses: {a: {command: [t], comand: []}}", ":2:31:"),
        ("stack: x\nprocesses: {}", ":2:"),
        (AFTER % ("c", "a"), "a comes after 'c', which is not among the processes"),
        (AFTER % ("b", "a"), "wait for each other: a, b"),
        (AFTER % ("a", ""), "wait for each other: a"),
        (A + "once: {a: {command: [t]}}", "'a' is the name of a process and of a once"),
        (A + "ports: {p: 70000}", "ports.p: is 70000; a port is 1 to 65535 or auto"),
        (A + "ports: {p: 70, q: 70}", "two names in ports have one number"),
        (A.replace("[t]", "[t], ready: {}"), "give one of http and tcp"),
        (A + "ready: [{what: w, http: h, path: p}]", "path or sample goes with"),
        (A + "ready: [{what: w, http: h, path: p, sample: s, equals: 1}]", "not both"),
        (A + "ready: [{what: w, http: h, path: 'p.*', equals: 1, absent: true}]", "one of equals, at_least and absent"),
        (A + "ready: [{what: w, http: h, path: p, absent: true}]", "absent goes with a path that has a *"),
        (A + "processes: {a: {command: [t]}}", "duplicate key 'processes'"),
        (A + "render: [{from: f, to: /etc/passwd}]", ":3:"),
    ],
)
def test_a_wrong_stack_file_is_refused_with_its_place(tmp_path: Path, text: str, finding: str) -> None:
    """Every fault of a stack file is an `InvalidFile` that names the place or the reason."""
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(InvalidFile) as caught:
        load(file)
    assert finding in str(caught.value)


def test_references_are_filled_in_and_unknown_ones_refused(tmp_path: Path) -> None:
    """Each kind of reference means what the stack file's header says; another name is an error with place and list."""
    refs = refs_of(tmp_path, ports={"p": 7}, secrets={"s": Path("/s")})
    refs.exports["url"] = "http://h:7"
    text = "${port.p} ${secret.s} ${stack.url} ${stack.dir} ${tool:t} ${instance} $x {y}"
    assert refs.text(text, "here") == f"7 /s http://h:7 {tmp_path} /tools/t i1 $x {{y}}"
    assert Path(refs.text("${package:sim}", "here")) == Path(control.__file__).parent.parent
    for bad, reason in (
        ("${stack.nope}", "names no stack of this stack (there are: url)"),
        ("${port.nope}", "there are: p"),
        ("${env.HOME}", "is not understood"),
        ("${package:no_such_package_here}", "is not an installed Python package"),
        ("${package:os.path}", "is not an installed Python package"),
        ("${}", "is not understood"),
    ):
        with pytest.raises(StackError, match=r"^here: ") as caught:
            refs.text(bad, "here")
        assert reason in str(caught.value)


@given(st.text(alphabet="${}abc.:1 \n").filter(lambda text: "${stack." not in text))
def test_a_template_keeps_every_other_dollar(text: str) -> None:
    """In a rendered file only ``${stack.X}`` is ours: rule templates and relabelling keep their own dollars."""
    assert refs_of(Path("/f")).template(text, "t") == text


def test_a_file_is_rendered_and_a_bad_name_has_its_line(tmp_path: Path) -> None:
    """A rendered file has its holes filled; an unknown name is an error with file and line."""
    work = tmp_path / "work"
    (tmp_path / "a.rules.yaml").write_text("one\nat: ${stack.dir} $labels.x ${1}\n")
    (tmp_path / "b.rules.yaml").write_text("b\n")
    render((Render.model_validate({"from": f"{tmp_path}/*.rules.yaml", "to": "rules"}),), refs_of(work), "s.yaml")
    assert (work / "rules" / "a.rules.yaml").read_text() == f"one\nat: {work} $labels.x ${{1}}\n"
    assert sorted(path.name for path in (work / "rules").iterdir()) == ["a.rules.yaml", "b.rules.yaml"]
    (tmp_path / "a.rules.yaml").write_text("one\ntwo: ${stack.gone}\n")
    with pytest.raises(StackError) as caught:
        render((Render.model_validate({"from": f"{tmp_path}/a.rules.yaml", "to": "a"}),), refs_of(work), "s.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/a.rules.yaml:2: ")


@pytest.mark.parametrize(("source", "target"), [("gone.yaml", "x"), ("*.gone", "x"), ("a", "../../out")])
def test_rendering_refuses_no_file_and_outside_targets(tmp_path: Path, source: str, target: str) -> None:
    """A pattern that matches nothing, a missing file and a target outside the stack's folder are refused."""
    (tmp_path / "a").write_text("a")
    with pytest.raises(StackError, match=r"s\.yaml: render\.0: "):
        item = Render.model_validate({"from": f"{tmp_path}/{source}", "to": target})
        render((item,), refs_of(tmp_path / "w" / "work"), "s.yaml")
    assert not (tmp_path / "out").exists()


def test_secrets_are_fresh_and_for_the_owner_alone(tmp_path: Path) -> None:
    """Each start writes new secrets, readable by nobody else; exports name the files, in order."""
    spec = spec_of(secrets={"t": "random"}, exports={"t": "${secret.t}", "u": "<${stack.t}>"})
    first = resolve(spec, tmp_path, "i1", str, "s.yaml").exports
    token = (tmp_path / "secrets" / "t").read_text()
    assert first == {
        "t": f"{tmp_path}/secrets/t",
        "u": f"<{tmp_path}/secrets/t>",
        "dir": str(tmp_path),
        "instance": "i1",
    }
    assert len(token) >= 32
    assert stat.S_IMODE((tmp_path / "secrets" / "t").stat().st_mode) == 0o600
    resolve(spec, tmp_path, "i2", str, "s.yaml")
    assert (tmp_path / "secrets" / "t").read_text() != token


PAGES = {
    "/ok": b"ok",
    "/metrics": b'# HELP n x\nn 2\nn_other 9\nl{a="b"} 1e0\n',
    "/json": json.dumps({"d": [{"v": [1, "1"], "h": "up"}, {"v": [1, "0"], "h": "down"}], "e": []}).encode(),
    "/text": b"no json",
}


class Pages(BaseHTTPRequestHandler):
    """Answers from `PAGES`."""

    def do_GET(self) -> None:
        """Answer the page, or 404."""
        body = PAGES.get(self.path.partition("?")[0])
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """Serve `PAGES` and return the URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("page", "gate", "reason"),
    [
        ("/ok", {}, None),
        ("/gone", {}, "answered 404"),
        ("/metrics", {"sample": "n", "at_least": 2}, None),
        ("/metrics", {"sample": "n", "at_least": 3}, "1 of 1 at n not >= 3: 2.0"),
        ("/metrics", {"sample": 'l{a="b"}', "equals": 1}, None),
        ("/metrics", {"sample": "nothing", "at_least": 0}, "nothing at nothing yet"),
        ("/json", {"path": "d.0.v.1", "equals": 1, "query": {"q": "a b"}}, None),
        ("/json", {"path": "d.*.h", "equals": "up"}, "1 of 2 at d.*.h not = up: down"),
        ("/json", {"path": "e.*.h", "equals": "up"}, "nothing at e.*.h yet"),
        ("/json", {"path": "d.7.h", "equals": "up"}, "nothing at d.7.h yet"),
        ("/text", {"path": "d", "equals": "up"}, "the answer is not JSON"),
        ("/json", {"path": "e.*.h", "absent": True}, None),
        ("/json", {"path": "d.*.h", "absent": True}, "2 at d.*.h: up, down"),
        ("/json", {"path": "d.*", "absent": True}, "2 at d.*: {v=[1, '1'], h=up}, {v=[1, '0'], h=down}"),
        ("/json", {"path": "f.*.h", "absent": True}, "no list at f"),
        ("/text", {"path": "e.*.h", "absent": True}, "the answer is not JSON"),
    ],
)
def test_a_gate_holds_only_when_every_value_does(
    pages: str, page: str, gate: dict[str, object], reason: str | None
) -> None:
    """A gate passes when all values found meet it and at least one was found; else it says what it saw."""
    made = Gate.model_validate({"what": "w", "http": page, **gate})
    if reason is None:
        probe.check(made, pages + page, 1.0)
    else:
        with pytest.raises(probe.NotYet) as caught:
            probe.check(made, pages + page, 1.0)
        assert str(caught.value).endswith(reason)


def test_a_service_that_is_not_there_is_not_ready() -> None:
    """A refused connection is "not yet", not an error."""
    port = free_ports(spec_of(ports={"p": "auto"}))["p"]
    with pytest.raises(probe.NotYet):
        probe.fetch(f"http://127.0.0.1:{port}/", 1.0)


def state_of(home: Home) -> State:
    """Return a state of a stack whose supervisor is this process."""
    me = procs.Proc.of(os.getpid())
    assert me is not None
    return State(
        name=home.name,
        spec="/s.yaml",
        spec_digest="sha256:0",
        instance="i",
        phase="ready",
        owned=False,
        pid=me.pid,
        started=me.started,
        since=1.0,
        processes={"a": ProcessRecord(state="ready", pid=me.pid, started=me.started)},
    )


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[: len(text) // 2], lambda _: "", lambda text: text.replace('"format": 1', '"format": 2')],
)
def test_a_torn_or_foreign_state_file_counts_as_none(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    """What was written is read back whole, for the owner alone; half a file or another format is no state."""
    home = Home(tmp_path)
    home.write(state_of(home))
    assert home.read() == state_of(home)
    assert stat.S_IMODE(home.state.stat().st_mode) == 0o600
    home.state.write_text(damage(home.state.read_text()))
    assert home.read() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json"]


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    """While one holds a lock the other waits no longer than it said; given back, it can be had."""
    first = try_lock(tmp_path / "l")
    assert first is not None
    with pytest.raises(StackError, match="busy here"), locked(tmp_path / "l", 0.0, "busy here"):
        raise AssertionError("two held one lock")
    os.close(first)
    with locked(tmp_path / "l", 0.0, "busy here"):
        assert try_lock(tmp_path / "l") is None


def test_who_looks_for_a_supervisor_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that lasts on a busy machine: another one sees no supervisor, and a supervisor waits for its end."""
    home = Home(tmp_path)
    looks = try_lock(home.supervisor_lock, shared=True)
    assert looks is not None
    assert not home.supervised()
    assert home.supervise(0.0) is None
    monkeypatch.setattr("time.sleep", lambda _: os.close(looks))
    lock = home.supervise()
    assert lock is not None
    assert home.supervised()
    os.close(lock)


def test_a_supervisor_can_start_while_somebody_looks_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look of a `sim status` beside a `sim up` ends no start."""
    from sim.stack import state, supervisor

    home, reached = Home(tmp_path), RuntimeError("the lock was taken")

    def loaded(_: Path) -> None:
        assert home.supervised()
        raise reached

    looks = os.open(home.supervisor_lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(looks, fcntl.LOCK_EX)
    monkeypatch.setattr(supervisor, "load", loaded)
    monkeypatch.setattr("os.fork", lambda: 0)
    monkeypatch.setattr("os.umask", lambda _: 0)
    monkeypatch.setattr(state.time, "sleep", lambda _: os.close(looks))
    with pytest.raises(RuntimeError, match="the lock was taken"):
        supervisor.main([str(tmp_path), "s.yaml", "d", "i", "t", "0"])


#: Starts a process with a mark in which its own pid occurs as text, as in the mark of anybody's with some luck; ends.
STARTS_A_STRANGER = """
import importlib, os, subprocess, sys
importlib.import_module(sys.argv[1])
mark, null = {"mirakuru_uuid": f"1:0{os.getpid()}0"}, subprocess.DEVNULL
print(subprocess.Popen(["cat"], env={**os.environ, **mark}, stdout=null, stderr=null).pid, flush=True)
"""


@pytest.mark.parametrize("module", ["sim.stack.child", "sim.stack.control", "sim.stack.supervisor"])
def test_who_knows_stacks_kills_no_stranger_at_its_end(module: str) -> None:
    """A process of another stack whose mark happens to contain our pid outlives us."""
    reading, writing = os.pipe()  # the stranger ends with it
    try:
        starter = subprocess.run(
            [sys.executable, "-c", STARTS_A_STRANGER, module], stdin=reading, capture_output=True, text=True, check=True
        )
        stranger = procs.Proc.of(int(starter.stdout))
        assert stranger is not None and stranger.alive()
    finally:
        os.close(reading)
        os.close(writing)
    assert procs.wait_gone([stranger], 60) == []


def test_a_process_is_its_pid_and_its_start() -> None:
    """A process of the same pid that was started at another moment is another process, and is never signalled."""
    me = procs.Proc.of(os.getpid())
    assert me is not None
    assert me.alive()
    other = procs.Proc(me.pid, me.started + 1)
    assert not other.alive()
    other.signal(9)
    assert procs.kill_all([other], 0.0) == []


#: Goes to live in a root of its own, as what is in a container does, says so, and ends with its input.
LIVES_ELSEWHERE = """
import os, sys
os.chroot(sys.argv[1])
print("there", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root moves into a root of its own")
@pytest.mark.parametrize("bound", [False, True])
def test_a_tag_of_another_root_is_no_tag_of_ours(tmp_path: Path, bound: bool) -> None:
    """A process in a container carries the tag of a folder there: ours only where it is the same folder."""
    ours, inside = tmp_path / "ours", tmp_path / "root"
    ours.mkdir()
    there = inside / ours.relative_to("/")
    there.parent.mkdir(parents=True)
    if bound:
        there.symlink_to(os.path.relpath(ours, there.parent))  # as good as a mount: the same folder at the same path
    else:
        there.mkdir()
    command = [sys.executable, "-c", LIVES_ELSEWHERE, str(inside)]
    environment = {**os.environ, procs.TAG: str(ours)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"there\n"
        assert {each.pid for each in procs.tagged(ours)} == ({process.pid} if bound else set())


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".", "A", "a" * 33, "-a"])
def test_a_stack_name_is_no_path(tmp_path: Path, name: str) -> None:
    """Whatever could leave the stacks' folder is refused as a name."""
    from sim.places import places

    with pytest.raises(StackError, match="is no stack name"):
        control.home(name, places(tmp_path))


def child_of(tmp_path: Path, restart: bool) -> Child:
    """Return a child that was never started."""
    return Child("c", ["true"], {}, tmp_path, tmp_path / "c.log", restart=restart)


def test_restarts_are_limited_within_a_window_and_back_off(tmp_path: Path) -> None:
    """A process is restarted at growing delays, at most so often in a window, and again when the window has passed."""
    child = child_of(tmp_path, restart=True)
    child.exit_code = 1
    delays = []
    for _ in range(MAX_RESTARTS):
        assert child.schedule_restart(100.0)
        delays.append(round(child.deadline - 100.0, 3))
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert not child.schedule_restart(100.0)
    assert child.schedule_restart(100.0 + RESTART_WINDOW_S)
    assert child.restarts == MAX_RESTARTS + 1


def test_a_clean_end_and_a_never_are_not_restarted(tmp_path: Path) -> None:
    """`on-failure` leaves a process that ended well alone; `never` leaves every process alone."""
    well, never = child_of(tmp_path, restart=True), child_of(tmp_path, restart=False)
    well.exit_code, never.exit_code = 0, -9
    assert (well.schedule_restart(0.0), never.schedule_restart(0.0)) == (False, False)


def test_a_log_is_shown_by_its_end_and_kept_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last lines of a log are shown; a log that has grown too large is moved aside once and begun anew."""
    child = child_of(tmp_path, restart=False)
    assert tail(child.log) == "    (it wrote nothing)"
    child.log.write_text("".join(f"line {number}\n" for number in range(2000)))
    assert tail(child.log, 2) == "    line 1998\n    line 1999"
    child.trim_log()
    assert child.log.stat().st_size > 0
    monkeypatch.setattr("sim.stack.child.MAX_LOG_BYTES", 100)
    child.trim_log()
    assert (child.log.stat().st_size, (tmp_path / "c.log.1").read_text()[:7]) == (0, "line 0\n")


def test_an_ending_is_said_in_words() -> None:
    """Exit codes and signals are told apart."""
    assert [ending(code) for code in (None, 0, 3, -9)] == [
        "ended",
        "ended with exit code 0",
        "ended with exit code 3",
        "was ended by SIGKILL",
    ]
