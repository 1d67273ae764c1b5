"""The probe itself: goes through the journeys round and round, and keeps what stands.

One violating answer makes the contract *violated*; it is *kept* again when every journey was kept since. What is no
sample (no answer, time-out, 429, 5xx, a refusal that is the market's own) never makes it violated and takes *kept* away
until the journey is sampled again: a service that does not answer is neither broken nor green.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any, Protocol

import aiohttp
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mbp._service import CLIENT_KEEP_ALIVE_S, wall_text
from mbp._trace import Tracing, current_trace_id, outgoing
from mbp.contract.document import Answer, Contract
from mbp.contract.journeys import JOURNEYS, OPEN, Ask, Journey, Judged, dump, judge

EVERY_S = 3.0  # a round; its journeys are spread over it
TIMEOUT_S = 10.0
ANSWER_LIMIT = 4 * 1024 * 1024  # bytes
KEPT_BACK = 50  # violations that are shown
OUTCOMES = ("kept", "violated", "refused", "throttled", "failed", "timeout", "no_answer")
SAMPLES = frozenset({"kept", "violated"})


class Silent(Exception):
    """No answer; ``outcome`` is ``timeout`` or ``no_answer``."""

    def __init__(self, outcome: str) -> None:
        """Keep which it was."""
        super().__init__(outcome)
        self.outcome = outcome


class Api(Protocol):
    """Whatever asks the public entry."""

    async def send(self, ask: Ask) -> Answer:
        """Return the answer, whatever it is; raises :class:`Silent` when there is none."""
        ...


class HttpApi:
    """Asks over HTTP, every wait bounded; a context manager that owns its connections."""

    def __init__(self, base_url: str, timeout_s: float = TIMEOUT_S) -> None:
        """Remember where the public entry is."""
        self._base, self._timeout = base_url.rstrip("/"), aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpApi:
        """Make the connection pool."""
        connector = aiohttp.TCPConnector(limit=len(JOURNEYS), keepalive_timeout=CLIENT_KEEP_ALIVE_S)
        self._session = aiohttp.ClientSession(
            timeout=self._timeout, connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    async def send(self, ask: Ask) -> Answer:
        """See :class:`Api`; nothing is asked twice."""
        if self._session is None:
            raise RuntimeError("the client is not open")
        body = dump(ask.body)
        headers = {"Content-Type": "application/json", **ask.headers} if body is not None else ask.headers
        url = self._base + ask.path
        try:
            async with self._session.request(
                ask.method, url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                content = bytearray()
                async for part in answer.content.iter_any():
                    content += part
                    if len(content) > ANSWER_LIMIT:
                        break  # cut short it is no JSON any more, and that is what it is judged as
                names = {name.lower(): value for name, value in answer.headers.items()}
                return Answer(answer.status, names, bytes(content))
        except TimeoutError:
            raise Silent("timeout") from None
        except (aiohttp.ClientError, OSError):
            raise Silent("no_answer") from None


class Standing:
    """What stands of a contract, from the outcomes of its journeys. Pure."""

    def __init__(self, journeys: Iterable[str]) -> None:
        """Begin with nothing known."""
        self._sampled = dict.fromkeys(journeys, False)
        self._answered = False  # the very last request, of the round or not
        self._broken = False
        self._awaited: set[str] = set()

    def note(self, journey: str, outcome: str) -> None:
        """Take in the outcome of one journey; one that is outside the round can only violate."""
        self._answered = outcome in SAMPLES
        if journey in self._sampled:
            self._sampled[journey] = self._answered
        if outcome == "violated":
            self._broken, self._awaited = True, set(self._sampled)
        elif outcome == "kept":
            self._awaited.discard(journey)
            self._broken = self._broken and bool(self._awaited)

    @property
    def status(self) -> int | None:
        """1 kept, 0 violated, None not known now."""
        if self._broken:
            return 0 if self._answered or any(self._sampled.values()) else None
        return 1 if all(self._sampled.values()) else None


class Probe(Collector):
    """Goes through the journeys of one contract."""

    def __init__(
        self,
        contract: Contract,
        api: Api,
        *,
        wall: Callable[[], float],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        tracing: Tracing | None = None,
    ) -> None:
        """Probe ``api``; ``wall`` gives labels, ``clock`` is monotonic seconds and ``sleep`` goes with it."""
        self._contract, self._api = contract, api
        self._wall, self._clock, self._sleep = wall, clock, sleep
        self._standing = Standing(journey.name for journey in JOURNEYS)
        self._last: dict[str, dict[str, Any]] = {}
        self._violations: deque[dict[str, Any]] = deque(maxlen=KEPT_BACK)
        self._counts = dict.fromkeys(OUTCOMES, 0)
        self._opened = False
        self._opening = asyncio.Lock()
        self._turns: Counter[str] = Counter()
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        self._tracing = tracing or Tracing("contract")
        self._tracing.export_to(self.registry)

    async def run(self) -> None:
        """Probe until cancelled; a probe that has ended knows nothing any more."""
        try:
            async with asyncio.TaskGroup() as group:
                for place, journey in enumerate(JOURNEYS):
                    group.create_task(self._loop(journey, place * EVERY_S / len(JOURNEYS)))
        finally:
            self._standing = Standing(journey.name for journey in JOURNEYS)

    async def _loop(self, journey: Journey, offset_s: float) -> None:
        due = self._clock() + offset_s
        while True:
            await self._sleep(due - self._clock())
            await self.step(journey)
            # On an absolute schedule; what was missed is not made up for.
            due = max(due + EVERY_S, self._clock())

    async def step(self, journey: Journey) -> str:
        """Go one journey, the market opened before it where it is not, and return the outcome."""
        async with self._opening:
            if not self._opened:
                opened, status = await self._ask(OPEN)
                self._opened = status == OPEN.status or opened.code == "market_exists"
                if not self._opened:
                    self._standing.note(journey.name, "refused")  # not asked: nothing is known of it
                    return "refused"
        judged, _ = await self._ask(journey)
        if judged.outcome == "refused" and judged.code == "market_not_found":
            self._opened = False  # the platform was given a new data folder
        return judged.outcome

    async def _ask(self, journey: Journey) -> tuple[Judged, int | None]:
        self._turns[journey.name] += 1
        asked = journey.ask(self._turns[journey.name])
        answer: Answer | None = None
        with self._tracing.span(
            "contract.probe", kind=SpanKind.CLIENT, attributes={"mbp.journey": journey.name}
        ) as span:
            trace_id = current_trace_id()
            try:
                answer = await self._api.send(replace(asked, headers={**outgoing(), **asked.headers}))
                judged = judge(self._contract, journey, asked, answer)
            except Silent as silent:
                judged = Judged(silent.outcome)
            span.set_attribute("mbp.outcome", judged.outcome)
        release = answer.release if answer is not None else None
        status = answer.status if answer is not None else None
        at = wall_text(self._wall())
        self._counts[judged.outcome] += 1
        self._standing.note(journey.name, judged.outcome)
        self._last[journey.name] = {"outcome": judged.outcome, "status": status, "release": release, "at": at}
        where = {
            "journey": journey.name,
            "request": f"{asked.method} {asked.path}",
            "status": status,
            "trace_id": trace_id,
        }
        for found in judged.violations:
            self._violations.appendleft({"at": at, **where, "release": release, **asdict(found)})
        return judged, status

    def show(self) -> dict[str, Any]:
        """Return what stands, the last outcome of each journey, and the last violations, newest first."""
        word = {1: "kept", 0: "violated", None: "unknown"}[self._standing.status]
        journeys = [{"name": name, **last} for name, last in self._last.items()]
        return {
            "contract": self._contract.name,
            "status": word,
            "journeys": journeys,
            "violations": list(self._violations),
        }

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """Yield the families; the status has no value while it is not known."""
        status = GaugeMetricFamily(
            "int_contract_status", "1: the running service keeps the contract, 0: it violates it.", labels=["contract"]
        )
        if (value := self._standing.status) is not None:
            status.add_metric([self._contract.name], value)
        samples = CounterMetricFamily(
            "int_contract_samples",
            "Requests of the probe; only kept and violated are samples.",
            labels=["contract", "outcome"],
        )
        for outcome, count in self._counts.items():
            samples.add_metric([self._contract.name, outcome], count)
        yield from (status, samples)
