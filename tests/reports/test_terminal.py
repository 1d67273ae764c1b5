"""The report for people, compared whole with what it must say."""

from __future__ import annotations

import finished_runs as made
import pytest

from reports import terminal
from sim.judge.verdict import Outcome

PASSED = """\
PASSED: slow_answers on shop, live, n=1
  run r-1, exit code 0

  verdict   clause             from t0 from bite  budget  seen
  ✓ met     effect              +1.20s         -     10s  proven by the injector's own probe
  ✓ met     detect              +3.40s    +2.20s     15s  TooSlow is firing
  ✓ met     act                 +4.10s    +2.90s     20s  done and read back
  ✓ met     expect.1            +4.10s    +2.90s     20s  action == 'block' — action was 'block'
  ✓ met     notify:slack        +4.50s    +3.30s     25s  received at #sre
  ✓ met     never.1                  -         -       -  notify == 'FE' — no notify
  ✓ met     only                     -         -       -  nothing of the kind
  ✓ met     recover         gone+12.0s         -      3m  steady state, alerts resolved, actions
                                                          reversed

  timing of the chain: live configuration
    link        floor expected    worst   budget  measured
    detect         1s     2.5s       4s      15s  +3.40s, seen at most 310ms late
    act            1s       3s       5s      20s  +4.10s, seen at most 310ms late
    notify         1s       3s       5s      25s  +4.50s, seen at most 310ms late
    note     live for: 0s, declared 0s

  injected   net.delay('+1s') as ab-1, on edge, core
    applied    +0.10s
    effective  +1.20s  delay_s 1.01, open true
    withdrawn  +10.0s
    gone       +10.5s  open false
  restored   gate read blocked, set back to open
  put back   every state reads as it did at baseline

  observer        every  looks missed  latest    clock
  prom            250ms    200      0   310ms  +0.002s
  hooks           250ms    200      0   310ms        -
  inbox           500ms    100      0   310ms        -

  marks, from t0: t0 +0.00s, effective +1.20s, withdrawing +10.0s, gone +10.5s, closed +30.0s
"""

FAILED = """\
FAILED at act: slow_answers on shop, live, n=1
  run r-1, exit code 1

  verdict   clause             from t0 from bite  budget  seen
  ✓ met     effect              +1.20s         -     10s  proven by the injector's own probe
  ✓ met     detect              +3.40s    +2.20s     15s  TooSlow is firing
  ✗ missed  act                      -         -     20s  block was not done
            expected  block is done and its effect read back
            actual    block was not done
            late      arrived 14s after its budget was over
  ✓ met     expect.1            +4.10s    +2.90s     20s  action == 'block' — action was 'block'
  ✓ met     notify:slack        +4.50s    +3.30s     25s  received at #sre
  ✗ missed  never.1             +5.00s         -       -  notify == 'FE' — FE was told
            because   it came true: FE was told
            expected  notify == 'FE'
            actual    FE was told
            events    #19
  ✓ met     only                     -         -       -  nothing of the kind
  ? unknown recover                  -         -      3m  prom was blind from +30.1 s: refused
            expected  all is well again
            actual    nothing was seen

  timing of the chain: live configuration
    link        floor expected    worst   budget  measured
    detect         1s     2.5s       4s      15s  +3.40s, seen at most 310ms late
    act            1s       3s       5s      20s  never in time
    notify         1s       3s       5s      25s  +4.50s, seen at most 310ms late
    note     live for: 0s, declared 0s

  collateral: alerts that began after t0 and do not belong to this fault
    DiskFull fires at +2.50s, seen by prom (disk=sda)

  injected   net.delay('+1s') as ab-1, on edge, core
    applied    +0.10s
    effective  +1.20s  delay_s 1.01, open true
    withdrawn  +10.0s
    gone       +10.5s  open false
  restored   gate read blocked, set back to open
  put back   every state reads as it did at baseline

  observer        every  looks missed  latest    clock
  prom            250ms    200      0   310ms  +0.002s
  hooks           250ms    200      0   310ms        -
  inbox           500ms    100      0   310ms        -

  marks, from t0: t0 +0.00s, effective +1.20s, withdrawing +10.0s, gone +10.5s, closed +30.0s
"""

REFUSED = """\
INCONCLUSIVE at foreign alert: slow_answers on shop, live, n=1
  run r-1, exit code 4
  because foreign alert: DiskFull is firing; --allow-firing goes on all the same

  verdict   clause             from t0 from bite  budget  seen
  · void    effect                   -         -     10s  not judged: refused before t0
  · void    detect                   -         -     15s  not judged: refused before t0
  · void    act                      -         -     20s  not judged: refused before t0
  · void    expect.1                 -         -     20s  not judged: refused before t0
  · void    notify:slack             -         -     25s  not judged: refused before t0
  · void    never.1                  -         -       -  not judged: refused before t0
  · void    only                     -         -       -  not judged: refused before t0
  · void    recover                  -         -      3m  not judged: refused before t0

  nothing was injected

  observer        every  looks missed  latest    clock
  prom            250ms    200      0   310ms  +0.002s
  hooks           250ms    200      0   310ms        -
  inbox           500ms    100      0   310ms        -

  marks, from the opening of the record: closed +40.0s
"""

INEFFECTIVE = """\
INCONCLUSIVE at effect: slow_answers on shop, live, n=1
  run r-1, exit code 4

  verdict   clause             from t0 from bite  budget  seen
  ? unknown effect                   -         -     10s  the fault never bit: not seen to bite
                                                          within 10 s (delay_s 0)
            expected  the fault bites
            actual    nothing was seen
  · void    detect                   -         -     15s  not judged: the effect was never proven
  · void    act                      -         -     20s  not judged: the effect was never proven
  · void    expect.1                 -         -     20s  not judged: the effect was never proven
  · void    notify:slack             -         -     25s  not judged: the effect was never proven
  · void    never.1                  -         -       -  not judged: the effect was never proven
  · void    only                     -         -       -  not judged: the effect was never proven
  · void    recover                  -         -      3m  not judged: the effect was never proven

  injected   net.delay('+1s') as ab-1, on edge, core
    applied    +0.10s
    withdrawn  +10.0s
    gone       +10.5s  open false
  restored   gate read blocked, set back to open
  put back   every state reads as it did at baseline

  observer        every  looks missed  latest    clock
  prom            250ms    200      0   310ms  +0.002s
  hooks           250ms    200      0   310ms        -
  inbox           500ms    100      0   310ms        -

  marks, from t0: t0 +0.00s, withdrawing +10.0s, gone +10.5s, closed +30.0s
"""

UNSAFE = """\
UNSAFE at withdraw: slow_answers on shop, live, n=1
  run r 1, exit code 6
  finish it with: sim recover 'r 1'
  because ab-1 is not proven gone: still there: open True

  verdict   clause             from t0 from bite  budget  seen
  ✓ met     effect              +1.20s         -     10s  proven by the injector's own probe
  ✓ met     detect              +3.40s    +2.20s     15s  TooSlow is firing
  ✓ met     act                 +4.10s    +2.90s     20s  done and read back
  ✓ met     expect.1            +4.10s    +2.90s     20s  action == 'block' — action was 'block'
  ✓ met     notify:slack        +4.50s    +3.30s     25s  received at #sre
  ✓ met     never.1                  -         -       -  notify == 'FE' — no notify
  ✓ met     only                     -         -       -  nothing of the kind
  ? unknown recover                  -         -      3m  the run ended before this could be settled
            expected  all is well again
            actual    nothing was seen

  timing of the chain: live configuration
    link        floor expected    worst   budget  measured
    detect         1s     2.5s       4s      15s  +3.40s, seen at most 310ms late
    act            1s       3s       5s      20s  +4.10s, seen at most 310ms late
    notify         1s       3s       5s      25s  +4.50s, seen at most 310ms late
    note     live for: 0s, declared 0s

  injected   net.delay('+1s') as ab-1, on edge, core
    applied    +0.10s
    effective  +1.20s  delay_s 1.01, open true
    withdrawn  +10.0s
    NOT GONE   still there: open True
  NOT BACK   gate reads 'blocked', was 'open'

  observer        every  looks missed  latest    clock
  prom            250ms    200      0   310ms  +0.002s
  hooks           250ms    200      0   310ms        -
  inbox           500ms    100      0   310ms        -

  marks, from t0: t0 +0.00s, effective +1.20s, withdrawing +10.0s, closed +30.0s
"""


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (made.passed, PASSED),
        (made.failed, FAILED),
        (made.refused, REFUSED),
        (made.ineffective, INEFFECTIVE),
        (made.unsafe, UNSAFE),
    ],
)
def test_a_run_reads_exactly_so(run, text):
    """Every outcome has one fixed text, verdict first, clauses in the order of the chain."""
    assert terminal.report.render(run()) == text


@pytest.mark.parametrize("run", made.ALL.values(), ids=made.ALL)
def test_the_first_line_is_the_verdict(run):
    """The first word of the first line is the outcome, whatever it is."""
    finished = run()
    first = terminal.report.render(finished).partition("\n")[0]
    assert first.startswith(finished.judgement["outcome"].upper())
    assert first.endswith(": slow_answers on shop, live, n=1")


@pytest.mark.parametrize("run", made.ALL.values(), ids=made.ALL)
def test_no_line_is_wider_than_a_terminal_and_none_trails_blanks(run):
    """A report fits 100 columns and has no trailing blanks, so that it can be pasted anywhere."""
    lines = terminal.report.render(run()).splitlines()
    assert [line for line in lines if len(line) > 100 or line != line.rstrip()] == []


@pytest.mark.parametrize("run", made.ALL.values(), ids=made.ALL)
def test_a_report_is_the_same_each_time(run):
    """Rendering the same folder twice gives the same bytes."""
    assert terminal.report.render(run()) == terminal.report.render(run())


def test_every_clause_of_an_aborted_run_says_when_it_was_stopped():
    """A stop leaves clauses unknown, each with the moment, and the condition stands at the top."""
    lines = terminal.report.render(made.aborted()).splitlines()
    assert lines[2] == "  because errors > 5 is true: errors is 9"
    assert [line[2:11].strip() for line in lines if "stopped at +1.3 s" in line] == ["? unknown"] * 7


def test_foreign_text_cannot_move_the_cursor():
    """Escape sequences, line breaks and overrides from the target are spelled out."""
    nasty = "\x1b[2J\x1b]0;t\x07 a\nb \u202egnp \ud800 \u009b31m"
    verdicts = {"detect": made.verdict("detect", "missed", reason=nasty, actual=nasty)}
    text = terminal.report.render(made.finished(None, verdicts, Outcome.FAILED, "detect", (f"detect: {nasty}",)))
    assert [char for char in text if char != "\n" and not char.isprintable()] == []
    assert r"\x1b[2J\x1b]0;t\x07 a\nb \u202egnp \ud800 \x9b31m" in text


def test_a_link_beyond_its_worst_says_so():
    """What was measured is held against the bounds that the chain's own settings imply."""
    slow = made.verdict("detect", "met", took_s=9.0, from_effective_s=7.8, actual="TooSlow is firing")
    fast = made.verdict("act", "met", took_s=0.5, actual="done and read back")
    lines = terminal.report.render(made.finished(None, {"detect": slow, "act": fast})).splitlines()
    assert (
        "    detect         1s     2.5s       4s      15s  +9.00s, seen at most 310ms late, beyond its worst" in lines
    )
    assert "    act            1s       3s       5s      20s  +0.50s, seen at most 310ms late, below its floor" in lines


def test_a_run_without_timing_says_that_bounds_are_not_known():
    """No chain answered: budgets are shown, bounds are not invented."""
    rows = [
        row for row in [*made.opening(), *made.injected(), *made.withdrawn(), *made.closing()] if row[2] != "timing"
    ]
    lines = terminal.report.render(made.finished(rows)).splitlines()
    assert "  timing of the chain: not known" in lines
    assert "    detect          -        -        -      15s  +3.40s, seen at most 310ms late" in lines


def test_a_blind_span_is_told_with_its_reason():
    """What nobody could see, and why, stands below the observer."""
    blind = [
        (22.0, "prom", "observer.blind", {"error": "connection refused", "since": 21.5}),
        (25.0, "prom", "observer.seeing", {}),
    ]
    rows = [*made.opening(), *made.injected(), *blind, *made.withdrawn(), *made.closing()]
    rows.sort(key=lambda row: row[0])
    lines = terminal.report.render(made.finished(rows)).splitlines()
    assert "    BLIND      from +11.5s to +15.0s: connection refused" in lines


@pytest.mark.parametrize(("kind", "word"), [("fault.held", "held    "), ("fault.unheld", "NOT HELD")])
def test_whether_the_fault_held_is_told_with_its_evidence(kind, word):
    """A kind of fault that looked back has a line of its own; the others have none (as the run above)."""
    looked = (20.6, "sim", kind, {"fault": "ab-1", "evidence": {"sent": 5, "asked": 5}, "reason": "r"})
    rows = sorted([*made.opening(), *made.injected(), *made.withdrawn(), looked, *made.closing()], key=lambda r: r[0])
    assert f"    {word}   sent 5, asked 5" in terminal.report.render(made.finished(rows)).splitlines()
