"""What several runs come to: the summary for people, for machines, as Markdown and as one JUnit document."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from sim.cli._many import Ran, Summary, as_json, junit, markdown, text

HERE = Path.cwd()
WHOLE = Summary(
    (
        Ran("one", "passed", 0, folder=HERE / "runs/1-one", took_s=12.34),
        Ran(
            "two_b", "failed", 1, "act", ("act: block was not done", "odd\x1b[31m: <b>|"), HERE / "runs/2-two_b", 300.0
        ),
        Ran("three", "invalid", 3, reasons=("unknown injector 'x'",)),
        Ran("four", "not run", 3),
    ),
    3,
    330.0,
)


def test_for_people() -> None:
    """What passed, what did not and why, where each run lies, the total time and the exit code."""
    assert text(WHOLE) == (
        "SUMMARY: 1 of 4 passed, 1 failed, 1 invalid, 1 not run; total 330s, exit code 3\n"
        "  ✓ one    passed         12.3s   runs/1-one\n"
        "  ✗ two_b  failed at act  300.0s  runs/2-two_b\n"
        "      because act: block was not done\n"
        "      because odd�[31m: <b>|\n"
        "  ✗ three  invalid        -\n"
        "      because unknown injector 'x'\n"
        "  · four   not run        -\n"
    )


def test_for_machines() -> None:
    """The same, whole."""
    told = json.loads(as_json(WHOLE))
    assert {key: told[key] for key in ("format", "exit_code", "total_s")} == {
        "format": 1, "exit_code": 3, "total_s": 330.0,
    }  # fmt: skip
    assert told["runs"][1] == {
        "exercise": "two_b", "outcome": "failed", "exit_code": 1, "link": "act",
        "reasons": ["act: block was not done", "odd\x1b[31m: <b>|"], "folder": str(HERE / "runs/2-two_b"),
        "took_s": 300.0,
    }  # fmt: skip
    assert [(run["exercise"], run["folder"]) for run in told["runs"][2:]] == [("three", None), ("four", None)]


def test_as_markdown() -> None:
    """A table, the reasons, and each run in full: folded where it passed. Nothing foreign acts as Markdown or HTML."""
    reports = [(WHOLE.runs[0], "### PASSED\n"), (WHOLE.runs[1], "### FAILED\n")]
    assert markdown(WHOLE, reports) == (
        "## 1 of 4 passed, 1 failed, 1 invalid, 1 not run; total 330s, exit code 3\n"
        "\n"
        "| | exercise | outcome | took | run |\n"
        "|---|---|---|---|---|\n"
        "| ✓ | one | passed | 12.3s | runs/1-one |\n"
        "| ✗ | two\\_b | failed at act | 300.0s | runs/2-two\\_b |\n"
        "| ✗ | three | invalid | \\- |  |\n"
        "| · | four | not run | \\- |  |\n"
        "\n"
        "- two\\_b: act: block was not done\n"
        "- two\\_b: odd�\\[31m: \\<b\\>\\|\n"
        "- three: unknown injector 'x'\n"
        "\n"
        "<details><summary>one in full</summary>\n"
        "\n"
        "### PASSED\n"
        "\n"
        "</details>\n"
        "\n"
        "<details open><summary>two\\_b in full</summary>\n"
        "\n"
        "### FAILED\n"
        "\n"
        "</details>\n"
    )


ONE = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="sim" tests="2" failures="1" errors="0" skipped="0" time="1.000">
  <testsuite name="one" tests="2" failures="1" errors="0" skipped="0" time="1.000"><testcase name="act"/></testsuite>
</testsuites>
"""


def test_as_one_junit_document() -> None:
    """The suites of all, their sums, and one error for each exercise without a run; a second suite has its number."""
    root = ElementTree.fromstring(junit(WHOLE, [(WHOLE.runs[0], ONE), (WHOLE.runs[1], ONE)]))
    assert root.attrib == {
        "name": "sim", "tests": "6", "failures": "2", "errors": "2", "skipped": "0", "time": "330.000",
    }  # fmt: skip
    assert [suite.get("name") for suite in root] == ["one", "one #2", "three", "four"]
    errors = [
        (case.get("classname"), case[0].tag, case[0].get("message")) for case in root.iter("testcase") if len(case)
    ]
    assert errors == [
        ("sim.three", "error", "invalid: unknown injector 'x'"),
        ("sim.four", "error", "not run: no reason recorded"),
    ]


def test_a_run_without_a_report_is_red_in_the_junit_document() -> None:
    """A record that could not be written leaves a folder and no report: nobody may take that for a run that passed."""
    runs = (WHOLE.runs[0], Ran("two", "inconclusive", 4, "record", ("no space left",), HERE / "runs/2-two", 1.0))
    root = ElementTree.fromstring(junit(Summary(runs, 4, 2.0), [(runs[0], ONE)]))
    assert [(suite.get("name"), suite.get("errors")) for suite in root] == [("one", "0"), ("two", "1")]
