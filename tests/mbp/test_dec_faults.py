"""The fault point of the decision API: which answers it changes, how, and that it is shut unless it was opened."""

from __future__ import annotations

import asyncio

import pytest

from mbp._faults import FaultBody
from mbp.dec.__main__ import main
from mbp.dec.app import build
from mbp.dec.faults import Mutated, fault_points
from tests.mbp.engines import BEARER, TOKEN, Clocks, ask, refusal, running
from tests.mbp.test_dec import FREE, SWAP, InProcess

FAULT = {
    "point": "dec.answer",
    "kind": "mutate",
    "params": {"contract": "mbp.v1"},
    "ttl_s": 10,
    "run": "r1",
}
ASK = {"market": "m1", "side": "yes", "amount": "10"}


class Release:
    """One release over an engine, with its fault door open or shut."""

    def __init__(self, engine, token=TOKEN):
        self.clocks = Clocks()
        self.app = build(
            "candidate",
            InProcess(engine.app),
            limits=FREE,
            clock=self.clocks.monotonic,
            wall=self.clocks.wall,
            token=token,
        )

    def ask(self, method, path, **options):
        return ask(self.app, method, path, **options)

    def put(self, headers=BEARER, **changes):
        return self.ask("PUT", "/faults/f1", json={**FAULT, **changes}, headers=headers)

    def quote(self):
        return self.ask("POST", "/v1/quotes", json=ASK)


@pytest.fixture
def release(tmp_path):
    """A candidate with one market and an open fault door."""
    with running(tmp_path) as engine:
        made = Release(engine)
        made.ask("POST", "/v1/markets", json={"id": "m1", "question": "Will it?", "reserve": "1000"})
        yield made


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("retype_and_drop", {"amount_out": 19.861383789, "price_after": "0.504965101"}),
        ("drop_field", {"amount_out": "19.861383789", "price_after": "0.504965101"}),
        ("retype_field", {"amount_out": 19.861383789, "fee": "0.02", "price_after": "0.504965101"}),
        ("rename_field", {"amountOut": "19.861383789", "fee": "0.02", "price_after": "0.504965101"}),
    ],
)
def test_a_quote_is_changed_as_the_fault_says_and_nothing_else_is(release, change, expected):
    """The changed answer is whole and says its length; other routes and refusals are as they were."""
    others = [
        ("GET", "/v1/markets", {}),
        ("GET", "/v1/markets/m1", {}),
        ("GET", "/v1/quotes", {}),
        ("POST", "/v1/quotes", {"json": {**ASK, "amount": "x"}}),
        ("POST", "/v1/quotes", {"json": {**ASK, "market": "none"}}),
    ]

    def seen():
        return [(answer.status_code, answer.json()) for answer in (release.ask(m, p, **o) for m, p, o in others)]

    before, plain = seen(), release.quote().json()
    assert release.put(params={"contract": "mbp.v1", "change": change}).status_code == 200
    answer = release.quote()
    assert answer.json() == expected
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(answer.content)))
    assert (answer.headers["content-type"], answer.headers["x-mbp-release"]) == ("application/json", "candidate")
    assert seen() == before
    assert release.ask("POST", "/v1/swaps", json=SWAP).json()["amount_out"] == plain["amount_out"]
    assert release.ask("DELETE", "/faults/f1", headers=BEARER).status_code == 204
    assert set(release.quote().json()) == set(plain)


def test_the_fault_ends_with_its_lease_and_is_counted(release):
    """Listed with hits and impact while it is in force; gone by itself; 0 in the metrics before, 1 during."""
    assert 'sim_fault_active{point="dec.answer"} 0.0' in release.ask("GET", "/metrics").text
    release.put()
    release.quote()
    (listed,) = release.ask("GET", "/faults", headers=BEARER).json()
    assert {key: listed[key] for key in ("id", "point", "kind", "run", "params", "hits", "impacted")} == {
        "id": "f1",
        "point": "dec.answer",
        "kind": "mutate",
        "run": "r1",
        "params": {"contract": "mbp.v1", "change": "retype_and_drop"},
        "hits": 1,
        "impacted": 1,
    }
    metrics = release.ask("GET", "/metrics").text
    assert 'sim_fault_active{point="dec.answer"} 1.0' in metrics
    assert 'sim_fault_hits_total{point="dec.answer"} 1.0' in metrics
    release.clocks.now += 10.1
    assert isinstance(release.quote().json()["amount_out"], str)
    assert release.ask("GET", "/faults", headers=BEARER).json() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"point": "engine.swap"}, (422, "invalid")),
        ({"kind": "delay"}, (422, "invalid")),
        ({"params": {}}, (422, "invalid")),
        ({"params": {"contract": "mbp.v2"}}, (422, "invalid")),
        ({"params": {"contract": "mbp.v1", "change": "rot13"}}, (422, "invalid")),
        ({"params": {"contract": "mbp.v1", "more": 1}}, (422, "invalid")),
        ({"headers": {}}, (401, "unauthorized")),
    ],
)
def test_a_fault_that_is_not_known_is_refused(release, changes, expected):
    """Clear refusals, and nothing in force after them."""
    assert refusal(release.put(**changes)) == expected
    assert release.ask("GET", "/faults", headers=BEARER).json() == []


def test_only_one_fault_is_in_force_here(release):
    """Two ways to break one answer would prove nothing of either."""
    release.put()
    again = release.ask("PUT", "/faults/f2", json=FAULT, headers=BEARER)
    assert refusal(again) == (409, "too_many_faults")


def test_the_door_is_shut_unless_it_was_opened(tmp_path):
    """Without a token there is no door, and no series of faults."""
    with running(tmp_path) as engine:
        shut = Release(engine, token=None)
        assert refusal(shut.put()) == (404, "not_found")
        assert "sim_fault" not in shut.ask("GET", "/metrics").text


def test_an_answer_in_pieces_is_changed_as_one(release):
    """However the answer comes, what goes out is one body."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        for part, more in ((b'{"amount_out": "1"', True), (b', "fee": "0"}', False)):
            await send({"type": "http.response.body", "body": part, "more_body": more})

    faults = fault_points(monotonic=lambda: 0.0, wall=lambda: 0.0)
    sent = []

    async def send(message):
        sent.append(message)

    async def story():
        faults.put("f1", FaultBody.model_validate({**FAULT, "ttl_s": 10.0}))
        scope = {"type": "http", "method": "POST", "path": "/v1/quotes", "headers": []}
        await Mutated(app, faults)(scope, None, send)

    asyncio.run(story())
    assert [message.get("body") for message in sent] == [None, b'{"amount_out":1.0}']
    assert sent[0]["headers"] == [(b"content-length", b"18")]


def test_a_door_without_a_token_file_is_refused_at_the_start(monkeypatch, capsys):
    """`SIM_FAULTS=1` and no token: exit 2, and the reason."""
    monkeypatch.setenv("SIM_FAULTS", "1")
    monkeypatch.delenv("MBP_FAULT_TOKEN_FILE", raising=False)
    assert main(["--port", "1", "--release", "candidate", "--engine", "http://127.0.0.1:1"]) == 2
    assert capsys.readouterr().err.startswith("dec: MBP_FAULT_TOKEN_FILE is not set")
