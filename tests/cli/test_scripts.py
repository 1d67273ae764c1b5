"""Runs the one-file scripts of the command line beside this file: ``NAME.txt``.

A script begins with prose. Then, in any order and any number::

    --- some/file.yaml           the lines up to the next mark are that file, written before anything runs
    --- run                      the lines up to the next mark are commands and what they must do:
    $ sim check some/file.yaml   a command (``$ A=1 sim …`` sets a variable); runs in an own folder, in this process
    > text                       one line of stdout, exactly; ``>`` alone is an empty line
    ! text                       one line of stderr, exactly
    >~ pattern   !~ pattern      one line that the regular expression matches whole
    >...         !...            any lines up to the next that matches (none, too)
    exit 3                       the exit code; 0 where it is not said
    --- run as process           the same, but as a process of its own

In what is compared, the script's own folder is written ``[DIR]``. The rooms in ``room/`` are installed for every
script, as a stranger's distribution is: by a ``.dist-info`` on the path. ``SIM_UPDATE_SCRIPTS=1`` rewrites the
expected lines and fails, so that nobody does it without looking.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from sim.cli import cli

HERE = Path(__file__).parent
ROOM = HERE / "room"
SCRIPTS = sorted(HERE.glob("*.txt"))
LINE = re.compile(r"(?P<stream>[>!])(?:(?P<any>\.\.\.)|(?P<like>~) (?P<pattern>.*)| (?P<text>.*)|)")
TIMEOUT_S = 60


@dataclass
class Step:
    """One command, and what it must do."""

    command: str
    process: bool
    expected: list[str] = field(default_factory=list)
    code: int = 0


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


@dataclass
class Script:
    """One file: what to write, and what to run."""

    files: dict[str, str]
    steps: list[Step]


def parse(text: str) -> Script:
    """Read a script. Raises `ValueError` for a line that means nothing."""
    script = Script({}, [])
    part = ""
    for line in text.splitlines():
        if line.startswith("--- "):
            part = line[4:].strip()
            if part not in ("run", "run as process"):
                script.files[part] = ""
        elif part in script.files:
            script.files[part] += line + "\n"
        elif part and line.startswith("$ "):
            script.steps.append(Step(line[2:], part != "run"))
        elif part and script.steps and line.startswith("exit "):
            script.steps[-1].code = int(line[5:])
        elif part and script.steps and LINE.fullmatch(line):
            script.steps[-1].expected.append(line)
        elif part and line.strip():
            raise ValueError(f"not a line of a script: {line!r}")
    return script


def run(step: Step, folder: Path) -> Result:
    """Run the command of `step` in `folder`."""
    words = shlex.split(step.command)
    env = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        env[name] = value
    assert words[:1] == ["sim"], f"a script runs sim and nothing else: {step.command}"
    if step.process:
        path = os.pathsep.join([str(ROOM), *filter(None, [os.environ.get("PYTHONPATH")])])
        argv = [sys.executable, "-c", "from sim.cli import main; main()", *words[1:]]
        done = subprocess.run(
            argv,
            cwd=folder,
            env={**os.environ, **env, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        return Result(done.returncode, done.stdout, done.stderr)
    done = CliRunner().invoke(cli, words[1:], prog_name="sim", env=env)
    return Result(done.exit_code, done.stdout, done.stderr)


def fits(expected: list[str], actual: list[str]) -> bool:
    """Say whether the lines of one stream are what a script expects."""
    if not expected:
        return not actual
    match = LINE.fullmatch(expected[0])
    assert match is not None
    if match["any"]:
        return any(fits(expected[1:], actual[skip:]) for skip in range(len(actual) + 1))
    if not actual:
        return False
    same = re.fullmatch(match["pattern"], actual[0]) if match["like"] else actual[0] == (match["text"] or "")
    return bool(same) and fits(expected[1:], actual[1:])


def shown(step: Step, result: Result, folder: Path) -> list[str]:
    """Return a command and what it did as lines of a script."""
    lines = [f"$ {step.command}"]
    for mark, text in ((">", result.out), ("!", result.err)):
        for line in text.replace(str(folder), "[DIR]").splitlines():
            lines.append(f"{mark} {line}".rstrip())
    return lines + ([f"exit {result.code}"] if result.code else [])


def failure(step: Step, result: Result, folder: Path) -> str | None:
    """Return how a result differs from what a script expects, or None."""
    actual = shown(step, result, folder)
    for mark, text in ((">", result.out), ("!", result.err)):
        lines = [line.rstrip() for line in text.replace(str(folder), "[DIR]").splitlines()]
        if not fits([line for line in step.expected if line.startswith(mark)], lines):
            break
    else:
        if result.code == step.code:
            return None
    expected = [f"$ {step.command}", *step.expected, *([f"exit {step.code}"] if step.code else [])]
    return "\n".join(["expected:", *expected, "", "actual:", *actual])


def rewritten(text: str, done: list[tuple[Step, Result]], folder: Path) -> str:
    """Return a script with what its commands really did."""
    results: Iterator[tuple[Step, Result]] = iter(done)
    lines: list[str] = []
    part = ""
    for line in text.splitlines():
        part = line[4:].strip() if line.startswith("--- ") else part
        commands = part in ("run", "run as process")
        if commands and line.startswith("$ "):
            step, result = next(results)
            same = failure(step, result, folder) is None
            tail = [f"exit {step.code}"] if step.code else []
            lines += [line, *step.expected, *tail] if same else shown(step, result, folder)
        elif not commands or not (LINE.fullmatch(line) or line.startswith("exit ")):
            lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.fixture
def toy_room(monkeypatch):
    """Install the toy room for this test, and forget it afterwards."""
    monkeypatch.syspath_prepend(str(ROOM))
    yield
    for name in [each for each in sys.modules if each.partition(".")[0] == "toyroom"]:
        del sys.modules[name]


@pytest.mark.parametrize("file", SCRIPTS, ids=[file.stem for file in SCRIPTS])
def test_script(file: Path, tmp_path, monkeypatch, toy_room):
    """Every command of the script does exactly what the script says."""
    text = file.read_text(encoding="utf-8")
    script = parse(text)
    for name, content in script.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = [(step, run(step, tmp_path)) for step in script.steps]
    failures = [found for step, result in done if (found := failure(step, result, tmp_path))]
    if failures and os.environ.get("SIM_UPDATE_SCRIPTS"):
        file.write_text(rewritten(text, done, tmp_path), encoding="utf-8")
    assert not failures, "\n\n".join(failures)
    assert script.steps, "a script that runs nothing proves nothing"


def test_there_are_scripts():
    """The scripts are found."""
    assert {"check", "list", "schema", "verbs"} <= {file.stem for file in SCRIPTS}


@pytest.mark.parametrize(
    ("expected", "out", "err", "code", "same"),
    [
        (["> a", "! b"], "a\n", "b\n", 0, True),
        (["> a"], "a\nb\n", "", 0, False),
        (["> a"], "a\n", "b\n", 0, False),
        (["> a"], "a\n", "", 1, False),
        ([">~ [0-9]+ s", ">"], "12 s\n\n", "", 0, True),
        ([">~ [0-9]+"], "12 s\n", "", 0, False),
        (["> a", ">...", "> z"], "a\nb\nc\nz\n", "", 0, True),
        (["> a", ">...", "> z"], "a\nb\n", "", 0, False),
        ([], "", "", 0, True),
    ],
)
def test_the_runner_notices_every_difference(expected, out, err, code, same, tmp_path):
    """A line more, a line less, another stream or another code is a failure."""
    assert (failure(Step("sim x", False, expected), Result(code, out, err), tmp_path) is None) is same


def test_the_runner_rewrites_only_what_differs(tmp_path):
    """An update keeps prose, files and the patterns that still fit."""
    text = "Prose.\n--- f.yaml\n> not output\n--- run\n$ sim a\n>~ .*\n\n$ sim b\n> old\nexit 3\n"
    first, second = parse(text).steps
    done = [(first, Result(0, "new\n", "")), (second, Result(0, "new\n", ""))]
    assert rewritten(text, done, tmp_path) == text.replace("> old\nexit 3\n", "> new\n")
