"""Every injector there is, killed at every point of `drill`, against the target that its own test brings; the oracle.

The oracle knows nothing of any fault: the target's own list must read as it did before the run. By the `lease` that the
injector declares that must come about unaided, after every kill (``target``), or after every kill but that of runner
and watchdog together (``none``); `sim recover` does the rest, and a second one has nothing to do.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim import company, recover, undo
from sim.secret import Secrets
from tests.live.matrix.bench import Bench, locked
from tests.live.matrix.cases import CASE_S, CODES, DEADLY, SLACK_S, TTL_S
from tests.live.matrix.drill import APPLIED, APPLYING, LEAVING, MID, POINTS, RENEWED, SETTLE_S
from tests.live.matrix.fakes import MISSING, Host

#: How a runner is killed at each point.
KILLS = ("SIGTERM", "SIGKILL", "everything")

#: How many runs there are at a time: most of each is waiting.
AT_ONCE = 12

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

    def __str__(self) -> str:
        real = " of a real part" if self.real else ""
        return f"{self.injector}{real}: {self.how or 'nothing'} at {self.at or 'no point'}"


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one: the points it passed, what the oracle has against it, and what real part was not there."""

    drill: Drill
    folder: Path
    points: tuple[str, ...] = ()
    mid: bool = False
    code: int = 0
    wrong: tuple[str, ...] = ()
    missing: str = ""
    took_s: float = 0.0


def drills(names: Iterable[str], real: bool = False) -> list[Drill]:
    """Return all runs of these injectors."""
    made = []
    for name in names:
        made.append(Drill(name, real=real))
        made += [Drill(name, point, how, real) for point in POINTS for how in KILLS]
    return made


def told(played: Iterable[Played]) -> list[str]:
    """Return one line for each run that did not end as it must."""
    return [f"{each.drill}: {'; '.join(each.wrong)} ({each.folder.name})" for each in played if each.wrong]


class Every:
    """Plays drills on a bench."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._number = 0

    async def all(self, drills: Sequence[Drill]) -> list[Played]:
        """Play them, a few at a time."""
        return list(await asyncio.gather(*(self.one(drill) for drill in drills)))

    async def one(self, drill: Drill) -> Played:
        """Play one."""
        async with self._gate:
            self._number += 1
            name, started = f"e{self._number}", time.monotonic()
            folder = self.bench.folder / "runs" / name
            folder.mkdir(parents=True)
            job = {"do": "host", "id": f"{name}.host", "folder": str(folder), "injector": drill.injector}
            ends = await self.bench.start({**job, "real": drill.real})
            host = Host(folder)
            try:
                async with asyncio.timeout(CASE_S):
                    played = await self._at(drill, name, folder, host)
                    await host.end()
                    if await ends:
                        played = replace(played, wrong=(*played.wrong, f"its target ended badly: {_tail(folder)}"))
            except TimeoutError:
                await self.bench.kill(name, "everything", folder)
                await host.end()
                played = Played(drill, folder, wrong=(f"it took longer than {CASE_S:g} s: {_tail(folder)}",))
            await self.bench.kill(f"{name}.host", "SIGKILL", folder)
            return replace(played, took_s=time.monotonic() - started)

    async def _at(self, drill: Drill, name: str, folder: Path, host: Host) -> Played:
        said = await host.stands()
        if MISSING in said:
            return Played(drill, folder, missing=said[MISSING])
        if "error" in said:
            return Played(drill, folder, wrong=(f"its target does not stand: {said['error']}",))
        before = await host.ask("state")
        job = {"do": "drill", "id": name, "folder": str(folder), "injector": drill.injector, "port": host.port}
        job |= {"store": await self.bench.space(name, how="", at=""), "at": drill.at, "how": drill.how}
        code = await (await self.bench.start({**job, "no_watchdog": not drill.watched}))
        oracle = Oracle(self.bench, drill, name, folder, host, before)
        return replace(await oracle.say(), code=code, wrong=(*oracle.wrong, *oracle.code(code)))


class Oracle:
    """Looks at the target and at what the run left, after the runner has ended."""

    def __init__(self, bench: Bench, drill: Drill, name: str, folder: Path, host: Host, before: Any) -> None:
        assert bench.names is not None
        self.bench, self.drill, self.name, self.folder, self.host, self.before = (
            bench, drill, name, folder, host, before,
        )  # fmt: skip
        injector = bench.names.injector(drill.injector)
        self.lease = drill.lease or injector.lease
        self.passes = {*POINTS, *([RENEWED] if injector.renew is not None else [])}
        self.journal = folder / undo.FILE
        self.lost = drill.how == "everything"
        self.wrong: list[str] = []
        self.points: dict[str, bool] = {}
        self.killed = time.monotonic()

    async def say(self) -> Played:
        """Wait for what must happen unaided, recover; `wrong` is then everything that is not as it must be."""
        at = self._traced()
        if self.drill.at is not None and at is None:
            self.wrong.append("it never came to the point")
        elif self.drill.at is None and self.points.keys() != self.passes:
            self.wrong.append(f"it passed no more than {', '.join(self.points) or 'nothing'}: {_tail(self.folder)}")
        self.killed = at or self.killed
        if self.lost and self.lease == "none" and self.drill.at == APPLIED and await self._same():
            self.wrong.append("the target knew of no fault although it was acknowledged")
        await self._unaided()
        await self._recovered()
        await asyncio.sleep(SETTLE_S)
        await self._is_as_before("after recover")
        mid = self.points.get(self.drill.at or "", False)
        return Played(self.drill, self.folder, tuple(self.points), mid)

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

    async def _is_as_before(self, when: str) -> None:
        if (now := await self.host.ask("state")) != self.before:
            self.wrong.append(f"{when} the target has {now!r:.200}, before the run it had {self.before!r:.200}")

    async def _unaided(self) -> None:
        """The target is as before by itself, where somebody is left or it holds the lease; traffic always ends."""
        machine = self.bench.folder / "machine"
        late = self.killed + LOOSE_S
        if not await _until(lambda: _now(not locked(machine, self.name)), late):
            self.wrong.append("somebody still holds the target")
        if self.lease == "target" or not self.lost:
            due = self.killed + LEASED_S if self.lease == "target" and self.lost else late
            if not await _until(self._same, due):
                await self._is_as_before(f"{time.monotonic() - self.killed:.1f} s after the kill")
        if not await _until(lambda: _now(not _companies(self.journal)), late):
            self.wrong.append(f"its company goes on: {_companies(self.journal)}")
        if not self.lost and self.journal.exists() and undo.read(self.journal).unfinished:
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

    def code(self, code: int) -> Iterable[str]:
        """Say what is wrong with the runner's exit code: it says how the run ended."""
        how = self.drill.how
        wanted: tuple[int, ...] = (1, 4) if how is None else (-9,) if how in DEADLY else (CODES[how],)
        if code not in wanted:
            yield f"exit code {code}, not {' or '.join(map(str, wanted))}: {_tail(self.folder)}"


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
    under_way = sum(each.drill.at in (APPLYING, LEAVING) for each in played)
    injectors = len({each.drill.injector for each in played})
    return (
        f"kill matrix of every injector: {injectors} injectors, {len(played)} runs, {mid} of {under_way} that were "
        f"killed under way in the middle of the call, {took_s:.0f} s"
    )
