"""The coverage gates of `make check` can be missed, and count only the tests that they name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def gates(monkeypatch):
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("coverage_gates", ROOT / "scripts" / "coverage_gates.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "coverage_gates", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def measured(gates, tmp_path, monkeypatch):
    """Return a data file: of two modules of ten lines, four ran at import, three in a unit test, two in another."""
    sources = [tmp_path / "mbp" / "engine" / name for name in ("app.py", "cpmm.py")]
    sources[0].parent.mkdir(parents=True)
    for source in sources:
        source.write_text("".join(f"x{number} = {number}\n" for number in range(10)))
    monkeypatch.setattr(gates, "ROOT", tmp_path)
    data = coverage.CoverageData(basename=str(tmp_path / "data"))
    for context, lines in (
        ("", [1, 2, 3, 4]),
        ("tests/mbp/test_engine_cpmm.py::test_a|run", [5, 6, 7]),
        ("tests/mbp/test_engine_api.py::test_b|run", [8, 9]),
    ):
        data.set_context(context)
        data.add_lines({str(source): lines for source in sources})
    data.write()
    data.close()
    return tmp_path / "data"


def test_each_gate_counts_its_own_tests_and_the_imports(gates, measured):
    """A line that only an integration test ran is not covered by unit tests, and the other way round."""
    assert [gates.measure(gate, measured)[0] for gate in gates.GATES] == [70.0, 60.0]


def test_a_gate_that_is_not_reached_ends_with_one(gates, measured, capsys):
    """The command fails and shows which lines were not run."""
    assert gates.main(measured) == 1
    told = capsys.readouterr().out
    assert "coverage of the engine, by unit tests: 70.0 %, demanded 80 %: TOO LOW" in told
    assert "coverage of the API, by integration tests: 60.0 %, demanded 60 %: ok" in told
    assert "8-10" in told


def test_nothing_measured_is_not_a_pass(gates, tmp_path, capsys):
    """Without data the gates say so and fail."""
    assert gates.main(tmp_path / "none") == 2
    assert "nothing was measured" in capsys.readouterr().out
