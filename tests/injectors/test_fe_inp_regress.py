"""`fe.inp_regress` and its visitor against a small front end and collector that keep their contracts."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from contextlib import contextmanager

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError

from injectors.fe import _visitor, inp_regress
from injectors.fe.inp_regress import compared, injector, lost
from sim.injector import Company
from sim.target import Door
from tests.injectors import fake_door

TIMES = [128, 144, 136]


class Front(fake_door.Target):
    """The page with its two bundles, its fault door, and the collector, in memory."""

    def __init__(self):
        super().__init__(token=None)
        self.rows, self.bundle, self.served, self.lose, self.down = [], "candidate", 0, set(), False

    def routes(self):
        return [
            web.get("/fe", self.state),
            web.get("/", self.page),
            web.get("/bundles/{name}", self.script),
            web.get("/views", self.views),
            web.post("/visit", self.told),
            web.post("/beacon", self.told),
        ]

    @property
    def slower(self):
        return sum(fault["params"]["inp_ms"] for fault in self.faults.values())

    def times(self, bundle):
        return [each + (self.slower if bundle == "candidate" else 0) for each in TIMES]

    def row(self, kind, view, **more):
        row = {"kind": kind, "view": view, "bundle": "candidate", "step": 0, "agent": "chromium 156", **more}
        self.rows.append({"seq": len(self.rows) + 1, **row})

    def beacon(self, view, inp_ms, **more):
        self.row("visit", view, **more)
        self.row("beacon", view, inp_ms=inp_ms, **more)

    async def state(self, _):
        bundles = {
            name: {"src": f"/bundles/{name}.js", "handler_ms": self.times(name)} for name in ("candidate", "stable")
        }
        return web.json_response({"status": "candidate", "bundle": self.bundle, "bundles": bundles})

    async def page(self, _):
        if self.down:
            return web.Response(status=503)
        config = {"bundle": self.bundle, "src": f"/bundles/{self.bundle}.js", "step": self.served % 3}
        config |= {"page": "/", "env": "local", "rum": "unused", "market": "m"}
        self.served += 1
        html = f'<script type="application/json" id="config">{json.dumps(config)}</script>'
        return web.Response(text=html, content_type="text/html")

    async def script(self, request):
        name = request.match_info["name"].removesuffix(".js")
        return web.Response(text=f"var HANDLER_MS = {self.times(name)};", content_type="text/javascript")

    async def views(self, request):
        after, limit = int(request.query["after"]), int(request.query["limit"])
        rows = [row for row in self.rows if row["seq"] > after][: min(limit, 40)]
        return web.json_response({"rows": rows, "next": rows[-1]["seq"] if rows else after, "newest": len(self.rows)})

    async def told(self, request):
        body = await request.json()
        kind = request.path.removeprefix("/")
        if not (kind == "beacon" and len(self.rows) in self.lose):
            self.row(kind, body["view"], **{name: body[name] for name in body if name != "view"})
        return web.Response(status=204)


def fake_target():
    """Yield what the contract test uses: doors, arguments, and the front end's own list of faults."""
    return fake_door.fake(Front(), ("fe", "rum"), {"p75": "+80ms", "window": "24h"})


@contextmanager
def stand_in():
    """Let the visitor be a quick one, who needs no browser and few views."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inp_regress, "VIEWS", 3)
        patch.setattr(inp_regress, "EVERY_S", 0.05)
        patch.setenv("SIM_BROWSER", "none")
        yield


def site(url):
    return fake_door.site_of(fe=Door(url=url), rum=Door(url=url))


def params(**given):
    return injector.params.model_validate({"p75": "+80ms", **given})


def with_front(work):
    """Run `work(front, url)` against a front end of its own."""
    return fake_door.against(Front(), work)


# -- what is asked for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("written", "exact"), [("+80ms", 80), ("80 ms", 80), (80, 80), ("+8.0ms", 8)])
def test_the_dose_is_read_in_milliseconds(written, exact):
    """As the seed writes it, and as a plan holds it."""
    assert params(p75=written).p75 == exact


@pytest.mark.parametrize(
    "given", [{"p75": "80"}, {"p75": "+80s"}, {"p75": "-80ms"}, {"p75": 7}, {"p75": True}, {"p": 1}]
)
def test_a_dose_that_is_none_is_refused(given):
    """No unit, another unit, a wrong sign, too little, no number."""
    with pytest.raises(ValidationError):
        params(**given)


def test_the_window_is_no_hold_time():
    """24 h is what the rule measures over; the default hold applies."""
    assert params(window="24h").window == 86400.0
    assert injector.duration_s(params(window="24h")) is None


def test_a_visitor_comes_along():
    """The page, the collector, and what makes a baseline."""
    assert injector.accompany(site("http://127.0.0.1:1"), params()) == Company(
        "injectors.fe._visitor",
        {"page": "http://127.0.0.1:1", "rum": "http://127.0.0.1:1", "views": 20, "every_s": 1.5},
    )


def test_it_is_not_prepared_where_nobody_would_meet_it():
    """The old bundle is served, another fault is in force, or the door is shut: refused, nothing changed."""

    async def work(front, url):
        told = []
        for bundle, faults, opened in (("stable", {}, True), ("candidate", {"x": {"params": {"inp_ms": 1}}}, True),
                                       ("candidate", {}, False)):  # fmt: skip
            front.bundle, front.faults, front.open = bundle, faults, opened
            told.append(await fake_door.refused(injector, site(url), params(), url))
        return told

    stable, taken, shut = with_front(work)
    assert "serves the stable bundle" in stable
    assert "a fault is in force there already" in taken
    assert shut == fake_door.OFF


# -- what is proven ----------------------------------------------------------------------------------------------


def rows(*told):
    front = Front()
    for view, inp_ms, more in told:
        front.beacon(view, inp_ms, **more)
    return front.rows


def test_views_are_compared_turn_by_turn_with_the_last_of_the_baseline():
    """Older views than the last twenty, views of the old bundle and turns without a baseline do not count."""
    old = [("o", 900, {"step": 0})] * 3
    base = [(f"b{n}", 136 + 8 * (n % 2), {"step": n % 2}) for n in range(20)]
    later = [
        ("l1", 216, {"step": 0}),
        ("l2", 232, {"step": 1}),
        ("l3", 216, {"bundle": "stable"}),
        ("l4", 1, {"step": 5}),
    ]
    assert compared(rows(*old, *base, *later), after=46) == (20, [80.0, 88.0])


def test_a_view_under_way_is_not_lost():
    """Announced without a beacon is lost, but for the newest."""
    front = Front()
    for view in ("a", "b", "c"):
        front.beacon(view, 1)
    front.row("visit", "lost")
    front.beacon("d", 1)
    front.row("visit", "now")
    assert lost(front.rows, after=2) == (4, 1)


async def _proven(front, url, slow, agent="chromium 156", lost_ones=0):
    for number in range(20):
        front.beacon(f"base{number}", TIMES[number % 3], step=number % 3)
    prepared = await injector.prepare(site(url), params())
    await injector.apply(site(url), prepared.receipt)
    for number in range(lost_ones):
        front.row("visit", f"lost{number}", agent=agent)
    for number, delta in enumerate(slow):
        front.beacon(f"slow{number}", TIMES[number % 3] + delta, step=number % 3, agent=agent)
    return await injector.effective(site(url), prepared.receipt)


@pytest.mark.parametrize(
    ("slow", "lost_ones", "holds"),
    [
        ([80] * 5, 0, True),
        ([64, 60, 60, 0, 300], 0, True),
        ([80] * 4, 0, False),
        ([56] * 9, 0, False),
        ([80] * 18, 1, False),
        ([80] * 20, 1, True),
        ([], 0, False),
    ],
)
def test_the_effect_is_a_paired_delta_of_enough_views_with_few_lost(slow, lost_ones, holds):
    """At least five views, a median of 60 ms and more, under 5 % lost."""
    probe = with_front(lambda front, url: _proven(front, url, slow, lost_ones=lost_ones))
    assert probe.holds is holds
    assert probe.evidence["baseline_views"] == 20
    assert probe.evidence["lost_beacons"] == f"{lost_ones} of {len(slow) + lost_ones}"


@pytest.mark.parametrize(("lost_ones", "holds"), [(0, True), (1, True), (3, False)])
def test_too_many_lost_beacons_spoil_what_was_seen(lost_ones, holds):
    """Looked at once more when the fault is gone, over all views since it began."""

    async def work(front, url):
        await _proven(front, url, [80] * 21, lost_ones=lost_ones)
        return await injector.held(site(url), {"after": 40})

    probe = with_front(work)
    assert (probe.holds, probe.evidence) == (holds, {"lost_beacons": f"{lost_ones} of {21 + lost_ones}"})


def test_a_collector_that_has_forgotten_tells_nothing():
    """It was started anew meanwhile: of no view at all nobody can say that none was lost."""

    async def work(front, url):
        return await injector.held(site(url), {"after": 40})

    assert with_front(work).holds is False


def test_the_evidence_says_who_visited():
    """A synthetic visitor is named as such."""
    probe = with_front(lambda front, url: _proven(front, url, [80] * 5, agent="synthetic: no chromium"))
    assert probe == type(probe)(
        True,
        {
            "visitor": "synthetic: no chromium",
            "bundle_regressed": True,
            "baseline_views": 20,
            "views": 5,
            "paired_delta_ms": 80.0,
            "lost_beacons": "0 of 5",
        },
    )


def test_slow_views_without_the_slow_bundle_prove_nothing():
    """A slow machine is not the fault."""

    async def work(front, url):
        prepared = await injector.prepare(site(url), params())
        for number in range(10):
            front.beacon(f"slow{number}", 300)
        return await injector.effective(site(url), prepared.receipt)

    probe = with_front(work)
    assert (probe.holds, probe.evidence["bundle_regressed"]) == (False, False)


# -- the visitor -------------------------------------------------------------------------------------------------


def visiting(front, url, views, every_s=0.0):
    """Let a synthetic visitor make so many views; return what it said, and its error."""
    said = []

    async def main():
        orders = _visitor.Orders(url, url, views, every_s)
        async with aiohttp.ClientSession() as session:
            way = _visitor.Synthetic(session, orders, "no chromium")
            visitor = _visitor.Visitor(orders, way, session, lambda word, text: said.append((word, text)))
            task = asyncio.create_task(visitor.run())
            while not task.done() and visitor.views < views + 2:
                await asyncio.sleep(0)
            error = task.exception() if task.done() else None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return said, error

    return main()


def test_the_synthetic_visitor_sends_what_the_served_bundle_would_cost():
    """A regression, and a rollback, show in what it sends, for it reads what is served at each view."""

    async def work(front, url):
        said, _ = await visiting(front, url, 3)
        front.faults["f"] = {"params": {"inp_ms": 80}}
        await visiting(front, url, 3)
        front.bundle = "stable"
        await visiting(front, url, 3)
        told = [
            (row["bundle"], row["step"], row["inp_ms"], row["agent"]) for row in front.rows if row["kind"] == "beacon"
        ]
        return said, told[:3], told[5:8], told[10:13]

    said, *told = with_front(work)
    agent = "synthetic: no chromium"
    assert said == [("ready", f"visitor {agent}: 3 views at baseline, 0 lost")]
    assert told == [
        [("candidate", 0, 128, agent), ("candidate", 1, 144, agent), ("candidate", 2, 136, agent)],
        [("candidate", 2, 216, agent), ("candidate", 0, 208, agent), ("candidate", 1, 224, agent)],
        [("stable", 1, 144, agent), ("stable", 2, 136, agent), ("stable", 0, 128, agent)],
    ]


def test_a_lost_beacon_is_told_and_the_visitor_goes_on(monkeypatch):
    """It counts as lost; the next view is made all the same."""
    monkeypatch.setattr(_visitor, "BEACON_S", 0.05)

    async def work(front, url):
        front.lose = {3}
        said, _ = await visiting(front, url, 3)
        return said

    assert with_front(work) == [
        ("note", "the beacon of a view did not reach the collector within 0.05 s"),
        ("ready", "visitor synthetic: no chromium: 3 views at baseline, 1 lost"),
    ]


def test_a_page_that_is_gone_ends_the_visitor():
    """Five views in a row that fail: it gives up, and says what the last one met."""

    async def work(front, url):
        front.down = True
        said, error = await visiting(front, url, 3)
        return [(word, text.replace(url, "")) for word, text in said], str(error).replace(url, "")

    assert with_front(work) == (
        [("note", "a view failed: GET /: 503")] * 4,
        "5 in a row; a view failed: GET /: 503",
    )


def test_why_there_is_no_browser_is_told(monkeypatch):
    """Asked away, not installed, or without its driver: each has its name."""
    monkeypatch.setenv("SIM_BROWSER", "none")
    assert _visitor.lacking() == "no browser asked for"
    monkeypatch.delenv("SIM_BROWSER")
    monkeypatch.setattr(_visitor.shutil, "which", lambda _: None)
    assert _visitor.lacking() == "no chromium"
    monkeypatch.setattr(_visitor.shutil, "which", lambda name: f"bin/{name}")
    monkeypatch.setattr(_visitor.importlib.util, "find_spec", lambda _: None)
    assert _visitor.lacking() == "no playwright"
    monkeypatch.setattr(_visitor.importlib.util, "find_spec", lambda _: object())
    assert (_visitor.lacking(), _visitor.executable()) == ("", "bin/chromium")


def test_what_it_says_is_a_line_of_json(monkeypatch):
    """One object a line, at once."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    _visitor.say("note", "a\nb")
    assert out.getvalue() == '{"note": "a\\nb"}\n'


def test_the_signal_in_virtual_time_is_a_page_whose_views_are_all_slow():
    """The bucket at 200 ms stays empty, the one above rises with every view."""
    found = {each.labels["le"]: each.points[-1] for each in injector.signal(params())}
    assert found == {"160.0": (300.0, 0.0), "200.0": (300.0, 0.0), "240.0": (300.0, 200.0), "+Inf": (300.0, 200.0)}
