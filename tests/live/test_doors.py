"""The exercises of `scenarios/doors.yaml` on the real stack: the target's own fault endpoint, and a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sim import log
from tests.conftest import ROOT, tool
from tests.live.chains import Bench, Result


def _proofs(result: Result) -> list[Any]:
    """Return the evidence of each effect that was proven."""
    assert result.folder is not None, result.stdout + result.stderr
    events = log.read(result.folder / "log.jsonl")
    return [event.data["evidence"] for event in events if event.kind == "fault.effective"]


@pytest.mark.timeout(600)
def test_faults_without_a_module_of_their_own(tmp_path: Path) -> None:
    """Each passes, proven; the token of the door is nowhere in a run; more hits than can come are inconclusive."""
    tool("prometheus")
    blocks = yaml.safe_load((ROOT / "scenarios/doors.yaml").read_text())["exercises"]
    inject = blocks["renamed_field"]["inject"].replace("expect_hits=3", "expect_hits=1000000")
    unmet = {**blocks["renamed_field"], "inject": inject, "within": {"effect": 4}, "tags": ["unmet"]}
    bench = Bench(tmp_path, "doors")
    bench.drills, bench.blocks = (*blocks, "unmet"), {**blocks, "unmet": unmet}
    with bench.kept():
        renamed, dropped, nothing = (bench.once(name) for name in bench.drills)
        assert (renamed.code, dropped.code, nothing.code) == (0, 0, 4), [renamed, dropped, nothing]
        (counted,), (verified,) = _proofs(renamed), _proofs(dropped)
        assert (counted["expect_hits"], counted["impacted"] >= 3, _proofs(nothing)) == (3, True, [])
        assert (verified["verify"]["exit"], '"change":"drop_field"' in verified["verify"]["said"]) == (0, True)
        assert bench.ask("dec_candidate", "GET", "/faults", token=True) == []
        secret = Path(bench.state.exports["fault_token"]).read_text().strip()
        written = [path for path in (bench.folder / "runs").rglob("*") if path.is_file()]
        assert [path.name for path in written if secret in path.read_text(errors="replace")] == []
