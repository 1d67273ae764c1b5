"""What single rules of the platform fire on, by promtool on made-up series."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from expectations._platform import _candidates
from expectations._setup import Rule
from tests.conftest import ROOT, tool

RULES = ROOT / "mbp/ops/prom/a110.rules.yaml"


def complaint(tmp_path: Path, alert: str, at: str, **series: str) -> str:
    """Return what promtool has to say where `alert` should fire for ``thin`` alone, with these depths a second."""
    asked: dict[str, Any] = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1s",
        "tests": [
            {
                "interval": "1s",
                "input_series": [
                    {"series": f'liquidity_depth_2pct{{market="{name}"}}', "values": values}
                    for name, values in series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f'count by (market) (ALERTS{{alertname="{alert}",alertstate="firing"}})',
                        "eval_time": at,
                        "exp_samples": [{"labels": '{market="thin"}', "value": 1}],
                    }
                ],
            }
        ],
    }
    return _promtool(tmp_path, asked)


def _promtool(tmp_path: Path, asked: dict[str, Any]) -> str:
    file = tmp_path / "rules_test.yaml"
    file.write_text(json.dumps(asked))
    ran = subprocess.run([tool("promtool"), "test", "rules", file], capture_output=True, text=True, timeout=60)
    return ran.stdout + ran.stderr if ran.returncode else ""


def test_only_a_market_that_is_there_has_too_little_depth(tmp_path: Path) -> None:
    """Thin for 15 minutes fires; younger, deep, or closed in its first seconds a quarter of an hour ago does not."""
    depths = {"thin": "20x1000", "young": "_x600 20x400", "deep": "900x1000", "closed": "20x5 stale"}
    assert complaint(tmp_path, "LiquidityDepthLow", "15m3s", **depths) == ""


@pytest.mark.parametrize("stack", ["local", "docker"])
def test_an_alert_whose_end_was_lost_does_not_keep_a_stack_from_starting(stack: str, tmp_path: Path) -> None:
    """The gate of readiness sees what is firing, not a series that Prometheus stopped writing without an end to it."""
    gates = yaml.safe_load((ROOT / f"compose/{stack}.yaml").read_text())["ready"]
    (query,) = [gate["query"]["query"] for gate in gates if gate["what"].startswith("no alert fires")]
    assert _of_states(tmp_path, query, {"labels": '{alertname="Firing",alertstate="firing"}', "value": 60}) == ""


@pytest.mark.parametrize(("alert", "firing"), [("Lost", 0), ("Over", 0), ("Late", 0), ("Firing", 1)])
def test_the_steady_state_that_init_writes_knows_an_alert_that_is_over(alert: str, firing: int, tmp_path: Path) -> None:
    """Of a rule that is evaluated each second: one while it fires, nothing once it is over, with or without an end."""
    *_, last = _candidates(Rule(alert, "up == 0", 0.0, 1.0, {}))
    assert _of_states(tmp_path, last.query, {"labels": "{}", "value": firing}) == ""


def _of_states(tmp_path: Path, query: str, expected: dict[str, Any]) -> str:
    states = {
        'alertname="Lost",alertstate="firing"': "1x10 _x50",
        'alertname="Over",alertstate="firing"': "1x10 stale",
        'alertname="Firing",alertstate="firing"': "1x60",
        'alertname="Late",alertstate="pending"': "1x60",
        'alertname="MetricsDecisionHookGap",alertstate="firing"': "1x60",
    }
    series = [{"series": f"ALERTS{{{labels}}}", "values": values} for labels, values in states.items()]
    wanted = [{"expr": query, "eval_time": "60s", "exp_samples": [expected]}]
    return _promtool(tmp_path, {"tests": [{"interval": "1s", "input_series": series, "promql_expr_test": wanted}]})
