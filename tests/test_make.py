"""The scripts behind `make` and `.ci/run`, with a Python that installs nothing and a make that makes nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: A Python that answers as the real one does, save that it writes down what pip would install.
PYTHON = """#!/bin/sh
case "$1 $2 $3" in
"-m pip install"|"-m pip check") echo "$*" >>"$(dirname "$0")/../../pip.log"; exit "${PIP_FAILS:-0}" ;;
esac
exec '%s' "$@"
"""


def call(*command: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command with these variables added, in a session of its own, and return how it ended."""
    environment = {**os.environ, **more}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, start_new_session=True
    )


def script(path: Path, text: str) -> Path:
    """Write an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def project(tmp_path):
    """Return a folder (a blank in its path) with the script, two locks and an environment of the fake Python."""
    root = tmp_path / "my tree"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "venv.sh", root / "scripts")
    for name in ("pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        (root / name).write_text(f"# {name}\n")
    script(root / ".venv" / "bin" / "python", PYTHON % sys.executable)
    return root


def installs(root: Path) -> list[str]:
    """Return which locks were installed so far, in order, and forget them."""
    log = root / "pip.log"
    found = re.findall(r"-r (\S+)", log.read_text()) if log.exists() else []
    log.unlink(missing_ok=True)
    return found


def venv(root: Path, purpose: str, **more: str) -> int:
    """Run the script and return its exit code."""
    return call(root / "scripts" / "venv.sh", purpose, cwd=root.parent, **more).returncode


def test_a_second_call_installs_nothing(project):
    """What is installed is installed once."""
    assert [venv(project, "run"), installs(project)] == [0, ["requirements.lock"]]
    assert [venv(project, "run"), installs(project)] == [0, []]


def test_hashes_are_demanded_and_the_project_fetches_nothing(project):
    """Third-party packages come with their hashes; our own install may ask no index."""
    venv(project, "run")
    lines = (project / "pip.log").read_text().splitlines()
    assert lines == [
        "-m pip install --quiet --require-hashes --no-deps -r requirements.lock",
        "-m pip install --quiet --no-deps --no-build-isolation --no-index -e .",
        "-m pip check --quiet",
    ]


def test_what_developers_have_is_enough_to_run(project):
    """After an install for development nothing more is needed to run; the other way round there is."""
    assert [venv(project, "dev"), installs(project)] == [0, ["requirements-dev.lock"]]
    assert [venv(project, "run"), installs(project)] == [0, []]
    (project / ".venv" / "installed.dev").unlink()
    assert [venv(project, "run"), venv(project, "dev")] == [0, 0]
    assert installs(project) == ["requirements.lock", "requirements-dev.lock"]


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml"])
def test_a_changed_lock_or_project_is_installed_again(project, changed):
    """A stamp is the digest of what it stands for."""
    venv(project, "run")
    installs(project)
    (project / changed).write_text("# other\n")
    assert [venv(project, "run"), installs(project)] == [0, ["requirements.lock"]]


def test_a_moved_tree_is_installed_again(project):
    """An editable install points to its folder, so a copy must not keep the stamp of the original."""
    venv(project, "run")
    moved = project.rename(project.with_name("moved"))
    installs(moved)
    assert [venv(moved, "run"), installs(moved)] == [0, ["requirements.lock"]]


def test_an_install_that_was_cut_short_is_done_again(project):
    """The stamp is written last: a failed install leaves none, not even that of an earlier one."""
    venv(project, "run")
    (project / "requirements.lock").write_text("# other\n")
    installs(project)
    assert venv(project, "run", PIP_FAILS="1") != 0
    assert installs(project) == ["requirements.lock"]
    assert [venv(project, "run"), installs(project)] == [0, ["requirements.lock"]]


def test_no_python_that_is_new_enough_is_said_with_the_cure(project, tmp_path):
    """An old or broken interpreter is refused by name before anything is made."""
    shutil.rmtree(project / ".venv")
    old = script(tmp_path / "old python", "#!/bin/sh\necho Python 3.9.2\nexit 1\n")
    done = call(project / "scripts" / "venv.sh", "run", cwd=tmp_path, PYTHON=str(old))
    assert done.returncode == 1
    assert done.stderr == f"PYTHON={old} is not a Python 3.11 or newer: Python 3.9.2\n"
    assert not (project / ".venv").exists()


def test_a_half_made_environment_is_made_anew(project):
    """A `.venv` whose Python does not run is cleared, said so, and built again."""
    script(project / ".venv" / "bin" / "python", "half")
    (project / ".venv" / "left").write_text("over")
    # The base interpreter makes the environment; the fake one stands in it, so that nothing is fetched.
    fake = PYTHON % sys.executable
    base = script(
        project.parent / "base",
        f"""#!/bin/sh
if [ "$2" = venv ]; then
  rm -rf "$4"; mkdir -p "$4/bin"; cat >"$4/bin/python" <<'END'\n{fake}END\n  chmod +x "$4/bin/python"; exit 0
fi
exec '{sys.executable}' "$@"
""",
    )
    done = call(project / "scripts" / "venv.sh", "run", cwd=project, PYTHON=str(base))
    assert done.returncode == 0, done.stderr
    assert ".venv is half made or too old: making it anew" in done.stderr
    assert installs(project) == ["requirements.lock"]
    assert not (project / ".venv" / "left").exists()


def test_an_unknown_purpose_is_a_usage_error(project):
    """The script says what it takes."""
    done = call(project / "scripts" / "venv.sh", "fly", cwd=project)
    assert (done.returncode, done.stderr) == (2, "usage: scripts/venv.sh run|dev\n")


def test_help_names_every_target():
    """`make help` is made from the Makefile itself: every target for people has its line."""
    done = call("make", "--no-print-directory", "help", cwd=ROOT)
    told = [line.split()[1] for line in done.stdout.splitlines()]
    assert told == [
        "help",
        "run",
        "test",
        "check",
        "live",
        "load",
        "bench",
        "soak-kill",
        "docs",
        "setup",
        "lock",
        "clean",
    ]


@pytest.mark.parametrize("code", [0, 2])
def test_ci_ends_as_make_did_and_repeats_what_pytest_said(tmp_path, code):
    """CI keeps the exit code, forbids skips for want of tools, and prints pytest's closing lines last."""
    closing = "=== 3 passed, 1 skipped in 0.12s ==="
    script(tmp_path / "bin" / "make", f"#!/bin/sh\necho \"$*, CI=$CI\"\necho '{closing}'\necho more\nexit {code}\n")
    shutil.copytree(ROOT / ".ci", tmp_path / "tree" / ".ci")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = call(tmp_path / "tree" / ".ci" / "run", cwd=tmp_path, PATH=path, CI="")
    assert done.returncode == code
    lines = done.stdout.splitlines()
    assert lines[0] == "test, CI=true"
    assert lines[-2:] == [f"--- .ci/run: make test ended with {code}; pytest said:", closing]


def _may_ask_for_more():
    """Whether this user may give a session of its own more of the processors (Linux with autogroups, as root)."""
    asks = ["sh", "-c", "echo -1 >/proc/self/autogroup"]
    return subprocess.run(asks, stderr=subprocess.DEVNULL, start_new_session=True).returncode == 0


def test_ci_asks_for_more_of_the_processors_and_gives_it_back(tmp_path):
    """Beside stacks, each a session of its own, the tests' session would get too little; afterwards it is as it was."""
    if not _may_ask_for_more():
        pytest.skip("needs root and a kernel that shares the processors by session")
    told = "sed 's/.* nice/nice/' /proc/self/autogroup"
    script(tmp_path / "bin" / "make", f"#!/bin/sh\n{told}\n")
    shutil.copytree(ROOT / ".ci", tmp_path / "tree" / ".ci")
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    words = ["sh", "-c", f"echo 3 >/proc/self/autogroup; sleep 0.2; {tmp_path}/tree/.ci/run; {told}"]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, start_new_session=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("nice")] == ["nice -8", "nice 3"]
