"""The shop's own webhook, which keeps what it was told and shows it: all that a receiver needs to be read by `sim`."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Recorder:
    """The messages, in the order in which they came."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows: list[dict[str, Any]] = []

    def take(self, address: str, payload: Any) -> None:
        """Keep one message."""
        with self.lock:
            seq = len(self.rows) + 1
            self.rows.append(
                {"seq": seq, "at": time.time(), "channel": "webhook", "address": address, "payload": payload}
            )

    def page(self, after: int) -> dict[str, Any]:
        """Return what came after a message."""
        with self.lock:
            rows = self.rows[after : after + 100]
            return {"rows": rows, "next": rows[-1]["seq"] if rows else max(after, 0)}


def handler(recorder: Recorder) -> type[BaseHTTPRequestHandler]:
    """The recorder's web server."""

    class Handler(BaseHTTPRequestHandler):
        def _say(self, data: Any) -> None:
            body = json.dumps(data).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            recorder.take(self.path.rpartition("/")[2], json.loads(body))
            self._say({})

        def do_GET(self) -> None:
            self._say(recorder.page(int(parse_qs(urlsplit(self.path).query).get("after", ["0"])[0])))

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
