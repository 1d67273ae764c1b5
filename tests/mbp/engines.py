"""An engine in this process: its own store, clocks that a test moves, and its HTTP face without a socket."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import httpx

from mbp.engine.app import build
from mbp.engine.exchange import Exchange
from mbp.engine.store import Store

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Clocks:
    """Monotonic and wall seconds that only a test moves."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def wall(self):
        return 1_700_000_000.0 + self.now


class Engine:
    """One life of an engine over a folder."""

    def __init__(self, folder, clocks=None, *, token=TOKEN, deaf=False):
        self.clocks = clocks or Clocks()
        self.store = Store(folder / "engine.sqlite3")
        self.exchange = Exchange(self.store, monotonic=self.clocks.monotonic, wall=self.clocks.wall, deaf=deaf)
        self.app = build(self.exchange, self.store, token)

    def ask(self, method, path, **options):
        return ask(self.app, method, path, **options)


@contextmanager
def running(folder, clocks=None, **options):
    """Give an engine and close its file afterwards."""
    engine = Engine(folder, clocks, **options)
    try:
        yield engine
    finally:
        engine.store.close()


def ask(app, method, path, **options):
    """Send one request to an app and return its answer; a crash of the app is a 500, as it would be for a client."""

    async def send():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://mbp") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def refusal(answer):
    """Return status and code of an error answer, after checking that it has the one shape."""
    body = answer.json()
    assert set(body) == {"error", "detail"}, body
    assert body["detail"]
    return answer.status_code, body["error"]


def fault(market="sim-1", ratio="1.5e-9", ttl_s=10, run="r1", **more):
    """Return the body of a fault."""
    return {
        "point": "engine.swap",
        "kind": "mutate",
        "params": {"market": market, "delta_k_ratio": ratio},
        "ttl_s": ttl_s,
        "run": run,
        **more,
    }


def open_market(engine, market="m1", reserve="1000"):
    """Open a market through the API."""
    answer = engine.ask("POST", "/v1/markets", json={"id": market, "question": "Will it?", "reserve": reserve})
    assert answer.status_code == 201, answer.text
    return answer.json()


def swap(engine, market="m1", side="yes", action="buy", amount="10", **headers):
    """Ask for a swap through the API."""
    body = {"side": side, "action": action, "amount": amount}
    return engine.ask("POST", f"/v1/markets/{market}/swaps", json=body, headers=headers)
