"""The clients that the table is driven through, each behind the same calls; and what each of them sent last.

None of them shows statuses and bodies, so they talk to a `Wire` of this process, which passes everything on and keeps
it. A driver raises `NotOffered` for what its client has no call for; whatever else it raises is the client's own view
of an error, and the wire tells what the server said.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import threading
import warnings
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent


class NotOffered(Exception):
    """The client has no such call."""


@dataclass(frozen=True)
class Passed:
    """One exchange: what was asked, and what came back."""

    asked: str
    status: int
    body: str
    kind: str


class Wire:
    """An address that passes requests on to a server; `passed` is what went through since the last `clear`."""

    def __init__(self, server_url):
        target = urlsplit(server_url).netloc
        passed = self.passed = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_all(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                connection = http.client.HTTPConnection(target, timeout=10)
                with contextlib.closing(connection):
                    headers = {"User-Agent": self.headers.get("User-Agent", ""), "Content-Type": "application/json"}
                    connection.request(self.command, self.path, body or None, headers)
                    answer = connection.getresponse()
                    text = answer.read()
                kind = answer.headers.get("Content-Type", "")
                passed.append(Passed(f"{self.command} {self.path}", answer.status, text.decode(), kind))
                self.send_response(answer.status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(text)
                self.close_connection = True

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_all

            def log_message(self, *_):
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class Raw:
    """No client: each call as the API has it."""

    name = "raw"

    def __init__(self, wire):
        self._port = wire.port

    def call(self, what, given):
        if what == "raw":
            return self.ask(given["method"], given["path"], given.get("body"), given.get("text"), given.get("agent"))
        name, toxic = given.get("name"), given.get("toxic")
        one, toxics = f"/proxies/{name}", f"/proxies/{name}/toxics"
        method, path, body = {
            "version": ("GET", "/version", None),
            "proxies": ("GET", "/proxies", None),
            "create": ("POST", "/proxies", given),
            "proxy": ("GET", one, None),
            "update": ("POST", one, given.get("change")),
            "delete": ("DELETE", one, None),
            "toxics": ("GET", toxics, None),
            "toxic": ("GET", f"{toxics}/{toxic}", None),
            "add_toxic": ("POST", toxics, toxic),
            "update_toxic": ("POST", f"{toxics}/{toxic}", given.get("change")),
            "remove_toxic": ("DELETE", f"{toxics}/{toxic}", None),
            "populate": ("POST", "/populate", given.get("proxies")),
            "reset": ("POST", "/reset", None),
        }[what]
        return self.ask(method, path, body)

    def ask(self, method, path, body=None, text=None, agent=None):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        with contextlib.closing(connection):
            sent = text if text is not None else json.dumps(body) if body is not None else None
            connection.request(method, path, sent, {"User-Agent": agent or "table"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def close(self):
        """Nothing is kept."""


class Python:
    """toxiproxy-python."""

    name = "toxiproxy-python"

    def __init__(self, wire):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the client's own old parts
            from toxiproxy.api import APIConsumer
            from toxiproxy.server import Toxiproxy
        APIConsumer.host, APIConsumer.port = "127.0.0.1", wire.port
        self._server = Toxiproxy()

    def call(self, what, given):
        offered = {
            "version": lambda: self._server.version(),
            "proxies": lambda: self._server.proxies(),
            "create": lambda: self._server.create(**given),
            "update": self._update,
            "delete": lambda: self._proxy(given).destroy(),
            "toxics": lambda: self._proxy(given).toxics(),
            "add_toxic": lambda: self._proxy(given).add_toxic(**given["toxic"]),
            "remove_toxic": lambda: self._proxy(given).destroy_toxic(given["toxic"]),
            "reset": lambda: self._server.reset(),
        }.get(what)
        if offered is None:
            raise NotOffered(what)
        return self._update(given) if what == "update" else offered()

    def _proxy(self, given):
        return self._server.get_proxy(given["name"])

    def _update(self, given):
        if set(given["change"]) != {"enabled"}:
            raise NotOffered("update")
        proxy = self._proxy(given)
        return proxy.enable() if given["change"]["enabled"] else proxy.disable()

    def close(self):
        """Nothing is kept."""


class Chaostoolkit:
    """chaostoolkit-toxiproxy."""

    name = "chaostoolkit"

    def __init__(self, wire):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the client's own old parts
            import chaostoxi.proxy.actions as proxy
            import chaostoxi.toxic.actions as toxic
            import chaostoxi.toxiproxyapi as api
        self._proxy, self._toxic, self._api = proxy, toxic, api
        self._at = {"toxiproxy_url": wire.url}

    def call(self, what, given):
        name = given.get("name", "")

        def create():
            host, port = given["upstream"].split(":")
            at, on = given["listen"].split(":")
            return self._proxy.create_proxy(name, host, port, at, int(on), True, self._at)

        def add():
            toxic = {"toxicity": 1.0, "stream": "downstream", **given["toxic"]}
            return self._toxic.create_toxic(
                name, toxic["name"], toxic["type"], toxic["stream"], toxic["toxicity"], toxic["attributes"], self._at
            )

        def switch():
            change = self._proxy.enable_proxy if given["change"]["enabled"] else self._proxy.disable_proxy
            return change(name, self._at)

        offered = {
            "create": create,
            "proxy": lambda: self._api.read_proxy(name, self._at),
            "update": switch,
            "delete": lambda: self._proxy.delete_proxy(name, self._at),
            "add_toxic": add,
            "remove_toxic": lambda: self._toxic.delete_toxic(name, given["toxic"], self._at),
            "reset": lambda: self._proxy.reset(self._at),
        }.get(what)
        if offered is None:
            raise NotOffered(what)
        return offered()

    def close(self):
        """Nothing is kept."""


class Node:
    """toxiproxy-node-client, in a process of its own."""

    name = "node"

    def __init__(self, wire, node, folder):
        self._process = subprocess.Popen(
            [str(node), str(HERE / "driver.js"), wire.url, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def call(self, what, given):
        self._process.stdin.write(json.dumps({"call": what, "with": given}) + "\n")
        self._process.stdin.flush()
        error = json.loads(self._process.stdout.readline())["error"]
        if error == "not offered":
            raise NotOffered(what)
        if error:
            raise RuntimeError(error)

    def close(self):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
