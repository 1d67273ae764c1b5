"""The undo journal: what must be put back, written to the disk before it is needed.

``undo.jsonl`` in the run folder, mode 0600, one record a line, fsync'ed each, the folder too when it is created. Undo
is data for registered functions (an injector's name, a receipt, a restore call), never code. Any process can finish
from it; every record may be written twice without harm.

========== ===============================================================================================
``open``    run, target, instance, owner (pid and start time), the names the run needs to be found again
``restore`` one state fact: its prior value, the call that sets it, how it is read
``company`` a process that goes with a fault: pid and start time (it changes nothing, but must not stay)
``company_ended`` it is gone; by whom
``intent``  one fault: injector, receipt, prior state, doors, lease, deadline
``applied`` the target acknowledged it
``withdrawn`` read back gone; by whom, with what evidence
``restored`` the fact reads as before; by whom
``closed``  nothing is open
========== ===============================================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sim.event import JSON
from sim.log import canonical

VERSION = 1
FILE = "undo.jsonl"


class JournalError(Exception):
    """The journal cannot be written or understood. Says which file, which line, and what to do."""


class Journal:
    """Appends records, each on the disk before the call returns."""

    def __init__(self, folder: Path) -> None:
        """Open (or create) the journal of the run in `folder`. Raises `JournalError`."""
        self.path = folder / FILE
        self._torn = True  # a killed writer's half record may be there
        try:
            created = not self.path.exists()
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise JournalError(f"cannot open the undo journal {self.path}: {error.strerror}") from error
        try:
            self._drop_torn_tail()
            if created:
                directory = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
        except OSError as error:
            os.close(self._fd)
            raise JournalError(f"cannot open the undo journal {self.path}: {error.strerror}") from error

    def _drop_torn_tail(self) -> None:
        """Cut a half-written last record, so that the next one starts on a line of its own."""
        size = os.fstat(self._fd).st_size
        whole = os.pread(self._fd, size, 0)
        keep = whole.rfind(b"\n") + 1
        if keep != size:
            os.ftruncate(self._fd, keep)
        self._torn = False

    def write(self, record: str, **fields: JSON) -> None:
        """Append one record and wait until it is on the disk. Raises `JournalError`."""
        try:
            line = canonical({"v": VERSION, "record": record, **fields}).encode() + b"\n"
        except (ValueError, TypeError, RecursionError) as error:
            raise JournalError(f"{record!r} cannot stand in the undo journal {self.path}: {error}") from error
        try:
            if self._torn:
                self._drop_torn_tail()
            self._torn = True
            written = os.write(self._fd, line)
            if written != len(line):
                self._drop_torn_tail()  # at once: the next to write may be another process
                raise OSError(0, "short write: the disk may be full")
            self._torn = False
            os.fsync(self._fd)
        except OSError as error:
            raise JournalError(f"cannot write the undo journal {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the file. The journal's own end is the record ``closed``."""
        os.close(self._fd)


@dataclass(slots=True)
class Open:
    """What a journal says is still to be done."""

    path: Path
    header: Mapping[str, JSON] = field(default_factory=dict)
    faults: dict[str, Mapping[str, JSON]] = field(default_factory=dict)
    restores: dict[str, Mapping[str, JSON]] = field(default_factory=dict)
    companies: dict[str, Mapping[str, JSON]] = field(default_factory=dict)
    intended: bool = False
    closed: bool = False
    known: set[str] = field(default_factory=set)

    @property
    def unfinished(self) -> bool:
        """Whether anything may still have to be put back.

        Before the first intent nothing was changed by this run: a fact that reads otherwise now was set by somebody
        else, and must not be set back.
        """
        changed = self.intended and bool(self.faults or self.restores)
        return not self.closed and (changed or bool(self.companies))


def read(path: Path) -> Open:
    """Return what the journal at `path` leaves open. Raises `JournalError`.

    The torn tail of a killed writer is ignored (its effect was not begun); anything else that cannot be understood is
    refused, since the state of the target is then unknown.
    """
    found = Open(path)
    try:
        raw = path.read_bytes()
        found_at = path.stat()
    except OSError as error:
        raise JournalError(f"cannot read the undo journal {path}: {error.strerror}") from error
    if found_at.st_mode & 0o022 or found_at.st_uid not in (0, os.geteuid()):
        # What it says is done, with this user's secrets: nobody else may have had a hand in it.
        raise JournalError(f"{path} can be written by others, or is another user's; look at it, then chmod 600")
    lines = raw.split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            version, kind = record["v"], record["record"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise JournalError(f"{path}:{number}: not a journal record; the state of the target is unknown") from error
        if version != VERSION or isinstance(version, bool):
            raise JournalError(f"{path}:{number}: journal version {version!r}; this sim reads version {VERSION}")
        try:
            _apply(found, kind, record, number)
        except KeyError as error:
            text = f"{path}:{number}: {kind!r} without its {error}; the state of the target is unknown"
            raise JournalError(text) from error
    return found


def _apply(found: Open, kind: str, record: Mapping[str, JSON], number: int) -> None:
    match kind:
        case "open":
            found.header = record
        case "restore":
            found.restores[str(record["fact"])] = record
        case "company":
            found.companies[str(record["company"])] = record
        case "company_ended":
            found.companies.pop(str(record["company"]), None)
        case "intent":
            found.faults[str(record["fault"])] = record
            found.intended = True
            found.known.add(str(record["fault"]))
        case "applied" | "withdrawn":
            fault = str(record["fault"])
            if fault not in found.known:
                raise JournalError(f"{found.path}:{number}: {kind} of {fault} without its intent: a line is missing")
            if kind == "withdrawn":
                found.faults.pop(fault, None)
        case "restored":
            found.restores.pop(str(record["fact"]), None)
        case "closed":
            found.closed = True
        case _:
            raise JournalError(f"{found.path}:{number}: unknown record {kind!r}; the state of the target is unknown")
