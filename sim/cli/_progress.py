"""What a person sees while a run lasts: a line a link as it happens, on a terminal the phase and its countdown."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.status import Status

    from sim.event import Event
    from sim.judge import Judge, Verdict

#: verdict → (mark, colour)
MARKS = {"met": ("✓", "green"), "missed": ("✗", "red"), "unknown": ("?", "yellow"), "pending": ("·", "cyan")}


class Progress:
    """Follows one run and prints to standard error, so that standard output stays data."""

    def __init__(self, live: bool | None = None) -> None:
        self._judge: Judge | None = None
        self._said: dict[str, str] = {}
        self._until: float | None = None
        self._phase = ""
        self._status: Status | None = None
        terminal = sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
        if terminal if live is None else live:
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")
            self._status.start()

    def judging(self, judge: Judge) -> None:
        """Take the judge whose verdicts are shown."""
        self._judge = judge

    def event(self, event: Event) -> None:
        """Show what this event changed."""
        data = event.data
        if event.kind == "phase":
            self._phase, until = str(data["name"]), data["until_s"]
            self._until = float(until) if isinstance(until, int | float) else None
            self._line("", f"{self._phase}", event.seen_at)
        elif event.kind in ("preflight", "baseline") and data["ok"] is False:
            self._line("✗", f"{data['check']}: {data['detail']}", event.seen_at, "red")
        elif event.kind == "note":
            self._line("", f"note: {data['text']}", event.seen_at)
        elif event.kind in ("observer.blind", "fault.stuck", "fault.unheld", "run.error", "stopped"):
            why = data.get("error") or data.get("reason") or ""
            self._line("!", f"{event.source}: {event.kind}: {why}", event.seen_at, "yellow")
        self._verdicts(event.seen_at)
        self.tick(event.seen_at)

    def _verdicts(self, now: float) -> None:
        if self._judge is None:
            return
        for tracker in self._judge.trackers:
            verdict = tracker.verdict()
            value = verdict.value if tracker.settled else "witnessed" if tracker.witnessed else "pending"
            before = self._said.get(verdict.clause, "pending")
            if value != before and value != "pending":
                self._said[verdict.clause] = value
                if not (before == "witnessed" and value == "met"):
                    mark, text, colour = _shown(verdict, value)
                    self._line(mark, text, now, colour)

    def tick(self, now: float) -> None:
        """Show the phase and how long it may still take."""
        if self._status is not None:
            left = "" if self._until is None else f"  {max(0.0, self._until - now):.0f} s left"
            self._status.update(f"{self._phase}{left}")

    def _line(self, mark: str, text: str, now: float, colour: str | None = None) -> None:
        from sim.problem import visible  # what the target says must not steer the terminal

        plain = f"{now:8.2f}s {mark or ' '} {visible(text)}"
        if self._status is not None:
            from rich.text import Text

            self._status.console.print(Text(plain, style=colour or ""))
        else:
            tint = colour and "NO_COLOR" not in os.environ
            click.echo(click.style(plain, fg=colour) if tint else plain, err=True)

    def close(self) -> None:
        """Stop drawing."""
        if self._status is not None:
            self._status.stop()


def _shown(verdict: Verdict, value: str) -> tuple[str, str, str]:
    from sim.duration import spell

    mark, colour = MARKS["met" if value == "witnessed" else value]
    took = "" if verdict.took_s is None else f"  {verdict.took_s:+.2f} s"
    lasting = verdict.stage == "only" or verdict.origin == "never"
    budget = "" if lasting else f"  (within {spell(verdict.within_s)})"
    what = verdict.reason or verdict.actual or verdict.text
    return mark, f"{verdict.clause:15}{took:>10}{budget}  {what}", colour
