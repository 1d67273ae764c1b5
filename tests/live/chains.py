"""Whole chains on the real parts, each on a stack of its own in a folder of its own, with one link broken by its files.

A case changes what is *running* (the executor's table, a rule file, a route, an environment variable); the profile, and
with it what is expected, stays the shipped one. Cases run side by side: a chain mostly waits. Any exercise of the
seed's file can be run so: which hook it is bound to, and with it alerts, owner and actions, is read from the table.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sim import log
from sim.places import places
from sim.stack.state import Home
from tests.conftest import ROOT

Change = Callable[["Bench"], None]


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Wait for the turn to start a stack: a dozen interpreters at once are enough for a small machine.

    Several starts beside each other take no less time in all, and nobody else gets any meanwhile.
    """
    path = ROOT / ".sim" / "starting.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # let go with the file, also by a process that is killed
        yield


@dataclass
class Result:
    """What a case left."""

    code: int
    report: dict[str, Any]
    stdout: str
    stderr: str
    folder: Path | None


class NotUp(Exception):
    """The stack did not come up; `result` holds what it said."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.stderr[-4000:])
        self.result = result


@dataclass
class Bench:
    """One case's folder: a profile and a stack file of its own, made from the shipped ones.

    `drills` are the exercises of the folder's file, as the seed has them; `exercise` is the first. `tools` is where the
    programs of the stack are looked for first.
    """

    folder: Path
    name: str
    drills: tuple[str, ...] = ("invariant_breach",)
    tools: Path = places(ROOT).tools / "bin"
    profile: dict[str, Any] = field(default_factory=dict)
    stack: dict[str, Any] = field(default_factory=dict)
    blocks: dict[str, dict[str, Any]] = field(default_factory=dict)
    during: Callable[[Bench], None] | None = None
    before: Callable[[Bench], None] | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.profile = yaml.safe_load((ROOT / "scenarios/targets/mbp-local.yaml").read_text())
        self.stack = yaml.safe_load((ROOT / "compose/local.yaml").read_text())
        seed = yaml.safe_load((ROOT / "scenarios/s2.yaml").read_text())["exercises"]
        self.blocks = {name: dict(seed[name]) for name in self.drills}

    @property
    def exercise(self) -> dict[str, Any]:
        """The block of the first exercise; a case may add to it."""
        return self.blocks[self.drills[0]]

    @property
    def bound(self) -> tuple[str, dict[str, Any]]:
        """Name and row of the hook that the first exercise is bound to, as the profile binds it."""
        hooks = yaml.safe_load((ROOT / "mbp/hooks/a110.yaml").read_text())["hooks"]
        injector = self.exercise["inject"].partition("(")[0]
        named = self.profile["exercises"].get(self.drills[0], {}).get("hook")
        name = named or next(name for name, hook in hooks.items() if injector in hook["faults"])
        return name, hooks[name]

    # -- ways to break a link ----------------------------------------------------------------------------------

    def table(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Give the executor another row for the bound hook."""
        name = self.bound[0]
        self.whole_table(lambda data: change(data["hooks"][name]))

    def whole_table(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Give the executor another table."""
        data = yaml.safe_load((ROOT / "mbp/hooks/a110.yaml").read_text())
        change(data)
        path = self.folder / "a110.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        command = self.stack["processes"]["executor"]["command"]
        at = next(i for i, word in enumerate(command) if word.startswith("--table"))
        command[at] = f"--table={path}"

    def ops(self, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Give Prometheus or Alertmanager another file."""
        data = yaml.safe_load((ROOT / "mbp/ops/prom" / name).read_text())
        change(data)
        path = self.folder / name
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        shipped = "${package:mbp}/ops/prom/"
        every = f"{shipped}*.rules.yaml"
        rest = [each for each in self.stack["render"] if each["from"] not in (f"{shipped}{name}", every)]
        rules = [each.name for each in sorted((ROOT / "mbp/ops/prom").glob("*.rules.yaml")) if each.name != name]
        rest += [{"from": f"{shipped}{each}", "to": f"rules/{each}"} for each in rules]
        rest.append({"from": str(path), "to": f"rules/{name}" if name.endswith(".rules.yaml") else name})
        self.stack["render"] = rest

    def env(self, process: str, **values: str) -> None:
        """Give a process more environment."""
        self.stack["processes"][process].setdefault("env", {}).update(values)

    # -- running -----------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the command line: the project's tools on PATH."""
        path = f"{self.tools}:{places(ROOT).tools / 'bin'}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "NO_COLOR": "1"}

    def sim(self, *words: str, timeout_s: float = 1500) -> subprocess.CompletedProcess[str]:
        """Call the command line in this folder."""
        return subprocess.run(
            [sys.executable, "-m", "sim.cli", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def write(self) -> None:
        """Write the files of this case."""
        (self.folder / "sim.toml").touch()
        (self.folder / "stack.yaml").write_text(yaml.safe_dump(self.stack, sort_keys=False))
        self.profile["stack"] = str(self.folder / "stack.yaml")
        (self.folder / "mbp-local.yaml").write_text(yaml.safe_dump(self.profile, sort_keys=False))
        (self.folder / "drill.yaml").write_text(yaml.safe_dump({"exercises": self.blocks}))

    def up(self) -> subprocess.CompletedProcess[str]:
        """Bring the stack up, when it is our turn."""
        with turn():
            return self.sim("up", "--target", "mbp-local.yaml", "--stack", self.name)

    def run(self) -> Result:
        """Bring the stack up, run the exercise (the only one of its file) once, take it down."""
        helper = threading.Thread(target=self.during, args=(self,)) if self.during else None
        try:
            with self.kept():
                try:
                    if self.before:
                        self.before(self)
                    if helper:
                        helper.start()
                    return self.once(self.drills[0])
                finally:
                    self.done.set()
                    if helper:
                        helper.join(30)
        except NotUp as refused:
            return refused.result

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Have the stack up for several runs. Raises `NotUp`."""
        self.write()
        up = self.up()
        if up.returncode:
            raise NotUp(Result(up.returncode, {}, up.stdout, up.stderr, None))
        try:
            yield
        finally:
            self.sim("down", "--stack", self.name)

    def once(self, drill: str) -> Result:
        """Run one exercise of the folder's file once, on the stack that is up."""
        ran = self.on_stack(f"drill.yaml::{drill}", "--format", "json")
        runs = sorted((self.folder / "runs").iterdir()) if (self.folder / "runs").is_dir() else []
        report = json.loads(ran.stdout) if ran.stdout.strip() else {}
        return Result(ran.returncode, report, ran.stdout, ran.stderr, runs[-1] if runs else None)

    def on_stack(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Call ``sim run`` for the stack that is up."""
        return self.sim("run", *words, "--target", "mbp-local.yaml", "--stack", self.name, timeout_s=3600)

    # -- looking at a stack that is up -------------------------------------------------------------------------

    @property
    def state(self) -> Any:
        """The recorded state of the stack."""
        return Home(places(self.folder).stacks / self.name).read()

    def pid(self, process: str) -> int:
        """The pid of one process of the stack."""
        found = self.state.processes[process].proc()
        assert found is not None
        return int(found.pid)

    def wait_for(self, kind: str, within_s: float = 120) -> bool:
        """Wait until the run's record holds an event of that kind."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and not self.done.is_set():
            for path in sorted((self.folder / "runs").glob("*/log.jsonl")):
                if any(event.kind == kind for event in log.read(path)):
                    return True
            time.sleep(0.02)
        return False

    def ask(self, export: str, method: str, path: str, body: Any = None, token: bool = False) -> Any:
        """Send one request to a service of the stack."""
        exports = self.state.exports
        request = urllib.request.Request(exports[export] + path, method=method)
        request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {Path(exports['fault_token']).read_text().strip()}")
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(request, data, timeout=5) as answer:
            text = answer.read()
        return json.loads(text) if text else None
