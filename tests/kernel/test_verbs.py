"""The verbs around a run: what they refuse, what they print, and what they end with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sim.catalogue import catalogue
from sim.cli import cli
from sim.cli import run as run_verb
from sim.cli._many import Ran
from sim.cli._resolved import Asked
from sim.log import canonical
from sim.refusal import Refusal
from tests.kernel.scripted import Script, bent, play


def verb(*args: str) -> tuple[int, str, str]:
    """Run `sim ARGS`; return code, standard output and standard error."""
    done = CliRunner().invoke(cli, list(args))
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with three finished runs."""
    root = tmp_path_factory.mktemp("project")
    (root / "sim.toml").write_text("")
    scripts = {"good": Script(), "deaf": bent(fire=None), "stuck": bent(sticky=99)}
    for name, script in scripts.items():
        folder = root / "runs" / name
        folder.mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patched:
            play(folder, patched, script)
    return root / "runs"


@pytest.fixture
def project(tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project's runs folder, with the project as working directory."""
    shutil.copytree(runs.parent, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project" / "runs"


@pytest.mark.parametrize(("name", "code", "first"), [
    ("good", 0, "passed: drill"),
    ("deaf", 1, "failed: drill (link: detect)"),
    ("stuck", 6, "unsafe: drill (link: withdraw)"),
])  # fmt: skip
def test_judge_says_what_the_run_said(project: Path, name: str, code: int, first: str) -> None:
    """By name and by path; the code is the outcome's; the bytes are those of verdicts.json."""
    assert verb("judge", name, "--check")[:1] == (code,)
    found, out, _ = verb("judge", str(project / name))
    assert (found, out.splitlines()[0]) == (code, first)
    found, out, _ = verb("judge", name, "--format", "json")
    assert (found, out) == (code, (project / name / "verdicts.json").read_text())


def edited(path: Path, before: bytes, after: bytes) -> None:
    """Replace bytes that must be there."""
    raw = path.read_bytes()
    assert before in raw
    path.write_bytes(raw.replace(before, after, 1))


def test_judge_notices_an_altered_record(project: Path) -> None:
    """8, with file and line; whatever the verdicts would be."""
    edited(project / "deaf" / "log.jsonl", b'"check":"environment"', b'"check":"environmenT"')
    code, _, err = verb("judge", "deaf")
    assert (code, "the chain is broken" in err) == (8, True)


def test_judge_notices_an_altered_plan(project: Path) -> None:
    """Budgets loosened afterwards: the record carries the digest of the plan that it was made of."""
    path = project / "deaf" / "plan.json"
    plan = json.loads(path.read_text())
    for clause in plan["clauses"]:
        clause["within_s"] = 9999
    path.write_text(canonical(plan) + "\n")
    code, _, err = verb("judge", "deaf")
    assert (code, "is not the plan that this record was made of" in err) == (8, True)


def test_judge_notices_altered_verdicts(project: Path) -> None:
    """What the run itself wrote down is compared byte by byte: 8 when one of them was altered."""
    edited(project / "deaf" / "verdicts.json", b'"failed"', b'"passed"')
    code, _, err = verb("judge", "deaf")
    assert (code, "verdicts.json differs from what the record proves" in err) == (8, True)


def test_judge_notices_an_altered_last_line(project: Path) -> None:
    """No line follows that would carry its hash: the verdicts name the head of the record."""
    path = project / "good" / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[-1] = lines[-1].replace(b'"wall":1', b'"wall":2')
    path.write_bytes(b"".join(lines))
    assert verb("judge", "good")[0] == 8


def test_judge_notices_a_record_that_was_cut(project: Path) -> None:
    """Cut at the end of a line the chain still holds; the verdicts name how many lines there were."""
    path = project / "deaf" / "log.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert verb("judge", "deaf")[0] == 8


def test_judge_of_files_that_are_no_evidence(project: Path) -> None:
    """Verdicts or a plan that are not even text: 8."""
    (project / "deaf" / "verdicts.json").write_bytes(b"\xff\xfe")
    assert verb("judge", "deaf")[0] == 8
    (project / "good" / "plan.json").write_bytes(b"\xff\xfe")
    assert verb("judge", "good")[0] == 8


def test_judge_of_a_run_that_was_killed_is_unsafe(project: Path) -> None:
    """The record ends with the fault in place: nobody read it back gone. --check asks for verdicts to compare with."""
    path = project / "good" / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    cut = next(number for number, line in enumerate(lines) if b'"fault.withdrawing"' in line)
    path.write_bytes(b"".join(lines[:cut]) + lines[cut][:20])
    (project / "good" / "verdicts.json").unlink()
    code, out, err = verb("judge", "good")
    assert (code, out.splitlines()[0]) == (6, "unsafe: drill (link: withdraw)")
    assert "no verdicts.json" in err
    assert verb("judge", "good", "--check")[0] == 8


def test_judge_prints_nothing_that_steers_a_terminal(project: Path) -> None:
    """Text from the target is foreign."""
    code, out, err = verb("judge", "deaf")
    assert code == 1
    assert all(char.isprintable() or char == "\n" for char in out + err)


EMPTY = [
    ("no such run", [], "'nowhere' is no run", 2),
    ("no plan", ["log.jsonl"], "is no run", 2),
    ("no record", ["plan.json"], "log.jsonl", 2),
]


@pytest.mark.parametrize(("left", "why", "code"), [row[1:] for row in EMPTY], ids=[row[0] for row in EMPTY])
def test_judge_of_what_is_no_run(project: Path, left: list[str], why: str, code: int) -> None:
    """Usage, with what is missing."""
    folder = project / "nowhere"
    if left:
        folder.mkdir()
    for name in left:
        shutil.copy(project / "good" / name, folder / name)
    found, _, err = verb("judge", "nowhere")
    assert (found, why in err) == (code, True)


def test_judge_offers_the_nearest_name(project: Path) -> None:
    """A run's name is long; a slip is met with the one that was meant."""
    code, _, err = verb("judge", "goood")
    assert (code, "did you mean 'good'?" in err) == (2, True)


def test_judge_of_an_empty_record_is_not_a_verdict(project: Path) -> None:
    """A record that does not begin with the opening of a run proves nothing: 8."""
    (project / "good" / "log.jsonl").write_bytes(b"")
    assert verb("judge", "good")[0] == 8


# -- plan and run ------------------------------------------------------------------------------------------------

TARGET = """
target: bare
environment: lab
identity: {url: 'http://127.0.0.1:9/identity'}
doors: {engine: {url: 'http://127.0.0.1:9'}}
observers: {api: {kind: http_state, url: 'http://127.0.0.1:9/state'}}
facts:
  gate: {kind: state, from: api, stage: act, path: gate, values: [open, blocked]}
steady_state: gate=='open'
"""

EXERCISES = """
exercises:
  wrong:
    inject: no.such_fault(x=1)
    expect: gate=='blocked'
    tags: [d3]
"""

OPTIONS = run_verb.Options("default", False, None, "text", False, {}, {}, {}, None, None)

FINE = "exercises:\n  fine:\n    inject: events.delay('resolution_finished', hours=1)\n    expect: gate=='blocked'\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with one target and one exercise that cannot be resolved."""
    (tmp_path / "sim.toml").write_text("")
    (tmp_path / "scenarios" / "targets").mkdir(parents=True)
    (tmp_path / "scenarios" / "targets" / "bare.yaml").write_text(TARGET)
    (tmp_path / "scenarios" / "drills.yaml").write_text(EXERCISES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["plan", "run"])
def test_an_exercise_that_cannot_be_resolved_is_three(files: Path, name: str) -> None:
    """With place and caret on standard error; nothing is opened, and no run folder is made."""
    code, out, err = verb(name, "wrong", "--target", "bare")
    assert code == 3
    assert "drills.yaml:4:13: error: wrong.inject: unknown injector 'no.such_fault'" in err
    assert out.strip() == ""
    assert not (files / "runs").exists()


ASKED = [
    ("nothing selected", ["--tag", "none"], 5),
    ("an unknown name", ["nope"], 5),
    ("an unknown target", ["wrong", "--target", "bear"], 2),
    ("an unknown option", ["wrong", "--fast"], 2),
]


@pytest.mark.parametrize("name", ["plan", "run"])
@pytest.mark.parametrize(("args", "code"), [row[1:] for row in ASKED], ids=[row[0] for row in ASKED])
def test_what_is_asked_for_must_be_there(files: Path, name: str, args: list[str], code: int) -> None:
    """5 for nothing selected, 2 for what cannot be meant."""
    more = [] if "--target" in args else ["--target", "bare"]
    assert verb(name, *args, *more)[0] in ({code, 2} if code == 5 else {code})


def test_several_end_with_one_summary(files: Path) -> None:
    """None can run: each is named with its reason, for people and for machines, and in the files asked for."""
    scenarios = "exercises:\n  a:\n    inject: no.a()\n    expect: x\n  b:\n    inject: no.b()\n    expect: x\n"
    (files / "two.yaml").write_text(scenarios)
    where = ["two.yaml", "--target", "bare", "--summary", "all.md", "--junit", "all.xml"]
    code, out, _ = verb("run", *where)
    assert (code, out.splitlines()[1].partition(" total")[0]) == (3, "SUMMARY: 0 of 2 passed, 2 invalid;")
    assert [line.split()[1:3] for line in out.splitlines() if " ✗ " in line] == [["a", "invalid"], ["b", "invalid"]]
    assert "      because unknown injector 'no.a'" in out.splitlines()
    assert (files / "all.md").read_text().startswith("## 0 of 2 passed, 2 invalid; total")
    assert (files / "all.xml").read_text().count("<testsuite ") == 2
    told = json.loads(verb("run", *where, "--format", "json")[1])
    assert [(each["exercise"], each["exit_code"]) for each in told["runs"]] == [("a", 3), ("b", 3)]


def test_what_ends_the_command_leaves_a_summary_all_the_same(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack does not come up: none has run, the job has its document with the reason, and the code stays."""

    def refuse(*_: Any) -> int:
        raise Refusal("no free port")

    monkeypatch.setattr("sim.cli.run._on_stack", refuse)
    (files / "fine.yaml").write_text(FINE)
    code, _, err = verb("run", "fine.yaml", "--target", "bare", "--summary", "all.md", "--junit", "all.xml")
    assert (code, err.strip()) == (3, "error: no free port")
    assert "## 0 of 1 passed, 1 not run; total" in (files / "all.md").read_text()
    assert 'message="not run: no free port"' in (files / "all.xml").read_text()


def test_each_run_that_was_not_made_is_named(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one of that name has run: two files may call an exercise the same, and one may be repeated."""

    def halted(*args: Any) -> int:
        args[3].append(Ran("fine", "aborted", 143))
        return 0

    monkeypatch.setattr("sim.cli.run._on_stack", halted)
    (files / "fine.yaml").write_text(FINE)
    (files / "more.yaml").write_text(FINE + "    repeat: 2\n")
    code, out, _ = verb("run", "fine.yaml", "more.yaml", "--target", "bare", "--junit", "all.xml")
    assert (code, out.splitlines()[1].partition(" total")[0]) == (
        143, "SUMMARY: 0 of 3 passed, 1 aborted, 2 not run;",
    )  # fmt: skip
    assert (files / "all.xml").read_text().count("<testsuite ") == 3


def test_every_tag_is_on_something(files: Path) -> None:
    """A tag that is misspelt beside another would leave out its exercises, and the rest would pass for all."""
    code, _, err = verb("run", "--tag", "d3", "--tag", "d44", "--target", "bare")
    assert (code, err.splitlines()[0]) == (5, "error: no exercise has the tag 'd44'")
    assert verb("run", "wrong", "--tag", "d3", "--tag", "d44", "--target", "bare")[0] == 3  # named, and has one of them


def test_a_report_that_cannot_be_written_costs_the_report_alone(project: Path, capsys: Any) -> None:
    """The run is over and judged: what it came to is told, the other reports are there, nothing is half there."""
    folder = project / "good"
    (folder / "report.junit.xml").mkdir()
    run_verb._render(Asked(None, catalogue(), None, Path(), ()), folder, OPTIONS)  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    assert (out.splitlines()[0], "report.junit.xml" in err) == ("PASSED: drill on scripted, live, n=1", True)
    assert sorted(each.name for each in folder.glob("report.*") if each.is_file()) == [
        "report.json", "report.md", "report.txt",
    ]  # fmt: skip


RUN_ONLY = [
    (
        "a summary without a folder",
        ["--summary", "nowhere/all.md"],
        "--summary nowhere/all.md: nowhere must be a folder",
    ),
    ("JUnit over a folder", ["--junit", "scenarios"], "--junit scenarios: . must be a folder, scenarios a file in it"),
    ("a reason is missing", ["--allow-firing", "Flood"], "--allow-firing takes NAME="),
    ("an empty reason", ["--allow-firing", "Flood="], "--allow-firing takes NAME="),
    ("a report without a place", ["--report", "junit"], "--report takes NAME="),
    ("an unknown report", ["--report", "junitt=x.xml"], "no report 'junitt'"),
]


@pytest.mark.parametrize(("args", "why"), [row[1:] for row in RUN_ONLY], ids=[row[0] for row in RUN_ONLY])
def test_options_of_run_that_make_no_sense(files: Path, args: list[str], why: str) -> None:
    """Usage, before anything is loaded or opened."""
    code, _, err = verb("run", "wrong", "--target", "bare", *args)
    assert (code, why in err) == (2, True)


def test_completion_prints_a_script() -> None:
    """One for each shell; another shell is a usage error."""
    for shell in ("bash", "zsh", "fish"):
        code, out, _ = verb("completion", shell)
        assert (code, "_SIM_COMPLETE" in out) == (0, True)
    assert verb("completion", "tcsh")[0] == 2


def test_progress_prints_nothing_that_steers_a_terminal(tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    """A receiver's address with an escape sequence, an alert's name with a line break: shown, and harmless."""
    from sim.cli._progress import Progress

    progress = Progress(live=False)
    monkeypatch.setenv("NO_COLOR", "1")
    play(
        tmp_path, monkeypatch, bent(address="#te\x1b[2Jam\nfake  ✓ passed"),
        on_event=progress.event, on_judge=progress.judging,
    )  # fmt: skip
    _, err = capfd.readouterr()
    assert "#te" in err
    assert all(char.isprintable() or char == "\n" for char in err)
    assert not any(line.startswith("fake") for line in err.splitlines())
