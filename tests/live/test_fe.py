"""Real views: Chromium opens the page of the real front end, and the real collector hears of each."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from mbp import fe
from sim import undo
from sim.company import alive
from tests.conftest import tool
from tests.live.chains import Bench
from tests.live.test_mbp_kill import TOKEN, call, service
from tests.ports import free_port

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Here:
    """The front end, its collector, and an API that only remembers the trace of each quote."""

    page: str = ""
    rum: str = ""
    traces: list[str] = field(default_factory=list)

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Return what the collector has of a kind."""
        return [row for row in call(f"{self.rum}/views?limit=2000")[1]["rows"] if row["kind"] == kind]


@contextlib.contextmanager
def api(here: Here) -> Iterator[str]:
    """Serve quotes."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            here.traces.append(self.headers["traceparent"])
            body = b'{"amount_out": "19", "fee": "0", "price_after": "0.51"}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    """Front end and collector, up."""
    rum, page, made = free_port(), free_port(), Here()
    (tmp_path / "token").write_text(TOKEN)
    made.rum, made.page = f"http://127.0.0.1:{rum}", f"http://127.0.0.1:{page}"
    script = Path(fe.__path__[0]) / "rum/server.js"
    collector = subprocess.Popen([str(tool("node")), str(script), "--port", str(rum)])
    switches = {"SIM_FAULTS": "1", "MBP_FAULT_TOKEN_FILE": str(tmp_path / "token")}
    try:
        with api(made) as url:
            options = ("--data", str(tmp_path / "fe"), "--rum", made.rum, "--api", url)
            with service("mbp.fe.web", page, *options, **switches):
                yield made
    finally:
        collector.terminate()
        assert collector.wait(10) == 0


@contextlib.contextmanager
def visitor(here: Here, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start a visitor who is ready after three views."""
    orders = {"page": here.page, "rum": here.rum, "views": 3, "every_s": 0.3}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "injectors.fe._visitor"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(orders) + "\n")
    process.stdin.flush()
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()


def said(process: subprocess.Popen[str], word: str) -> list[dict[str, str]]:
    """Read what it says until that word."""
    assert process.stdout is not None
    lines: list[dict[str, str]] = []
    while not lines or word not in lines[-1]:
        line = process.stdout.readline()
        assert line, f"it ended: {lines}"
        lines.append(json.loads(line))
    return lines


def gone(processes: list[psutil.Process], within_s: float) -> bool:
    """Tell whether all these processes end within so many seconds."""
    return not psutil.wait_procs(processes, timeout=within_s)[1]


@pytest.mark.timeout(120)
def test_a_real_browser_views_the_page_and_nothing_is_lost(here: Here) -> None:
    """Each view is announced and told once, its trace went to the API, a regression shows in its INP; then all ends."""
    tool("chromium")
    with visitor(here) as process:
        first, *_, ready = said(process, "ready")
        assert first["note"].startswith("visitor chromium ")
        assert ready["ready"].endswith("3 views at baseline, 0 lost")
        before = here.rows("beacon")
        body = {"point": "fe.bundle", "kind": "regress", "params": {"inp_ms": 400}, "ttl_s": 60, "run": "r1"}
        assert call(f"{here.page}/faults/f1", body, "PUT", **BEARER)[0] == 200
        while len(here.rows("beacon")) < len(before) + 6:
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        assert any("chrom" in each.name() for each in family)
        assert process.stdin is not None
        process.stdin.close()  # the end of its lease
        assert process.wait(15) == 0
        assert gone(family, 10.0)
    told = here.rows("beacon")
    assert {row["agent"] for row in told} == {first["note"].removeprefix("visitor ")}
    assert {trace.split("-")[1] for trace in here.traces} >= {row["trace_id"] for row in told}
    # The load of the machine adds to both; the dose is far beyond what it adds.
    assert min(row["inp_ms"] for row in told[-2:]) >= max(128, told[0]["inp_ms"] + 200)


@pytest.mark.timeout(120)
def test_a_visitor_that_is_killed_leaves_no_browser(here: Here) -> None:
    """`kill -9` of the process: the browser that it brought ends by itself."""
    tool("chromium")
    with visitor(here) as process:
        said(process, "ready")
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) > 2
        process.kill()
        assert gone(family, 15.0)


@pytest.mark.timeout(60)
def test_without_a_browser_its_views_are_synthetic_and_say_so(here: Here) -> None:
    """Exactly the handler times of the served bundle, in turn."""
    with visitor(here, SIM_BROWSER="none") as process:
        first, ready = said(process, "ready")
    assert first == {"note": "visitor synthetic: no browser asked for"}
    assert ready["ready"].endswith("3 views at baseline, 0 lost")
    told = [(row["step"], row["inp_ms"], row["agent"]) for row in here.rows("beacon")[:3]]
    assert told == [(step, ms, "synthetic: no browser asked for") for step, ms in enumerate((128, 144, 136))]


@pytest.mark.timeout(600)
def test_a_runner_that_is_killed_leaves_no_visitor(tmp_path: Path) -> None:
    """`kill -9` of the runner while its visitor makes the baseline: it goes, and the watchdog closes the journal."""
    bench = Bench(tmp_path, "fe-killed", ("web_cwv_regression",))
    with bench.kept():
        runner = subprocess.Popen(
            [sys.executable, "-m", "sim.cli", "run", "drill.yaml", "--target", "mbp-local.yaml", "--stack", bench.name],
            cwd=tmp_path,
            env={**bench.environment, "SIM_BROWSER": "none"},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            record = _company(tmp_path, runner)
        finally:
            runner.kill()
            runner.wait(10)
        pid, started = int(record["pid"]), float(record["started"])
        end = time.monotonic() + 20
        while time.monotonic() < end and (alive(pid, started) or _open(tmp_path)):
            time.sleep(0.1)
        assert (alive(pid, started), _open(tmp_path)) == (None, False)


def _journals(folder: Path) -> list[undo.Open]:
    return [undo.read(path) for path in folder.glob(f"runs/*/{undo.FILE}")]


def _open(folder: Path) -> bool:
    return any(each.unfinished for each in _journals(folder))


def _company(folder: Path, runner: subprocess.Popen[Any]) -> dict[str, Any]:
    """Wait until the journal names the company, and return its record."""
    while not (found := [record for each in _journals(folder) for record in each.companies.values()]):
        assert runner.poll() is None
        time.sleep(0.1)
    return dict(found[0])
