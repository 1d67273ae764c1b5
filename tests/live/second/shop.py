"""The shop: a till with traffic, metrics, a switch that breaks it, and the four routes of the fault endpoint.

Written from the documentation alone; shares no code with `sim`, its rooms, or the bundled platform.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

LAST = 20  # the error ratio is over so many checkouts


class Shop:
    """All that the shop is. `flag` is its operators' own switch."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.flag = False
        self.faults: dict[str, dict[str, Any]] = {}
        self.hits = 0
        self.total = self.errors = 0
        self.last: deque[bool] = deque(maxlen=LAST)
        self._closed = threading.Event()
        self._traffic = threading.Thread(target=self._customers, daemon=True)
        self._traffic.start()

    def close(self) -> None:
        """The shop closes: no more customers."""
        self._closed.set()
        self._traffic.join(5)

    def _customers(self) -> None:
        while not self._closed.wait(0.05):
            self.checkout()

    def checkout(self) -> bool:
        """One checkout; says whether it went well."""
        with self.lock:
            self._expire()
            broken = self.flag
            for fault in self.faults.values():
                if fault["point"] == "checkout":
                    self.hits += 1
                    fault["hits"] += 1
                    fault["impacted"] += 1
                    fault["last_hit_at"] = time.time()
                    broken = True
            self.total += 1
            self.errors += broken
            self.last.append(broken)
            return not broken

    def _expire(self) -> None:
        now = time.monotonic()
        self.faults = {name: fault for name, fault in self.faults.items() if fault["until"] > now}

    def set_fault(self, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Set or renew a fault."""
        if body.get("point") != "checkout" or body.get("kind") != "error" or not body.get("ttl_s"):
            return 422, {"error": "point checkout, kind error, and a ttl_s"}
        with self.lock:
            self._expire()
            fault = self.faults.setdefault(name, {"id": name, "hits": 0, "impacted": 0, "last_hit_at": None})
            fault |= {**body, "until": time.monotonic() + body["ttl_s"]}
            return 200, {"id": name, "expires_at": time.time() + body["ttl_s"], "rev": self.total}

    def listed(self) -> list[dict[str, Any]]:
        """The faults in force."""
        with self.lock:
            self._expire()
            return [{key: value for key, value in fault.items() if key != "until"} for fault in self.faults.values()]

    def end(self, name: str | None, run: str | None) -> None:
        """End one fault, or those of a run."""
        with self.lock:
            kept = {key: each for key, each in self.faults.items() if key != name and each.get("run") != run}
            self.faults = kept if run or name else self.faults

    def metrics(self) -> str:
        """The shop's metrics, as Prometheus reads them."""
        with self.lock:
            self._expire()
            ratio = sum(self.last) / len(self.last) if self.last else 0.0
            return (
                f"shop_checkouts_total {self.total}\nshop_errors_total {self.errors}\nshop_error_ratio {ratio}\n"
                f'sim_fault_active{{point="checkout"}} {len(self.faults)}\n'
                f'sim_fault_hits_total{{point="checkout"}} {self.hits}\n'
            )


def handler(shop: Shop) -> type[BaseHTTPRequestHandler]:
    """The shop's web server."""

    class Handler(BaseHTTPRequestHandler):
        def _say(self, status: int, data: Any) -> None:
            body = b"" if status == 204 else (data if isinstance(data, str) else json.dumps(data)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(data, str) else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _body(self) -> Any:
            return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/metrics":
                self._say(200, shop.metrics())
            elif path == "/checkout":
                well = shop.checkout()
                self._say(200 if well else 500, {"paid": well})
            elif path == "/faults":
                self._say(200, shop.listed())
            else:
                self._say(404, {"error": "no such page"})

        def do_PUT(self) -> None:
            path = urlsplit(self.path).path
            if path.startswith("/faults/"):
                self._say(*shop.set_fault(path.removeprefix("/faults/"), self._body()))
            elif path == "/switch":
                shop.flag = self._body()["broken"]
                self._say(200, {"broken": shop.flag})
            else:
                self._say(404, {"error": "no such page"})

        def do_DELETE(self) -> None:
            parts = urlsplit(self.path)
            name = parts.path.removeprefix("/faults").strip("/") or None
            shop.end(name, parse_qs(parts.query).get("run", [None])[0])
            self._say(204, None)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler
