"""Starts the shop and what watches it, as a platform that already runs: `sim` brings none of it up.

Everything is behind one gateway that asks for a bearer token: ``/prometheus``, ``/alertmanager``, ``/inbox`` and
``/shop`` below one address of loopback.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.conftest import tool
from tests.live.second import recorder, shop
from tests.ports import free_port

TOKEN = "only-for-the-shop"

RULES = """
groups:
  - name: shop
    rules:
      - alert: ShopErrorsHigh
        expr: shop_error_ratio > 0.05
        for: 1s
        labels: {team: PAYMENTS}
"""

PROMETHEUS = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
alerting:
  alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{alertmanager}']}}]}}]
scrape_configs:
  - job_name: shop
    static_configs: [{{targets: ['127.0.0.1:{shop}'], labels: {{environment: shop-staging}}}}]
"""

ALERTMANAGER = """
route:
  receiver: nobody
  group_wait: 0s
  group_interval: 1s
  routes: [{{receiver: payments, matchers: ['team="PAYMENTS"']}}]
receivers:
  - name: nobody
  - name: payments
    webhook_configs: [{webhook}]
"""


@dataclass
class Platform:
    """A shop that runs. `url` is its gateway's address."""

    folder: Path
    url: str
    ports: dict[str, int]
    shop: shop.Shop
    recorder: recorder.Recorder
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def rules(self, text: str) -> None:
        """Give Prometheus other rules, and wait until it has them."""
        (self.folder / "rules.yml").write_text(text)
        self.processes["prometheus"].send_signal(signal.SIGHUP)
        wanted = b"ShopErrorsHigh" in text.encode()
        self.wait(lambda: (b"ShopErrorsHigh" in self.ask("prometheus", "/api/v1/rules")) is wanted, "the new rules")

    def listed_faults(self) -> list[dict[str, Any]]:
        """Return the faults that the shop itself knows."""
        return self.shop.listed()

    def ask(self, name: str, path: str) -> bytes:
        """GET straight from a part, past the gateway."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}{path}", timeout=2) as answer:
            return bytes(answer.read())

    def wait(self, holds: Callable[[], bool], what: str, within_s: float = 60) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            assert not ended, (self.folder / f"{ended[0]}.log").read_text()[-2000:]
            with contextlib.suppress(OSError, http.client.HTTPException):
                if holds():
                    return
            time.sleep(0.1)
        raise AssertionError(f"not within {within_s} s: {what}")


def _gateway(ports: dict[str, int]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
            name, slash, rest = self.path.lstrip("/").partition("/")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._say(401, b'{"error": "no entry without a token"}')
            elif name not in ports:
                self._say(404, b'{"error": "no such part"}')
            else:
                connection = http.client.HTTPConnection("127.0.0.1", ports[name], timeout=5)
                try:
                    kind = {"Content-Type": self.headers["Content-Type"]} if self.headers["Content-Type"] else {}
                    connection.request(self.command, slash + rest or "/", body, kind)
                    answer = connection.getresponse()
                    self._say(answer.status, answer.read(), answer.getheader("Content-Type"))
                except OSError as error:
                    self._say(502, str(error).encode())
                finally:
                    connection.close()

        def _say(self, status: int, body: bytes, kind: str | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind or "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _forward

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@contextlib.contextmanager
def _served(made: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), made)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextlib.contextmanager
def _process(folder: Path, name: str, argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@contextlib.contextmanager
def running(folder: Path, webhook: str | None = None) -> Iterator[Platform]:
    """Have the platform run until the block ends; `webhook` is an entry of webhook_configs, if not the shop's own."""
    programs = {name: str(tool(name)) for name in ("prometheus", "alertmanager")}
    folder.mkdir(parents=True, exist_ok=True)
    till, told = shop.Shop(), recorder.Recorder()
    with contextlib.ExitStack() as stack:
        stack.callback(till.close)
        ports = {"prometheus": free_port(), "alertmanager": free_port()}
        ports["shop"] = stack.enter_context(_served(shop.handler(till)))
        ports["inbox"] = stack.enter_context(_served(recorder.handler(told)))
        url = f"http://127.0.0.1:{stack.enter_context(_served(_gateway(ports)))}"
        own = f"{{url: 'http://127.0.0.1:{ports['inbox']}/webhook/payments'}}"
        (folder / "rules.yml").write_text(RULES)
        (folder / "prometheus.yml").write_text(PROMETHEUS.format(**ports))
        (folder / "alertmanager.yml").write_text(ALERTMANAGER.format(webhook=webhook or own))
        made = Platform(folder, url, ports, till, told)
        listen = {name: f"--web.listen-address=127.0.0.1:{ports[name]}" for name in programs}
        argvs = {
            "prometheus": [f"--storage.tsdb.path={folder}/prometheus"],
            "alertmanager": [f"--storage.path={folder}/alertmanager", "--cluster.listen-address="],
        }
        for name, argv in argvs.items():
            argv += [f"--config.file={folder}/{name}.yml", listen[name]]
            made.processes[name] = stack.enter_context(_process(folder, name, [programs[name], *argv]))
        query = "/api/v1/query?query=shop_error_ratio"
        made.wait(lambda: made.ask("alertmanager", "/-/ready") is not None, "Alertmanager is ready")
        made.wait(lambda: b'"value"' in made.ask("prometheus", query), "the shop is scraped")
        path = "/api/v1/alertmanagers"
        made.wait(lambda: b"http://" in made.ask("prometheus", path), "Prometheus knows its Alertmanager")
        yield made
