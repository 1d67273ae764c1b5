"""The record of a guarded run: a log that survives its own disk, and the seal at its end.

A disk that is full, read-only or gone must cost the verdict, never the withdrawal: from the first line that cannot be
written on, nothing more is written (what is there stays a whole record), the run goes on to its end, and its outcome is
what is known without a record: *unsafe*, or *inconclusive*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from sim.event import JSON, SIM, Event
from sim.judge import Judgement, Outcome
from sim.log import Log, canonical


class Record(Log):
    """A log that looks at the clocks before each line, and never raises for want of a disk.

    `before` is called first: a runner that stood still says so before it writes what it saw too late, and no budget
    that ran out while nobody looked is taken for missed. `broken` is why nothing is written any more.
    """

    before: Callable[[], None] | None = None
    broken: OSError | None = None

    def append(self, kind: str, data: Mapping[str, JSON], source: str = SIM, occurred_at: float | None = None) -> Event:
        """Write one event, and return it; with a broken record only return it."""
        if self.before is not None:
            self.before()
        if self.broken is None:
            try:
                return super().append(kind, data, source, occurred_at)
            except OSError as error:
                self.broken = error
        return Event(self._seq, self.now(), self.wall(), occurred_at, source, kind, data, self._prev)

    def close(self) -> None:
        """Bring the record to the disk and close it."""
        try:
            super().close()
        except OSError as error:
            self.broken = self.broken or error


def write_once(path: Path, text: str) -> None:
    """Write a file that must not be there yet. Raises `OSError`."""
    with path.open("x", encoding="utf-8") as file:
        file.write(text)


def sealed(record: Record, judgement: Judgement, clean: bool, write: Callable[[str], None]) -> Judgement:
    """Close the record and `write` the verdicts beside it; return the judgement, or what is left of it without a disk.

    `clean` tells whether nothing stayed behind, as far as the runner itself read back. `write` raises `OSError`.
    """
    record.close()
    trouble = record.broken
    if trouble is None:
        try:
            write(canonical(judgement.as_json()) + "\n")
            return judgement
        except OSError as error:
            trouble = error
    why = f"the run folder cannot be written: {trouble.strerror or trouble}"
    if not clean:
        reasons = (f"{why}; and not everything is proven gone and put back", *judgement.reasons)
        return replace(judgement, outcome=Outcome.UNSAFE, exit_code=6, link="withdraw", reasons=reasons)
    told = f"{why}; every fault is read back gone and all is put back; without a record nothing is proven: run it again"
    code = judgement.exit_code if judgement.exit_code > 128 else Outcome.INCONCLUSIVE.exit_code
    return replace(judgement, outcome=Outcome.INCONCLUSIVE, exit_code=code, link=None, reasons=(told,))
