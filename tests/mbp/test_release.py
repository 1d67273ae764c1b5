"""The release controller: the entry by weight, the gate, what survives, and bad input."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import contextmanager

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from mbp.release.app import build
from mbp.release.controller import Controller
from mbp.release.profiles import Profiles
from mbp.release.proxy import HttpUpstream, NoAnswer, Passed
from mbp.release.rotation import Rotation
from mbp.release.store import Store
from tests.mbp.engines import ask, refusal


class Releases:
    """Two releases that answer with their own name, or not at all."""

    def __init__(self):
        self.seen, self.down = [], set()
        self.status, self.text = 201, None

    async def open(self):
        """Nothing to open."""

    async def close(self):
        """Nothing to close."""

    async def send(self, release, method, target, headers, body):
        self.seen.append((release, method, target, headers, body))
        if release in self.down:
            raise NoAnswer(f"release {release} does not answer")
        headers = {"X-MBP-Release": release, "Content-Type": "text/plain"}
        return Passed(self.status, headers, self.text or release.encode())


class Life:
    """One life of a controller over a folder."""

    def __init__(self, folder, wall=lambda: 1_700_000_000.0):
        self.store, self.releases = Store(folder / "release.sqlite3", wall()), Releases()
        self.controller = Controller(self.store, wall)
        self.app = build(self.controller, self.releases, Profiles(folder / "profiles"))

    def ask(self, method, path, key=None, **options):
        headers = {"Idempotency-Key": key} if key else {}
        return ask(self.app, method, path, headers=headers, **options)


@contextmanager
def running(folder):
    """Give a controller and close its file afterwards."""
    life = Life(folder)
    try:
        yield life
    finally:
        life.store.close()


@pytest.fixture
def release(tmp_path):
    """A fresh controller."""
    with running(tmp_path) as life:
        yield life


AT_REST = {
    "gate": "open",
    "status": "candidate",
    "weights": {"stable": 0, "candidate": 100},
    "gate_reason": "",
    "throttled": False,
    "changed_at": "2023-11-14T22:13:20.000000Z",
}


def shares(life, count=100):
    """Return how many of ``count`` requests each release served."""
    served = [life.ask("GET", "/v1/markets").text for _ in range(count)]
    return served.count("stable"), served.count("candidate")


def test_at_rest_the_candidate_serves_all(release):
    """A new controller: gate open, all traffic to the candidate, nothing in the audit."""
    assert release.ask("GET", "/release").json() == AT_REST
    assert shares(release, 20) == (0, 20)
    assert release.ask("GET", "/release/audit").json() == {"rows": [], "next": 0}


def test_a_request_passes_unchanged(release):
    """Method, path with its escapes, query, body and headers pass; what belongs to one hop does not."""
    headers = {"X-Request-Id": "r", "Idempotency-Key": "k", "Connection": "close", "TE": "trailers"}
    answer = ask(release.app, "PATCH", "/v1/a%2Fb/c?x=1&y=%20", content=b"body", headers=headers)
    assert (answer.status_code, answer.text, answer.headers["x-mbp-release"]) == (201, "candidate", "candidate")
    ((name, method, target, passed, body),) = release.releases.seen
    assert (name, method, target, body) == ("candidate", "PATCH", "/v1/a%2Fb/c?x=1&y=%20", b"body")
    assert {"x-request-id": "r", "idempotency-key": "k"}.items() <= passed.items()
    assert not {"connection", "te", "host", "content-length", "accept-encoding"} & set(passed)


def test_a_release_that_does_not_answer_is_a_502(release):
    """502 with a body that names it; it is counted; the other release is not asked instead."""
    release.releases.down.add("candidate")
    answer = release.ask("POST", "/v1/swaps", json={})
    assert refusal(answer) == (502, "release_unreachable")
    assert answer.headers["x-mbp-release"] == "candidate"
    assert [seen[0] for seen in release.releases.seen] == ["candidate"]
    assert 'release_requests_total{class="no_answer",release="candidate"} 1.0' in release.ask("GET", "/metrics").text


def test_weights_are_exact(release):
    """30 to 70 means 30 and 70 of any hundred; the status stays."""
    answer = release.ask("PUT", "/release/weights", json={"stable": 30, "candidate": 70})
    assert answer.json() == {**AT_REST, "weights": {"stable": 30, "candidate": 70}}
    assert shares(release) == (30, 70)


def test_the_stable_release_gets_what_the_candidate_leaves(release):
    """A restore call knows one number, the one that was read before."""
    answer = release.ask("PUT", "/release/weights", json={"candidate": 5})
    assert answer.json() == {**AT_REST, "weights": {"stable": 95, "candidate": 5}}


@pytest.mark.parametrize(("status", "weights"), [("candidate", (0, 100)), ("stable", (100, 0)), ("reverted", (100, 0))])
def test_a_status_brings_its_weights(release, status, weights):
    """Each status serves by the weights that go with it, whatever they were."""
    release.ask("PUT", "/release/weights", json={"stable": 50, "candidate": 50})
    state = release.ask("PUT", "/release/status", json={"status": status}).json()
    assert (state["status"], tuple(state["weights"].values())) == (status, weights)
    assert shares(release, 10) == tuple(weight // 10 for weight in weights)


def test_a_rollback_gives_all_to_stable(release):
    """Rollback: reverted, all to stable, one audit row with its reason; again: the same answer and no row."""
    first = release.ask("POST", "/release/rollback", json={"reason": "p95"}).json()
    again = release.ask("POST", "/release/rollback", json={"reason": "p95"}).json()
    assert first == again == {**AT_REST, "status": "reverted", "weights": {"stable": 100, "candidate": 0}}
    assert release.ask("GET", "/release/audit").json() == {
        "rows": [
            {
                "seq": 1,
                "at": "2023-11-14T22:13:20.000000Z",
                "event": "rollback",
                "before": {"status": "candidate", "stable": 0, "candidate": 100},
                "after": {"status": "reverted", "stable": 100, "candidate": 0},
                "reason": "p95",
                "idempotency_key": None,
            }
        ],
        "next": 1,
    }


def test_the_gate_stops_deploys_and_only_deploys(release):
    """Blocked: deploys 409, status may still be set (it is no deploy); open again: deploys go."""
    blocked = release.ask("PUT", "/release/gate", json={"state": "blocked", "reason": "invariant"}).json()
    assert blocked == {**AT_REST, "gate": "blocked", "gate_reason": "invariant"}
    assert refusal(release.ask("POST", "/release/deploys", json={"version": "1.2"})) == (409, "release_blocked")
    assert release.ask("PUT", "/release/status", json={"status": "stable"}).status_code == 200
    opened = release.ask("PUT", "/release/gate", json={"state": "open", "reason": "resolved"}).json()
    assert (opened["gate"], opened["gate_reason"]) == ("open", "")
    deploy = release.ask("POST", "/release/deploys", json={"version": "1.2"})
    assert (deploy.status_code, deploy.json()) == (
        201,
        {"id": 1, "version": "1.2", "at": "2023-11-14T22:13:20.000000Z"},
    )
    events = [row["event"] for row in release.ask("GET", "/release/audit").json()["rows"]]
    assert events == ["gate", "status", "gate", "deploy"]
    page = release.ask("GET", "/release/audit?after=1&limit=2").json()
    assert ([row["seq"] for row in page["rows"]], page["next"]) == ([2, 3], 3)


def test_an_idempotency_key_acts_once(release):
    """The answer of the first time is given again although the state has moved on; another request is refused."""
    first = release.ask("PUT", "/release/gate", "k", json={"state": "blocked", "reason": "r"}).json()
    release.ask("PUT", "/release/gate", json={"state": "open", "reason": ""})
    assert release.ask("PUT", "/release/gate", "k", json={"state": "blocked", "reason": "r"}).json() == first
    assert release.ask("GET", "/release").json()["gate"] == "open"
    other = release.ask("POST", "/release/rollback", "k", json={"reason": "r"})
    assert refusal(other) == (409, "idempotency_key_reused")
    assert release.ask("GET", "/release").json()["status"] == "candidate"
    deploys = [release.ask("POST", "/release/deploys", "d", json={"version": "1"}).json() for _ in range(2)]
    assert deploys[0] == deploys[1]


def test_a_refusal_is_not_kept_under_its_key(release):
    """What was blocked may be asked again under the same key once the gate is open."""
    release.ask("PUT", "/release/gate", json={"state": "blocked", "reason": "r"})
    assert refusal(release.ask("POST", "/release/deploys", "d", json={"version": "1"})) == (409, "release_blocked")
    release.ask("PUT", "/release/gate", json={"state": "open", "reason": ""})
    assert release.ask("POST", "/release/deploys", "d", json={"version": "1"}).status_code == 201


def test_what_was_answered_is_there_after_a_kill(tmp_path):
    """A second life over the same file, the first never closed, has state, weights, keys and audit."""
    with running(tmp_path) as first:
        first.ask("PUT", "/release/gate", "k", json={"state": "blocked", "reason": "r"})
        first.ask("PUT", "/release/weights", json={"stable": 25, "candidate": 75})
        state = first.ask("GET", "/release").json()
        audit = first.ask("GET", "/release/audit").json()
        with running(tmp_path) as second:
            assert second.ask("GET", "/release").json() == state
            assert second.ask("GET", "/release/audit").json() == audit
            assert second.ask("PUT", "/release/gate", "k", json={"state": "blocked", "reason": "r"}).status_code == 200
            assert second.ask("GET", "/release/audit").json() == audit
            assert shares(second) == (25, 75)


def test_a_key_is_kept_with_the_status_that_was_answered(release):
    """As files of earlier releases hold it."""
    release.ask("PUT", "/release/gate", "g", json={"state": "open"})
    release.ask("POST", "/release/deploys", "d", json={"version": "2"})
    kept = release.store._db.execute("SELECT key, request, status FROM keys ORDER BY key").fetchall()
    assert kept == [("d", "deploy '2'", 201), ("g", "gate open ''", 200)]


def test_a_store_that_takes_no_writes_changes_nothing(release):
    """A change that cannot be stored is a 503 and is not acted on; the entry still serves."""
    release.store._db.execute("PRAGMA query_only=ON")
    assert refusal(release.ask("POST", "/release/rollback", json={"reason": "r"})) == (503, "store_unavailable")
    assert refusal(release.ask("GET", "/healthz")) == (503, "unhealthy")
    assert release.ask("GET", "/release").json() == AT_REST
    assert shares(release, 4) == (0, 4)
    release.store._db.execute("PRAGMA query_only=OFF")
    assert release.ask("GET", "/healthz").status_code == 200


def test_a_commit_that_fails_leaves_memory_as_the_store_is(release, monkeypatch):
    """When the audit row fails, the state written before it in the same transaction is taken back, in memory too."""

    def fail(_):
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(release.store, "add_change", fail)
    assert refusal(release.ask("POST", "/release/rollback", json={"reason": "r"})) == (503, "store_unavailable")
    assert release.ask("GET", "/release").json() == AT_REST
    assert shares(release, 4) == (0, 4)


def test_metrics(release):
    """Gate, weights and status as gauges; the counters are at 0 from the start."""
    release.ask("PUT", "/release/gate", json={"state": "blocked", "reason": "r"})
    release.ask("POST", "/release/rollback", json={})
    lines = release.ask("GET", "/metrics").text.splitlines()
    for line in (
        "release_gate_blocked 1.0",
        'release_weight{release="stable"} 100.0',
        'release_weight{release="candidate"} 0.0',
        'release_status{status="reverted"} 1.0',
        'release_status{status="candidate"} 0.0',
        'release_requests_total{class="5xx",release="stable"} 0.0',
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/release/gate", {"state": "ajar"}),
        ("PUT", "/release/gate", {"state": "blocked", "reason": "x" * 2001}),
        ("PUT", "/release/gate", {"state": "blocked", "more": 1}),
        ("PUT", "/release/status", {"status": "gone"}),
        ("PUT", "/release/status", {}),
        ("PUT", "/release/weights", {"stable": 60, "candidate": 60}),
        ("PUT", "/release/weights", {"stable": -1, "candidate": 101}),
        ("PUT", "/release/weights", {"stable": 50.5, "candidate": 49.5}),
        ("PUT", "/release/weights", {"stable": "50", "candidate": "50"}),
        ("PUT", "/release/weights", {"stable": True, "candidate": 99}),
        ("POST", "/release/rollback", {"reason": 1}),
        ("POST", "/release/rollback", []),
        ("POST", "/release/deploys", {"version": ""}),
        ("POST", "/release/deploys", {"version": "a b"}),
    ],
)
def test_bad_changes_are_refused(release, method, path, body):
    """A wrong value, type or key is a 422 with the one shape and changes nothing."""
    assert refusal(release.ask(method, path, json=body)) == (422, "invalid")
    assert release.ask("GET", "/release").json() == AT_REST
    assert release.ask("GET", "/release/audit").json() == {"rows": [], "next": 0}


@pytest.mark.parametrize(
    ("method", "path", "content", "expected"),
    [
        ("PUT", "/release/gate", b"{", (400, "malformed")),
        ("PUT", "/release/gate", b"x" * 65_537, (413, "body_too_large")),
        ("POST", "/v1/swaps", b"x" * 65_537, (413, "body_too_large")),
        ("POST", "/release", b"", (405, "method_not_allowed")),
        ("GET", "/release/nowhere", b"", (404, "not_found")),
        ("GET", "/release/audit?after=-1", b"", (422, "invalid")),
        ("GET", "/release/audit?limit=1001", b"", (422, "invalid")),
        ("GET", "/v2/swaps", b"", (404, "not_found")),
    ],
)
def test_bad_requests_are_refused(release, method, path, content, expected):
    """Broken and oversized bodies, wrong places: their own codes, and nothing reaches a release."""
    headers = {"Content-Type": "application/json"}
    assert refusal(ask(release.app, method, path, content=content, headers=headers)) == expected
    assert release.releases.seen == []


@given(st.integers(0, 100))
def test_a_rotation_is_exact_and_even(stable):
    """Over 100 picks each gets its weight, also over the next 100, and never two more or less than due on the way."""
    rotation = Rotation({"stable": stable, "candidate": 100 - stable})
    served = 0
    for turn in range(1, 201):
        served += rotation.next() == "stable"
        assert abs(served - turn * stable / 100) < 1
    assert served == 2 * stable


@pytest.mark.parametrize("weights", [{"a": 0, "b": 0}, {"a": -1, "b": 101}, {}])
def test_a_rotation_needs_weight(weights):
    """Nobody to serve is an error, not an endless search."""
    with pytest.raises(ValueError, match="weights are"):
        Rotation(weights)


async def asked(handler, target="/v1/x", timeout_s=0.3, body=b""):
    """Return what the upstream makes of a server on loopback."""
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream = HttpUpstream({"stable": f"http://127.0.0.1:{runner.addresses[0][1]}"}, timeout_s=timeout_s)
    await upstream.open()
    try:
        return await upstream.send("stable", "POST", target, {"x-a": "1"}, body)
    except NoAnswer as error:
        return str(error)
    finally:
        await upstream.close()
        await runner.cleanup()


def test_the_upstream_passes_what_it_is_given():
    """The target goes out as it came, escapes and all; a redirect and an error are answers, not exceptions."""

    async def handler(request):
        assert (request.raw_path, await request.read(), request.headers["x-a"]) == ("/v1/a%2Fb?q=%20", b"body", "1")
        assert "Content-Type" not in request.headers
        return web.Response(status=307, headers={"Location": "/v1/y", "X-MBP-Release": "stable"}, body=b"go")

    passed = asyncio.run(asked(handler, "/v1/a%2Fb?q=%20", body=b"body"))
    assert (passed.status, passed.body) == (307, b"go")
    assert (passed.headers["Location"], passed.headers["X-MBP-Release"]) == ("/v1/y", "stable")
    assert "Content-Length" not in passed.headers


def test_the_upstream_tells_why_there_is_no_answer(monkeypatch):
    """Too slow, broken off, too long: each is NoAnswer with its reason."""

    async def slow(request):
        await asyncio.sleep(5)
        return web.Response()

    async def broken(request):
        request.transport.abort()
        return web.Response()

    async def long(request):
        return web.Response(body=b"x" * 5000)

    assert asyncio.run(asked(slow)) == "release stable did not answer in time"
    assert asyncio.run(asked(broken)) == "release stable does not answer: ServerDisconnectedError"
    monkeypatch.setattr("mbp.release.proxy.ANSWER_LIMIT", 1000)
    assert asyncio.run(asked(long)) == "release stable answered over 1000 bytes"
