"""A schema registry for tests: its app without a socket, or served on a real one from a thread of its own."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import threading
from contextlib import closing, contextmanager

import uvicorn

from mbp.registry.app import build
from mbp.registry.policy import Policy
from mbp.registry.registry import Registry
from mbp.registry.seed import sow
from mbp.registry.store import Store
from tests.mbp.engines import ask

QUOTES = "mbp.quotes.v1-value"
POLICY = Policy("BACKWARD", {QUOTES: "BACKWARD"})


def schema(**keywords):
    """Return a body with a closed JSON Schema of one member, and more keywords."""
    text = json.dumps(
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False, **keywords}
    )
    return {"schema": text, "schemaType": "JSON"}


class Life:
    """One life of a registry over a folder."""

    def __init__(self, folder, policy=POLICY, seeded=False):
        self.store = Store(folder / "registry.sqlite3")
        self.registry = Registry(self.store, policy)
        if seeded:
            sow(self.registry)
        self.app = build(self.registry)

    def ask(self, method, path, body=None, **options):
        """Send one request; return status and JSON."""
        answer = ask(self.app, method, path, **({} if body is None else {"json": body}), **options)
        return answer.status_code, answer.json()

    def register(self, subject="s", **keywords):
        """Register a schema; return status and JSON."""
        return self.ask("POST", f"/subjects/{subject}/versions", schema(**keywords))

    def drift(self):
        """Return the subjects that have drifted, as the metric says."""
        lines = ask(self.app, "GET", "/metrics").text.splitlines()
        found = [line for line in lines if line.startswith("schema_registry_drift{")]
        return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in found}


@contextmanager
def running(folder, **options):
    """Give a registry and close its file afterwards."""
    life = Life(folder, **options)
    try:
        yield life
    finally:
        life.store.close()


@contextmanager
def serving(folder, **options):
    """Give the URL of a registry on a real socket."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)  # whoever comes before the server does waits, and is not refused
    ready, servers = threading.Event(), []

    def serve():
        with running(folder, **options) as life:  # SQLite's connection belongs to this thread
            config = uvicorn.Config(
                life.app, log_level="warning", access_log=False, ws="none", loop="asyncio", http="h11"
            )
            servers.append(uvicorn.Server(config))
            ready.set()
            asyncio.run(servers[0].serve(sockets=[listener]))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        servers[0].should_exit = True
        thread.join(30)
        listener.close()


def stored(folder):
    """Return what the file of a registry holds: versions (also soft-deleted ones) and levels."""
    with closing(sqlite3.connect(folder / "registry.sqlite3")) as db:
        versions = db.execute("SELECT subject, version, deleted FROM versions ORDER BY subject, version").fetchall()
        return versions + db.execute("SELECT subject, level FROM levels ORDER BY subject").fetchall()
