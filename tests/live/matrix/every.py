"""Every injector there is, killed at every point of `drill`, against the target that its own test brings; the oracle.

The oracle knows nothing of any fault: the target's own list must read as it did before the run. By the `lease` that the
injector declares that must come about unaided, after every kill (``target``), or after every kill but that of runner
and watchdog together (``none``); `sim recover` does the rest, and a second one has nothing to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim import company, recover, undo
from sim.catalogue import catalogue
from sim.secret import Secrets
from tests.live.matrix import fakes
from tests.live.matrix.bench import Bench, locked
from tests.live.matrix.cases import CASE_S, CODES, DEADLY, SLACK_S, TTL_S
from tests.live.matrix.drill import APPLIED, APPLYING, LEAVING, MID, POINTS, RENEWED, SETTLE_S
from tests.live.matrix.fakes import MISSING, Port

#: How a runner is killed at each point.
KILLS = ("SIGTERM", "SIGKILL", "everything")

#: How many runs there are at a time: most of each is waiting.
AT_ONCE, REAL_AT_ONCE = 12, 3

#: How long a target may take to stand, seconds: there may be a server to start.
OPEN_S = 120.0

#: The longest that a host which many share is there, seconds.
ALL_S = 900.0

#: After a kill, a leased fault is gone within this time unaided; one that only a process can withdraw, within that.
LEASED_S = TTL_S + SETTLE_S + SLACK_S
LOOSE_S = 3 * SETTLE_S + 2 * SLACK_S + company.ENDS_S


@dataclass(frozen=True, slots=True)
class Drill:
    """One run of one injector: where and how it is killed (nowhere: it ends by itself)."""

    injector: str
    at: str | None = None
    how: str | None = None
    real: bool = False
    watched: bool = True  # whether it has a watchdog
    lease: str = ""  # what the oracle is to believe of its lease, instead of what the injector declares
    after_s: float | None = None  # killed so long after its start, at no point

    def __str__(self) -> str:
        real = " of a real part" if self.real else ""
        when = f"{self.after_s:.3f} s" if self.after_s is not None else self.at or "no point"
        return f"{self.injector}{real}: {self.how or 'nothing'} at {when}"


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one run: whether it was killed in the middle of a call, and what the oracle has against it.

    `left` is what stayed in the target, unaided, though it must not; `wrong` is everything else. `missing` says which
    real part is not there: then nothing was played. `seen` says that the target's own list told of the fault: one that
    never does would not tell of a fault that stays either.
    """

    case: Drill
    folder: Path
    left: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    mid: bool = False
    missing: str = ""
    took_s: float = 0.0
    alive: bool = True  # whether the runner still ran as it was killed
    seen: bool = False


def installed() -> list[str]:
    """Return the names of all injectors there are, but for those of the kill matrix's own room."""
    found = catalogue().entries["sim.injectors"]
    return sorted(name for name, room in found.items() if not room.package.startswith("killroom"))


#: The kills where each is dear, as of a real part: what the watchdog, the target or `sim recover` must put right.
FEW = (
    (None, None),
    (APPLYING, "SIGKILL"),
    (APPLYING, "everything"),
    (APPLIED, "everything"),
    (LEAVING, "SIGKILL"),
    (LEAVING, "everything"),
)


def drills(names: Iterable[str]) -> list[Drill]:
    """Return all runs of these injectors: left alone, and each point with each kill; fewer where a host is shared."""
    steps = [(None, None), *((point, how) for point in POINTS for how in KILLS)]
    return [Drill(name, *step) for name in names for step in (FEW if fakes.shared(name) else steps)]


def real_drills(names: Iterable[str]) -> list[Drill]:
    """Return the runs of these injectors against the real part that their tests bring."""
    return [Drill(name, *step, real=True, lease=fakes.real_lease(name)) for name in names for step in FEW]


def told(played: Iterable[Played]) -> list[str]:
    """Return one line for each run that did not end as it must."""
    bad = [each for each in played if each.left or each.wrong]
    return [f"{each.case}: {'; '.join(each.left + each.wrong)} ({each.folder.name})" for each in bad]


@dataclass(frozen=True, slots=True)
class Hosted:
    """A host that is there: what it is called, its folder, where it answers, and its exit code to come."""

    name: str
    folder: Path
    port: Port
    ends: asyncio.Future[int]


class Every:
    """Plays drills on a bench."""

    def __init__(self, bench: Bench, at_once: int = AT_ONCE) -> None:
        self.bench = bench
        self._gate = asyncio.Semaphore(at_once)
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._number = 0

        self._hosts: dict[str, Hosted] = {}

    async def all(self, drills: Sequence[Drill]) -> list[Played]:
        """Play them, a few at a time."""
        played = list(await asyncio.gather(*(self.one(drill) for drill in drills)))
        for hosted in self._hosts.values():
            await self._ended(hosted)
        return played

    async def one(self, drill: Drill) -> Played:
        """Play one."""
        key = "" if drill.real else fakes.shared(drill.injector)
        async with self._turn(drill, key):
            self._number += 1
            name, started = f"e{self._number}", time.monotonic()
            folder = self.bench.folder / "runs" / name
            folder.mkdir(parents=True)
            hosted = self._hosts.get(key)
            if hosted is None:
                hosted = await self._hosted(f"host-{key}" if key else f"{name}.host", bool(key))
            if key:
                self._hosts[key] = hosted
            played = await self._bounded(drill, name, folder, hosted)
            if not key:
                await self._ended(hosted)
            return replace(played, took_s=time.monotonic() - started)

    def _turn(self, drill: Drill, key: str) -> asyncio.Semaphore:
        """Return what a run waits for: a shared host is for one at a time, a real part for a few."""
        if key:
            return self._turns.setdefault(key, asyncio.Semaphore(1))
        return self._turns.setdefault("real", asyncio.Semaphore(REAL_AT_ONCE)) if drill.real else self._gate

    async def _hosted(self, name: str, shared: bool) -> Hosted:
        folder, most_s = self.bench.folder / "runs" / name, ALL_S if shared else OPEN_S + 2 * CASE_S
        job = {"do": "host", "id": name, "folder": str(folder), "shared": shared, "most_s": most_s}
        ends = await self.bench.start(job)
        async with asyncio.timeout(CASE_S):
            return Hosted(name, folder, await fakes.stands(folder), ends)

    async def _ended(self, hosted: Hosted) -> None:
        """End a host, by force if it must be."""
        with contextlib.suppress(TimeoutError, OSError, ValueError):
            async with asyncio.timeout(10):
                await hosted.port.ask("end")
                await hosted.ends
        hosted.port.close()
        await self.bench.kill(hosted.name, "SIGKILL", hosted.folder)

    async def _bounded(self, drill: Drill, name: str, folder: Path, hosted: Hosted) -> Played:
        """Play one in the time that it has; its target may take a while to stand."""
        try:
            async with asyncio.timeout(OPEN_S):
                said = await hosted.port.ask("open", injector=drill.injector, real=drill.real)
            if MISSING in said:
                return Played(drill, folder, missing=said[MISSING])
            if "error" in said:
                return Played(drill, folder, wrong=(f"its target does not stand: {said['error']}",))
            async with asyncio.timeout(CASE_S):
                played = await self._at(drill, name, folder, said["port"])
        except TimeoutError:
            await self.bench.kill(name, "everything", folder)
            return Played(drill, folder, wrong=(f"it took longer than {CASE_S:g} s: {_tail(folder)}",))
        async with asyncio.timeout(OPEN_S):
            wrong = await hosted.port.ask("close", port=said["port"])
        return replace(played, wrong=(*played.wrong, f"its target ended badly: {wrong}")) if wrong else played

    async def _at(self, drill: Drill, name: str, folder: Path, port: int) -> Played:
        target = await Port.of(port)
        before = await target.ask("state")
        job = {"do": "drill", "id": name, "folder": str(folder), "injector": drill.injector, "port": target.port}
        job |= {"store": await self.bench.space(name, how="", at=""), "at": drill.at, "how": drill.how}
        seen = asyncio.ensure_future(_seen(port, before)) if drill.how is None else None
        ends = await self.bench.start({**job, "no_watchdog": not drill.watched})
        oracle = Oracle(self.bench, drill, name, folder, target, before)
        if drill.after_s is not None:
            await asyncio.wait({ends}, timeout=drill.after_s)
            oracle.killed, oracle.alive = time.monotonic(), not ends.done()
            await self.bench.kill(name, str(drill.how), folder)
        code = await ends
        told = seen is not None and _there(seen)
        played = await oracle.say(code)
        target.close()
        return replace(played, seen=played.seen or told)


async def _seen(port: int, before: Any) -> bool:
    """Whether the target's own list comes to differ, as long as a run may take."""
    target = await Port.of(port)
    try:
        return bool(await target.ask("changed", since=before, within_s=CASE_S))
    finally:
        target.close()


def _there(seen: asyncio.Future[bool]) -> bool:
    """Whether it was seen by now; it is waited for no longer."""
    if seen.done():
        return seen.exception() is None and seen.result()
    seen.cancel()
    return False


class Oracle:
    """Looks at the target and at what the run left, after the runner has ended."""

    def __init__(self, bench: Bench, drill: Drill, name: str, folder: Path, host: Port, before: Any) -> None:
        assert bench.names is not None
        self.bench, self.drill, self.name, self.folder, self.host, self.before = (
            bench, drill, name, folder, host, before,
        )  # fmt: skip
        injector = bench.names.injector(drill.injector)
        self.lease = drill.lease or injector.lease
        self.passes = {*POINTS, *([RENEWED] if injector.renew is not None else [])}
        self.journal = folder / undo.FILE
        self.lost = drill.how == "everything"
        self.left: list[str] = []
        self.wrong: list[str] = []
        self.points: dict[str, bool] = {}
        self.killed, self.alive = time.monotonic(), True
        self.seen = False

    async def say(self, code: int) -> Played:
        """Wait for what must happen unaided, recover, and return everything that is not as it must be."""
        drill, at = self.drill, self._traced()
        if drill.at is not None and at is None:
            self.wrong.append("it never came to the point")
        elif drill.how is None and self.points.keys() != self.passes:
            self.wrong.append(f"it passed no more than {', '.join(self.points) or 'nothing'}: {_tail(self.folder)}")
        if drill.after_s is None:
            self.killed = at or time.monotonic()
        self.seen = drill.at == APPLIED and not await self._same()
        await self._unaided(code)
        await self._recovered()
        await asyncio.sleep(SETTLE_S)
        self.wrong += await self._differs("after recover")
        self.wrong += self._code(code)
        mid = self.points.get(drill.at or "", False)
        return Played(drill, self.folder, tuple(self.left), tuple(self.wrong), mid, alive=self.alive, seen=self.seen)

    def _traced(self) -> float | None:
        """Read the points that were passed; return when the runner was killed."""
        trace, killed = self.folder / "points.jsonl", None
        for line in trace.read_text().splitlines() if trace.exists() else ():
            said = json.loads(line)
            if "point" in said:
                self.points[said["point"]] = said.get("note") == MID
            else:
                killed = said["killed"]
        return killed

    async def _same(self) -> bool:
        return bool(await self.host.ask("state") == self.before)

    async def _differs(self, when: str) -> list[str]:
        now = await self.host.ask("state")
        same = now == self.before
        return [] if same else [f"{when} the target has {now!r:.200}, before the run it had {self.before!r:.200}"]

    async def _unaided(self, code: int) -> None:
        """The target is as before by itself, where somebody is left or it holds the lease; traffic always ends."""
        machine = self.bench.folder / "machine"
        late = self.killed + LOOSE_S
        if not await _until(lambda: _now(not locked(machine, self.name)), late):
            self.wrong.append("somebody still holds the target")
        if self.lease == "target" or not self.lost:
            due = self.killed + LEASED_S if self.lease == "target" and self.lost else late
            if not await _until(self._same, due):
                self.left += await self._differs(f"{time.monotonic() - self.killed:.1f} s after the kill")
        if not await _until(lambda: _now(not _companies(self.journal)), late):
            self.wrong.append(f"its company goes on: {_companies(self.journal)}")
        if not self.lost and self.journal.exists() and undo.read(self.journal).unfinished and code != 6:
            self.wrong.append("its journal is not finished")

    async def _recovered(self) -> None:
        """Recovery leaves nothing open, and a second one has nothing to do."""
        if not self.journal.exists():
            return
        if undo.read(self.journal).unfinished:
            self.wrong += [f"recover: {reason}" for reason in await self._recover()]
        if undo.read(self.journal).unfinished:
            self.wrong.append("the journal is open after recover")
        before = self.journal.read_bytes()
        if await self._recover() or self.journal.read_bytes() != before:
            self.wrong.append("a second recover did something")

    async def _recover(self) -> tuple[str, ...]:
        assert self.bench.names is not None
        left = await recover.recover(self.folder, self.bench.names, Secrets(), lambda *_: None, settle_s=SETTLE_S)
        return left.reasons

    def _code(self, code: int) -> list[str]:
        """Say what is wrong with the runner's exit code: it says how the run ended."""
        how = self.drill.how
        wanted: tuple[int, ...] = (-9,) if how in DEADLY else (CODES.get(how or "", 1),)
        if how is None or how not in CODES or self.drill.after_s is not None:
            wanted += (1, 4) if how not in DEADLY or self.drill.after_s is not None else ()
        if code in wanted or (self.drill.after_s is not None and not (self.folder / "plan.json").exists()):
            return []  # the latter was killed before it had begun
        return [f"exit code {code}, not {' or '.join(map(str, wanted))}: {_tail(self.folder)}"]


async def _now(so: bool) -> bool:
    return so


async def _until(what: Callable[[], Awaitable[bool]], late: float) -> bool:
    """Wait until it is so; tell whether it came before that moment."""
    while not await what():
        if time.monotonic() > late:
            return False
        await asyncio.sleep(0.03)
    return True


def _companies(journal: Path) -> list[int]:
    """Return the processes that went with the faults of a run and that still run."""
    if not journal.exists():
        return []
    said = [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]
    there = [(int(each["pid"]), float(each["started"])) for each in said if each["record"] == "company"]
    return [pid for pid, started in there if company.alive(pid, started) is not None]


def _tail(folder: Path) -> str:
    """Return the ends of what the processes of a run have said."""
    said = []
    for name in ("victim.log", "host.log", "watchdog.log", "log.jsonl"):
        path = folder / name
        if path.exists() and (text := path.read_text(errors="replace").strip()):
            said.append(f"{name}: {text[-600:]}")
    return " | ".join(said)


def summary(played: Sequence[Played], took_s: float) -> str:
    """Return one line for the log of the test run."""
    mid = sum(each.mid for each in played)
    under_way = sum(each.case.at in (APPLYING, LEAVING) for each in played)
    injectors = len({each.case.injector for each in played})
    return (
        f"kill matrix of every injector: {injectors} injectors, {len(played)} runs, {mid} of {under_way} that were "
        f"killed under way in the middle of the call, {took_s:.0f} s"
    )
