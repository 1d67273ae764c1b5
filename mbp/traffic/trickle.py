"""The resident trickle: two swaps and two quotes a second in one market, for ever, so that no series is ever still.
Every twelfth quote is a look at the history of prices instead.

The swaps go round: buy YES, sell what was bought, buy NO, sell what was bought. The pool stays where it is (fees are
outside it). One request of a kind is in flight at most, each has a time limit, and a failing API is asked ever less
often, down to once in five seconds. A swap without a clear answer is asked again under the same idempotency key.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import aiohttp
from prometheus_client import CollectorRegistry, Counter, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

Outcome = Literal["ok", "refused", "throttled", "failed", "unreachable"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "refused", "throttled", "failed", "unreachable")

MARKET = "resident"
RESERVE = "100000"  # deep enough that the depth of the market is not what an exercise stumbles over
AMOUNT = "10"
EVERY_S = 0.5
SLOWEST_S = 5.0
SIDES = ("yes", "no")
#: Every so many turns of the quotes one is a look at the history: 1 in 24 requests, which a p95 does not see.
HISTORY_EACH = 12


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API answered; status 0 when it did not."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """The outcome that this reply is counted as."""
        if self.status == 0:
            return "unreachable"
        if self.status >= 500:
            return "failed"
        if self.status == 429:
            return "throttled"
        return "refused" if self.status >= 400 else "ok"


class Api(Protocol):
    """Whatever asks the API; never raises for what the API does or does not answer."""

    async def post(self, path: str, body: dict[str, str], key: str | None = None) -> Reply:
        """POST a body and return the reply."""

    async def get(self, path: str) -> Reply:
        """GET a path and return the reply."""


class HttpApi:
    """Asks over HTTP with a time limit; a context manager that owns its connections."""

    def __init__(self, base_url: str, timeout_s: float = 6.0) -> None:
        """Remember where the API is."""
        self._base, self._timeout = base_url.rstrip("/"), aiohttp.ClientTimeout(total=timeout_s, sock_connect=1.0)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpApi:
        """Make the connection pool."""
        self._session = aiohttp.ClientSession(
            timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=4)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    async def post(self, path: str, body: dict[str, str], key: str | None = None) -> Reply:
        """POST a body and return the reply."""
        return await self._ask("POST", path, body, {"Idempotency-Key": key} if key is not None else None)

    async def get(self, path: str) -> Reply:
        """GET a path and return the reply."""
        return await self._ask("GET", path, None, None)

    async def _ask(self, method: str, path: str, body: object, headers: dict[str, str] | None) -> Reply:
        if self._session is None:
            raise RuntimeError("the client is not open")
        try:
            async with self._session.request(method, self._base + path, json=body, headers=headers) as answer:
                raw = await answer.read() if (answer.content_length or 0) <= 65_536 else b""
                return Reply(answer.status, _object(raw))
        except (TimeoutError, aiohttp.ClientError):
            return Reply(0)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Trickle:
    """The two loops and what they count."""

    def __init__(
        self,
        api: Api,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float],
    ) -> None:
        """Trickle into ``api``; ``clock`` is monotonic seconds, ``sleep`` goes with it."""
        self._api, self._sleep, self._clock = api, sleep, clock
        self._opened = False
        self._looks = 0  # turns of the quotes
        self._turn = 0  # 0 and 2 buy, 1 and 3 sell; yes first, then no
        self._held = ""  # shares bought and not yet sold
        self._pending: str | None = None  # key of a swap without a clear answer
        self.registry = CollectorRegistry()
        self._counter = Counter(
            "mbp_traffic_requests", "Requests of the resident trickle.", ["outcome"], registry=self.registry
        )
        for outcome in OUTCOMES:
            self._counter.labels(outcome)

    async def run(self) -> None:
        """Trickle until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop(self.swap))
            group.create_task(self._loop(self.quote))

    async def _loop(self, step: Callable[[], Awaitable[Outcome]]) -> None:
        pause, due = EVERY_S, self._clock()
        while True:
            outcome = await step() if self._opened else await self.open()
            self._counter.labels(outcome).inc()
            pause = EVERY_S if outcome in ("ok", "refused") else min(pause * 2, SLOWEST_S)
            # On an absolute schedule; what was missed is not made up for, or an outage would end in a burst.
            due = max(due + pause, self._clock())
            await self._sleep(due - self._clock())

    async def open(self) -> Outcome:
        """Open the resident market, or find that it is there."""
        reply = await self._api.post(
            "/v1/markets", {"id": MARKET, "question": "The resident market", "reserve": RESERVE}
        )
        exists = reply.status == 409 and reply.body.get("error") == "market_exists"
        self._opened = exists or reply.outcome == "ok"
        return "ok" if exists else reply.outcome

    async def quote(self) -> Outcome:
        """Ask for one quote, or, at some turns, for the newest of the history."""
        self._looks += 1
        if self._looks % HISTORY_EACH == 0:
            return (await self._api.get(f"/v1/markets/{MARKET}/history?limit=20")).outcome
        side = SIDES[self._turn // 2]
        reply = await self._api.post("/v1/quotes", {"market": MARKET, "side": side, "amount": AMOUNT})
        self._look(reply)
        return reply.outcome

    async def swap(self) -> Outcome:
        """Make the next swap of the round; one that is refused begins the round anew."""
        self._pending = key = self._pending or uuid.uuid4().hex
        selling = self._turn % 2 == 1
        body = {
            "market": MARKET,
            "side": SIDES[self._turn // 2],
            "action": "sell" if selling else "buy",
            "amount": self._held if selling else AMOUNT,
        }
        reply = await self._api.post("/v1/swaps", body, key)
        self._look(reply)
        if reply.outcome in ("unreachable", "failed", "throttled"):
            return reply.outcome
        self._pending = None
        if reply.outcome == "ok":
            self._held = str(reply.body.get("amount_out", ""))
            self._turn = (self._turn + 1) % 4
        if reply.outcome == "refused" or (self._turn % 2 == 1 and not self._held):
            self._turn = 0
        return reply.outcome

    def _look(self, reply: Reply) -> None:
        """Open the market again when the engine does not know it (it may have been given a new data folder)."""
        if reply.status == 404:
            self._opened = False
