"""Shadowed journeys: duplicated to the candidate, compared, never returned, and nothing left behind."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from mbp.dec.app import build as build_dec
from mbp.release.app import build as build_release
from mbp.release.controller import Controller
from mbp.release.profiles import Profiles
from mbp.release.proxy import NoAnswer, Passed
from mbp.release.shadow import AT_ONCE, alike, journey_of
from mbp.release.store import Store
from tests.mbp.engines import BEARER, refusal, running
from tests.mbp.test_dec import FREE, InProcess

SHADOW = {"X-MBP-Shadow": "1"}
SWAP = {"side": "yes", "action": "buy", "amount": "10"}


class Releases:
    """Both releases in this process; what the candidate answers can be bent."""

    def __init__(self, engine):
        self.apps = {name: build_dec(name, InProcess(engine.app), limits=FREE) for name in ("stable", "candidate")}
        self.seen, self.bent, self.down, self.gate = [], None, False, None

    async def open(self):
        """Nothing to open."""

    async def close(self):
        """Nothing to close."""

    async def send(self, release, method, target, headers, body):
        self.seen.append((release, target, headers.get("x-mbp-shadow")))
        if release == "candidate" and self.gate is not None:
            await self.gate.wait()
        if release == "candidate" and self.down:
            raise NoAnswer("down")
        transport = httpx.ASGITransport(app=self.apps[release])
        async with httpx.AsyncClient(transport=transport, base_url="http://dec") as client:
            answer = await client.request(method, target, headers=headers, content=body)
        content = answer.content
        if release == "candidate" and self.bent is not None:
            content = json.dumps(self.bent(answer.json())).encode()
        return Passed(answer.status_code, {"x-mbp-release": release}, content)


class Platform:
    """Engine, releases and controller; the stable release serves."""

    def __init__(self, folder, engine):
        self.engine, self.releases = engine, Releases(engine)
        self.store = Store(folder / "release.sqlite3", 1.7e9)
        controller = Controller(self.store, lambda: 1.7e9)
        controller.set_status("stable", None)
        self.app = build_release(controller, self.releases, Profiles(folder / "profiles"))

    def tell(self, *requests):
        """Send requests in one life of the loop, let the shadows land, and return the answers."""

        async def go():
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://mbp") as client:
                answers = [await client.request(method, path, json=body) for method, path, body in requests]
                for _ in range(50):
                    await asyncio.sleep(0)
                return answers

        return asyncio.run(go())

    def shadow(self, *journeys, share=1.0):
        self.tell(("PUT", "/release/shadow", {"journeys": list(journeys), "share": share}))

    def counts(self, journey):
        """Return the outcomes that are not zero."""
        (answer,) = self.tell(("GET", "/release/shadow", None))
        return {outcome: n for outcome, n in answer.json()["counts"][journey].items() if n}

    def state(self):
        """Return all that the engine keeps: markets, swaps, events, changes, and what its metrics say."""
        pages = ["/v1/markets", "/v1/audit/swaps", "/v1/events", "/v1/audit/markets", "/v1/audit/flags"]
        whole = [self.engine.ask("GET", page).json() for page in pages]
        metrics = self.engine.ask("GET", "/metrics").text.splitlines()
        return whole, [
            line for line in metrics if not ("span" in line or line.startswith(("#", "python_", "process_")))
        ]


@pytest.fixture
def platform(tmp_path):
    """A platform with one market, traded a little, and another on its way to be resolved."""
    with running(tmp_path) as engine:
        made = Platform(tmp_path, engine)
        for name in ("m1", "m2"):
            engine.ask("POST", "/v1/markets", json={"id": name, "question": "Will it?", "reserve": "1000"})
        engine.ask("POST", "/v1/markets/m1/swaps", json=SWAP)
        engine.ask("POST", "/v1/markets/m2/resolution")
        yield made
        made.store.close()


REHEARSED = [
    ("/v1/markets/m1/quote", {"side": "yes", "amount": "10"}, 200),
    ("/v1/markets/m1/swaps", SWAP, 201),
    ("/v1/markets/m1/swaps", {**SWAP, "amount": "900000000"}, 422),
    ("/v1/markets/none/swaps", SWAP, 404),
    ("/v1/markets/m2/resolution/finish", {"outcome": "yes"}, 200),
    ("/v1/markets/m1/resolution/finish", {}, 409),
]


@pytest.mark.parametrize(("path", "body", "status"), REHEARSED)
def test_the_engine_answers_a_shadow_and_keeps_nothing(platform, path, body, status):
    """The very answer of the real request (the same seq would come next), and not a row, event, key or count."""
    before = platform.state()
    shadow = platform.engine.ask("POST", path, json=body, headers={**SHADOW, "Idempotency-Key": "k"})
    assert (shadow.status_code, platform.state()) == (status, before)
    real = platform.engine.ask("POST", path, json=body, headers={"Idempotency-Key": "k"})
    own = {"request_id", "trace_id"}
    assert {k: v for k, v in shadow.json().items() if k not in own} == {
        k: v for k, v in real.json().items() if k not in own
    }


def test_a_shadow_in_a_faulty_market_counts_no_hit(platform):
    """It meets the bias as a real swap does, and the fault does not know of it."""
    body = {"point": "engine.swap", "kind": "mutate", "params": {"market": "f1", "delta_k_ratio": "1e-6"}, "ttl_s": 60}
    platform.engine.ask("PUT", "/faults/f1", json={**body, "run": "r"}, headers=BEARER)
    before = platform.state(), platform.engine.ask("GET", "/faults", headers=BEARER).json()
    shadow = platform.engine.ask("POST", "/v1/markets/f1/swaps", json=SWAP, headers=SHADOW)
    assert shadow.json()["breach"] is True
    assert (platform.state(), platform.engine.ask("GET", "/faults", headers=BEARER).json()) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/markets"), ("POST", "/v1/markets/m1/liquidity"), ("PUT", "/v1/markets/m1/frozen"),
     ("POST", "/v1/markets/m1/resolution"), ("PUT", "/faults/f1"), ("POST", "/v1/markets/m1/flags")],
)  # fmt: skip
def test_what_cannot_be_rehearsed_is_refused_as_a_shadow(platform, method, path):
    """Better no shadow than one that leaves something."""
    before = platform.state()
    assert refusal(platform.engine.ask(method, path, json={}, headers=SHADOW)) == (400, "no_shadow")
    assert platform.state() == before


JOURNEY = {
    "quote": ("POST", "/v1/quotes", {"market": "m1", "side": "yes", "amount": "10"}),
    "swap": ("POST", "/v1/swaps", {"market": "m1", **SWAP}),
    "resolve": ("POST", "/v1/markets/m2/resolution/finish", {"outcome": "no"}),
}


@pytest.mark.parametrize("journey", JOURNEY)
def test_a_shadowed_journey_leaves_what_the_journey_alone_leaves(platform, tmp_path, journey):
    """Served by stable, rehearsed by the candidate, equal; then the engine is as after one request, not two."""
    platform.shadow("quote", "swap", "resolve")
    rows = len(platform.engine.ask("GET", "/v1/audit/swaps").json()["rows"])
    events = len(platform.engine.ask("GET", "/v1/events").json()["rows"])
    (answer,) = platform.tell(JOURNEY[journey])
    assert answer.status_code < 300
    assert answer.headers["x-mbp-release"] == "stable"
    assert sorted(seen[0] for seen in platform.releases.seen) == ["candidate", "stable"]
    assert {seen[2] for seen in platform.releases.seen if seen[0] == "candidate"} == {"1"}
    left = {"quote": (0, 0), "swap": (1, 1), "resolve": (0, 1)}[journey]
    assert len(platform.engine.ask("GET", "/v1/audit/swaps").json()["rows"]) - rows == left[0]
    assert len(platform.engine.ask("GET", "/v1/events").json()["rows"]) - events == left[1]
    assert platform.counts(journey) == {"equal": 1}


def test_a_shadow_is_in_no_series_of_the_service(platform):
    """Nobody waited for it: it burns no budget, whatever it is answered; it drops no quote either."""
    platform.shadow("swap")
    platform.tell(JOURNEY["swap"])
    transport_text = asyncio.run(_metrics(platform.releases.apps["candidate"]))
    assert '\ndec_shadow_requests_total{class="2xx",release="candidate"} 1.0\n' in transport_text
    assert '\ndec_requests_total{class="2xx",release="candidate",route="/v1/swaps"} 0.0\n' in transport_text
    assert '\ndec_request_seconds_count{release="candidate",route="/v1/swaps"} 0.0\n' in transport_text


async def _metrics(app):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://dec") as client:
        return (await client.get("/metrics")).text


BENT = [
    (lambda a: {**a, "amount_out": str(float(a["amount_out"]) * 1.2)}, "different"),
    (lambda a: {**a, "amount_out": float(a["amount_out"])}, "different"),
    (lambda a: {**a, "more": 1}, "different"),
    (lambda a: {k: v for k, v in a.items() if k != "fee"}, "different"),
    (lambda a: {**a, "market": "m9"}, "different"),
    (lambda a: {**a, "seq": a["seq"] + 1, "at": "later"}, "equal"),
    (lambda a: {**a, "amount_out": str(float(a["amount_out"]) * 1.005)}, "equal"),
]


@pytest.mark.parametrize(("bent", "outcome"), BENT)
def test_answers_are_compared(platform, bent, outcome):
    """Form, names and values count; what names the request and a pool that moved a little do not."""
    platform.shadow("swap")
    platform.releases.bent = bent
    (answer,) = platform.tell(JOURNEY["swap"])
    assert (answer.status_code, platform.counts("swap")) == (201, {outcome: 1})


def test_a_candidate_that_is_down_harms_nobody(platform):
    """Counted; the client has its answer."""
    platform.shadow("swap")
    platform.releases.down = True
    (answer,) = platform.tell(JOURNEY["swap"])
    assert (answer.status_code, platform.counts("swap")) == (201, {"failed": 1})


def test_only_the_share_of_the_journeys_that_were_named(platform):
    """A quarter of eight quotes, no swap, nothing else; and nothing while the candidate itself serves."""
    platform.shadow("quote", share=0.25)
    platform.tell(*[JOURNEY["quote"]] * 8, JOURNEY["swap"], ("GET", "/v1/markets", None))
    assert platform.counts("quote") == {"equal": 2}
    assert platform.counts("swap") == {}
    platform.tell(("PUT", "/release/status", {"status": "candidate"}), *[JOURNEY["quote"]] * 8)
    assert platform.counts("quote") == {"equal": 2}


def test_shadows_in_flight_are_bounded(platform):
    """Past the bound they are left out, and said so; what is in flight ends with the controller."""
    platform.shadow("quote")

    async def go():
        platform.releases.gate = asyncio.Event()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=platform.app), base_url="http://mbp") as client:
            for _ in range(AT_ONCE + 3):
                assert (await client.request(*JOURNEY["quote"][:2], json=JOURNEY["quote"][2])).status_code == 200
            counts = (await client.get("/release/shadow")).json()["counts"]["quote"]
            platform.releases.gate.set()
            for _ in range(50):
                await asyncio.sleep(0)
            return counts

    assert asyncio.run(go()) == {"equal": 0, "different": 0, "failed": 0, "skipped": 3}


@pytest.mark.parametrize(
    ("method", "target", "journey"),
    [("POST", "/v1/quotes", "quote"), ("POST", "/v1/swaps?x=1", "swap"), ("GET", "/v1/swaps", None),
     ("POST", "/v1/markets/a%2Fb/resolution/finish", "resolve"), ("POST", "/v1/markets/m/resolution", None),
     ("POST", "/v1/markets", None)],
)  # fmt: skip
def test_the_named_journeys(method, target, journey):
    """Three, by method and path."""
    assert journey_of(method, target) == journey


def test_alike_by_kind():
    """Null is not nothing, true is not one, a list has its length, and NaN is near to nothing."""
    assert not alike({"a": None}, {"a": "1"})
    assert not alike([True], [1])
    assert not alike(["1"], ["1", "2"])
    assert not alike("NaN", "1")
    assert alike({"fee": "0.000"}, {"fee": "0"})


@pytest.mark.parametrize("body", [{}, {"journeys": ["fly"]}, {"journeys": ["quote"], "share": 1.5}])
def test_a_shadow_that_is_none_is_refused(platform, body):
    """422, and nothing shadowed."""
    (answer,) = platform.tell(("PUT", "/release/shadow", body))
    assert answer.status_code == 422
