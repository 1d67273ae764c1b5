"""`docs/write-a-fault.md`, followed to the letter: what it says is written, installed, checked and plugged in.

Its run through the command line, which takes real time, is in `tests/live/test_write_a_fault.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from sim.catalogue import catalogue
from sim.injector import InjectionError, Site
from sim.secret import Secrets
from sim.target import Target
from tests.injectors import test_contract as contract

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "write-a-fault.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def followed(folder: Path) -> None:
    """Write what the page says into a folder, and install it there as `pip install --editable` does."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "sim.toml").write_text("")
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    for package in {path.parent for path in (folder / project["name"]).rglob("*.py")} | {folder / project["name"]}:
        (package / "__init__.py").touch()
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"[{group}]\n{name} = {value}\n" for group, points in project["entry-points"].items()
             for name, value in points.items()]  # fmt: skip
    (info / "entry_points.txt").write_text("".join(lines))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return the folder in which the page was followed; its package can be imported while the test runs."""
    followed(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "shopfaults"]:
        del sys.modules[name]
    importlib.invalidate_caches()


def test_the_page_has_its_three_files_and_what_goes_with_them():
    """No file is lost to a slip in its heading, and none stands there unnamed."""
    assert list(FILES) == [
        "shopfaults/worker/pause.py", "tests/test_worker_pause.py", "scenarios/worker.yaml",
        "scenarios/targets/shop.yaml", "pyproject.toml", "scenarios/targets/queue.yaml",
        "faults/slow.sh", "faults/pumba.sh", "faults/fis.sh",
    ]  # fmt: skip
    assert len(re.findall(r"^```\w+$", PAGE, re.MULTILINE)) == len(FILES)


def test_links_lead_somewhere():
    """To files of this repository, and to headings of this page."""
    headings = {line.lstrip("# ").lower().replace(" ", "-") for line in PAGE.splitlines() if line.startswith("#")}
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert links
    dead = [
        link
        for link in links
        if not (link[1:] in headings if link.startswith("#") else (ROOT / "docs" / link).is_file())
    ]
    assert dead == []


def test_the_injector_is_found_and_keeps_the_contract(installed, monkeypatch):
    """By its entry point, under the name of its path; form, behaviour and pages like those of any bundled one."""
    name = "worker.pause"
    injector = catalogue().injector(name)
    assert contract.form(injector) == []
    assert all(probe.__doc__ for probe in (injector.effective, injector.gone))
    spec = importlib.util.spec_from_file_location("page_test", installed / "tests" / "test_worker_pause.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    async def used():
        async with module.fake_target() as (doors, given, state):
            assert contract.signal(injector, injector.params.model_validate(given)) == []
            return await contract.behaviour(injector, contract.afresh(name, monkeypatch), doors, given, state)

    assert asyncio.run(used()) == []


def test_the_page_s_own_test_passes(installed):
    """As whoever follows the page runs it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "tests"]
    done = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "2 passed" in done.stdout) == (0, True), done.stdout + done.stderr


def test_the_injector_is_as_the_style_has_it(installed):
    """The page's Python holds to the rules of this repository."""
    config = [
        "--config",
        str(ROOT / "pyproject.toml"),
        "--config",
        "lint.isort.known-first-party=['shopfaults', 'sim']",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", *config, "shopfaults"],
        cwd=installed, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# -- programs that are plugged in ------------------------------------------------------------------------------------

#: Stand-ins for the programs that the page names: what is broken is a file in STATE.
PROGRAMS = {
    "sudo": 'shift\nexec "$@"\n',
    "tc": """\
case "$2" in
  add) touch STATE/slow ;;
  del) rm STATE/slow ;;
  show) test -e STATE/blind && exit 1; echo "qdisc noqueue 0: root"; test ! -e STATE/slow || echo "qdisc netem 8001:" ;;
esac
""",
    "docker": """\
case "$1" in
  run) test "$5" = sim-contract-1 && touch "STATE/slow" ;;
  stop) test "$4" = sim-contract-1 && rm STATE/slow ;;
  ps) test -e STATE/blind && exit 1; test "$5" = "name=^sim-contract-1\\$" && test -e STATE/slow && echo 1a2b; exit 0 ;;
esac
""",
    "aws": """\
test -n "$AWS_SECRET_ACCESS_KEY" || exit 254
case "$2" in
  start-experiment) touch STATE/down ;;
  stop-experiment) test "$4" = EXP1 && rm STATE/down ;;
  list-experiments) test -e STATE/blind && exit 1; test ! -e STATE/down || echo EXP1 ;;
esac
""",
    "curl": """\
test -e STATE/down && exit 7
test -e STATE/slow && test "$5" = 0.2 && exit 28
exit 0
""",
}
SETS = ("netem", "pumba", "cloud")


@pytest.fixture
def machine(installed, monkeypatch):
    """Return the folder whose files are what is broken on a machine that has the stand-ins first on its path."""
    state, programs = installed / "state", installed / "programs"
    state.mkdir()
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text.replace('STATE', str(state))}")
        (programs / name).chmod(0o700)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), "/usr/bin", "/bin"]))
    monkeypatch.chdir(installed)
    return state


def door():
    """Return the page's door of commands."""
    return Target.model_validate(yaml.safe_load(FILES["scenarios/targets/queue.yaml"])).doors["exec"]


def test_the_page_s_profile_has_these_sets():
    """Each is checked below."""
    assert tuple(door().commands) == SETS


@pytest.mark.parametrize("name", SETS)
def test_a_program_that_is_plugged_in_keeps_the_contract(machine, monkeypatch, name):
    """Start, verify, stop twice and gone, as the page has them, against programs that do as these do."""
    monkeypatch.setattr(contract, "Secrets", lambda _: Secrets({"AWS_SECRET_ACCESS_KEY": "very-secret"}))
    injector = catalogue().injector("exec.run")

    def broken():
        return sorted(each.name for each in machine.iterdir())

    assert asyncio.run(contract.behaviour(injector, injector, {"exec": door()}, {"commands": name}, broken)) == []
    assert broken() == []


@pytest.mark.parametrize("name", SETS)
def test_a_look_that_fails_is_not_good_news(machine, name):
    """The program that is to look is broken: neither stop nor gone say that the fault is away."""
    injector = catalogue().injector("exec.run")
    site = Site("contract-1", "r1", {"exec": door()}, Secrets({"AWS_SECRET_ACCESS_KEY": "very-secret"}))

    async def blind():
        receipt = (await injector.prepare(site, injector.params(commands=name))).receipt
        await injector.apply(site, receipt)
        assert (await injector.effective(site, receipt)).holds
        (machine / "blind").touch()
        with pytest.raises(InjectionError, match=f"stop of {name} ended with 2"):
            await injector.withdraw(site, receipt)
        return await injector.gone(site, receipt)

    probe = asyncio.run(blind())
    assert (probe.holds, probe.evidence["gone"]["exit"]) == (False, 2)
