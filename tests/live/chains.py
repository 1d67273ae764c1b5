"""Whole chains on the real parts, each on a stack of its own in a folder of its own, with one link broken by its files.

A case changes what is *running* (the executor's table, a rule file, a route, an environment variable); the profile, and
with it what is expected, stays the shipped one. Cases run side by side: a chain mostly waits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sim import log
from sim.places import places
from sim.stack.state import Home
from tests.conftest import ROOT

Change = Callable[["Bench"], None]


@dataclass
class Result:
    """What a case left."""

    code: int
    report: dict[str, Any]
    stdout: str
    stderr: str
    folder: Path | None


@dataclass
class Bench:
    """One case's folder: a profile and a stack file of its own, made from the shipped ones."""

    folder: Path
    name: str
    profile: dict[str, Any] = field(default_factory=dict)
    stack: dict[str, Any] = field(default_factory=dict)
    exercise: dict[str, Any] = field(default_factory=dict)
    during: Callable[[Bench], None] | None = None
    before: Callable[[Bench], None] | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.profile = yaml.safe_load((ROOT / "scenarios/targets/mbp-local.yaml").read_text())
        self.stack = yaml.safe_load((ROOT / "compose/local.yaml").read_text())
        seed = yaml.safe_load((ROOT / "scenarios/s2.yaml").read_text())
        self.exercise = dict(seed["exercises"]["invariant_breach"])

    # -- ways to break a link ----------------------------------------------------------------------------------

    def table(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Give the executor another table."""
        data = yaml.safe_load((ROOT / "mbp/hooks/a110.yaml").read_text())
        change(data["hooks"]["amm_invariant_breach"])
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
        wanted = f"${{package:mbp}}/ops/prom/{name}"
        rest = [
            each
            for each in self.stack["render"]
            if each["from"] not in (wanted, "${package:mbp}/ops/prom/*.rules.yaml")
        ]
        if name.endswith(".rules.yaml"):
            rest.append({"from": "${package:mbp}/ops/prom/ready.rules.yaml", "to": "rules/ready.rules.yaml"})
            rest.append({"from": str(path), "to": f"rules/{name}"})
        else:
            rest.append({"from": "${package:mbp}/ops/prom/*.rules.yaml", "to": "rules"})
            rest.append({"from": str(path), "to": name})
        self.stack["render"] = rest

    def env(self, process: str, **values: str) -> None:
        """Give a process more environment."""
        self.stack["processes"][process].setdefault("env", {}).update(values)

    # -- running -----------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the command line: the project's tools on PATH."""
        tools = places(ROOT).tools / "bin"
        return {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "NO_COLOR": "1"}

    def sim(self, *words: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
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
        (self.folder / "drill.yaml").write_text(yaml.safe_dump({"exercises": {"invariant_breach": self.exercise}}))

    def run(self) -> Result:
        """Bring the stack up, run the exercise once, take it down."""
        self.write()
        up = self.sim("up", "--target", "mbp-local.yaml", "--stack", self.name)
        if up.returncode:
            return Result(up.returncode, {}, up.stdout, up.stderr, None)
        helper = threading.Thread(target=self.during, args=(self,)) if self.during else None
        try:
            if self.before:
                self.before(self)
            if helper:
                helper.start()
            ran = self.sim("run", "drill.yaml", "--target", "mbp-local.yaml", "--stack", self.name, "--format", "json")
        finally:
            self.done.set()
            if helper:
                helper.join(30)
            self.sim("down", "--stack", self.name)
        runs = sorted((self.folder / "runs").iterdir()) if (self.folder / "runs").is_dir() else []
        report = json.loads(ran.stdout) if ran.stdout.strip() else {}
        return Result(ran.returncode, report, ran.stdout, ran.stderr, runs[-1] if runs else None)

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
