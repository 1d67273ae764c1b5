"""The deploy pipeline: halted, watched, handed on; the merge gate; what survives, and bad input."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager

import aiohttp
import httpx
import pytest
import yaml
from aiohttp import web

from mbp._asgi import ApiError as Refused
from mbp._watchers import Blind, Prometheus, firing_in, require_scraped
from mbp.pipeline.app import build
from mbp.pipeline.components import HttpComponent, components
from mbp.pipeline.pipeline import Pipeline
from mbp.pipeline.store import Store
from tests.conftest import ROOT
from tests.mbp import test_fe
from tests.mbp.engines import ask, refusal

AT = "2023-11-14T22:13:20.000000Z"


class Watchers:
    """Watchers that say what a test wants; `meanwhile` happens while they are asked."""

    def __init__(self):
        self.says, self.meanwhile = [], lambda: None

    async def firing(self):
        self.meanwhile()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


class Component:
    """A component that takes deploys, or refuses."""

    def __init__(self):
        self.taken, self.refuses = [], None

    async def deploy(self, version, key):
        if self.refuses:
            raise self.refuses
        self.taken.append((version, key))


class Life:
    """One life of a pipeline over a folder."""

    def __init__(self, folder):
        self.store, self.watchers, self.dec = (
            Store(folder / "pipeline.sqlite3", 1_700_000_000.0),
            Watchers(),
            Component(),
        )
        self.pipeline = Pipeline(self.store, self.watchers, {"dec": self.dec}, lambda: 1_700_000_000.0)
        self.app = build(self.pipeline)

    def ask(self, method, path, body=None, key=None):
        """Send one request."""
        return ask(self.app, method, path, json=body, headers={"Idempotency-Key": key} if key else {})

    def events(self):
        """Return event and reason of each audit row."""
        return [(row["event"], row["reason"]) for row in self.ask("GET", "/pipeline/audit").json()["rows"]]


@contextmanager
def running(folder):
    """Give a pipeline and close its file afterwards."""
    life = Life(folder)
    try:
        yield life
    finally:
        life.store.close()


@pytest.fixture
def pipeline(tmp_path):
    """A fresh pipeline."""
    with running(tmp_path) as life:
        yield life


def test_at_rest_it_runs_and_the_gate_is_open(pipeline):
    """And the audit is empty."""
    assert pipeline.ask("GET", "/pipeline").json() == {"status": "running", "reason": "", "changed_at": AT}
    assert pipeline.ask("GET", "/merge").json() == {"gate": "open", "reason": "", "changed_at": AT}
    assert pipeline.ask("GET", "/pipeline/audit").json() == {"rows": [], "next": 0}


def test_a_deploy_is_handed_on_recorded_and_audited(pipeline):
    """Once under its key; the key goes along."""
    told = [pipeline.ask("POST", "/pipeline/deploys", {"version": "1.2"}, "k") for _ in range(2)]
    record = {"id": 1, "component": "dec", "version": "1.2", "at": AT}
    assert [(each.status_code, each.json()) for each in told] == [(201, record)] * 2
    assert pipeline.dec.taken == [("1.2", "k")]
    assert pipeline.ask("GET", "/pipeline/audit").json() == {
        "rows": [
            {
                "seq": 1, "at": AT, "event": "deploy", "before": {}, "after": {"component": "dec", "version": "1.2"},
                "reason": "", "idempotency_key": "k",
            }
        ],
        "next": 1,
    }  # fmt: skip


def test_halted_it_refuses_and_says_why(pipeline):
    """Halted: 409 before anybody is asked; running again: it goes, under the same key."""
    halted = pipeline.ask("PUT", "/pipeline/status", {"status": "halted", "reason": "drift"}).json()
    assert halted == {"status": "halted", "reason": "drift", "changed_at": AT}
    pipeline.watchers.says = Blind("nobody was to be asked")
    told = pipeline.ask("POST", "/pipeline/deploys", {"version": "1"}, "k")
    assert refusal(told) == (409, "pipeline_halted")
    assert "drift" in told.json()["detail"]
    pipeline.watchers.says = []
    running_ = pipeline.ask("PUT", "/pipeline/status", {"status": "running", "reason": "resolved"}).json()
    assert running_ == {"status": "running", "reason": "", "changed_at": AT}
    assert pipeline.ask("POST", "/pipeline/deploys", {"version": "1"}, "k").status_code == 201
    assert pipeline.events() == [
        ("pipeline", "drift"),
        ("deploy_refused", "pipeline_halted: the pipeline is halted: drift"),
        ("pipeline", "resolved"),
        ("deploy", ""),
    ]


def test_a_halt_while_the_watchers_are_asked_still_stops_the_deploy(pipeline):
    """Between the question and the deploy nothing slips through."""
    pipeline.watchers.meanwhile = lambda: pipeline.pipeline.turn("pipeline", "halted", "now", None)
    assert refusal(pipeline.ask("POST", "/pipeline/deploys", {"version": "1"})) == (409, "pipeline_halted")
    assert pipeline.dec.taken == []


def test_a_firing_watcher_and_a_blind_one_refuse(pipeline):
    """409 with the alert's name, 503 with the reason; each is counted."""
    pipeline.watchers.says = ["CdcLagHigh"]
    firing = pipeline.ask("POST", "/pipeline/deploys", {"version": "1"})
    assert (refusal(firing), firing.json()["detail"]) == ((409, "watcher_firing"), "firing: CdcLagHigh")
    pipeline.watchers.says = Blind("Prometheus answered 500")
    assert refusal(pipeline.ask("POST", "/pipeline/deploys", {"version": "1"})) == (503, "watchers_blind")
    assert pipeline.dec.taken == []
    text = pipeline.ask("GET", "/metrics").text
    assert [line for line in text.splitlines() if line.endswith(" 1.0")] == [
        'pipeline_deploys_total{component="dec",outcome="firing"} 1.0',
        'pipeline_deploys_total{component="dec",outcome="blind"} 1.0',
    ]


def test_what_the_component_refuses_is_refused(pipeline):
    """Its own code passes; a component without an address is named; nothing is recorded as done."""
    pipeline.dec.refuses = Refused(409, "release_blocked", "dec: the gate is blocked")
    assert refusal(pipeline.ask("POST", "/pipeline/deploys", {"version": "1"})) == (409, "release_blocked")
    fe = pipeline.ask("POST", "/pipeline/deploys", {"version": "1", "component": "fe"})
    assert refusal(fe) == (503, "component_unreachable")
    assert [event for event, _ in pipeline.events()] == ["deploy_refused", "deploy_refused"]


def test_the_merge_gate(pipeline):
    """Blocked: 409 with the reason; open: recorded; every decision is audited."""
    pipeline.ask("PUT", "/merge/gate", {"state": "blocked", "reason": "breaking"})
    assert refusal(pipeline.ask("POST", "/merge", {"change": "feature/x"}, "m")) == (409, "merge_blocked")
    assert pipeline.ask("GET", "/merge").json() == {"gate": "blocked", "reason": "breaking", "changed_at": AT}
    pipeline.ask("PUT", "/merge/gate", {"state": "open", "reason": "resolved"})
    told = [pipeline.ask("POST", "/merge", {"change": "feature/x"}, "m") for _ in range(2)]
    assert [each.json() for each in told] == [{"id": 1, "change": "feature/x", "at": AT}] * 2
    assert [event for event, _ in pipeline.events()] == ["merge", "merge_refused", "merge", "merge_done"]


def test_setting_what_is_already_leaves_no_row(pipeline):
    """And a key acts once: its answer is given again although the state has moved on."""
    first = pipeline.ask("PUT", "/pipeline/status", {"status": "halted", "reason": "r"}, "k").json()
    assert pipeline.ask("PUT", "/pipeline/status", {"status": "halted", "reason": "other"}).json() == first
    pipeline.ask("PUT", "/pipeline/status", {"status": "running"})
    assert pipeline.ask("PUT", "/pipeline/status", {"status": "halted", "reason": "r"}, "k").json() == first
    assert pipeline.ask("GET", "/pipeline").json()["status"] == "running"
    other = pipeline.ask("PUT", "/merge/gate", {"state": "blocked"}, "k")
    assert refusal(other) == (409, "idempotency_key_reused")
    assert [event for event, _ in pipeline.events()] == ["pipeline", "pipeline"]


def test_what_was_answered_is_there_after_a_kill(tmp_path):
    """A second life over the same file, the first never closed."""
    with running(tmp_path) as first:
        first.ask("PUT", "/pipeline/status", {"status": "halted", "reason": "r"})
        first.ask("PUT", "/merge/gate", {"state": "blocked", "reason": "m"})
        seen = [first.ask("GET", path).json() for path in ("/pipeline", "/merge", "/pipeline/audit")]
        with running(tmp_path) as second:
            assert [second.ask("GET", path).json() for path in ("/pipeline", "/merge", "/pipeline/audit")] == seen
            assert "pipeline_halted 1.0\n" in second.ask("GET", "/metrics").text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/pipeline/status", {"status": "paused"}),
        ("PUT", "/pipeline/status", {"status": "halted", "reason": "x" * 2001}),
        ("PUT", "/pipeline/status", {"status": "halted", "more": 1}),
        ("POST", "/pipeline/deploys", {"version": ""}),
        ("POST", "/pipeline/deploys", {"version": "1", "component": "db"}),
        ("POST", "/merge", {"change": "two words"}),
        ("PUT", "/merge/gate", {}),
        ("GET", "/pipeline/audit?limit=0", None),
    ],
)
def test_bad_input_is_told(pipeline, method, path, body):
    """422, and nothing is changed."""
    assert refusal(pipeline.ask(method, path, body)) == (422, "invalid")
    assert pipeline.events() == []


# -- the watchers -----------------------------------------------------------------------------------------------------


def rules(*rows):
    """Return an answer of Prometheus with one rule a row: name, state, health, severity."""
    listed = [
        {"name": name, "state": state, "health": health, "labels": {"severity": severity}}
        for name, state, health, severity in rows
    ]
    return {"status": "success", "data": {"groups": [{"rules": listed[:1]}, {"rules": listed[1:]}]}}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (rules(("A", "inactive", "ok", "critical")), []),
        (rules(("B", "firing", "ok", "critical"), ("A", "firing", "err", "critical")), ["A", "B"]),
        (rules(("A", "pending", "ok", "critical"), ("B", "firing", "ok", "warning")), []),
        (rules(("A", "inactive", "ok", "critical"), ("B", "inactive", "err", "warning")), []),
        (rules(("A", "inactive", "err", "critical")), "blind"),
        (rules(("A", "inactive", "unknown", "critical")), "blind"),
        (rules(("A", "firing", "ok", "warning")), "blind"),
        (rules(), "blind"),
        ({}, "blind"),
        (None, "blind"),
        ({"data": {"groups": [{"rules": [7]}]}}, "blind"),
        ({"data": {"groups": [{"rules": [{"labels": {"severity": "critical"}}]}]}}, "blind"),
    ],
)
def test_silence_is_no_good_news(answer, told):
    """Firing counts whatever else; no critical rule, one in error or not evaluated yet, another shape: blind."""
    try:
        found = firing_in(answer, "critical")
    except Blind:
        found = "blind"
    assert found == told


@asynccontextmanager
async def served(handler):
    """Give the URL of a server that answers everything with `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def over_http(handler, work):
    """Return what `work(session, url)` gives against a server, or the error it raises."""

    async def main():
        async with served(handler) as url, aiohttp.ClientSession() as session:
            try:
                return await work(session, url)
            except (Blind, Refused) as error:
                return error

    return asyncio.run(main())


def targets(*rows):
    """Return an answer of Prometheus with one target a row: job, health."""
    return {"status": "success", "data": {"activeTargets": [{"labels": {"job": j}, "health": h} for j, h in rows]}}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (targets(("cdc", "up"), ("dec", "up"), ("dec", "up")), None),
        (targets(("dec", "up"), ("dec", "down"), ("cdc", "unknown")), "not scraped: cdc, dec"),
        (targets(), "nothing is scraped"),
        ({"data": {"activeTargets": [{"health": "up"}]}}, "Prometheus gave an answer of another shape"),
        (None, "Prometheus gave an answer of another shape"),
    ],
)
def test_a_rule_without_series_is_silent_for_nobody(answer, told):
    """A rule over what is not scraped any more is evaluated and healthy: its silence means nothing."""
    try:
        require_scraped(answer)
        found = None
    except Blind as blind:
        found = str(blind)
    assert found == told


def test_silence_counts_only_where_all_is_scraped():
    """A rule that is silent is believed when every target is up; one that fires, in any case."""

    def serving(state, health):
        async def serve(request):
            if request.path == "/api/v1/targets":
                assert dict(request.query) == {"state": "active"}
                return web.json_response(targets(("cdc", health)))
            return web.json_response(rules(("A", state, "ok", "critical")))

        return serve

    def asked(session, url):
        return Prometheus(session, url).firing()

    assert over_http(serving("inactive", "up"), asked) == []
    assert str(over_http(serving("inactive", "down"), asked)) == "not scraped: cdc"
    assert over_http(serving("firing", "down"), asked) == ["A"]


def test_prometheus_is_asked_over_http():
    """What fires needs one call; another status, no JSON or nobody there is blind."""

    async def good(request):
        assert (request.path, dict(request.query)) == ("/api/v1/rules", {"type": "alert"})
        return web.json_response(rules(("A", "firing", "ok", "critical")))

    async def bad(_):
        return web.Response(status=503)

    async def odd(_):
        return web.Response(text="<html>")

    def asked(session, url):
        return Prometheus(session, url).firing()

    assert over_http(good, asked) == ["A"]
    assert str(over_http(bad, asked)) == "Prometheus answered 503"
    assert str(over_http(odd, asked)) == "Prometheus does not answer: JSONDecodeError"
    nobody = over_http(good, lambda session, _: Prometheus(session, "http://127.0.0.1:1").firing())
    assert isinstance(nobody, Blind)


def test_a_component_is_deployed_over_http():
    """Taken: nothing more to say. Its refusal passes with its code; a failure of its own is *unreachable*."""
    seen = []

    def answering(status, body):
        async def handler(request):
            seen.append((request.path, await request.json(), request.headers.get("Idempotency-Key")))
            return web.json_response(body, status=status)

        return handler

    def handed(session, url):
        return HttpComponent(session, "dec", url + "/release/deploys").deploy("1.2", "k")

    def told(status, body):
        error = over_http(answering(status, body), handed)
        return error and (error.status, error.code, error.detail)

    assert told(201, {}) is None
    assert seen == [("/release/deploys", {"version": "1.2"}, "k")]
    blocked = {"error": "release_blocked", "detail": "the gate is blocked"}
    assert told(409, blocked) == (409, "release_blocked", "dec: the gate is blocked")
    assert told(404, "odd") == (404, "refused", "dec: it gave no reason")
    assert told(500, {}) == (503, "component_unreachable", "dec answered 500")
    assert told(302, {}) == (503, "component_unreachable", "dec answered 302")
    nobody = over_http(
        answering(201, {}), lambda session, _: HttpComponent(session, "dec", "http://127.0.0.1:1/x").deploy("1", None)
    )
    assert (nobody.status, nobody.code) == (503, "component_unreachable")


def test_a_deploy_of_the_page_goes_through_to_its_controller(tmp_path):
    """The pipeline's own addresses: done there once under its key, recorded here; its watcher's refusal passes."""
    (tmp_path / "fe").mkdir()

    async def deploy(pipeline, key=None):
        try:
            return await pipeline.deploy("fe", "2", key)
        except Refused as refused:
            return refused.status, refused.code

    async def told(page, store):
        async def answer(request):
            transport = httpx.ASGITransport(app=page.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://fe") as client:
                headers = {"Content-Type": request.content_type, "Idempotency-Key": request.headers["Idempotency-Key"]}
                passed = await client.request(
                    request.method, request.path, content=await request.read(), headers=headers
                )
            return web.Response(status=passed.status_code, body=passed.content, content_type="application/json")

        async with served(answer) as url, aiohttp.ClientSession() as session:
            pipeline = Pipeline(store, Watchers(), components(session, dec=None, fe=url), lambda: 1_700_000_000.0)
            done = [await deploy(pipeline, "k") for _ in range(2)]
            page.watcher.refusal = Refused(409, "watcher_firing", "firing: WebInpP75High")
            return [*done, await deploy(pipeline, "l")]

    with running(tmp_path) as life, test_fe.running(tmp_path / "fe") as page:
        record = {"id": 1, "component": "fe", "version": "2", "at": AT}
        assert asyncio.run(told(page, life.store)) == [record, record, (409, "watcher_firing")]
        audited = page.ask("GET", "/fe/audit").json()["rows"]
        assert [(row["event"], row["after"], row["idempotency_key"]) for row in audited] == [
            ("deploy", {"status": "candidate", "version": "2"}, "k")
        ]
        assert life.events() == [
            ("deploy", ""),
            ("deploy_refused", "watcher_firing: fe: firing: WebInpP75High"),
        ]


def test_the_stack_tells_its_pipeline_where_both_components_are():
    """Without an address a deploy of that component could only be refused."""
    stack = yaml.safe_load((ROOT / "compose/local.yaml").read_text(encoding="utf-8"))
    command = stack["processes"]["pipeline"]["command"]
    assert [word for word in command if word.startswith(("--release", "--fe"))] == [
        "--release=${stack.release}",
        "--fe=${stack.fe}",
    ]
