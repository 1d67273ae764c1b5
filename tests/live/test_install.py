"""The wheel in an environment of its own: one owner a package, and `sim` works from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import tool

ROOT = Path(__file__).resolve().parents[2]
OURS = ("expectations", "injectors", "mbp", "reports", "sim")


def run(*command: str | Path, cwd: Path, **more: str) -> str:
    """Run a command that must succeed, and return what it wrote to standard output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SIM_"))}
    done = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env={**environment, **more},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the Python of an environment, under a path with a blank, that holds the wheel and nothing else."""
    base = tmp_path_factory.mktemp("an install")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", base / "dist", cwd=ROOT)
    (wheel,) = (base / "dist").glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", base / "venv", cwd=base)
    python = base / "venv" / "bin" / "python"
    pip = ("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, *pip, wheel, cwd=base)
    return python


def test_each_package_has_exactly_one_owner(installed, tmp_path):
    """No other distribution of the environment brings a package of our names (one was measured to overwrite ours)."""
    program = "import importlib.metadata as m, json; print(json.dumps(m.packages_distributions()))"
    owners = json.loads(run(installed, "-c", program, cwd=tmp_path))
    assert {name: owners.get(name) for name in OURS} == {name: ["sim-harness"] for name in OURS}


def test_an_installed_sim_lists_what_it_ships(installed, tmp_path):
    """From an empty folder the shipped exercises are found and resolved against the shipped target."""
    command = installed.with_name("sim")
    dependencies = sysconfig.get_paths()["purelib"]  # of the environment that runs the tests; ours come first
    listed = run(command, "list", cwd=tmp_path, PYTHONPATH=dependencies)
    assert "invariant_breach" in listed
    planned = run(command, "plan", "invariant_breach", cwd=tmp_path, PYTHONPATH=dependencies)
    assert "engine.swap_sequence" in planned


def test_an_installed_sim_runs_the_main_job(installed, tmp_path):
    """From an empty folder the wheel alone brings stack, platform and exercise along, and `invariant_breach` passes."""
    tools = f"{tool('prometheus').parent}{os.pathsep}{tool('alertmanager').parent}{os.pathsep}{os.environ['PATH']}"
    dependencies = sysconfig.get_paths()["purelib"]
    command = installed.with_name("sim")
    told = run(command, "run", "invariant_breach", cwd=tmp_path, PYTHONPATH=dependencies, PATH=tools)
    assert told.startswith("PASSED: invariant_breach on mbp-local")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".sim", "runs"]
