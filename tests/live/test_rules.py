"""What single rules of the platform fire on, by promtool on made-up series."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

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
    file = tmp_path / "rules_test.yaml"
    file.write_text(json.dumps(asked))
    ran = subprocess.run([tool("promtool"), "test", "rules", file], capture_output=True, text=True, timeout=60)
    return ran.stdout + ran.stderr if ran.returncode else ""


def test_only_a_market_that_is_there_has_too_little_depth(tmp_path: Path) -> None:
    """Thin for 15 minutes fires; younger, deep, or closed in its first seconds a quarter of an hour ago does not."""
    depths = {"thin": "20x1000", "young": "_x600 20x400", "deep": "900x1000", "closed": "20x5 stale"}
    assert complaint(tmp_path, "LiquidityDepthLow", "15m3s", **depths) == ""
