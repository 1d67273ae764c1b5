"""What is shipped: the wheel holds every module and data file, its entry points, and nothing else of the tree."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from sim.rooms import modules

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sim", "injectors", "expectations", "reports", "mbp")
SHIPPED = ("scenarios", "compose")

#: room → the folder where its tests are.
ROOMS = {
    "injectors": "injectors",
    "expectations.observers": "expectations",
    "expectations.chain": "expectations",
    "reports": "reports",
}


def kept(folder: Path) -> set[str]:
    """Return the files of a folder of the project that belong into a wheel, as paths from the root."""
    files = {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    return {path.relative_to(ROOT).as_posix() for path in files if path.name not in (".keep", ".gitignore")}


def build(target: Path) -> Path:
    """Build the wheel into `target` with what is installed, fetching nothing, and return it."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel of this tree."""
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def names(wheel):
    """Return the paths inside the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def read(wheel: Path, suffix: str) -> str:
    """Return the one file of the wheel whose path ends so."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(suffix)]
        return archive.read(name).decode()


def test_every_file_of_the_packages_is_in_the_wheel(names):
    """Modules and data files (YAML, JSON, pages) of the five packages are all shipped."""
    wanted = set().union(*(kept(ROOT / package) for package in PACKAGES))
    assert sorted(wanted - names) == []


def test_scenarios_and_stacks_are_shipped_inside_the_kernel(names):
    """Exercises, profiles and stack files are package data, so that an installed `sim` finds them."""
    wanted = {f"sim/_shipped/{path}" for folder in SHIPPED for path in kept(ROOT / folder)}
    assert wanted, "there is no scenario and no stack to ship"
    assert sorted(wanted - names) == []


def test_nothing_else_is_in_the_wheel(names):
    """No test, no bench, no run folder, no cache and no state goes out with the wheel."""
    allowed = ("sim/", "injectors/", "expectations/", "reports/", "mbp/")
    strangers = [name for name in names if not name.startswith(allowed) and ".dist-info/" not in name]
    caches = [name for name in names if "__pycache__" in name or "/runs/" in name or "/.sim/" in name]
    assert (sorted(strangers), caches) == ([], [])


def test_the_entry_points_of_the_wheel_are_those_of_the_project(wheel):
    """The command and every room are found in an installed wheel as they are from the source."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # names are case-sensitive
    parser.read_string(read(wheel, ".dist-info/entry_points.txt"))
    found = {section: dict(parser[section]) for section in parser.sections()}
    assert found == {"console_scripts": project["scripts"], **project["entry-points"]}


def test_the_wheel_says_what_it_is(wheel):
    """Name, version, licence and the Python it needs stand in the metadata."""
    from sim import __version__

    text = read(wheel, ".dist-info/METADATA")
    fields = dict(re.findall(r"^(Name|Version|Requires-Python|License-Expression): (.*)$", text, re.MULTILINE))
    assert fields == {
        "Name": "sim-harness",
        "Version": __version__,
        "Requires-Python": ">=3.11",
        "License-Expression": "Apache-2.0",
    }


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_requirement_of_a_lock_has_a_hash(lock):
    """Whoever installs from a lock gets the very bytes that were tested, or an error."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    pinned = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert pinned
    assert [line[:60] for line in pinned if not re.match(r"[\w.\[\]-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_the_locks_agree():
    """Developers and users run the same versions of what both install."""

    def pins(lock: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))

    run, dev = pins("requirements.lock"), pins("requirements-dev.lock")
    assert {name: (version, dev.get(name)) for name, version in run.items() if dev.get(name) != version} == {}


def test_the_locks_hold_everything_that_the_project_asks_for():
    """A dependency that was added without renewing the locks is found here: run `make lock`."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = config["dependency-groups"]
    asked = {
        "requirements.lock": [*config["project"]["dependencies"], *groups["build"]],
        "requirements-dev.lock": [*config["project"]["dependencies"], *groups["build"], *groups["dev"]],
    }
    missing = {}
    for lock, requirements in asked.items():
        text = (ROOT / lock).read_text(encoding="utf-8")
        pinned = {_normal(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
        missing[lock] = [
            name for each in requirements if (name := _normal(re.split(r"[<>=!~\[; ]", each)[0])) not in pinned
        ]
    assert missing == {"requirements.lock": [], "requirements-dev.lock": []}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# -- one more of anything is three files ---------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_of_a_room_has_a_test(room):
    """One more fault, observer, chain or report comes with a test file that names it."""
    folder = ROOT / "tests" / ROOMS[room]
    tests = {path: path.read_text(encoding="utf-8") for path in folder.rglob("test_*.py")}
    untested = [name for name in modules(room) if not any(_names(text, room, name) for text in tests.values())]
    assert untested == []


def _names(text: str, room: str, name: str) -> bool:
    """Whether a test imports the module, as ``import a.b.c`` or ``from a.b import c``."""
    package, _, last = f"{room}.{name}".rpartition(".")
    dotted = rf"\b{re.escape(package)}\.{re.escape(last)}\b"
    listed = rf"from {re.escape(package)} import (?:\([^)]*?|[^\n(]*?)\b{re.escape(last)}\b"
    return re.search(f"{dotted}|{listed}", text) is not None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import injectors.cdc.delay as x", True),
        ("from injectors.cdc import delay", True),
        ("from injectors.cdc import (\n    lag,\n    delay,\n)", True),
        ("from injectors.cdc import delays", False),
        ("# delay", False),
    ],
)
def test_a_test_that_names_a_module_is_recognised(text, found):
    """The three-file rule itself can fail: a comment or another name does not count."""
    assert _names(text, "injectors", "cdc.delay") is found
