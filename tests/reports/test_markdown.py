"""The Markdown report: whole for a run that passed, and what must not be missed for the others."""

from __future__ import annotations

from dataclasses import replace

import finished_runs as made
import pytest

from reports.markdown import report
from sim.markdown import escaped

PASSED = """\
### PASSED: slow\\_answers

Run r-1 on shop, live, n=1, 40.0 s, exit code 0

|  | clause | from t0 | budget | seen |
|---|---|---|---|---|
| ✓ met | effect | \\+1.20 s | 10s | proven by the injector's own probe |
| ✓ met | detect | \\+3.40 s | 15s | TooSlow is firing |
| ✓ met | act | \\+4.10 s | 20s | done and read back |
| ✓ met | expect.1 | \\+4.10 s | 20s | action == 'block' — action was 'block' |
| ✓ met | notify:slack | \\+4.50 s | 25s | received at \\#sre |
| ✓ met | never.1 |  |  | notify == 'FE' — no notify |
| ✓ met | only |  |  | nothing of the kind |
| ✓ met | recover | gone+12.00 s | 3m | steady state, alerts resolved, actions reversed |

| link | floor | expected | worst | budget | measured |
|---|---|---|---|---|---|
| detect | 1s | 2.5s | 4s | 15s | \\+3.40 s |
| act | 1s | 3s | 5s | 20s | \\+4.10 s |
| notify | 1s | 3s | 5s | 25s | \\+4.50 s |

- injected net.delay('+1s') on edge, core: its effect was proven; withdrawn and read back gone
- set back: gate read blocked, was open
- every state reads as it did at baseline
"""


def test_a_run_that_passed() -> None:
    """Verdict, clauses, timing, deeds."""
    assert report.render(made.passed()) == PASSED


ROWS = [
    ("failed", "### FAILED at act: slow\\_answers", "- act: block was not done"),
    ("failed", "### FAILED at act: slow\\_answers", "- collateral alert: DiskFull at +2.5 s, seen by prom"),
    ("failed", "### FAILED at act: slow\\_answers",
     "| ✗ missed | act |  | 20s | block was not done; it came 14s after its budget |"),
    ("refused", "### INCONCLUSIVE at foreign alert: slow\\_answers", "- nothing was injected"),
    ("refused", "### INCONCLUSIVE at foreign alert: slow\\_answers",
     "| · void | detect |  | 15s | not judged: refused before t0 |"),
    ("unsafe", "### UNSAFE at withdraw: slow\\_answers", "**Not finished.** Finish it with: sim recover 'r 1'"),
    ("unsafe", "### UNSAFE at withdraw: slow\\_answers", "- NOT BACK: gate reads 'blocked', was 'open'"),
    ("broken", "### ERROR: slow\\_answers", "- our bug: KeyError: 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "first", "line"), ROWS)
def test_what_must_not_be_missed(run: str, first: str, line: str) -> None:
    """The verdict first, and the line that says why."""
    lines = report.render(getattr(made, run)()).splitlines()
    assert lines[0] == first
    assert line in lines


def test_foreign_text_does_nothing() -> None:
    """A reason that holds table, link, code, HTML and a line break is one line of text."""
    reason = "- a|b `c` [d](e) <img src=x> *f* ~~g~~ &lt; \n# h"
    finished = made.failed()
    told = report.render(replace(finished, judgement={**finished.judgement, "reasons": [reason]}))
    assert r"- \- a\|b \`c\` \[d\](e) \<img src=x\> \*f\* \~\~g\~\~ \&lt; \\n\# h" in told.splitlines()
    assert escaped("a-b + c") == "a-b + c"
