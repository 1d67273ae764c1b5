"""Traffic that goes with a fault: there before it, and after it until all is well again.

A fault that only shows in what users meet needs users, and its baseline needs them before t0. Such traffic is a process
of its own, no fault, and nothing to withdraw; but it must not stay behind. So its lease is its standard input: when
that ends, however the runner went, it ends. And it is in the journal before it begins, so that the watchdog and
`sim recover` end one that does not.

It is told what to do in the first line of its input, and says one JSON object a line: ``{"note": TEXT}`` for the
record, ``{"ready": TEXT}`` once, when the baseline has what it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from sim import injection
from sim.injection import Injection
from sim.injector import Company
from sim.log import Log, canonical
from sim.preflight import Refused
from sim.undo import Journal, JournalError

if TYPE_CHECKING:
    from sim.run import Run

#: How long a process may take to end by itself once its input has ended, and once it was asked by a signal, seconds.
ENDS_S = 8.0
TERM_S = 2.0

#: The longest line that a process may say, bytes.
LINE = 64 * 1024


def alive(pid: int, started: float) -> psutil.Process | None:
    """Return the process with this pid if it is the one that started then (epoch s) and still runs."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or not abs(process.create_time() - started) < 0.01:
            return None  # also of a start that is no number: it is nobody's
        return process
    except (psutil.Error, ValueError, OverflowError):  # a number that no process can have
        return None


def ended(record: Mapping[str, Any]) -> str:
    """End the process that a journal's ``company`` names, from any process; return what is wrong, empty for nothing."""
    try:
        pid, started = int(record["pid"]), float(record["started"])
    except (KeyError, TypeError, ValueError) as error:
        return f"its record in the journal cannot be used: {type(error).__name__}: {error}"
    for number, wait_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, TERM_S)):
        process = alive(pid, started)
        if process is None:
            return ""
        with contextlib.suppress(OSError):
            os.killpg(pid, number)  # it leads a group of its own
        with contextlib.suppress(psutil.Error):
            process.wait(wait_s)
    return "" if alive(pid, started) is None else f"process {pid} does not end"


class Companion:
    """One such process of this run."""

    def __init__(self, injection: Injection, company: Company, log: Log) -> None:
        self.id = injection.id
        self.company = company
        self.ready = False
        self.trouble = ""
        self._name = injection.fault.injector
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None
        self._ending = False

    async def start(self, folder: Path, journal: Journal) -> None:
        """Start it, and let it begin once it is in the journal. Raises `OSError`, `JournalError`."""
        with (folder / "company.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", self.company.module),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                limit=LINE,
            )
        pid = self._process.pid
        try:
            started = psutil.Process(pid).create_time()
        except psutil.Error as error:
            raise OSError(f"{self.company.module} ended at once: {error}") from error
        journal.write("company", company=self.id, injector=self._name, pid=pid, started=started)
        self._listener = asyncio.create_task(self._listen(self._process), name=f"company {self.id}")
        assert self._process.stdin is not None
        self._process.stdin.write(canonical(self.company.given).encode() + b"\n")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        why = ""
        try:
            while line := await process.stdout.readline():
                self._heard(json.loads(line))
        except (ValueError, TypeError, AttributeError) as error:  # also a line that is too long
            why = f"it says what is no line of JSON: {error}"
        if not self._ending:
            self.trouble = why or f"it ended by itself (exit {await process.wait()}); see company.log in the run folder"
            self._log.append("note", {"text": f"company of {self._name}: {self.trouble}"})

    def _heard(self, said: Mapping[str, Any]) -> None:
        text = said.get("ready", said.get("note"))
        self.ready = self.ready or "ready" in said
        self._log.append("note", {"text": f"company of {self._name}: {str(text)[:400]}"})

    async def end(self, journal: Journal) -> bool:
        """End it, gently first; tell whether it is gone and the journal says so."""
        process = self._process
        if process is None:
            return True
        self._ending = True
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDS_S):
                await process.wait()
        if process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        try:
            journal.write("company_ended", company=self.id, by="runner")
        except JournalError as error:
            self._log.append("note", {"text": f"company of {self._name} has ended, but {error}"})
            return False
        return True


class Companions:
    """All such processes of a run."""

    def __init__(self, injections: Sequence[Injection], log: Log) -> None:
        """Ask each injector whether it brings one."""
        self.all = []
        for each in injections:
            if each.injector.accompany is not None:
                params = each.injector.params.model_validate(each.fault.params)
                self.all.append(Companion(each, each.injector.accompany(each.site, params), log))

    async def start(self, folder: Path, journal: Journal) -> None:
        """Start all. Raises `OSError`, `JournalError`; `end` must follow whatever happens."""
        for each in self.all:
            await each.start(folder, journal)

    @property
    def ready_s(self) -> float:
        """How long all may take to be ready, seconds."""
        return max((each.company.ready_s for each in self.all), default=0.0)

    @property
    def ready(self) -> bool:
        """Whether each has said that the baseline has what it needs."""
        return all(each.ready for each in self.all)

    @property
    def trouble(self) -> str:
        """What became of the first that ended or fell silent before it should; empty while all are well."""
        return next((f"{each.company.module}: {each.trouble}" for each in self.all if each.trouble), "")

    async def end(self, journal: Journal) -> bool:
        """End all; tell whether all are gone."""
        return all([await each.end(journal) for each in self.all])


async def accompany(run: Run) -> None:
    """Bring the traffic that the faults of a run need already at baseline, and wait until it has made one.

    Raises `Refused`: without it nothing that is seen later could be compared.
    """
    run.sites = injection.of(run.plan, run.around, run.token, run.folder.name)
    here = run.companions = Companions(run.sites, run.log)
    if not here.all:
        return
    try:
        journal = run.journalled()
        run.guard.arm()
        run.say("accompany", run.log.now() + here.ready_s)
        await here.start(run.folder, journal)
    except (OSError, JournalError) as error:
        raise Refused("baseline", "company", f"the traffic that the fault needs cannot be started: {error}") from error
    await run.until(lambda: here.ready or bool(here.trouble), here.ready_s)
    if not here.ready or here.trouble:
        why = here.trouble or f"not ready within {here.ready_s:g} s"
        raise Refused("baseline", "company", f"the traffic that the fault needs is not there: {why}")
