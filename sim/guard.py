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
from sim.event import Event
from sim.log import Log
from sim.stopping import Stopping
from sim.watchdog import GRACE_S

if TYPE_CHECKING:
    from sim.around import Around
    from sim.judge import Judge
    from sim.watchdog import Watchdog

#: How often the lever, the clocks and the watchdog are looked at, seconds.
PULSE_S = 0.25

#: By how much the wall clock may drift from the monotonic one in a run before stamps cannot be compared, seconds.
DRIFT_S = 2.0


class Guard:
    """Guards one run. Whatever it finds it says through the run's `Stop`."""

    def __init__(self, around: Around, folder: Path, log: Log, judge: Judge) -> None:
        self._around, self._folder, self._log = around, folder, log
        self._stopping = Stopping(judge.plan.stop_when, judge.ledger, around.stop.ask)
        self._hold: machine.Hold | None = None
        self._dog: Watchdog | None = None
        self._overtake_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    def see(self, event: Event) -> None:
        """Look at one event of the record."""
        self._stopping.see(event)
        if event.kind == "fault.lapsed":
            self._around.stop.ask("lapsed", str(event.data["reason"]))

    def take(self, target: str, instance: str) -> None:
        """Hold the target for this run. Raises `machine.Taken`, `machine.MachineError`."""
        self._hold = machine.hold(target, instance, self._folder.name)

    def begin(self) -> None:
        """Begin to look at the lever and the clocks."""
        self._task = asyncio.create_task(self._pulse(), name="pulse")

    def arm(self) -> None:
        """Start the watchdog; to be called before the first intent. Raises `OSError`."""
        if self._around.watchdog is None:
            return
        keep = [fd for fd in (self._hold.fd if self._hold else None, self._around.owner_fd) if fd is not None]
        self._dog = self._around.watchdog(self._folder, keep)
        if self._overtake_at is not None:
            self._dog.overtake_at(self._overtake_at)

    def held_for(self, hold_s: float) -> None:
        """Say that the fault may stay so long: with a grace, that is when a runner that hangs is overtaken."""
        self._overtake_at = time.monotonic() + hold_s + GRACE_S
        if self._dog is not None:
            self._dog.overtake_at(self._overtake_at)

    def withdrawn(self) -> None:
        """Say that every fault is read back gone."""
        self._overtake_at = None
        if self._dog is not None:
            self._dog.withdrawn()

    async def end(self) -> None:
        """Let go of everything; the watchdog looks at the journal once more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._dog is not None:
            self._dog.close()
        if self._hold is not None:
            self._hold.release()

    # -- the pulse ---------------------------------------------------------------------------------------------

    async def _pulse(self) -> None:
        last = self._log.now()
        drift = self._log.wall() - last
        while True:
            await asyncio.sleep(PULSE_S)
            now = self._log.now()
            self._stood_still(now - last)
            drift = self._clock_set(drift, self._log.wall() - now)
            reason = machine.halted()
            if reason is not None:
                self._around.stop.ask("halt", f"sim halt: {reason}")
            self._watched()
            last = now

    @property
    def _armed(self) -> bool:
        return self._overtake_at is not None

    def _stood_still(self, gap_s: float) -> None:
        if self._armed and gap_s > self._around.ttl_s:
            self._around.stop.ask(
                "lapsed",
                f"the runner stood still for {gap_s:.1f} s, longer than the lease of {self._around.ttl_s:g} s: "
                f"the fault may have ended in between",
            )

    def _clock_set(self, before: float, now: float) -> float:
        if abs(now - before) > DRIFT_S and self._armed:
            self._around.stop.ask(
                "clock",
                f"the machine's clock was set by {now - before:+.0f} s during the run: the stamps of alerts cannot be "
                f"compared with t0 any more; run again once the clock is steady",
            )
        return now

    def _watched(self) -> None:
        if self._dog is None or self._dog.alive():
            return
        self._log.append("note", {"text": "the watchdog is gone; starting another"})
        self._dog.close()
        self.arm()
