"""The page, its bundles, its release controller, and the collector's files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from mbp import fe
from mbp._asgi import ApiError
from mbp._edges import INP_MS
from mbp._faults import Faults
from mbp.fe.web.__main__ import main
from mbp.fe.web.app import build, points
from mbp.fe.web.bundles import HANDLER_MS, Bundles
from mbp.fe.web.controller import Controller
from mbp.fe.web.store import Store
from mbp.fe.web.watcher import Prometheus
from mbp.past import shape
from mbp.release.proxy import NoAnswer, Passed
from tests.conftest import ROOT, tool
from tests.mbp.engines import BEARER, TOKEN, Clocks, ask, refusal

RUM = Path(fe.__path__[0]) / "rum"
AT = "2023-11-14T22:30:00.000000Z"
SLOWER = [each + 80 for each in HANDLER_MS]


class Api:
    """The public API, which answers, or does not."""

    def __init__(self):
        self.seen, self.down = [], False

    async def open(self):
        """Nothing to open."""

    async def close(self):
        """Nothing to close."""

    async def send(self, name, method, target, headers, body):
        self.seen.append((name, method, target, headers, body))
        if self.down:
            raise NoAnswer("release api does not answer")
        return Passed(200, {"X-MBP-Release": "candidate"}, b'{"amount_out": "9"}')


class Watcher:
    """Whoever is asked before a deploy; `refusal` is what it raises."""

    refusal = None

    async def allow(self):
        if self.refusal is not None:
            raise self.refusal


class Life:
    """One life of a front end over a folder."""

    def __init__(self, folder, token=TOKEN):
        self.clocks = Clocks()
        self.store, self.api, self.watcher = Store(folder / "fe.sqlite3", self.clocks.wall()), Api(), Watcher()
        bundles = Bundles(page="/", env="local", rum="http://127.0.0.1:9314", market="resident")
        faults = Faults(points(), monotonic=self.clocks.monotonic, wall=self.clocks.wall)
        controller = Controller(self.store, self.clocks.wall)
        self.app = build(controller, bundles, self.api, self.watcher, faults, token)

    def ask(self, method, path, key=None, **options):
        headers = {**options.pop("headers", {}), **({"Idempotency-Key": key} if key else {})}
        return ask(self.app, method, path, headers=headers, **options)

    def page(self):
        """Open the page and return its configuration and the bundle that it loads."""
        html = self.ask("GET", "/").text
        config = json.loads(re.search(r'id="config">(.*?)</script>', html, re.DOTALL)[1])
        bundle = self.ask("GET", config["src"])
        assert bundle.status_code == 200
        assert f'<link rel="preload" as="script" href="{config["src"]}">' in html
        return config, json.loads(re.search(r"HANDLER_MS = (\[.*\]);", bundle.text)[1])

    def regress(self, ms=80, fault="f1", **more):
        body = {"point": "fe.bundle", "kind": "regress", "params": {"inp_ms": ms}, "ttl_s": 10, "run": "r1", **more}
        return self.ask("PUT", f"/faults/{fault}", json=body, headers=BEARER)

    def status(self):
        return self.ask("GET", "/fe").json()["status"]


@contextmanager
def running(folder, **options):
    """Give a front end and close its file afterwards."""
    life = Life(folder, **options)
    try:
        yield life
    finally:
        life.store.close()


@pytest.fixture
def front(tmp_path):
    """A fresh front end."""
    with running(tmp_path) as life:
        yield life


# -- the page ----------------------------------------------------------------------------------------------------


def test_at_rest_the_new_bundle_is_served(front):
    """Candidate, with the fixed handler times; each view takes the next turn."""
    shown = front.ask("GET", "/fe").json()
    at_rest = {
        "status": "candidate",
        "bundle": "candidate",
        "version": "1",
        "changed_at": AT,
    }
    assert {name: shown[name] for name in at_rest} == at_rest
    assert {name: each["handler_ms"] for name, each in shown["bundles"].items()} == {
        "candidate": list(HANDLER_MS),
        "stable": list(HANDLER_MS),
    }
    views = [front.page() for _ in range(9)]
    assert [config["step"] for config, _ in views] == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    src = shown["bundles"]["candidate"]["src"]
    assert views[0] == (
        {
            "bundle": "candidate",
            "src": src,
            "step": 0,
            "page": "/",
            "env": "local",
            "rum": "http://127.0.0.1:9314",
            "market": "resident",
        },
        list(HANDLER_MS),
    )


def test_handler_times_are_those_of_the_healthy_past():
    """Good views, on the 8 ms grid, 128 to 160 ms, in the same proportion as the seeded ones."""
    assert sorted(HANDLER_MS) == sorted(shape._VIEWS_MS)
    assert {each % 8 for each in HANDLER_MS} == {0}
    assert (min(HANDLER_MS), max(HANDLER_MS)) == (128, 160)


def test_the_page_defers_hydration_preloads_and_limits_reflow(front):
    """What the seed asks of the page is in it: no bundle in the markup, a preload, contain and content-visibility."""
    html = front.ask("GET", "/").text
    assert re.findall(r'<script defer src="(.*?)">', html) == [
        "/static/boot.js",
        "/rum/web-vitals.iife.js",
        "/rum/collector.js",
        "/static/hydrate.js",
    ]
    assert "contain: layout paint style" in html
    assert "content-visibility: auto" in html
    assert "requestIdleCallback" in front.ask("GET", "/static/hydrate.js").text
    assert front.ask("GET", "/rum/collector.js").content == (RUM / "collector.js").read_bytes()


@pytest.mark.parametrize("path", ["/bundles/other.js", "/static/page.html", "/rum/server.js", "/static/..%2fapp.py"])
def test_nothing_else_is_served(front, path):
    """Only what the page loads."""
    assert refusal(front.ask("GET", path)) == (404, "not_found")


# -- the fault ---------------------------------------------------------------------------------------------------


def test_a_regression_is_in_the_new_bundle_alone_and_ends_with_its_lease(front):
    """Other bytes under another name while it holds; the old bundle as ever; as before when the lease is over."""
    before, _ = front.page()
    assert front.regress().json()["hits"] == 0
    config, times = front.page()
    assert (times, config["src"] == before["src"]) == (SLOWER, False)
    shown = front.ask("GET", "/fe").json()["bundles"]
    assert (shown["candidate"]["handler_ms"], shown["stable"]["handler_ms"]) == (SLOWER, list(HANDLER_MS))
    assert front.ask("GET", "/faults", headers=BEARER).json()[0]["impacted"] == 1
    front.ask("POST", "/fe/rollback", json={"reason": "p75"})
    assert front.page()[1] == list(HANDLER_MS)
    front.ask("PUT", "/fe/status", json={"status": "candidate"})
    front.clocks.now += 10.1
    after, times = front.page()
    assert (after["src"], times) == (before["src"], list(HANDLER_MS))
    assert front.ask("GET", "/faults", headers=BEARER).json() == []
    assert front.ask("GET", config["src"]).status_code == 200  # a page that was loaded before still gets its bundle


def test_the_fault_door(tmp_path, front):
    """One regression at a time, its dose bounded; shut without a token."""
    front.regress()
    assert refusal(front.regress(fault="f2")) == (409, "too_many_faults")
    assert refusal(front.regress(ms=90)) == (409, "fault_differs")
    assert refusal(front.regress(fault="f3", params={"inp_ms": 0})) == (422, "invalid")
    assert front.ask("DELETE", "/faults/f1", headers=BEARER).status_code == 204
    assert refusal(front.ask("GET", "/faults")) == (401, "unauthorized")
    (tmp_path / "shut").mkdir()
    with running(tmp_path / "shut", token=None) as shut:
        assert refusal(shut.regress()) == (404, "not_found")


# -- the controller ----------------------------------------------------------------------------------------------


def test_a_rollback_serves_the_old_bundle_and_leaves_one_row(front):
    """Done once, told twice: the same answer and one audit row."""
    first = front.ask("POST", "/fe/rollback", json={"reason": "INP"})
    again = front.ask("POST", "/fe/rollback", json={"reason": "INP"})
    assert first.json() == again.json()
    assert (first.json()["status"], first.json()["bundle"], front.page()[0]["bundle"]) == (
        "reverted",
        "stable",
        "stable",
    )
    assert front.ask("GET", "/fe/audit").json() == {
        "rows": [
            {
                "seq": 1,
                "at": AT,
                "event": "rollback",
                "before": {"status": "candidate"},
                "after": {"status": "reverted"},
                "reason": "INP",
                "idempotency_key": None,
            }
        ],
        "next": 1,
    }


def test_idempotency_keys_and_the_store_survive(tmp_path):
    """The same key gives the same answer in the next life too; another request under it is refused."""
    with running(tmp_path) as life:
        first = life.ask("POST", "/fe/rollback", key="k1", json={"reason": "a"}).json()
        life.ask("PUT", "/fe/status", json={"status": "stable"})
    with running(tmp_path) as life:
        assert life.status() == "stable"
        assert life.ask("POST", "/fe/rollback", key="k1", json={"reason": "a"}).json() == first
        assert life.status() == "stable"
        assert refusal(life.ask("POST", "/fe/rollback", key="k1", json={"reason": "b"})) == (
            409,
            "idempotency_key_reused",
        )


def test_a_deploy_is_refused_while_the_watcher_fires_or_is_blind(front):
    """Nothing changes then; afterwards the same key goes through, and serves the new version."""
    front.ask("POST", "/fe/rollback", json={})
    for error in (ApiError(409, "watcher_firing", "fires"), ApiError(503, "watchers_blind", "no answer")):
        front.watcher.refusal = error
        assert refusal(front.ask("POST", "/fe/deploys", key="d", json={"version": "2"})) == (error.status, error.code)
    assert front.status() == "reverted"
    front.watcher.refusal = None
    done = front.ask("POST", "/fe/deploys", key="d", json={"version": "2"})
    assert (done.status_code, done.json()["version"], front.status()) == (201, "2", "candidate")
    front.watcher.refusal = ApiError(409, "watcher_firing", "fires")
    assert front.ask("POST", "/fe/deploys", key="d", json={"version": "2"}).json() == done.json()
    lines = front.ask("GET", "/metrics").text.splitlines()
    assert [line for line in lines if line.startswith("fe_deploys_total")] == [
        'fe_deploys_total{outcome="done"} 1.0',
        'fe_deploys_total{outcome="watcher_firing"} 1.0',
        'fe_deploys_total{outcome="watchers_blind"} 1.0',
    ]


BAD = [
    ("PUT", "/fe/status", {"status": "third"}, 422),
    ("PUT", "/fe/status", {"status": "stable", "more": 1}, 422),
    ("POST", "/fe/rollback", {"reason": 1}, 422),
    ("POST", "/fe/deploys", {"version": "a b"}, 422),
    ("POST", "/fe/deploys", {}, 422),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), BAD)
def test_bad_input_changes_nothing(front, method, path, body, status):
    """A clear 4xx, and no row."""
    assert refusal(front.ask(method, path, json=body)) == (status, "invalid")
    assert front.ask("GET", "/fe/audit").json() == {"rows": [], "next": 0}


# -- the API behind the page -------------------------------------------------------------------------------------


def test_the_page_speaks_to_one_origin_and_its_trace_goes_on(front):
    """`/api/v1/*` is the public API; the trace goes on, what belongs to one hop does not."""
    headers = {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01", "Connection": "close"}
    answer = front.ask("POST", "/api/v1/quotes?x=%20", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json(), answer.headers["x-mbp-release"]) == (
        200,
        {"amount_out": "9"},
        "candidate",
    )
    ((name, method, target, passed, body),) = front.api.seen
    assert (name, method, target, body) == ("api", "POST", "/v1/quotes?x=%20", b"{}")
    version, trace, span, flags = passed["traceparent"].split("-")
    assert (version, trace, flags, "connection" in passed) == ("00", "1" * 32, "01", False)
    assert span != "2" * 16  # its own span's, under that of the page
    front.api.down = True
    assert refusal(front.ask("GET", "/api/v1/markets")) == (502, "api_unreachable")


# -- the watcher -------------------------------------------------------------------------------------------------


def rule(state="inactive", health="ok", name="WebInpP75High"):
    return {"name": name, "state": state, "health": health, "lastError": "boom", "type": "alerting"}


@pytest.mark.parametrize(
    ("status", "rules", "told"),
    [
        (200, [rule()], None),
        (200, [rule("pending")], None),
        (200, [rule("firing", name="Other"), rule()], None),
        (200, [rule("firing")], (409, "watcher_firing")),
        (200, [rule("firing", "err")], (409, "watcher_firing")),
        (200, [{"name": "WebInpP75High", "health": "ok"}], (503, "watchers_blind")),
        (200, [rule(name="Other")], (503, "watchers_blind")),
        (200, [rule(health="err")], (503, "watchers_blind")),
        (200, None, (503, "watchers_blind")),
        (500, [rule()], (503, "watchers_blind")),
    ],
)
def test_what_the_watcher_says(status, rules, told):
    """Only a rule that is there, is evaluated and does not fire lets a deploy through."""

    async def serve(_):
        data = None if rules is None else {"groups": [{"rules": rules}]}
        return web.json_response({"status": "success", "data": data}, status=status)

    async def scraped(_):
        return web.json_response({"data": {"activeTargets": [{"labels": {"job": "rum"}, "health": "up"}]}})

    async def asked():
        app = web.Application()
        app.router.add_get("/api/v1/rules", serve)
        app.router.add_get("/api/v1/targets", scraped)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            await Prometheus(f"http://127.0.0.1:{runner.addresses[0][1]}").allow()
        except ApiError as error:
            return error.status, error.code
        finally:
            await runner.cleanup()
        return None

    assert asyncio.run(asked()) == told


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:1"])
def test_nobody_to_ask_is_blind(url):
    """No answer is never good news."""
    with pytest.raises(ApiError) as told:
        asyncio.run(Prometheus(url).allow())
    assert (told.value.status, told.value.code) == (503, "watchers_blind")


def test_a_start_that_cannot_be_is_told(tmp_path, monkeypatch, capsys):
    """With the fault switch on and no token it does not start."""
    monkeypatch.setenv("SIM_FAULTS", "1")
    monkeypatch.delenv("MBP_FAULT_TOKEN_FILE", raising=False)
    words = ["--port", "1", "--data", str(tmp_path), "--rum", "http://127.0.0.1:2", "--api", "http://127.0.0.1:3"]
    assert main(words) == 2
    assert "MBP_FAULT_TOKEN_FILE is not set" in capsys.readouterr().err


# -- the collector's files ---------------------------------------------------------------------------------------


def test_the_collector_counts_into_the_edges_of_the_platform():
    """The one list of edges, which the seeded past uses too, is the collector's."""
    assert [float(edge) for edge in json.loads((RUM / "inp_edges.json").read_text())] == list(INP_MS)


def test_the_vendored_library_is_the_one_that_was_locked():
    """Bytes and digest agree; name and version of the lock are those of package.json; its licence is beside it."""
    wanted, name = (RUM / "vendor/SHA256SUMS").read_text().split()
    assert hashlib.sha256((RUM / "vendor" / name).read_bytes()).hexdigest() == wanted
    asked = json.loads((RUM / "package.json").read_text())["devDependencies"]
    locked = json.loads((RUM / "package-lock.json").read_text())["packages"]["node_modules/web-vitals"]
    assert asked == {"web-vitals": locked["version"]}
    assert locked["integrity"].startswith("sha512-")
    assert "Apache License" in (RUM / "vendor/LICENSE.web-vitals").read_text()


def test_the_collector_passes_its_own_tests():
    """Node's own test runner, over every test file of the collector."""
    files = sorted(str(path) for path in (ROOT / "tests/mbp/rum").glob("*.test.js"))
    done = subprocess.run([str(tool("node")), "--test", *files], capture_output=True, text=True, timeout=60)
    assert (len(files), done.returncode) == (2, 0), done.stdout[-4000:] + done.stderr[-1000:]
