"""The JUnit report, read back with the library that others read it with."""

from __future__ import annotations

import finished_runs as made
import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml, Skipped

from reports import junit
from sim.judge import judge
from sim.judge.verdict import Outcome
from sim.report import Finished

KINDS = {Failure: "failure", Error: "error", Skipped: "skipped"}


def read(finished):
    """Return the one suite of a rendered run, and its cases as (name, colour, message)."""
    (suite,) = JUnitXml.fromstring(junit.report.render(finished).encode())
    cases = []
    for case in suite:
        (result,) = case.result or (None,)
        cases.append((case.name, KINDS[type(result)] if result else "passed", result.message if result else ""))
    return suite, cases


def colours(finished):
    """Return the colour of every case, by its name."""
    return {name: colour for name, colour, _ in read(finished)[1]}


def properties(element):
    """Return the properties of a suite or case."""
    return {each.get("name"): each.get("value") for each in element._elem.find("properties")}


NAMES = [
    "preflight",
    "effect",
    "detect",
    "act",
    "expect.1 action == 'block'",
    "notify:SRE/slack",
    "never.1 notify == 'FE'",
    "only",
    "recover",
    "withdraw",
    "restore",
]


def test_a_run_that_passed_is_green_throughout():
    """Every case of a passed run passed, and the suite counts them."""
    suite, cases = read(made.passed())
    assert cases == [(name, "passed", "") for name in NAMES]
    assert (suite.name, suite.tests, suite.failures, suite.errors, suite.skipped) == ("slow_answers", 11, 0, 0, 0)
    assert (suite.time, suite.timestamp) == (40.0, "2023-11-14T22:13:20")
    assert properties(suite) == {
        "run_id": "r-1",
        "outcome": "passed",
        "exit_code": "0",
        "target": "shop",
        "plan": "d" * 64,
        "time_mode": "live",
        "n": "1",
    }


def test_a_case_carries_its_time_and_its_bounds():
    """A link's time, budget and the bounds of the chain can be plotted from the file alone."""
    suite, _ = read(made.passed())
    case = next(case for case in suite if case.name == "detect")
    assert (case.classname, case.time) == ("shop.slow_answers", 3.4)
    assert properties(case) == {
        "verdict": "met",
        "counts_from": "t0",
        "budget_s": "15",
        "from_effective_s": "2.2",
        "floor_s": "1",
        "expected_s": "2.5",
        "worst_s": "4",
    }


def test_missed_is_a_failure_and_unknown_an_error():
    """What failed and what nobody could see have different colours, and both are red."""
    _, cases = read(made.failed())
    red = [case for case in cases if case[1] != "passed"]
    assert red == [
        ("act", "failure", "block was not done"),
        ("never.1 notify == 'FE'", "failure", "it came true: FE was told"),
        ("recover", "error", "prom was blind from +30.1 s: refused"),
    ]


def test_a_failure_tells_expected_actual_events_and_lateness():
    """The body of a failure is enough to understand it without the run folder."""
    suite, _ = read(made.failed())
    texts = {case.name: case.result[0].text for case in suite if case.result}
    assert texts == {
        "act": "expected: block is done and its effect read back\nactual: block was not done\narrived 14 s late",
        "never.1 notify == 'FE'": "expected: notify == 'FE'\nactual: FE was told\nevents: #19",
        "recover": "expected: all is well again\nactual: nothing was seen",
    }


def test_a_refused_run_is_red_once_and_skipped_for_the_rest():
    """All skipped would be green for Jenkins; the refusal itself is an error."""
    _, cases = read(made.refused())
    refusal = "refused before t0: foreign alert: DiskFull is firing; --allow-firing goes on all the same"
    spared = {"withdraw": "no fault was applied", "restore": "nothing was touched"}
    rest = [(name, "skipped", spared.get(name, "not judged: refused before t0")) for name in NAMES[1:]]
    assert cases == [("preflight", "error", refusal), *rest]


def test_a_fault_that_never_bit_fails_nothing_and_is_red():
    """Clauses that ran out of time behind an unproven fault are not failures of the target."""
    found = colours(made.ineffective())
    assert found == {
        **dict.fromkeys(NAMES, "skipped"),
        **dict.fromkeys(("preflight", "withdraw", "restore"), "passed"),
        "effect": "error",
    }


def test_an_unsafe_run_fails_where_it_is_unsafe_and_names_the_command():
    """A fault that is not gone and a target that is not back are failures that say how to finish."""
    suite, cases = read(made.unsafe())
    told = {name: (colour, message) for name, colour, message in cases}
    assert told["withdraw"] == (
        "failure",
        "not proven gone: ab-1 (net.delay): still there: open True; finish it with: sim recover 'r 1'",
    )
    assert told["restore"] == (
        "failure",
        "not put back: gate reads 'blocked', was 'open'; finish it with: sim recover 'r 1'",
    )
    assert properties(suite)["recover_command"] == "sim recover 'r 1'"


def test_our_own_bug_is_red_even_if_every_clause_was_met():
    """An error of the harness has a case of its own."""
    _, cases = read(made.broken())
    assert cases[-1] == ("run", "error", "error: KeyError: 'x'")


@pytest.mark.parametrize("run", made.ALL.values(), ids=made.ALL)
def test_no_two_cases_of_a_suite_have_one_name(run):
    """GitLab counts only the first of two cases with the same name."""
    names = list(colours(run()))
    assert len(names) == len({name for name, *_ in read(run())[1]}) == len(read(run())[1])


outcomes = st.sampled_from(list(Outcome))
values = st.fixed_dictionaries(
    {clause.id: st.sampled_from(["met", "missed", "unknown", "pending"]) for clause in made.CLAUSES}
)


@given(outcomes, values, st.sampled_from([None, "effect", "act", "withdraw", "restore", "foreign alert"]))
def test_whatever_the_verdicts_a_run_that_did_not_pass_is_never_green(outcome, values, link):
    """The colour of the file follows the outcome, not only the clauses."""
    verdicts = {name: made.verdict(name, value) for name, value in values.items()}
    _, cases = read(made.finished(None, verdicts, outcome, link))
    if outcome is not Outcome.PASSED:
        assert {colour for _, colour, _ in cases} & {"failure", "error"}


@given(st.integers(0, 99), st.sampled_from(sorted(made.ALL)))
def test_any_beginning_of_a_record_gives_a_red_report(length, kind):
    """A record that was cut short anywhere renders, and is red unless the judge says that it passed."""
    whole = made.ALL[kind]()
    events = whole.events[:length]
    judgement = judge(made.PLAN, events)
    finished = Finished("cut", made.PLAN, judgement.as_json(), events)
    _, cases = read(finished)
    red = bool({colour for _, colour, _ in cases} & {"failure", "error"})
    assert red is (judgement.outcome is not Outcome.PASSED)


@given(st.text(st.characters(), max_size=40))
def test_any_text_from_the_target_gives_well_formed_xml(text):
    """Control characters, surrogates and markup in what the target says cannot break the file."""
    verdicts = {"act": made.verdict("act", "missed", reason=f"<{text}>", actual=text)}
    _, cases = read(made.finished(None, verdicts, Outcome.FAILED, "act", (f"act: {text}",)))
    assert ("act", "failure") in [case[:2] for case in cases]


def test_invisible_characters_are_spelled_out():
    """What XML cannot carry is shown by its escape, not dropped."""
    verdicts = {"act": made.verdict("act", "missed", reason="a\x00b\x1b[31m\ud800\uffff")}
    _, cases = read(made.finished(None, verdicts, Outcome.FAILED, "act", ("act: x",)))
    assert ("act", "failure", "a\\x00b\\x1b[31m\\ud800\\uffff") in cases
