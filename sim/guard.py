"""What keeps a run from doing harm when something goes wrong with the run itself.

The lock (two runners never meet on one target), the watchdog (somebody finishes if this process cannot), the pulse (the
lever of `sim halt`, a runner that stood still, a clock that was set), and the stop condition.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sim import machine
from sim.event import JSON, Event
from sim.record import Record
from sim.stopping import Stopping

if TYPE_CHECKING:
    from sim.around import Around
    from sim.judge import Judge
    from sim.watchdog import Watchdog

#: How often the lever, the clocks and the watchdog are looked at, seconds.
PULSE_S = 0.25

#: By how much the wall clock may drift from the monotonic one in a run before stamps cannot be compared, seconds.
DRIFT_S = 2.0

#: So many watchdogs that die are replaced; then the run ends, since nobody could finish it any more.
REPLACED = 3


class Guard:
    """Guards one run. Whatever it finds it says through the run's `Stop`."""

    def __init__(self, around: Around, folder: Path, log: Record, judge: Judge) -> None:
        self._around, self._folder, self._log, self._ledger = around, folder, log, judge.ledger
        self._stopping = Stopping(judge.plan.stop_when, judge.ledger, around.stop.ask)
        self._hold: machine.Hold | None = None
        self._dog: Watchdog | None = None
        self._overtake_at: float | None = None
        self._task: asyncio.Task[None] | None = None
        self.heeded = False
        self._alive_at = self._drift_s = 0.0
        self._replaced = 0

    def see(self, event: Event) -> None:
        """Look at one event of the record."""
        self._stopping.see(event)
        if event.kind == "fault.lapsed":
            self._around.stop.ask("lapsed", str(event.data["reason"]))

    def take(self, target: str, instance: str) -> None:
        """Hold the target for this run. Raises `machine.Taken`, `machine.MachineError`."""
        assert self._hold is None, "a run holds one target, once"
        self._hold = machine.hold(target, instance, self._folder.name)

    def begin(self) -> None:
        """Begin to look at the lever and the clocks."""
        self._alive_at = self._log.now()
        self._drift_s = self._log.wall() - self._alive_at
        self._log.before = self.look
        self._task = asyncio.create_task(self._pulse(), name="pulse")

    def arm(self) -> None:
        """Start the watchdog, once; to be called before the first intent. Raises `OSError`."""
        if self._around.watchdog is None or self._dog is not None:
            return
        keep = [fd for fd in (self._hold.fd if self._hold else None, self._around.owner_fd) if fd is not None]
        self._dog = self._around.watchdog(self._folder, keep)
        if self._overtake_at is not None:
            self._dog.overtake_at(self._overtake_at)

    def held_for(self, hold_s: float) -> None:
        """Say that the fault may stay so long: with a grace, that is when a runner that hangs is overtaken."""
        self._overtake_at = time.monotonic() + hold_s + self._around.grace_s
        if self._dog is not None:
            self._dog.overtake_at(self._overtake_at)

    def withdrawn(self) -> None:
        """Say that every fault is read back gone."""
        self._overtake_at = None
        if self._dog is not None:
            self._dog.withdrawn()

    async def end(self) -> None:
        """Let go of everything; the watchdog looks at the journal once more."""
        self._log.before = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        dog, self._dog = self._dog, None
        if dog is not None:
            dog.close()
        hold, self._hold = self._hold, None
        if hold is not None:
            hold.release()

    def heed(self) -> None:
        """Put the stop that was asked for on the record, where `look` has not done so already."""
        self.heeded = True
        if self._ledger.stopped is None:
            self._log.append("stopped", self._stop())

    def _stop(self) -> dict[str, JSON]:
        stop = self._around.stop
        return {"by": stop.by, "reason": stop.reason, "signal": stop.signal}

    # -- the clocks --------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at both clocks; where they tell that the run cannot be judged, that is the next line of the record."""
        now = self._log.now()
        last, self._alive_at = self._alive_at, now
        drift_s = self._log.wall() - now - self._drift_s
        if self._log.broken is not None:
            why = self._log.broken.strerror or self._log.broken
            self._around.stop.ask("record", f"the record cannot be written: {why}")
        if self._ledger.stopped is not None:
            return
        if self._judging and now - last > self._around.ttl_s:
            self._tell("lapsed", self._stood_still(now - last), last)
        elif abs(drift_s) > DRIFT_S and "gone" not in self._ledger.marks:
            self._tell("clock", _clock_set(drift_s), last)

    @property
    def _judging(self) -> bool:
        """Whether it matters that somebody looks: from t0 until all is put back."""
        return "t0" in self._ledger.marks and self._ledger.differs is None

    def _tell(self, by: str, reason: str, since: float) -> None:
        """Ask for the end, and put it on the record before anything that was seen since. A stop asked before stays."""
        self._log.before = None  # once is enough, and this very line must not come back here
        self._around.stop.ask(by, reason)
        self._log.append("stopped", {**self._stop(), "since": round(since, 6)})

    def _stood_still(self, gap_s: float) -> str:
        said = f"the runner stood still for {gap_s:.1f} s"
        if "gone" in self._ledger.marks:
            return f"{said}: nobody saw whether all was well again in time"
        return f"{said}, longer than the lease of {self._around.ttl_s:g} s: the fault may have ended in between"

    # -- the pulse ---------------------------------------------------------------------------------------------

    async def _pulse(self) -> None:
        try:
            while True:
                await asyncio.sleep(PULSE_S)
                self.look()
                reason = machine.halted()
                if reason is not None:
                    self._around.stop.ask("halt", f"sim halt: {reason}")
                self._watched()
        except Exception as error:  # noqa: BLE001 - our own bug: without the pulse nobody guards the run, so it ends
            self._around.stop.ask("unguarded", f"the run's guard fell over: {type(error).__name__}: {error}")
            self._log.append("run.error", {"error": self._around.stop.reason})

    def _watched(self) -> None:
        """Replace a watchdog that is gone; without one the run ends."""
        if self._dog is None or self._dog.alive():
            return
        self._dog.close()
        self._dog = None
        if self._overtake_at is not None and time.monotonic() >= self._overtake_at:
            self._overtake_at = None  # it is gone because it did what it was asked to do
            self._around.stop.ask("lapsed", "hold time and grace were over: the watchdog has withdrawn the fault")
        self._replaced += 1
        try:
            if self._replaced > REPLACED:
                raise OSError(f"{REPLACED} that were started have died; see watchdog.log in the run folder")
            self._log.append("note", {"text": "the watchdog is gone; starting another"})
            self.arm()
        except OSError as error:
            self._around.stop.ask("unwatched", f"no watchdog can be kept alive: {error}")


def _clock_set(by_s: float) -> str:
    slept = " (or the machine slept)" if by_s > 0 else ""
    return (
        f"the machine's clock was set by {by_s:+.0f} s during the run{slept}: the stamps of alerts cannot be compared "
        f"with t0 any more; run again once the clock is steady"
    )
