"""Writes down what a chain sends, and shows it: the receiver of a platform that has nothing else.

``python recorder.py --port N --instance ID``: ``POST /notify/CHANNEL/ADDRESS`` keeps a message, ``GET /received`` shows
them page by page, ``GET /identity`` says whose it is. Standard library only, on loopback only, in memory.
"""

from __future__ import annotations

import argparse
import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

MOST = 10_000


class Recorder(ThreadingHTTPServer):
    """The server and what it has received."""

    daemon_threads = True

    def __init__(self, port: int, identity: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.identity, self.rows, self.lock = identity, list[dict[str, Any]](), threading.Lock()

    def keep(self, channel: str, address: str, payload: Any) -> None:
        """Add one message."""
        with self.lock:
            if len(self.rows) < MOST:
                row = {"seq": len(self.rows) + 1, "channel": channel, "address": address, "payload": payload}
                self.rows.append({**row, "at": datetime.now(UTC).isoformat()})

    def page(self, after: int, limit: int, channel: str | None) -> dict[str, Any]:
        """Return the messages after one, and how far that was."""
        with self.lock:
            found = self.rows[after : after + limit]
        shown = [row for row in found if channel in (None, row["channel"])]
        return {"rows": shown, "next": found[-1]["seq"] if found else after}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Recorder
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Keep a message."""
        body = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 1 << 20))
        _, word, channel, address = (urlsplit(self.path).path.split("/") + [""] * 3)[:4]
        if word != "notify":
            return self._answer(404, {"error": "not found"})
        self.server.keep(channel, address, json.loads(body))
        return self._answer(200, {"ok": True})

    def do_GET(self) -> None:
        """Show what there is."""
        parts = urlsplit(self.path)
        asked = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/received":
            if "tail" in asked:
                return self._answer(200, {"rows": [], "next": len(self.server.rows)})
            after, limit = int(asked.get("after", 0)), int(asked.get("limit", 100))
            return self._answer(200, self.server.page(after, limit, asked.get("channel")))
        known: dict[str, Any] = {"/identity": self.server.identity, "/healthz": {"ok": True}}
        found = known.get(parts.path)
        return self._answer(200 if found else 404, found or {"error": "not found"})

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: Any) -> None:
        """Keep quiet: the record of what came is `received`."""


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--port", type=int, required=True)
    words.add_argument("--instance", required=True)
    given = words.parse_args()
    Recorder(given.port, {"environment": "sim-test", "instance": given.instance}).serve_forever()
