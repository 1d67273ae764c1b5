"""A small platform with one dependency in a container: Prometheus scrapes it, Alertmanager tells its owner.

It shares nothing with the bundled target but the two tools. Two rules watch the dependency: one sees that it cannot be
scraped, the other reads what it says of itself, and that falls silent with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sim import log
from sim.places import places
from sim.stack.state import Home
from tests.conftest import ROOT, tool
from tests.live.containers import Room, until

RULES: dict[str, Any] = {
    "groups": [
        {
            "name": "depot",
            "interval": "1s",
            "rules": [
                {"alert": "DependencyDead", "expr": 'up{job="depot"} == 0', "for": "1s", "labels": {"owner": "OPS"}},
                {"alert": "DepotSaysDown", "expr": "depot_up == 0", "labels": {"owner": "OPS"}},
            ],
        }
    ]
}

PROMETHEUS: dict[str, Any] = {
    "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
    "rule_files": ["${stack.dir}/rules.yaml"],
    "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["${stack.alertmanager_addr}"]}]}]},
}

ALERTMANAGER: dict[str, Any] = {
    "route": {
        "receiver": "ops", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s", "repeat_interval": "4h",
    },
    "receivers": [
        {"name": "ops", "webhook_configs": [{"url": "${stack.recorder}/notify/oncall/ops", "send_resolved": True}]}
    ],
}  # fmt: skip

STACK: dict[str, Any] = {
    "stack": "depot",
    "timeout": "120s",
    "ports": {"prom": "auto", "alertmanager": "auto", "recorder": "auto"},
    "exports": {
        "prom": "http://127.0.0.1:${port.prom}",
        "alertmanager": "http://127.0.0.1:${port.alertmanager}",
        "alertmanager_addr": "127.0.0.1:${port.alertmanager}",
        "recorder": "http://127.0.0.1:${port.recorder}",
    },
    "env": {"NO_PROXY": "*", "no_proxy": "*"},
    "processes": {
        "prometheus": {
            "command": [
                "${tool:prometheus}",
                "--config.file=${stack.dir}/prometheus.yml",
                "--storage.tsdb.path=${stack.dir}/data/prometheus",
                "--web.listen-address=127.0.0.1:${port.prom}",
                "--rules.alert.resend-delay=5s",
                "--log.level=warn",
            ],
            "ready": {"http": "${stack.prom}/-/ready"},
        },
        "alertmanager": {
            "command": [
                "${tool:alertmanager}",
                "--config.file=${stack.dir}/alertmanager.yml",
                "--storage.path=${stack.dir}/data/alertmanager",
                "--web.listen-address=127.0.0.1:${port.alertmanager}",
                "--cluster.listen-address=",
                "--log.level=warn",
            ],
            "ready": {"http": "${stack.alertmanager}/-/ready"},
        },
        "recorder": {
            "command": [
                "${python}",
                str(ROOT / "tests" / "live" / "recorder.py"),
                "--port=${port.recorder}",
                "--instance=${instance}",
            ],
            "ready": {"http": "${stack.recorder}/healthz"},
        },
    },
    "ready": [
        {
            "what": "the dependency was scraped",
            "http": "${stack.prom}/api/v1/query",
            "query": {"query": "min(up)"},
            "path": "data.result.0.value.1",
            "equals": 1,
        }
    ],
}

PROFILE: dict[str, Any] = {
    "target": "depot",
    "environment": "sim-test",
    "identity": {"url": "${stack.recorder}/identity"},
    "observers": {
        "prom": {"kind": "prometheus", "url": "${stack.prom}", "every": "250ms"},
        "alertmanager": {"kind": "alertmanager", "url": "${stack.alertmanager}", "every": "500ms"},
        "oncall": {"kind": "inbox", "url": "${stack.recorder}", "channel": "oncall", "every": "250ms"},
    },
    "facts": {
        "alert": {"kind": "event", "stage": "detect", "from": "prom"},
        "alert.to": {"kind": "event", "stage": "notify", "from": "oncall"},
        "up": {"kind": "gauge", "from": "prom", "query": 'min(up{job="depot"})', "worse": "down"},
    },
    "owners": {"OPS": {"oncall": "ops"}},
    "hooks": {
        "dependency_dead": {"alerts": ["DependencyDead"], "owner": "OPS", "channels": ["oncall"]},
        "depot_says_down": {"alerts": ["DepotSaysDown"], "owner": "OPS", "channels": ["oncall"]},
    },
    "steady_state": "up > 0.5",
    "quiet": "60s",
    "within": {"effect": "20s", "detect": "60s", "act": "60s", "notify": "60s", "recover": "90s"},
}


@dataclass
class Depot:
    """The platform in a folder of its own, around containers of a room of its own."""

    folder: Path
    room: Room

    def drills(self) -> dict[str, dict[str, Any]]:
        """Return the exercises: three that the chain must notice, and three that are there to fail."""
        box, init = self.room.name("depot"), self.room.name("init")
        noticed = {"expect": "alert.to=='OPS'", "hook": "dependency_dead"}
        return {
            "cut": {"inject": f"docker.cut('{box}')", **noticed},
            "paused": {"inject": f"docker.pause('{box}')", **noticed},
            "killed": {"inject": f"docker.kill('{box}')", **noticed},
            "init_stopped": {"inject": f"docker.signal('{init}')", **noticed, "within": {"effect": "4s"}},
            "held": {"inject": f"docker.pause('{box}', duration='5m')", **noticed, "hold": "full"},
            "unnoticed": {
                "inject": f"docker.pause('{box}')",
                "expect": "alert.to=='OPS'",
                "hook": "depot_says_down",
                "within": {"detect": "12s", "act": "12s", "notify": "12s"},
            },
        }

    def write(self) -> None:
        """Write profile, stack, configurations and exercises."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "sim.toml").touch()
        target = f"{self.room.net}.10:80"
        scrape = {"job_name": "depot", "metrics_path": "/metrics.txt", "static_configs": [{"targets": [target]}]}
        configs = {
            "rules.yaml": RULES,
            "prometheus.yml": {**PROMETHEUS, "scrape_configs": [scrape]},
            "alertmanager.yml": ALERTMANAGER,
        }
        render = [{"from": str(self.folder / name), "to": name} for name in configs]
        doors = {"docker": {"url": self.room.door}}
        files = {
            **configs,
            "stack.yaml": {**STACK, "render": render},
            "depot.yaml": {**PROFILE, "stack": str(self.folder / "stack.yaml"), "doors": doors},
            "drills.yaml": {"exercises": self.drills()},
        }
        for name, value in files.items():
            (self.folder / name).write_text(yaml.safe_dump(value, sort_keys=False))

    def command(self, *words: str) -> list[str]:
        """Return the command line of `sim`."""
        return [sys.executable, "-m", "sim.cli", *words]

    @property
    def environment(self) -> dict[str, str]:
        """Its environment: the project's tools on PATH."""
        return {**os.environ, "PATH": f"{tool('prometheus').parent}:{os.environ['PATH']}", "NO_COLOR": "1"}

    def sim(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Call the command line in this folder."""
        return subprocess.run(
            self.command(*words), cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=280
        )

    def run(self, drill: str) -> tuple[int, dict[str, Any]]:
        """Run one exercise; return its exit code and its report."""
        ran = self.sim("run", f"drills.yaml::{drill}", "--target", "depot.yaml", "--format", "json")
        assert ran.stdout.strip(), ran.stderr
        return ran.returncode, json.loads(ran.stdout)

    def begin(self, drill: str) -> subprocess.Popen[bytes]:
        """Start a run in a session of its own, and leave it to itself."""
        words = self.command("run", f"drills.yaml::{drill}", "--target", "depot.yaml")
        with (self.folder / f"{drill}.log").open("wb") as out:
            return subprocess.Popen(
                words, cwd=self.folder, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )

    def events(self, drill: str) -> list[str]:
        """Return the kinds of the events of an exercise's last run, in order."""
        found = sorted((self.folder / "runs").glob(f"*-{drill}-*/log.jsonl"))
        return [event.kind for event in log.read(found[-1])] if found else []

    def calm(self) -> None:
        """Wait until no alert is pending or firing."""
        exports = Home(places(self.folder).stacks / "default").read().exports

        def ask(url: str) -> Any:
            with self.room.opener.open(url, timeout=5) as answer:
                return json.loads(answer.read())

        until(
            lambda: (
                not ask(f"{exports['prom']}/api/v1/alerts")["data"]["alerts"]
                and not ask(f"{exports['alertmanager']}/api/v2/alerts")
            ),
            "quiet chain",
            90,
        )

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """Have dependency and stack up."""
        self.room.start("depot", last=10, alias="depot")
        self.room.start("init", last=11, host={"init": True})
        self.write()
        came = self.sim("up", "--target", "depot.yaml")
        assert came.returncode == 0, came.stderr
        try:
            yield
        finally:
            self.sim("down")
