"""The machine-readable report."""

from __future__ import annotations

import json

import finished_runs as made
import pytest

from reports import json as room


def read(finished):
    """Return the rendered object, refusing what JSON does not have."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(room.report.render(finished), parse_constant=refuse)


def test_the_run_is_told_in_one_object():
    """Name, plan, outcome and marks of a passed run, as they are."""
    told = read(made.passed())
    lists = ("clauses", "stages", "timing", "observers", "faults", "restore", "checks")
    assert {name: value for name, value in told.items() if name not in lists} == {
        "format": 1,
        "run": "r-1",
        "outcome": "passed",
        "exit_code": 0,
        "link": None,
        "reasons": [],
        "recover_command": None,
        "exercise": "slow_answers",
        "title": None,
        "target": "shop",
        "plan": "d" * 64,
        "sim": "0.1.0",
        "hook": "slow",
        "owner": "SRE",
        "time": "live",
        "n": 1,
        "opened_wall": made.WALL,
        "t0_wall": made.WALL + 10,
        "duration_s": 40.0,
        "marks": made.MARKS,
        "environment": {"expected": "lab", "said": "lab, instance a1"},
        "past": None,
        "collateral": [],
        "stopped": [],
        "notes": [],
        "errors": [],
    }


def test_every_clause_keeps_what_the_verdict_says():
    """Each verdict of the file stands in the report, with the anchor that its times count from."""
    told = {clause["clause"]: clause for clause in read(made.failed())["clauses"]}
    assert list(told) == ["effect", "detect", "act", "expect.1", "notify:slack", "never.1", "only", "recover"]
    assert told["act"] == {
        "clause": "act",
        "origin": "implied",
        "stage": "act",
        "kind": "action",
        "channel": None,
        "text": "block is done and its effect read back",
        "value": "missed",
        "anchor": "t0",
        "budget_s": 20.0,
        "took_s": None,
        "from_effective_s": None,
        "late_s": 14.0,
        "expected": "block is done and its effect read back",
        "actual": "block was not done",
        "reason": "block was not done",
        "because": [],
    }
    assert {name: (each["anchor"], each["budget_s"]) for name, each in told.items() if name in ("only", "recover")} == {
        "only": ("t0", None),
        "recover": ("gone", 180.0),
    }


def test_stages_stand_beside_the_bounds_of_the_chain():
    """Took, budget, floor, expected, worst and the lateness of those who looked, for each timed link."""
    bounds = {"floor_s": 1.0, "expected_s": 3.0, "worst_s": 5.0, "lateness_s": 0.31}
    assert read(made.failed())["stages"] == [
        {"stage": "detect", "took_s": 3.4, "from_effective_s": 2.2, "budget_s": 15.0, **bounds}
        | {"expected_s": 2.5, "worst_s": 4.0},
        {"stage": "act", "took_s": None, "from_effective_s": None, "budget_s": 20.0, **bounds},
        {"stage": "notify", "took_s": 4.5, "from_effective_s": 3.3, "budget_s": 25.0, **bounds},
    ]


def test_the_fault_is_told_from_prepare_to_gone():
    """What was injected, where, when, and the evidence of its effect and of its end."""
    told = read(made.passed())
    assert told["faults"] == [
        {
            "id": "ab-1",
            "injector": "net.delay",
            "text": "net.delay('+1s')",
            "lease": "target",
            "targets": ["edge", "core"],
            "applied_at": 10.1,
            "effective_at": 11.2,
            "withdrawing_at": 20.0,
            "gone_at": 20.5,
            "effective": {"delay_s": 1.01, "open": True},
            "gone": {"open": False},
            "held": None,
            "unheld": None,
            "stuck": None,
        }
    ]
    called = {"fact": "gate", "reads": "blocked", "prior": "open", "by": "runner"}
    assert told["restore"] == {"called": [called], "differs": []}


def test_an_unsafe_run_carries_the_command_that_finishes_it():
    """A machine that reads the report knows what to run next."""
    told = read(made.unsafe())
    assert (told["outcome"], told["exit_code"], told["recover_command"]) == ("unsafe", 6, "sim recover 'r 1'")
    assert told["faults"][0]["stuck"] == "still there: open True"
    assert told["restore"]["differs"] == ["gate reads 'blocked', was 'open'"]


def test_only_what_began_meanwhile_and_is_not_ours_is_collateral():
    """An alert from before, one that is pending and the fault's own are no collateral."""
    assert read(made.failed())["collateral"] == [
        {
            "name": "DiskFull",
            "labels": {"alertname": "DiskFull", "disk": "sda"},
            "at_s": 2.5,
            "source": "prom",
            "event": 12,
        }
    ]


def test_collateral_is_told_by_the_clock_that_stamps_alerts():
    """A source whose clock is a minute behind stamps an alert of ours as old; it is collateral all the same."""
    slow = (9.0, "prom", "observer.offset", {"offset_s": -60.0, "error_s": 0.01})
    rows = [*made.opening(), slow, *made.injected(), made.firing(12.5, "DiskFull", began=-47.5), *made.closing()]
    assert [each["name"] for each in read(made.finished(rows))["collateral"]] == ["DiskFull"]


def test_an_observer_tells_when_it_was_blind():
    """Looks, misses, lateness, clock and every blind span with its reason."""
    blind = [
        (22.0, "prom", "observer.blind", {"error": "connection refused", "since": 21.5}),
        (25.0, "prom", "observer.seeing", {}),
        (39.9, "prom", "observer.blind", {"error": "timed out", "since": 39.0}),
    ]
    rows = sorted([*made.opening(), *made.injected(), *made.withdrawn(), *blind, *made.closing()], key=lambda r: r[0])
    told = {each["name"]: each for each in read(made.finished(rows))["observers"]}
    assert told["prom"] == {
        "name": "prom",
        "kind": "prometheus",
        "every_s": 0.25,
        "polls": 200,
        "misses": 0,
        "lateness_s": 0.31,
        "offset_s": 0.002,
        "offset_error_s": 0.006,
        "blind": [
            {"from_s": 21.5, "to_s": 25.0, "error": "connection refused"},
            {"from_s": 39.0, "to_s": None, "error": "timed out"},
        ],
    }


@pytest.mark.parametrize("run", made.ALL.values(), ids=made.ALL)
def test_the_output_is_ascii_and_the_same_each_time(run):
    """The same folder gives the same bytes, readable in any locale."""
    text = room.report.render(run())
    assert text.isascii()
    assert text == room.report.render(run())
