"""A real part that is missing: a failure in CI, a skip with its name elsewhere."""

from __future__ import annotations

import pytest

from tests.conftest import missing, tool


@pytest.mark.parametrize("ci", ["true", "1", "yes"])
def test_ci_fails_for_want_of_a_real_part(monkeypatch, ci):
    """In CI nothing may be skipped because a tool is not there."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(pytest.fail.Exception, match=r"real part prometheus is missing.*: gone"):
        missing("prometheus", "gone")


@pytest.mark.parametrize("ci", ["", "false", "0"])
def test_a_users_machine_skips_by_name(monkeypatch, ci):
    """Elsewhere the skip says which tool it wants."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(pytest.skip.Exception, match="needs the real part prometheus: gone"):
        missing("prometheus", "gone")


def test_a_tool_that_no_file_names_is_missing(monkeypatch, require_tool):
    """An unknown name is told with the names that there are, through the fixture as through the function."""
    monkeypatch.setenv("CI", "true")
    for ask in (tool, require_tool):
        with pytest.raises(pytest.fail.Exception, match=r"no tool 'warp'.*prometheus"):
            ask("warp")
