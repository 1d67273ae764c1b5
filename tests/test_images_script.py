"""`scripts/images.sh` on a base of the user's own, with a docker that only writes down what it is asked."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Has the images named in the file `images`; what it pulls or builds is added. `there` is what `run` says.
DOCKER = """#!/bin/sh
echo "$*" >>calls
case "$1 $2" in
"image inspect")
    for last; do :; done
    grep -qxF "$last" images && echo sha256:1 || { echo "Error: No such image: $last" >&2; exit 1; } ;;
"pull --quiet") [ ! -f no_registry ] || { echo "no such host" >&2; exit 1; }; echo "$3" >>images ;;
"run --rm") cat there ;;
esac
"""

PIP = """#!/bin/sh
case "$*" in *"pip wheel"*) for last; do [ "$last" = -w ] || into=$last; done; mkdir -p .sim/images/wheels ;;
*) exec {python} "$@" ;; esac
"""
HERE = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {platform.system()} {platform.machine()}"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with what the script reads, and the two programs that it calls."""
    for folder in ("scripts", "compose/images/mbp", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts/images.sh", tmp_path / "scripts")
    for name in ("Dockerfile", "healthy"):
        shutil.copy(ROOT / "compose/images/mbp" / name, tmp_path / "compose/images/mbp")
    (tmp_path / "requirements.lock").write_text("one==1\n")
    for name, text in (("docker", DOCKER), (".venv/bin/python", PIP.format(python=sys.executable))):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "images").write_text("")
    (tmp_path / "there").write_text(HERE + "\n")
    return tmp_path


def call(tree: Path) -> tuple[int, str, list[str]]:
    """Build our own image; return the exit code, what was said, and the calls that change something."""
    environment = {"PATH": "/usr/bin:/bin", "DOCKER": str(tree / "docker"), "BASE": "base:1"}
    done = subprocess.run(
        [tree / "scripts/images.sh", "mbp"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    calls = [line.split()[0] for line in (tree / "calls").read_text().splitlines()]
    return done.returncode, done.stderr, [each for each in calls if each in ("pull", "run", "build")]


def test_a_base_of_the_users_own_is_fetched_before_anything_is_made_of_it(tree: Path) -> None:
    """What an image is made of is known by its base's id; one that is not here yet has none."""
    assert call(tree) == (0, "images: pulling base:1\nimages: filling the wheelhouse\nimages: building sim-mbp:local\n",
                          ["pull", "run", "build"])  # fmt: skip
    (tree / "images").write_text("")
    (tree / "no_registry").touch()
    code, said, _ = call(tree)
    assert (code, said.splitlines()[-1]) == (1, "images: the base image base:1 is not here and cannot be pulled")


def test_wheels_that_the_base_cannot_install_are_refused_with_the_cure(tree: Path) -> None:
    """The host's Python fetches them, and each is made for one Python: another one's build would fail far inside."""
    (tree / "there").write_text("Python 3.1 on Linux x86_64\n")
    code, said, calls = call(tree)
    assert (code, calls) == (1, ["pull", "run"])
    assert f"base:1 has Python 3.1 on Linux x86_64, .venv has {HERE}: its wheels would not fit" in said
    assert f"BASE=python:{sys.version_info[0]}.{sys.version_info[1]}-slim-bookworm" in said
