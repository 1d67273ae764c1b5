"""Finishes what a killed run left, from its journal alone: withdraw, read back, restore. Local, and idempotent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sim import company, restore, undo, whereabouts
from sim.injection import IN_FLIGHT_S, Say, from_intent, take_back
from sim.injector import Injector
from sim.observation import ObserverKind
from sim.secret import Secrets


class Names(Protocol):
    """What recovery asks of a catalogue."""

    def injector(self, name: str) -> Injector: ...

    def observer(self, name: str) -> ObserverKind: ...


@dataclass(frozen=True, slots=True)
class Left:
    """What is still open after an attempt; empty when all is put back."""

    folder: Path
    reasons: tuple[str, ...]


def unfinished(runs: Path) -> list[undo.Open]:
    """Return the journals below `runs` that leave something open, oldest first. Raises `undo.JournalError`."""
    journals = sorted(runs.glob(f"*/{undo.FILE}")) if runs.is_dir() else []
    return [found for found in map(undo.read, journals) if found.unfinished]


def line(folder: Path) -> str:
    """Return the command that finishes the run in `folder`."""
    return f"sim recover {os.path.relpath(folder)}"


def ended_with_its_stack(journal: undo.Open) -> bool:
    """Whether the faults that were in the target are gone with its processes; `finish_here` ends the rest.

    True only for a stack of ours whose start is over: there is nothing left to restore or to withdraw from, but what
    never was in the stack.
    """
    from sim import stack

    if whereabouts.elsewhere(journal.header.get("machine"), "pid"):
        return False  # whether its processes are gone, nobody knows here
    folder, instance = journal.header.get("stack"), journal.header.get("instance")
    return bool(folder and instance) and stack.ended(str(folder), str(instance))


async def finish_here(journal: undo.Open, names: Names, secrets: Secrets, say: Say, by: str) -> Left:
    """Finish a journal whose stack is down: what it left beyond the stack is undone. Raises `JournalError`."""
    book = undo.Journal(journal.path.parent)
    work = _Work(journal, book, names, secrets, say, by)
    try:
        faults = [record for record in reversed(journal.faults.values()) if _is_beyond(record, names)]
        reasons = await work.taken_back(faults, IN_FLIGHT_S if faults else 0.0)
        reasons += work.companies_ended()
        beyond = [record for record in journal.restores.values() if record.get("of_stack", True) is not True]
        reasons += await work.put_back(beyond)
        if not reasons:
            book.write("closed", by=f"{by}: the stack it was in is down")
    finally:
        book.close()
    return Left(journal.path.parent, tuple(secrets.redact(reason) for reason in reasons))


def _is_beyond(record: Mapping[str, Any], names: Names) -> bool:
    """Whether a fault does not go with the stack: it is behind a door that the stack did not open, or on this machine.

    The journal says so itself: who recovers may not have the injector.
    """
    if record.get("of_stack", True) is not True:  # a journal from before this was written knew no other doors
        return True
    if isinstance(record.get("here"), bool):
        return bool(record["here"])
    try:
        return names.injector(str(record.get("injector"))).here
    except LookupError:  # as above; by the stack's own doors it was where they lead: in the target
        return False


@dataclass(frozen=True, slots=True)
class _Work:
    """Undoing what one journal leaves open. Each part tells what stays, and why; none keeps the others open."""

    left: undo.Open
    book: undo.Journal
    names: Names
    secrets: Secrets
    say: Say
    by: str

    async def taken_back(self, records: Iterable[Mapping[str, Any]], settle_s: float) -> list[str]:
        """Withdraw faults in this order and read them back."""
        reasons: list[str] = []
        landed_at = asyncio.get_running_loop().time() + settle_s
        for record in records:
            fault = record["fault"]
            try:
                injection = from_intent(record, self.names.injector, self.secrets)
                apart = self._apart(record["doors"], injection.injector.here)
                injection.landed_at, injection.in_flight_s = landed_at, settle_s
            except Exception as error:  # noqa: BLE001 - a record that cannot be used must not keep the others open
                reasons.append(f"{fault}: {_why(error)}")
                continue
            if apart:
                reasons.append(f"{fault}: {apart}")
                continue
            self.say("fault.withdrawing", {"fault": fault})
            if not await take_back(injection, self.book, self.say, self.by):
                reasons.append(f"{fault} is not proven gone")
        return reasons

    async def put_back(self, records: Iterable[Mapping[str, Any]]) -> list[str]:
        """Set back what actions changed; nothing was where no fault was intended."""
        reasons, patience = [], restore.Patience()
        for record in records if self.left.intended else ():
            try:
                kind = self.names.observer(str(record["spec"]["kind"]))
                apart = self._apart({"call": record["call"]}, False)
            except Exception as error:  # noqa: BLE001 - as above
                reasons.append(f"{record['fact']}: {_why(error)}")
                continue
            if apart:
                reasons.append(f"{record['fact']}: {apart}")
                continue
            trouble = await restore.put_back(record, kind, self.secrets, self.book, self.say, self.by, patience)
            reasons += [trouble] if trouble else []
        return reasons

    def companies_ended(self) -> list[str]:
        """End the traffic that went with the faults."""
        reasons = []
        for each, record in self.left.companies.items():
            stays = self._elsewhere("pid") or company.ended(record)
            if stays:
                reasons.append(f"company {each}: {stays}")
            else:
                self.book.write("company_ended", company=each, by=self.by)
        return reasons

    def _apart(self, doors: Mapping[str, Any], here: bool) -> str:
        """Return why something is neither undone nor read back from here, empty when it can be."""
        spaces = whereabouts.bound(doors, here)
        return "" if spaces is None else self._elsewhere(*spaces)

    def _elsewhere(self, *spaces: str) -> str:
        where = whereabouts.elsewhere(self.left.header.get("machine"), *spaces)
        return where and f"it is of {where}: run sim recover there"


def owner_alive(header: Mapping[str, Any]) -> bool:
    """Whether the process that wrote this journal still runs (same pid and same start time)."""
    import psutil

    owner = header.get("owner") or {}
    try:
        process = psutil.Process(int(owner["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False  # it is dead; its parent has only not asked yet
        return abs(process.create_time() - float(owner["started"])) < 0.01
    except (psutil.Error, KeyError, ValueError, TypeError):
        return False


async def recover(
    folder: Path, names: Names, secrets: Secrets, say: Say, by: str = "recover", settle_s: float = IN_FLIGHT_S
) -> Left:
    """Withdraw what the journal in `folder` leaves open, last first, then restore. Raises `JournalError`.

    What the dead runner had sent may still land for `settle_s`: nothing counts as gone before.
    """
    left = undo.read(folder / undo.FILE)
    if not left.unfinished:
        return Left(folder, ())
    book = undo.Journal(folder)
    work = _Work(left, book, names, secrets, say, by)
    try:
        reasons = await work.taken_back(reversed(left.faults.values()), settle_s)
        reasons += work.companies_ended()
        reasons += await work.put_back(left.restores.values())
        if not reasons:
            book.write("closed", by=by)
    finally:
        book.close()
    return Left(folder, tuple(secrets.redact(reason) for reason in reasons))


def _why(error: Exception) -> str:
    if isinstance(error, LookupError) and not isinstance(error, KeyError):
        return str(error.args[0] if error.args else error)
    return f"its record in the journal cannot be used: {type(error).__name__}: {error}"
