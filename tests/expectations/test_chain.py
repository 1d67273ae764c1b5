"""What the settings of a chain imply: durations, windows, stages, and what differs between live and declared."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from fake_http import serve
from hypothesis import given
from hypothesis import strategies as st

from expectations._promtext import duration, jobs, whole_window_s, window_s, windows, words
from expectations.chain.prometheus import chain
from sim.chain import ChainError, ChainQuestion, Stage, Timing
from sim.secret import Secrets
from sim.target import Hook, ObserverSpec


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h30m", 5400), ("250ms", 0.25), ("2w", 1209600), ("1y1d", 31622400), ("0", 0), (0, 0), ("1m0s", 60)],
)
def test_prometheus_durations_are_read(text, seconds):
    """All units, in falling order, and a bare zero."""
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "1.5h", "m", "30s1m", "-5m", "5 m", None, 5, True])
def test_what_is_no_prometheus_duration_is_refused(text):
    """Rather than read as something."""
    with pytest.raises(ValueError, match="not a Prometheus duration"):
        duration(text)


@pytest.mark.parametrize(
    ("expr", "seconds"),
    [
        ("up == 0", 0),
        ('sum by (market) (increase(amm_invariant_error_total{market=~"a[5h]"}[1m])) > 0', 60),
        ("rate(x[5m]) > 14.4 and rate(x[1h]) > 14.4  # [9h]", 3600),
        ("x - avg_over_time(x[24h] offset 10m) > 80", 87000),
        ("rate(x[5m] @ end() offset 1h)", 3900),
        ("rate(x[5m] offset -1h)", 300),
        ("x offset 1d > 1", 86400),
        ("max_over_time(rate(x[5m])[1h:30s] offset 5m)", 4200),
        ("max_over_time(rate(x[5m])[1h:])", 3900),
        ("rate(x[300])", 300),
        ("avg_over_time({'a' , \"b[1h]\"}[1h30m])", 5400),
    ],
)
def test_how_far_an_expression_looks_back(expr, seconds):
    """Ranges, offsets and subqueries count; strings and comments do not."""
    assert window_s(expr) == seconds


def test_recording_rules_look_back_for_the_rules_that_read_them():
    """Windows add up along the way, and a rule that reads itself ends the walk."""
    recorded = {
        "job:err:rate5m": "rate(err[5m])",
        "twice": 'max_over_time(job:err:rate5m{job="x"}[1h])',
        "self": "self + 1",
    }
    assert whole_window_s("twice > 0.1", recorded) == 3900
    assert whole_window_s("self", recorded) == 0


def test_words_and_jobs_of_an_expression():
    """Names in selectors, strings and groupings are no metrics."""
    expr = 'sum by (market, job) (rate(amm_total{job="engine", x="y_z"}[5m])) / on (le) up'
    assert words(expr) == {"sum", "rate", "amm_total", "up"}
    assert jobs(expr) == {"engine"}


PROM = """
global: {scrape_interval: 1s, evaluation_interval: 250ms}
scrape_configs: [{job_name: engine}, {job_name: slow, scrape_interval: 15s}]
"""
RULES = """
groups:
- name: a
  rules:
  - {alert: Breach, expr: 'increase(amm_invariant_error_total{job="engine"}[1m]) > 0', labels: {owner: DEC/PM}}
- name: b
  interval: 2s
  rules:
  - {record: "job:lag:p95", expr: 'quantile_over_time(0.95, lag_seconds{job="slow"}[5m])'}
  - {alert: Lag, expr: "job:lag:p95 > 120", for: 3s, labels: {owner: DATA}}
"""
AM = """
route:
  receiver: default
  routes:
  - {matchers: [owner="DEC/PM"], receiver: executor, continue: true, group_wait: 0s, group_interval: 1s}
  - {matchers: [owner="DEC/PM"], receiver: dec, group_wait: 500ms, group_interval: 5s}
receivers:
- {name: default}
- {name: executor}
- {name: dec, slack_configs: [{channel: "#dec"}]}
"""


def question(folder: Path, *alerts: str, files=None, observers=None, rules=RULES, am=AM, **hook) -> ChainQuestion:
    for name, content in (("prom.yml", PROM), ("rules.yml", rules), ("am.yml", am)):
        (folder / name).write_text(content)
    given_ = {"prometheus": "prom.yml", "alertmanager": "am.yml", "rules": ["rules*.yml"]}
    return ChainQuestion(
        hook=Hook.model_validate({"alerts": alerts or ("Breach",), "owner": "DEC/PM", **hook}),
        observers=observers or {},
        files=given_ if files is None else files,
        secrets=Secrets({}),
        base=folder,
        owners={"DEC/PM": {"slack": "#dec-pm"}},
    )


def test_the_stages_follow_the_formulas(tmp_path):
    """floor = ramp.least + hold; worst = ramp.most + S + E + hold; told: + group_wait, + max(group_wait, interval)."""
    found = chain.declared(question(tmp_path, ramp={"least": "1s", "most": "1.6s"}, channels=["slack"]))
    assert found == Timing(
        source="files",
        stages={
            "detect": Stage(1.0, 1.3 + 0.625, 1.6 + 1.25),
            "act": Stage(1.0, 1.3 + 0.625 + 0.5, 1.6 + 1.25 + 5.0),
            "notify": Stage(1.0, 1.3 + 0.625 + 0.5, 1.6 + 1.25 + 5.0),
        },
        window_s=60.0,
        group_interval_s=5.0,
        notes=("owner DEC/PM is routed to executor, dec", "Breach goes to slack #dec, not to #dec-pm of DEC/PM"),
        windows={"amm_invariant_error_total": 60.0},
    )


def test_for_is_held_in_whole_evaluations_and_recording_rules_cost_an_evaluation(tmp_path):
    """`for: 3s` at 2 s is 4 s; the scrape is that of the job behind the recording rule; several alerts widen."""
    lag = chain.declared(question(tmp_path, "Lag"))
    assert lag.stages["detect"] == Stage(4.0, (15 + 2 + 2) / 2 + 4, 15 + 2 + 2 + 4)
    assert lag.window_s == 300.0
    assert lag.notes == (
        "Lag carries owner=DATA, the hook's owner is DEC/PM",
        "Lag matches no route and falls to the root: owner DEC/PM is routed to default",
    )
    both = chain.declared(question(tmp_path, "Breach", "Lag", "Gone"))
    assert both.stages["detect"] == Stage(0.0, 13.5, 23.0)
    assert both.stages["act"].worst_s == 23.0 + 300.0
    assert both.missing == ("alert Gone is in no declared rule file",)


def test_nothing_declared_is_no_timing_and_broken_files_are_errors_with_their_place(tmp_path):
    """Without rule files there is nothing to say; a file that is missing or broken is named, with line and column."""
    assert chain.declared(question(tmp_path, files={})) is None
    cases = [
        ({"rules": ["no.yml"]}, {}, r"no\.yml: No such file"),
        ({"rules": ["no*.yml"]}, {}, r"chain.rules: no file matches no\*\.yml"),
        ({"rulez": []}, {}, r"chain.rulez: Extra inputs"),
        (None, {"rules": "groups: ["}, r"rules\.yml:\d+:\d+: "),
        (None, {"rules": "groups: [{rules: [{alert: X}]}]"}, r"rules\.yml: 'expr' is missing"),
        (None, {"rules": "- x"}, r"rules\.yml: expected a mapping"),
        (None, {"am": "route: {}"}, r"am\.yml: the root route names no receiver"),
    ]
    for files, contents, says in cases:
        with pytest.raises(ChainError, match=says):
            chain.declared(question(tmp_path, files=files, **contents))


def live_routes(for_s=0.0, owner="DEC/PM", am=AM):
    rule = {
        "name": "Breach",
        "type": "alerting",
        "query": 'increase(amm_invariant_error_total{job="engine"}[1m]) > 0',
        "duration": for_s,
        "labels": {"owner": owner},
        "health": "ok",
    }
    ok = lambda data: {"status": "success", "data": data}  # noqa: E731
    return {
        "GET /api/v1/status/config": ok({"yaml": PROM}),
        "GET /api/v1/rules": ok({"groups": [{"name": "a", "interval": 0.25, "rules": [rule]}]}),
        "GET /api/v1/alertmanagers": ok({"activeAlertmanagers": [{"url": "x"}]}),
        "GET /api/v1/query": ok({"resultType": "vector", "result": [{"metric": {"job": "engine"}, "value": [1, "1"]}]}),
        "GET /api/v2/status": {"config": {"original": am}},
    }


def ask_live(folder, routes, *alerts, with_am=True, **more):
    async def main():
        async with serve(routes) as fake:
            kinds = ["prometheus", "alertmanager"] if with_am else ["prometheus"]
            observers = {kind: ObserverSpec(kind=kind, url=fake.url, extra="its own") for kind in kinds}
            return await chain.live(question(folder, *alerts, observers=observers, **more))

    return asyncio.run(main())


def test_the_live_chain_says_the_same_as_the_same_files(tmp_path):
    """One computation, two sources."""
    declared = chain.declared(question(tmp_path))
    assert ask_live(tmp_path, live_routes()) == replace(declared, source="live")


def test_what_is_live_otherwise_than_declared_is_noted(tmp_path):
    """A longer `for`, another owner and another route are found, and the floor follows the live ones."""
    found = ask_live(tmp_path, live_routes(600.0, "SRE", AM.replace("0s", "10s")))
    assert found.stages["detect"].floor_s == 600.0
    assert found.notes == (
        "Breach: live for: 10m, declared 0s",
        "Breach: live labels {owner=SRE}, declared {owner=DEC/PM}",
        "Breach: live routed to default, declared executor, dec",
        "Breach: live group_wait: 30s, declared 500ms",
        "Breach: live group_interval: 5m, declared 5s",
        "Breach carries owner=SRE, the hook's owner is DEC/PM",
        "Breach matches no route and falls to the root: owner DEC/PM is routed to default",
    )


def test_a_live_chain_that_lacks_a_link_says_so(tmp_path):
    """An alert that is not loaded and an Alertmanager that nobody sends to are missing, not an error."""
    routes = live_routes()
    routes["GET /api/v1/alertmanagers"]["data"]["activeAlertmanagers"] = []
    routes["GET /api/v1/rules"]["data"]["groups"][0]["rules"] = []
    found = ask_live(tmp_path, routes)
    assert (dict(found.stages), found.missing) == (
        {},
        ("alert Breach is not loaded", "Prometheus knows no Alertmanager"),
    )


def test_without_an_alertmanager_to_ask_routes_are_as_declared_and_without_prometheus_there_is_no_answer(tmp_path):
    """What is not known live is said."""
    found = ask_live(tmp_path, live_routes(), with_am=False)
    assert found.notes[0] == "routes are taken as declared: no alertmanager observer to ask"
    assert found.stages == chain.declared(question(tmp_path)).stages
    assert ask_live(tmp_path, {}) is None
    assert (
        ask_live(tmp_path, {**live_routes(), "GET /api/v1/status/config": {"status": "success", "data": {"yaml": "["}}})
        is None
    )
    spec = {"p": ObserverSpec(kind="prometheus", url="${stack.prom}")}
    assert asyncio.run(chain.live(question(tmp_path, observers=spec))) is None


times = st.integers(0, 10_000).map(lambda ms: f"{ms}ms")


@given(times, times, st.integers(1, 5000), times)
def test_floor_expected_and_worst_are_in_order(least, more, every_ms, hold):
    """Whatever the settings are, no bound contradicts another."""
    from expectations._setup import Rule, Scraping, Setup, detect
    from sim.target import Ramp

    ramp = Ramp(least=duration(least), most=duration(least) + duration(more))
    rule = Rule("A", "up == 0", duration(hold), every_ms / 1000, {})
    stage = detect(Setup("files", {}, {}, Scraping(), None), rule, ramp)
    assert 0 <= stage.floor_s <= stage.expected_s <= stage.worst_s
    assert duration(hold) <= rule.hold_s + 1e-9 < duration(hold) + every_ms / 1000 + 1e-6


def test_the_windows_of_each_metric():
    """By name, the longest range; strings and subqueries are none; labels may stand between."""
    assert windows("""
      sum(increase(a_total{class="x[9h]"}[4h])) / sum(increase(a_total[5m])) > 0.1 and b:c [ 90s ] and d[1h:5m]
      and {__name__="e"}[2h] # f[8h]
    """) == {"a_total": 14_400.0, "b:c": 90.0}  # fmt: skip


def test_a_timing_stands_in_the_record_rounded():
    """The record's form is plain JSON in milliseconds."""
    timing = Timing("files", {"detect": Stage(0.12345, 1.0, 2.00049)}, 60.0, 1.0, ("n",), ("m",))
    assert timing.to_json() == {
        "source": "files",
        "stages": {"detect": {"floor_s": 0.123, "expected_s": 1.0, "worst_s": 2.0}},
        "window_s": 60.0,
        "group_interval_s": 1.0,
        "notes": ["n"],
        "missing": ["m"],
        "windows": {},
    }
