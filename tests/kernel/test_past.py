"""The healthy past: what a run says of it, and that a window which is hardly covered is no ground for a verdict."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sim import log
from sim.chain import Timing
from sim.past import PastError, read
from sim.run import Run
from tests.kernel.scripted import EPOCH, play

HOUR = 3600.0
SHA = "ab" * 32


def told(ended_s_ago: float = 60.0, **windows: float) -> dict[str, Any]:
    """Return what a stack tells; by default 4 h of requests."""
    until = datetime.fromtimestamp(EPOCH - ended_s_ago, UTC).isoformat()
    made = {name: {"window_s": window, "step_s": 15} for name, window in (windows or {"requests": 4 * HOUR}).items()}
    return {"sha256": SHA, "until": until, "pushed_at": until, "samples": 7, "windows": made}


COVERED = [
    ("whole", {"requests_total": 4 * HOUR}, []),
    ("beyond, by less than half", {"requests_total": 6 * HOUR}, []),
    ("half, with the live minute", {"requests_total": 8 * HOUR + 120}, []),
    ("less than half", {"requests_total": 8 * HOUR + 121}, ["requests_total has 4h1m of the 8h2m1s looked back over"]),
    ("another metric", {"requestsx": HOUR}, ["requestsx has 60s of the 1h looked back over"]),
    ("another metric, a short window", {"requestsx": 120.0}, []),
    ("nothing is looked back over", {}, []),
]


@pytest.mark.parametrize(("windows", "thin"), [row[1:] for row in COVERED], ids=[row[0] for row in COVERED])
def test_what_is_covered(windows: dict[str, float], thin: list[str]) -> None:
    """The pushed samples and the live ones since count; a metric is known by the beginning of its name."""
    assert read(told()).thin(windows, EPOCH) == thin


def test_the_longest_name_that_fits_counts() -> None:
    """Of `views` and `views_slow` the latter speaks for `views_slow_total`."""
    known = read(told(0.0, views=HOUR, views_slow=10.0))
    assert [known.covered_s(name, EPOCH) for name in ("views", "views_total", "views_slow_total")] == [HOUR, HOUR, 10.0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sha256": "short"}, "sha256: String should match pattern"),
        ({"until": "2026-01-01T00:00:00"}, "until: Input should have timezone info"),
        ({"windows": {"x": {"window_s": 0}}}, "windows.x.window_s: Input should be greater than 0"),
    ],
)
def test_a_tale_that_cannot_be_read(change: dict[str, Any], why: str) -> None:
    """It names the place."""
    with pytest.raises(PastError, match=why):
        read({**told(), **change})


def run(folder: Path, monkeypatch: Any, past: Any, windows: dict[str, float], time: str = "seeded") -> Any:
    """Play a run whose rules look back over `windows`."""
    monkeypatch.setattr(Run, "timing", Timing("live", {}, max(windows.values(), default=0.0), 0.0, windows=windows))
    judgement, world = play(folder, monkeypatch, time=time, around={"past": past})
    marks = {str(e.data["check"]): e.data["detail"] for e in log.read(folder / "log.jsonl") if e.kind == "preflight"}
    return str(judgement.outcome), judgement.exit_code, judgement.link, world.calls[:1], marks.get("past")


def test_a_seeded_run_says_digest_and_age(tmp_path: Path, monkeypatch: Any) -> None:
    """A past that covers: the run goes on, and its record holds what the stack told."""
    outcome = run(tmp_path, monkeypatch, told(), {"requests_total": 4 * HOUR})
    ended = datetime.fromtimestamp(EPOCH - 60, UTC).isoformat()
    assert outcome == ("passed", 0, None, ["prepare"], f"sha256 {SHA[:12]}, ended {ended}, 60s ago")
    assert next(log.read(tmp_path / "log.jsonl")).data["past"] == told()


REFUSED = [
    ("none", None, "the exercise reads over a healthy past (time: seeded), and the target has none"),
    ("unreadable", {}, "what the stack tells of its healthy past cannot be read: sha256: Field required"),
]


@pytest.mark.parametrize(("past", "why"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_seeded_run_without_a_past_refuses(tmp_path: Path, monkeypatch: Any, past: Any, why: str) -> None:
    """Inconclusive at the gate `past`; nothing is touched."""
    assert run(tmp_path, monkeypatch, past, {}) == ("inconclusive", 4, "past", [], why)


def test_a_seeded_run_over_a_thin_past_refuses(tmp_path: Path, monkeypatch: Any) -> None:
    """It names the window and what covers it."""
    *outcome, why = run(tmp_path, monkeypatch, told(), {"requests_total": 24 * HOUR})
    assert outcome == ["inconclusive", 4, "past", []]
    assert why.startswith("less than half of a window is covered: requests_total has 4h1m of the 24h looked back over")


def test_a_live_run_asks_for_no_past(tmp_path: Path, monkeypatch: Any) -> None:
    """Whatever its rules look back over."""
    assert run(tmp_path, monkeypatch, None, {"requests_total": 24 * HOUR}, "live") == (
        "passed", 0, None, ["prepare"], None,
    )  # fmt: skip
