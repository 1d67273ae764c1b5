"""The workflows: sound by actionlint, safe by zizmor, and doing what the nightly job is for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".github/workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
NIGHTLY = yaml.load((FOLDER / "nightly-chaos.yml").read_text(), Loader=yaml.BaseLoader)  # `on` stays a word


def linted(program: str, *words: str | Path) -> tuple[int, str]:
    """Run a linter of this environment; return its exit code and what it says."""
    done = subprocess.run(
        [Path(sys.executable).parent / program, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_finds_nothing(path: Path) -> None:
    """Syntax, expressions, contexts."""
    assert linted("actionlint", "-no-color", path) == (0, "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_zizmor_finds_nothing(path: Path) -> None:
    """Injection, permissions, credentials left behind, at its default level."""
    code, said = linted("zizmor", "--offline", "--color=never", "--no-progress", path)
    assert code == 0, said


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    """A tag can be moved; beside the commit stands the version that it is."""
    used = re.findall(r"uses: *(.*)", path.read_text())
    assert used
    for each in used:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


def test_the_nightly_job_runs_keeps_and_tells() -> None:
    """Each night and on demand, one at a time, with no right but to read; what came out is kept whatever it is."""
    assert list(NIGHTLY["on"]) == ["schedule", "workflow_dispatch"]
    assert list(NIGHTLY["on"]["workflow_dispatch"]["inputs"]) == ["tag"]
    assert (NIGHTLY["permissions"], NIGHTLY["concurrency"]["cancel-in-progress"]) == ({}, "false")
    job: dict[str, Any] = NIGHTLY["jobs"]["chaos"]
    assert job["permissions"] == {"contents": "read"}
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert runs[0] == "make setup"
    assert runs[1] == '.venv/bin/sim run --tag "$TAG" --summary summary.md --junit junit.xml'
    always = [step for step in job["steps"] if step.get("if") == "always()"]
    kept = [step["with"]["path"] for step in always if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert kept == ["junit.xml", "runs/"]
    assert any("$GITHUB_STEP_SUMMARY" in step.get("run", "") for step in always)


def test_nightly_is_all_seven() -> None:
    """The tag that the job runs by default is on every exercise of the seed."""
    profile = yaml.safe_load((ROOT / "scenarios/targets/mbp-local.yaml").read_text())
    seed = yaml.safe_load((ROOT / "scenarios/s2.yaml").read_text())["exercises"]
    nightly = [name for name, bound in profile["exercises"].items() if "nightly" in bound["tags"]]
    assert [name for name in nightly if name in seed] == list(seed)


def test_the_expected_wall_times_are_derived() -> None:
    """All seven, in the seed's order; each is the sum of its parts, and each part says what it is for."""
    seed = yaml.safe_load((ROOT / "scenarios/s2.yaml").read_text())["exercises"]
    expected = yaml.safe_load((ROOT / "bench/expected.yaml").read_text())["exercises"]
    assert set(expected) == set(seed)
    for name, each in expected.items():
        assert sum(part["s"] for part in each["parts"]) == each["expected_s"], name
        assert all(len(part["what"]) > 4 for part in each["parts"])
    assert {name: each["expected_s"] for name, each in expected.items()} == {
        "invariant_breach": 75, "latency_budget": 345, "resolution_sla": 20, "cdc_lag": 480, "schema_drift": 20,
        "api_contract": 25, "web_cwv_regression": 150,
    }  # fmt: skip
    assert sum(each["expected_s"] for each in expected.values()) == 1115
