"""Starts victims, a few at a time, kills them, and asks the oracle what is left."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from sim import recover, undo
from sim.catalogue import Catalogue, catalogue
from sim.log import read
from sim.secret import Secrets
from tests.live.matrix.cases import (
    AT_ONCE,
    CASE_S,
    CODES,
    DEADLY,
    LEASED_S,
    LOOSE_S,
    MARK,
    ROOM,
    ROOT,
    SETTLE_S,
    SLACK_S,
    TARGET,
    Case,
    Ended,
)


class Bench:
    """A store, a zygote, and a folder of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ""
        self.names: Catalogue | None = None
        self._number = itertools.count(1)
        self._ends: dict[str, asyncio.Future[int]] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Bench]:
        """Start both processes; end them, and whatever they left, at the end."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOM}{os.pathsep}{ROOT}"}
        (self.folder / "machine").mkdir(exist_ok=True)
        environment["SIM_MACHINE_DIR"] = str(self.folder / "machine")
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}

        async def start(module: str) -> tuple[asyncio.subprocess.Process, str]:
            command = (sys.executable, "-m", f"tests.live.matrix.{module}")
            process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=ROOT, **pipes)
            assert process.stdout is not None
            return process, (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()

        self.names = _catalogue()
        (store, port), (zygote, ready) = await asyncio.gather(start("store"), start("zygote"))
        assert ready == "ready", "the zygote did not start"
        self.store, self._zygote = f"http://127.0.0.1:{port}", zygote
        reader = asyncio.create_task(self._reaped())
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as self._http:
                yield self
        finally:
            reader.cancel()
            for process in (zygote, store):
                assert process.stdin is not None
                process.stdin.close()
                await asyncio.wait_for(process.wait(), 20)
            await asyncio.gather(reader, return_exceptions=True)

    async def _reaped(self) -> None:
        assert self._zygote.stdout is not None
        while line := await self._zygote.stdout.readline():
            said = json.loads(line)
            self._ends.pop(said["id"]).set_result(said["code"])

    async def _send(self, job: dict[str, Any]) -> None:
        assert self._zygote.stdin is not None
        self._zygote.stdin.write(json.dumps(job).encode() + b"\n")
        await self._zygote.stdin.drain()

    async def kill(self, name: str, how: str, folder: Path) -> None:
        """Kill a victim, its watchdog, or both."""
        await self._send({"kill": name, "how": how, "folder": str(folder)})

    async def start(self, job: dict[str, Any]) -> asyncio.Future[int]:
        """Fork one victim; the future is its exit code."""
        ends = self._ends[job["id"]] = asyncio.get_running_loop().create_future()
        await self._send(job)
        return ends

    async def space(self, name: str, **how: str) -> str:
        """Make a namespace, and return its address."""
        url = f"{self.store}/{name}"
        async with self._http.put(url, json=how) as answer:
            answer.raise_for_status()
        return url

    async def look(self, name: str) -> dict[str, Any]:
        """Return what the store knows of a namespace."""
        async with self._http.get(f"{self.store}/{name}") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    # -- cases -------------------------------------------------------------------------------------------------

    async def all(self, cases: Iterable[Case]) -> list[Ended]:
        """Run the cases, a few at a time; a second look at the end tells whether anything came back later."""
        ended = list(await asyncio.gather(*(self._one(case) for case in cases)))
        again = []
        for each in ended:
            found = await self.look(each.space)
            later = _later(found) if not each.wrong else ()
            again.append(replace(each, wrong=each.wrong + later))
        return again

    async def _one(self, case: Case) -> Ended:
        async with self._gate:
            started, name = time.monotonic(), f"k{next(self._number)}"
            folder = self.folder / "runs" / name
            try:
                async with asyncio.timeout(CASE_S):
                    ended = await self._played(case, name, folder)
            except TimeoutError:
                await self.kill(name, "everything", folder)
                ended = Ended(case, (), -1, folder, name, wrong=(f"it took longer than {CASE_S:g} s",))
            return replace(ended, took_s=time.monotonic() - started)

    async def _played(self, case: Case, name: str, folder: Path) -> Ended:
        address = await self.space(name, how=case.odd, at=case.odd_at)
        job = {"id": name, "folder": str(folder), "store": address, "at": case.at, "how": case.how, **case.job}
        if case.faults:
            job["faults"] = list(case.faults)
        ends = await self.start(job)
        killed, alive = None, True
        if case.after_s is not None:
            await asyncio.wait({ends}, timeout=case.after_s)
            killed, alive = time.monotonic(), not ends.done()
            await self.kill(name, str(case.how), folder)
        code = await ends
        points, at = _traced(folder / "points.jsonl")
        if case.at is not None and at is None:
            return Ended(case, points, code, folder, name, wrong=("it never came to the point",))
        ended = Ended(case, points, code, folder, name, alive=alive)
        return await Oracle(self, ended, (killed if killed is not None else at) or time.monotonic()).say()

    async def recover(self, folder: Path) -> recover.Left:
        """Do what `sim recover` does."""
        assert self.names is not None
        return await recover.recover(folder, self.names, Secrets(), lambda *_: None, settle_s=SETTLE_S)


def _catalogue() -> Catalogue:
    """Return the catalogue that a process with the room on its path has."""
    sys.path.insert(0, str(ROOM))
    return catalogue()


def _traced(path: Path) -> tuple[tuple[tuple[str, bool], ...], float | None]:
    """Return the points that were passed, each with whether a watchdog was there, and when it was killed."""
    points, killed = [], None
    for line in path.read_text().splitlines() if path.exists() else ():
        said = json.loads(line)
        if "point" in said:
            points.append((said["point"], said["dog"]))
        else:
            killed = said["killed"]
    return tuple(points), killed


def _later(found: dict[str, Any]) -> tuple[str, ...]:
    """Return what a second look finds that must not be there."""
    back = [f"{name} came back" for name in found["faults"]]
    return tuple(back) + (("the gate changed again",) if found["gate"] != "open" else ())


def locked(machine: Path, instance: str) -> bool:
    """Whether a runner or its watchdog still holds the target."""
    path = machine / f"target-{hashlib.sha256(f'{TARGET}{chr(0)}{instance}'.encode()).hexdigest()[:16]}"
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def started_by(folder: Path) -> list[int]:
    """Return the company that a run has started, by the mark in its environment: also what is in no journal."""
    mark, found = f"{MARK}={folder}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if b"killroom._company" in (path / "cmdline").read_bytes():
                found += [int(path.name)] if mark in (path / "environ").read_bytes().split(b"\0") else []
    return found


class Oracle:
    """Looks at the target and at what the run left, after the runner has ended."""

    def __init__(self, bench: Bench, ended: Ended, killed: float) -> None:
        self.bench, self.ended, self.killed = bench, ended, killed
        self.left: list[str] = []
        self.wrong: list[str] = []

    async def say(self) -> Ended:
        """Wait for what must happen unaided, recover, and return the case with everything that is not as it must be."""
        case = self.ended.case
        lost = case.how == "everything"
        if "room" in case.job:  # its watchdog would try to write for ten minutes
            await self.bench.kill(self.ended.space, "watchdog", self.ended.folder)
        if not case.at_once:
            await self._unaided(lost)
        await self._recovered(lost)
        self._codes()
        await self._settled()
        return replace(self.ended, left=tuple(self.left), wrong=tuple(self.wrong))

    async def _unaided(self, lost: bool) -> None:
        """Each fault goes by itself within its bound; a loose one only while somebody is there to withdraw it."""
        name, journal = self.ended.space, self.ended.folder / undo.FILE
        while locked(self.bench.folder / "machine", name) and time.monotonic() < self.killed + LOOSE_S + SLACK_S:
            await asyncio.sleep(0.05)
        if locked(self.bench.folder / "machine", name):
            self.wrong.append("somebody still holds the target")
        while (found := await self.bench.look(name))["faults"] or found["pending"]:
            late = time.monotonic() - self.killed
            wanted = [each for each in found["faults"] if not (lost and each.startswith("loose"))]
            if (not wanted and not found["pending"]) or late > LOOSE_S + SLACK_S:
                break
            await asyncio.sleep(0.05)
        for each in found["faults"]:
            if not (lost and each.startswith("loose")):
                self.left.append(f"{each} stayed")
        for each, at in found["ended"].items():
            bound = LEASED_S if each.startswith("leased") else LOOSE_S
            if not (lost and each.startswith("loose")) and at - self.killed > bound:
                self.wrong.append(f"{each} stayed for {at - self.killed:.1f} s, longer than {bound:g} s")
        doubled = [each for each, count in found["applies"].items() if count > 1]
        self.wrong += [f"{each} was applied more than once" for each in doubled]
        await self._alone(lost)
        if journal.exists() and undo.read(journal).unfinished and not lost and self.ended.code != 6:
            self.wrong.append("its journal is not finished")
        if found["gate"] != "open" and not lost:
            self.left.append("the gate was not put back")

    async def _alone(self, lost: bool) -> None:
        """Its company ends by itself; a deaf one only while somebody is there to end it."""
        if lost and self.ended.case.deaf:
            return
        while (there := started_by(self.ended.folder)) and time.monotonic() < self.killed + LOOSE_S + SLACK_S:
            await asyncio.sleep(0.05)
        self.wrong += [f"its company goes on: process {pid}" for pid in there]

    async def _recovered(self, lost: bool) -> None:
        """Recovery leaves nothing, and a second one has nothing to do."""
        folder = self.ended.folder
        journal = folder / undo.FILE
        if not journal.exists():
            return
        if undo.read(journal).unfinished:
            reasons = (await self.bench.recover(folder)).reasons
            self.wrong += [f"recover: {reason}" for reason in reasons]
        found = undo.read(journal)
        if found.unfinished:
            self.wrong.append("the journal is open after recover")
        before = journal.read_bytes()
        if (await self.bench.recover(folder)).reasons or journal.read_bytes() != before:
            self.wrong.append("a second recover did something")

    async def _settled(self) -> None:
        """At the end nothing is in, nothing is on its way, and the gate is as it was."""
        while (found := await self.bench.look(self.ended.space))["pending"]:
            await asyncio.sleep(0.05)
        self.wrong += [f"{name} is in after recover" for name in found["faults"]]
        self.wrong += [f"its company goes on after recover: process {pid}" for pid in started_by(self.ended.folder)]
        if found["gate"] != "open":
            self.wrong.append("the gate is not as before after recover")

    def _codes(self) -> None:
        """The runner's exit code says how it ended."""
        case, code = self.ended.case, self.ended.code
        wanted: tuple[int, ...] = (-9,) if case.how in DEADLY else (CODES.get(case.how or "", 0),)
        if (case.odd or case.faults) and case.how in (None, "watchdog"):
            wanted += (0, 1, 4)  # an odd target may keep the run from proving anything
        if case.after_s is not None or case.over:
            wanted += (0,)  # it had been judged, or had ended, before it was killed
        if case.after_s is not None and (case.odd or case.faults):
            wanted += (1, 4)
        if "disk" in case.job:  # what cannot be written down proves nothing
            wanted = (0, 4, 6) if "room" in case.job else (4,)
        if case.after_s is not None and not (self.ended.folder / "plan.json").exists():
            return  # it was killed before it had begun
        if code not in wanted:
            output, log = self.ended.folder / "victim.log", self.ended.folder / "log.jsonl"
            why = output.read_text()[-2000:] if output.exists() else ""
            if log.exists():
                why += "; ".join(str(e.data) for e in read(log) if e.kind in ("run.error", "fault.stuck"))
            self.wrong.append(f"exit code {code}, not {' or '.join(map(str, wanted))} {why}".strip())
