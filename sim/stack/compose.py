"""The kind of stack that is a Docker Compose project, driven through the Compose command line, never its socket.

Nothing of it is a child of the supervisor, so nothing goes when the supervisor is killed. Hence a note in the stack's
folder (``compose.json``) is written before the first container is made and removed after the last is gone; while it is
there, whoever takes the stack down (`clear`) ends the project by its name, with or without supervisor and state file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from sim.stack import children
from sim.stack.child import ending, tail
from sim.stack.errors import StackError
from sim.stack.kinds import Desk, PortTaken
from sim.stack.processes import read_result
from sim.stack.procs import Proc
from sim.stack.refs import Refs, render
from sim.stack.spec import ComposeSpec, Once, compose_files, extra_files
from sim.stack.state import Home, Phase, ProcessRecord, ProcessState
from sim.whereabouts import loopback

NOTE = "compose.json"
#: Further Compose files, laid over the stack file's own: ``SIM_COMPOSE_FILES=docker-compose.offline.yml``.
EXTRA_FILES = "SIM_COMPOSE_FILES"
_DEFAULT_ENGINE = "unix:///var/run/docker.sock"
_TICK_S = 0.1
_LOOK_EVERY_S = 4.0
_LOOK_S = 20.0
_DOWN_S = 150.0
_LOGS_S = 20.0
_DOWN_TRIES = 3
_CONTEXT_S = 10.0
#: Looks in a row that came to nothing before a stack no longer counts as well: one can be the machine's.
_BLIND = 2
_LINES = "400"
_TAKEN = ("port is already allocated", "address already in use", "Ports are not available")
_STATES: dict[str, ProcessState] = {
    "created": "starting",
    "running": "ready",
    "paused": "ready",
    "restarting": "restarting",
    "removing": "ended",
    "exited": "dead",
    "dead": "dead",
}


def project(name: str, instance: str) -> str:
    """Return what the Compose project of one start is called. No two starts share one: what an engine could not remove
    of an earlier start (a volume with a past in it) must never be found by a later one.
    """
    return f"sim-{name}-{instance[:8]}"


def held(home: Home) -> bool:
    """Say whether containers of this stack may be there."""
    return (home.folder / NOTE).exists()


def disown(home: Home) -> None:
    """Forget the containers of this stack: they are another's."""
    (home.folder / NOTE).unlink(missing_ok=True)


def clear(home: Home) -> None:
    """Remove every container, network and volume of the project, and read back that none is left.

    Raises `StackError`, and leaves the note, when that cannot be done or seen. Nothing to do where there is no note.
    """
    note = home.folder / NOTE
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        command, engine, name = [str(word) for word in noted["command"]], str(noted["engine"]), str(noted["project"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackError(f"{note} cannot be read ({error}); end its containers by hand, then remove it") from error
    base = [*command, "--project-name", name]
    environment = {**os.environ, "DOCKER_HOST": engine}
    until = time.monotonic() + _DOWN_S
    for _ in range(_DOWN_TRIES):  # an engine that is out of breath says no, and has done it a moment later
        down = _call([*base, "down", "--volumes", "--remove-orphans", "--timeout", "5"], environment, _DOWN_S)
        left = _call([*base, "ps", "--all", "--quiet"], environment, _LOOK_S)
        if not down.returncode or time.monotonic() > until:
            break
    said = "\n".join((down.stderr or left.stderr).strip().splitlines()[-3:])
    if left.returncode or left.stdout.strip():
        by_hand = f"DOCKER_HOST={engine} docker compose --project-name {name} down --volumes"
        raise StackError(
            f"the containers of the stack {home.name!r} could not be removed; by hand: {by_hand}:\n{said}\n"
            f"where that engine is gone for good, and they with it: remove {note}"
        )
    note.unlink(missing_ok=True)
    if down.returncode:  # no container is left, and no later start will meet what is
        print(f"the engine kept something of {name}:\n{said}", file=sys.stderr, flush=True)


def engine_address() -> str:
    """Return the address of the engine that Docker's own client would talk to: ``DOCKER_HOST``, or its context's.

    Raises `StackError` for one that is not of this machine: what the containers mount is here, and what they publish is
    on their engine's loopback.
    """
    found = os.environ.get("DOCKER_HOST") or _of_context()
    parts = urlsplit(found)
    if parts.scheme == "unix" or (parts.scheme == "tcp" and loopback(parts.hostname or "")):
        return found
    raise StackError(
        f"the Docker engine {found} is not of this machine: its containers could not read their configuration from "
        "here, nor we reach their ports; name one that is: DOCKER_HOST=unix:///path/of/its/socket"
    )


def _of_context() -> str:
    client, chosen = shutil.which("docker"), os.environ.get("DOCKER_CONTEXT")
    if client is None:
        return _DEFAULT_ENGINE
    told = _call([client, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"], os.environ, _CONTEXT_S)
    if told.returncode and chosen:
        raise StackError(f"DOCKER_CONTEXT={chosen}: {told.stderr.strip() or 'there is no such context'}")
    return (told.stdout.strip() if not told.returncode else "") or _DEFAULT_ENGINE


def _call(command: Sequence[str], environment: Mapping[str, str], within_s: float) -> subprocess.CompletedProcess[str]:
    # In the root folder: Compose would take the file of the folder it stands in, or of one above, for its own.
    try:
        return subprocess.run(
            list(command), env=dict(environment), cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=within_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(command), 124, "", f"no answer within {within_s:g} s")
    except OSError as error:
        return subprocess.CompletedProcess(list(command), 127, "", f"{command[0]}: {error.strerror}")


class Compose:
    """One Compose project. Only `stop` blocks for long."""

    def __init__(self, spec: ComposeSpec, desk: Desk) -> None:
        self._spec, self._desk = spec, desk
        self._engine = ""
        self._project = project(desk.home.name, desk.instance)
        self._command: list[str] = []
        self._base: list[str] = []
        self._env: dict[str, str] = {}
        self._refs: Refs | None = None
        self._records: dict[str, ProcessRecord] = {}
        self._look: subprocess.Popen[bytes] | None = None
        self._looked_at = 0.0
        self._missed = 0

    @property
    def stop_s(self) -> float:
        """How long `stop` may take at most, seconds."""
        return self._spec.stop_timeout + _DOWN_S + _LOOK_S + _LOGS_S

    def references(self) -> Mapping[str, str]:
        """Return the engine's address and the project's name. Raises `StackError` where that engine cannot serve."""
        self._engine = self._engine or engine_address()
        return {"engine": self._engine, "project": self._project}

    def prepare(self, refs: Refs, env: Mapping[str, str], stack_file: Path) -> None:
        """Find Compose, write the configuration as the containers are to see it, and note that they may be there."""
        home = self._desk.home
        seen = {
            name: refs.text(text, f"{self._desk.source}: inside.{name}") for name, text in self._spec.inside.items()
        }
        inside = replace(refs, exports={**refs.exports, **seen})
        render(self._spec.render, inside, self._desk.source)
        _open_up(refs.folder)
        self._refs, self._env = refs, dict(env)
        self._command = self._find()
        files = compose_files(self._spec, stack_file, extra_files(os.environ.get(EXTRA_FILES, ""), stack_file.parent))
        for each in files:
            if not each.is_file():
                raise StackError(f"{self._desk.source}: no Compose file {each}")
        self._base = [*self._command, "--ansi", "never", "--project-name", self._project]
        self._base += ["--project-directory", str(stack_file.parent)]
        self._base += [word for each in files for word in ("--file", str(each))]
        note = {"command": self._command, "engine": self._engine, "project": self._project}
        (home.folder / NOTE).write_text(json.dumps(note), encoding="utf-8")

    def _find(self) -> list[str]:
        try:
            return [self._desk.tool("docker-compose")]
        except StackError as alone:
            try:
                return [self._desk.tool("docker"), "compose"]
            except StackError as plugin:
                raise StackError(f"this stack needs Docker Compose 2: {plugin}\n  {alone}") from plugin

    def _environment(self) -> dict[str, str]:
        assert self._refs is not None, "prepare comes first"
        ports = {f"SIM_PORT_{name.upper()}": str(port) for name, port in self._refs.ports.items()}
        own = {"SIM_STACK_DIR": str(self._refs.folder), "SIM_STACK": self._desk.home.name}
        own |= {"SIM_INSTANCE": self._desk.instance, "DOCKER_HOST": self._engine}
        return {**os.environ, **self._env, **own, **ports}

    def start(self) -> None:
        """Have Compose start every service, wait for what comes first, run each once. Raises `PortTaken`."""
        assert self._refs is not None, "prepare comes first"
        log = self._desk.home.logs / "compose.log"
        with log.open("wb") as out:  # anew at each try: what an earlier one said is no reason of this one
            up = ["--progress", "plain", "up", "--detach", "--remove-orphans", "--no-build"]
            starting = spawn([*self._base, *up], self._environment(), self._refs.folder, out, out)
        try:
            while starting.poll() is None:
                self._desk.check_deadline("Compose is still starting it", f"; its log ({log}) ends:\n{tail(log)}")
                self._desk.tick(_TICK_S)
        finally:
            end(starting)
        if starting.returncode:
            text = tail(log)
            if any(words in text for words in _TAKEN):
                raise PortTaken("a port was taken by somebody else")
            hint = f"\n  {self._spec.hint}" if self._spec.hint else ""
            raise StackError(f"Compose {ending(starting.returncode)}; its log ({log}) ends:\n{text}{hint}")
        self._desk.say("every container was started")
        self._desk.pass_gates(self._spec.first, self._refs)
        for name, part in self._spec.once.items():
            self._run_once(name, part, self._refs)

    def _run_once(self, name: str, part: Once, refs: Refs) -> None:
        child = children.make(name, part, refs, self._env, self._desk.home, self._desk.source)
        deadline = time.monotonic() + child.timeout_s
        child.start(time.monotonic())
        try:
            while not child.ended():
                if time.monotonic() > deadline:
                    late = f"{name} was not done within {child.timeout_s:g} s; its log ({child.log}) ends:\n"
                    raise StackError(late + tail(child.log))
                self._desk.check_deadline(f"not done: {name}")
                self._desk.tick(_TICK_S)
        finally:
            child.reap()
        if child.exit_code != 0:
            raise StackError(f"{name} {ending(child.exit_code)}; its log ({child.log}) ends:\n{tail(child.log)}")
        self._desk.took(read_result(name, part, self._desk.home))
        self._desk.say(f"{name} done")

    def watch(self) -> None:
        """Raise `StackError` when a container has ended and its restart policy has given it up."""
        self._take_a_look()
        dead = sorted(name for name, record in self._records.items() if record.state == "dead")
        if dead:
            log = self._desk.home.logs / f"{dead[0]}.log"
            self._keep_logs(log, dead[0])
            how = ending(self._records[dead[0]].exit_code)
            raise StackError(f"{dead[0]} {how} during the start; its log ({log}) ends:\n{tail(log)}")

    def mind(self) -> Phase:
        """Look at the containers, now and then. Restarting them is their engine's business, by their own policy."""
        self._take_a_look()
        if self._missed >= _BLIND:
            return "degraded"
        states = {record.state for record in self._records.values()}
        return "degraded" if "dead" in states else "recovering" if states - {"ready"} else "ready"

    def _take_a_look(self) -> None:
        """Ask Compose how the containers are, without waiting: what is known is what the last answer said."""
        answer = self._desk.home.work / "ps.json"
        now = time.monotonic()
        if self._look is None:
            if now - self._looked_at >= _LOOK_EVERY_S:
                self._looked_at = now
                with answer.open("wb") as out:
                    ps = [*self._base, "ps", "--all", "--format", "json"]
                    self._look = spawn(ps, self._environment(), self._desk.home.work, out, subprocess.DEVNULL)
        elif self._look.poll() is not None:
            if self._look.returncode == 0:
                self._note(parse(answer.read_text(encoding="utf-8", errors="replace")))
            self._came(self._look.returncode == 0)
            self._look = None
        elif now - self._looked_at > _LOOK_S:
            end(self._look)
            self._look = None
            self._came(False)

    def _came(self, answered: bool) -> None:
        """Count the looks that came to nothing, and tell when it is one too many and when that is over."""
        blind = self._missed >= _BLIND
        self._missed = 0 if answered else self._missed + 1
        if (self._missed >= _BLIND) != blind:
            how = "tells again" if blind else "does not tell"
            self._desk.say(f"the engine {self._engine} {how} how the containers are")

    def _note(self, seen: dict[str, ProcessRecord]) -> None:
        for name in seen.keys() | self._records.keys():
            before, after = self._records.get(name), seen.get(name, ProcessRecord(state="dead"))
            if before is not None and before.state != after.state:
                self._desk.say(
                    f"{name} is {after.state}" + ("" if after.exit_code is None else f" ({after.exit_code})")
                )
        gone = {name: ProcessRecord(state="dead") for name in self._records.keys() - seen.keys()}
        if {**gone, **seen} != self._records:
            self._records = {**gone, **seen}
            self._desk.touched()

    def stop(self) -> None:
        """Keep the end of what the containers said, and remove them with all they have."""
        if self._look is not None:
            end(self._look)
            self._look = None
        if not held(self._desk.home):
            return
        if self._base:
            self._keep_logs(self._desk.home.logs / "containers.log")
        try:
            clear(self._desk.home)
        except StackError as error:
            self._desk.say(str(error))
        self._records = {name: ProcessRecord(state="ended") for name in self._records}

    def _keep_logs(self, log: Path, *services: str) -> None:
        command = [*self._base, "logs", "--no-color", "--timestamps", "--tail", _LINES, *services]
        said = _call(command, self._environment(), _LOGS_S)
        log.write_text(said.stdout or said.stderr, encoding="utf-8")

    def records(self) -> dict[str, ProcessRecord]:
        """Return how each service is; a container is no process of ours, so none has a pid."""
        return dict(self._records)


def parse(text: str) -> dict[str, ProcessRecord]:
    """Return how each service is from what ``compose ps --format json`` says: an object a line, or one list."""
    found: list[Any] = []
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return {}
    records = {}
    for each in found:
        state = _STATES.get(str(each.get("State", "")).lower(), "dead")
        code = each.get("ExitCode")
        ended = state == "dead" and isinstance(code, int)
        records[str(each.get("Service", "?"))] = ProcessRecord(state=state, exit_code=code if ended else None)
    return records


def spawn(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, out: IO[bytes], err: IO[bytes] | int
) -> subprocess.Popen[bytes]:
    """Start Compose in a process group of its own: as a plugin it is a child of Docker's client."""
    return subprocess.Popen(
        list(command), env=dict(environment), cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
        start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """Have a Compose that still runs end, politely first: it lets go of what it is at. None of its group is left, for
    it would go on making containers while they are removed.
    """
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.returncode is not None and Proc.of(process.pid) is not None:
        return  # nobody of the group is left, or its number would not have been given to somebody else
    with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody of the group is left (macOS: but zombies)
        os.killpg(process.pid, number)


def _open_up(folder: Path) -> None:
    """Let every user read the files of a start: the containers' own do. The folder above stays closed to the others."""
    for each in folder.rglob("*"):
        each.chmod(0o755 if each.is_dir() else 0o644)
