"""A platform of Prometheus, Alertmanager and a webhook on one loopback port, whose answers a test sets.

It runs in a thread of its own, so that a verb of the command line can be called beside it.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "correct-horse"

RULE = {
    "type": "alerting",
    "name": "ShopErrorsHigh",
    "query": "shop_error_ratio > 0.05",
    "duration": 2,
    "labels": {"team": "PAYMENTS"},
    "alerts": [],
    "health": "ok",
}

ALERTMANAGER = """
route:
  receiver: nobody
  routes: [{receiver: payments, matchers: ['team="PAYMENTS"'], group_wait: 1s, group_interval: 5s}]
receivers: [{name: nobody}, {name: payments}]
"""

PROMETHEUS = "global: {scrape_interval: 5s, evaluation_interval: 5s}\n"


def series(value: float | None, **labels: str) -> list[dict[str, Any]]:
    """Return an instant query's result of one series, or none."""
    return [] if value is None else [{"metric": labels, "value": [1700000000, str(value)]}]


def well() -> dict[str, Any]:
    """Return what a healthy platform answers: queries by their text, the rest by path; a tuple is (status, JSON)."""
    return {
        "queries": {
            "time()": [1700000000, "1700000000"],
            "count by (environment) (up)": series(3, environment="shop-staging"),
            "max(shop_error_ratio)": series(0.01),
            "min(up)": series(1),
        },
        "/api/v1/alerts": {"alerts": []},
        "/api/v1/rules": {"groups": [{"name": "shop", "interval": 5, "rules": [RULE]}]},
        "/api/v1/targets": {"activeTargets": [{"health": "up"}, {"health": "up"}]},
        "/api/v1/alertmanagers": {"activeAlertmanagers": [{"url": "http://am"}]},
        "/api/v1/status/config": {"yaml": PROMETHEUS},
        "/api/v2/alerts": [],
        "/api/v2/silences": [],
        "/api/v2/receivers": [{"name": "nobody"}, {"name": "payments"}],
        "/api/v2/status": {"config": {"original": ALERTMANAGER}},
        "/received": {"rows": [], "next": 0},
        "/faults": [],
    }


class Platform:
    """`answers` may be changed at any time; `asked` has every request, `token` is what it must bear."""

    def __init__(self) -> None:
        self.answers = copy.deepcopy(well())
        self.asked: list[str] = []
        self.token: str | None = TOKEN
        self.url = ""

    def answer(self, method: str, target: str, bearer: str) -> tuple[int, Any]:
        """Return status and JSON."""
        self.asked.append(f"{method} {target}")
        if self.token is not None and bearer != f"Bearer {self.token}":
            return 401, {"error": "who are you"}
        parts = urlsplit(target)
        if parts.path == "/api/v1/query":
            query = parse_qs(parts.query)["query"][0]
            result = self.answers["queries"].get(query, [])
            return 200, {"status": "success", "data": {"resultType": "vector", "result": result}}
        found = self.answers.get(parts.path)
        if found is None:
            return 404, {"error": "not found"}
        if isinstance(found, tuple):
            return found
        return 200, {"status": "success", "data": found} if parts.path.startswith("/api/v1/") else found


@contextmanager
def platform() -> Iterator[Platform]:
    """Serve a healthy platform until the block ends."""
    fake = Platform()

    class Handler(BaseHTTPRequestHandler):
        def _all(self) -> None:
            status, data = fake.answer(self.command, self.path, self.headers.get("Authorization", ""))
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _all

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
