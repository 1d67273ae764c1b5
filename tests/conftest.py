"""What all tests share: the real tools, and which tests are live or slow."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers of live tests; keep locks and levers to this test run."""
    settings.register_profile("sim", deadline=None)  # a busy machine is no counter-example
    settings.load_profile("sim")
    machine = tempfile.TemporaryDirectory(prefix="sim-tests-")
    os.environ["SIM_MACHINE_DIR"] = machine.name
    config.add_cleanup(machine.cleanup)
    config.addinivalue_line(
        "markers", "slow: a live test that takes minutes; `make live` runs it, `make test` does not"
    )
    config.addinivalue_line(
        "markers", "alone: a live test that measures, or kills by the clock, and needs the machine for itself"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything under tests/live as live, so that no file there can forget to say so."""
    live = Path(__file__).parent / "live"
    for item in items:
        if live in item.path.parents:
            item.add_marker(pytest.mark.live)


def tool(name: str) -> Path:
    """Return the real program `name` of compose/tools.yaml.

    Where it is missing the test fails in CI (``CI`` set, and not to ``false`` or ``0``), and is skipped on a user's
    machine, saying which tool is missing and what brings it.
    """
    from sim import tools
    from sim.places import places

    here = places(ROOT)
    try:
        return tools.locate(name, here.tools, tools.load(None, here)).path
    except tools.ToolsError as error:
        missing(name, str(error))


def missing(name: str, why: str) -> NoReturn:
    """End a test for want of the real part `name`: a failure in CI, a named skip elsewhere."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"real part {name} is missing, and CI must not skip it: {why}")
    pytest.skip(f"needs the real part {name}: {why}")


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], Path]:
    """Return a function from the name of a real tool to its path; see `tool` for what happens where it is missing."""
    return tool
