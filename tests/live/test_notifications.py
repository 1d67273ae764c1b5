"""The generated files before the real tools, and a real Alertmanager's messages through the sinks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from mbp.hooks.table import load
from tests.conftest import ROOT, tool
from tests.ports import free_port

pytestmark = pytest.mark.live
PROM = ROOT / "mbp" / "ops" / "prom"
FIXTURES = ROOT / "tests" / "fixtures" / "notifications"


def filled(name: str, **values: str) -> str:
    """Return a template of mbp/ops/prom with its references filled in, those not named with an address."""
    return re.sub(
        r"\$\{stack\.([a-z_]+)\}", lambda match: values.get(match[1], "127.0.0.1:1"), (PROM / name).read_text()
    )


def run(*command: str | Path) -> str:
    """Run a tool, and return what it printed."""
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules_and_the_configuration(tmp_path: Path) -> None:
    """Every rule of the table is found, and the one of readiness."""
    (tmp_path / "rules").mkdir()
    for name in ("a110.rules.yaml", "ready.rules.yaml"):
        (tmp_path / "rules" / name).write_text((PROM / name).read_text())
    (tmp_path / "prometheus.yml").write_text(filled("prometheus.yml", dir=str(tmp_path)))
    said = run(tool("promtool"), "check", "config", tmp_path / "prometheus.yml")
    rules = sum(len(hook.alerts) for hook in load().hooks.values())
    assert f"SUCCESS: {rules} rules found" in said
    assert "SUCCESS: 1 rules found" in said


def test_alertmanager_routes_each_owner_to_the_executor_and_its_own_receiver(tmp_path: Path) -> None:
    """And an owner that nobody knows, or none, to nobody."""
    path = tmp_path / "alertmanager.yml"
    path.write_text(filled("alertmanager.yml", executor="http://127.0.0.1:1", sinks="http://127.0.0.1:1"))
    run(tool("amtool"), "check-config", path)
    for labels, receiver in (
        *((f"owner={owner}", owner) for owner in load().owners), ("owner=ELSE", "nobody"), ("a=b", "nobody"),
    ):  # fmt: skip
        assert run(tool("amtool"), "config", "routes", "test", f"--config.file={path}", labels).strip() == (
            f"executor,{receiver}"
        )


def until(probe: Callable[[], Any], what: str, wait_s: float = 15.0) -> Any:
    """Return the probe's first true answer."""
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        try:
            if found := probe():
                return found
        except requests.ConnectionError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"no {what} within {wait_s:g} s")


@contextmanager
def chain(folder: Path) -> Iterator[dict[str, str]]:
    """Run Alertmanager, executor and sinks; yield their URLs."""
    ports = {name: free_port() for name in ("am", "executor", "sinks", "smtp")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    text = filled("alertmanager.yml", executor=urls["executor"], sinks=urls["sinks"], smtp=f"127.0.0.1:{ports['smtp']}")
    (folder / "alertmanager.yml").write_text(text)
    commands: list[list[str | Path]] = [
        [tool("alertmanager"), f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'am'}",
         f"--web.listen-address=127.0.0.1:{ports['am']}", "--cluster.listen-address="],
        [sys.executable, "-m", "mbp.hooks.executor", f"--port={ports['executor']}", f"--data={folder / 'executor'}"],
        [sys.executable, "-m", "mbp.sinks", f"--port={ports['sinks']}", f"--smtp-port={ports['smtp']}",
         f"--data={folder / 'sinks'}"],
    ]  # fmt: skip
    running: list[subprocess.Popen[bytes]] = []
    with (folder / "log").open("wb") as log:
        try:
            running += [subprocess.Popen(each, stdout=log, stderr=log, cwd=ROOT) for each in commands]
            for url in (f"{urls['am']}/-/ready", f"{urls['executor']}/healthz", f"{urls['sinks']}/healthz"):
                until(lambda url=url: requests.get(url, timeout=1).ok, url)  # type: ignore[misc]
            yield urls
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(10)


def shape(value: Any) -> Any:
    """Return the keys of a JSON value, all the way down."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value).__name__


def test_a_real_alertmanager_tells_owner_and_executor_with_records(tmp_path: Path) -> None:
    """Three messages firing, three resolved, each with the shape of the committed samples and this alert's record."""
    labels = {"alertname": "AmmInvariantBreach", "hook": "amm_invariant_breach", "owner": "DEC/PM",
              "severity": "critical", "market": "sim-demo"}  # fmt: skip
    began = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - 2)) + ".123Z"
    posted = {"labels": labels, "annotations": {"summary": "s", "runbook": "r"}, "startsAt": began}
    with chain(tmp_path) as urls:

        def received(count: int) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = requests.get(f"{urls['sinks']}/received", timeout=2).json()["rows"]
            return rows if len(rows) >= count else []

        requests.post(f"{urls['am']}/api/v2/alerts", json=[posted], timeout=2).raise_for_status()
        until(lambda: received(3), "message")
        ended = {**posted, "endsAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1))}
        requests.post(f"{urls['am']}/api/v2/alerts", json=[ended], timeout=2).raise_for_status()
        rows = until(lambda: received(6), "resolved message")
        execution = until(
            lambda: requests.get(f"{urls['executor']}/v1/executions", timeout=2).json()["rows"], "execution"
        )[0]
    records = {"fingerprint": execution["fingerprint"], "starts_at": execution["starts_at"]}
    assert records["starts_at"] == began
    told = {}
    for number, row in enumerate(rows):
        status = "firing" if number < 3 else "resolved"
        told[(row["channel"], status)] = row["address"]
        record = f"{records['fingerprint']} {records['starts_at']} {status} AmmInvariantBreach"
        assert record in json.dumps(row["payload"])
        sample = json.loads((FIXTURES / f"{row['channel']}_{status}.json").read_text())
        if tool("alertmanager").name == "prometheus-alertmanager":  # the samples are of Debian's 0.25
            assert shape(row) == shape(sample)
    addresses = {"slack": "#dec-pm", "oncall": "dec-pm", "email": "dec-pm@mbp.test"}
    assert told == {
        (channel, status): address for channel, address in addresses.items() for status in ("firing", "resolved")
    }
