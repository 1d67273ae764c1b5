"""One run of any injector at all against the target that its test brings, which is to be killed at one of five points.

The points stand where it matters for every kind of fault: when it is in the journal and nothing was sent; when it is in
the target and nobody has heard so; when it was acknowledged, and is looked at, renewed and driven; when the target has
begun to let it go; and when the withdrawal was acknowledged and not yet read back. "Under way" is told by the target's
own list, which the host is asked for at every step of the call: the first change is the point. Where a call makes its
only change in one step, the point is its last one: the call has returned, and no more than this process knows it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sim import injection, restore, watchdog
from sim.around import Around, Names
from sim.cli.run import _handled
from sim.exercise import Exercise
from sim.injector import Injector, Probe, Receipt, Site
from sim.plan import Plan
from sim.resolve import resolve
from sim.secret import Secrets
from sim.target import Target
from tests.live.matrix.cases import PROFILE, TTL_S
from tests.live.matrix.fakes import Line, small
from tests.live.matrix.points import Points

#: For how long a request may be on its way to a target on this machine, seconds.
SETTLE_S = 0.3

#: How long each step of a call waits for what it may have sent to change the target, and all together, seconds.
STEP_S, STEPS_S = 0.1, 0.8

#: How long a fault is held when nobody kills the run, seconds: long enough for a renewal.
HOLD_S = 0.6

INTENDED = "intended"
APPLYING = "apply under way"
APPLIED = "apply acknowledged"
LEAVING = "withdraw under way"
LEFT = "withdraw acknowledged"
#: Passed by what is renewed, and not killed at: whatever is killed when it was acknowledged is renewed just then.
RENEWED = "renewed"
POINTS = (INTENDED, APPLYING, APPLIED, LEAVING, LEFT)

#: Written beside the points when the target was seen to change in the middle of a call.
MID = " in the middle of the call"


def planned(name: str, what: dict[str, Any], names: Names) -> Plan:
    """Return the plan of a run that holds the fault for a moment, whether or not it can be proven here."""
    exercise = {
        "inject": {"call": name, "with": what["given"]},
        "expect": "gate=='blocked'",  # never: the run ends when its time is over
        "within": {"effect": 1, "detect": HOLD_S, "act": HOLD_S, "notify": HOLD_S, "recover": 3},
    }
    profile = {**PROFILE, "doors": what["doors"]}
    return resolve("kill", Exercise.model_validate(exercise), Target.model_validate(profile), names)  # type: ignore[arg-type]


@types.coroutine
def stepped(work: Coroutine[Any, Any, Any], look: Callable[[], None]) -> Generator[Any, Any, Any]:
    """Await `work`, and look each time that it waits for something."""
    value: Any = None
    raised: BaseException | None = None
    while True:
        try:
            waits_for = work.send(value) if raised is None else work.throw(raised)
        except StopIteration as end:
            return end.value
        look()
        try:
            value, raised = (yield waits_for), None
        except BaseException as caught:  # noqa: BLE001 - a cancellation is for `work` to see
            value, raised = None, caught


class Watched:
    """A catalogue in which one injector passes the points."""

    def __init__(self, names: Names, name: str, points: Points, line: Line) -> None:
        self._names, self._name, self._points, self._line = names, name, points, line

    def injector(self, name: str) -> Injector:
        """See `Names`."""
        injector = self._names.injector(name)
        return self._spied(injector) if name == self._name else injector

    def observer(self, name: str) -> Any:
        """See `Names`."""
        return self._names.observer(name)

    def chain(self, name: str) -> Any:
        """See `Names`."""
        return self._names.chain(name)

    async def _through(self, work: Any, point: str) -> None:
        """Make one call; `point` is where the target first changes under it, or its end."""
        look: Callable[[], None] = lambda: None  # noqa: E731
        if self._points.at == point:
            since, left = self._line.ask("state"), [STEP_S] * round(STEPS_S / STEP_S)

            def look() -> None:
                if left and self._line.ask("changed", since=since, within_s=left.pop()):
                    left.clear()
                    self._points.reach(point, MID)

        await stepped(work, look)
        self._points.reach(point)

    def _spied(self, injector: Injector) -> Injector:
        reach = self._points.reach

        async def apply(site: Site, receipt: Receipt) -> None:
            reach(INTENDED)
            await self._through(injector.apply(site, receipt), APPLYING)

        async def effective(site: Site, receipt: Receipt) -> Probe:
            try:
                return await injector.effective(site, receipt)
            finally:
                reach(APPLIED)

        async def withdraw(site: Site, receipt: Receipt) -> None:
            await self._through(injector.withdraw(site, receipt), LEAVING)
            reach(LEFT)

        async def renew(site: Site, receipt: Receipt) -> None:
            assert injector.renew is not None
            await injector.renew(site, receipt)
            reach(RENEWED)

        renewed = renew if injector.renew is not None else None
        return replace(injector, apply=apply, effective=effective, withdraw=withdraw, renew=renewed)


def live(job: dict[str, Any], names: Names) -> int:
    """Run the injector of the job in its folder as `sim run` does, and return the exit code."""
    folder, name = Path(job["folder"]), job["injector"]
    points = Points(folder, job.get("at"), job.get("how"))
    injection.IN_FLIGHT_S = restore.PATIENCE_S = SETTLE_S
    line = Line(job["port"])
    watched = Watched(names, name, points, line)

    def dog(where: Path, keep: Any = ()) -> watchdog.Watchdog:
        made = watchdog.start(where, keep, settle_s=SETTLE_S)
        points.dog = made.process.pid
        with suppress(OSError):
            (where / "dog.pid").write_text(str(made.process.pid))
        return made

    around = Around(
        names=watched,
        secrets=Secrets(),
        exports={"store": job["store"]},
        base=folder,
        ttl_s=TTL_S,
        watchdog=None if job.get("no_watchdog") else dog,
    )
    what = line.ask("what")
    os.environ["TMPDIR"] = tempfile.tempdir = what["tmp"]
    with small(name):
        plan = planned(name, what, watched)
        return asyncio.run(_handled(plan, folder, around)).exit_code


def at_home(folder: Path) -> None:
    """Give this process, and all that it starts, a folder of its own for what is temporary."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(folder / "tmp")
    tempfile.tempdir = None
