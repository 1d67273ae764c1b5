"""Where a project begins, and where its files are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.places import places, shipped


def test_the_root_is_the_nearest_marked_folder_upward(tmp_path: Path) -> None:
    """`sim.toml` or our own pyproject marks a root, the nearest one counts; somebody else's pyproject does not."""
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    assert places(inner).root == inner
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "sim-harness"\n')
    (tmp_path / "a" / "pyproject.toml").write_text('[project]\nname = "other"\n')
    (tmp_path / "a" / "b" / "pyproject.toml").write_text("not toml [")
    assert places(inner).root == tmp_path
    (tmp_path / "a" / "sim.toml").write_text("")
    found = places(inner)
    assert (found.root, found.state, found.runs) == (tmp_path / "a", tmp_path / "a" / ".sim", tmp_path / "a" / "runs")


def test_shipped_data_stand_inside_the_package_or_beside_it(tmp_path: Path) -> None:
    """A wheel's copy wins over a folder beside the package; without either there is none."""
    package = tmp_path / "sim"
    package.mkdir()
    assert shipped("compose", package) is None
    (tmp_path / "compose").mkdir()
    assert shipped("compose", package) == tmp_path / "compose"
    (package / "_shipped" / "compose").mkdir(parents=True)
    assert shipped("compose", package) == package / "_shipped" / "compose"


def test_a_file_is_found_in_the_project_first_then_shipped(tmp_path: Path) -> None:
    """`compose/local.yaml` of a profile is the project's own if there is one, else the shipped one, else an error."""
    (tmp_path / "sim.toml").write_text("")
    here = places(tmp_path)
    copy = shipped("compose")
    assert copy is not None
    assert here.find("compose/local.yaml") == copy / "local.yaml"
    (tmp_path / "compose").mkdir()
    (tmp_path / "compose" / "local.yaml").write_text("")
    assert here.find("compose/local.yaml") == tmp_path / "compose" / "local.yaml"
    assert here.find(str(copy / "local.yaml")) == copy / "local.yaml"
    with pytest.raises(FileNotFoundError, match=r"no file compose/nope\.yaml; looked at: "):
        here.find("compose/nope.yaml")


def test_the_state_folder_is_invisible_to_git(tmp_path: Path) -> None:
    """The state folder ignores itself, and making it twice keeps what the user wrote there."""
    here = places(tmp_path)
    assert (here.make_state() / ".gitignore").read_text() == "*\n"
    (here.state / ".gitignore").write_text("mine\n")
    here.make_state()
    assert (here.state / ".gitignore").read_text() == "mine\n"
