"""The exercises of `scenarios/doors.yaml` on the real stack: a fault through the target's own fault endpoint."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from sim import log
from tests.conftest import ROOT, tool
from tests.live.chains import Bench, Result

NAME = "renamed_field"


def _effective(result: Result) -> list[tuple[object, bool]]:
    """Return of each proven effect what had to be met, and whether the endpoint had counted as much."""
    assert result.folder is not None
    proofs = [
        event.data["evidence"] for event in log.read(result.folder / "log.jsonl") if event.kind == "fault.effective"
    ]
    return [(proof["expect_hits"], proof["impacted"] >= proof["expect_hits"]) for proof in proofs]  # type: ignore[index,call-overload]


@pytest.mark.timeout(400)
def test_a_release_that_renames_a_field_is_rolled_back(tmp_path: Path) -> None:
    """The chain notices; asked for more hits than come within the budget, the same fault is inconclusive."""
    tool("prometheus")
    block = yaml.safe_load((ROOT / "scenarios/doors.yaml").read_text())["exercises"][NAME]
    bench = Bench(tmp_path, "doors")
    unmet = {
        **copy.deepcopy(block),  # the file may hold no alias
        "inject": block["inject"].replace("expect_hits=3", "expect_hits=1000000"),
        "within": {"effect": 4},
    }
    bench.drills, bench.blocks = (NAME, "unmet"), {NAME: block, "unmet": unmet}
    with bench.kept():
        found = bench.once(NAME)
        assert (found.code, _effective(found)) == (0, [(3, True)]), found.stdout + found.stderr
        found = bench.once("unmet")
        assert (found.code, _effective(found)) == (4, []), found.stdout + found.stderr
        assert bench.ask("dec_candidate", "GET", "/faults", token=True) == []
