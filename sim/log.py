"""The record of a run: append-only JSON lines, each carrying the SHA-256 of the raw line before it.

One writer. Secret values are blacked out here, at the only door to the disk, so whatever reads the record (reports,
the judge, an evidence pack) can never show one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sim.clock import Clock
from sim.event import JSON, SIM, Event

FIRST_PREV = "0" * 64


class BrokenRecord(Exception):
    """The record was altered or cut: names the file and the line."""


def canonical(value: object) -> str:
    """Return the one JSON spelling used wherever bytes are compared: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def scrub(value: JSON, redact: Callable[[str], str]) -> JSON:
    """Return `value` as it may be written: secrets blacked out, in keys too; what JSON cannot hold (NaN) is null."""
    if isinstance(value, str):
        return redact(value.encode("utf-8", "replace").decode())  # half a surrogate pair cannot be written
    if isinstance(value, Mapping):
        return {str(scrub(key, redact)): scrub(item, redact) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item, redact) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


class Log:
    """Appends events to a file. `seen_at` counts from the opening of the log."""

    def __init__(self, path: Path, clock: Clock, redact: Callable[[str], str] = lambda text: text) -> None:
        self._clock = clock
        self._redact = redact
        self._started = clock.now()
        self._seq = 0
        self._prev = FIRST_PREV
        self._listeners: list[Callable[[Event], None]] = []
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600), "wb")

    def now(self) -> float:
        """Return the time of this record: seconds since the log was opened."""
        return self._clock.now() - self._started

    def wall(self) -> float:
        """Return the wall clock that labels events, epoch seconds."""
        return self._clock.wall()

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with each event after it was written."""
        self._listeners.append(listener)

    def append(self, kind: str, data: Mapping[str, JSON], source: str = SIM, occurred_at: float | None = None) -> Event:
        """Write one event and return it as written."""
        scrubbed = scrub(dict(data), self._redact)
        assert isinstance(scrubbed, dict)
        event = Event(
            seq=self._seq,
            seen_at=round(self.now(), 6),
            wall=round(self._clock.wall(), 6),
            occurred_at=None if occurred_at is None else round(occurred_at, 6),
            source=source,
            kind=kind,
            data=scrubbed,
            prev=self._prev,
        )
        line = canonical(as_json(event)).encode()
        self._file.write(line + b"\n")
        self._file.flush()
        self._prev = hashlib.sha256(line).hexdigest()
        self._seq += 1
        for listener in self._listeners:
            listener(event)
        return event

    def close(self) -> None:
        """Bring the record to the disk and close it."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


def hash_of(event: Event) -> str:
    """Return the SHA-256 of the event's line, as the next one carries it in `prev`."""
    return hashlib.sha256(canonical(as_json(event)).encode()).hexdigest()


def as_json(event: Event) -> dict[str, JSON]:
    """Return the event as the object that stands on its line."""
    return {
        "seq": event.seq,
        "seen_at": event.seen_at,
        "wall": event.wall,
        "occurred_at": event.occurred_at,
        "source": event.source,
        "kind": event.kind,
        "data": dict(event.data),
        "prev": event.prev,
    }


def _plain(event: Event) -> bool:
    """Whether the fields are of the types that they are written with."""
    numbers = (event.seen_at, event.wall, 0.0 if event.occurred_at is None else event.occurred_at)
    texts = (event.source, event.kind, event.prev)
    return (
        type(event.seq) is int
        and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        and all(isinstance(text, str) for text in texts)
        and isinstance(event.data, dict)
    )


def read(path: Path) -> Iterator[Event]:
    """Yield the events of a record, checking the chain. Raises `BrokenRecord`, `OSError`.

    A last line without its newline is the torn tail of a killed writer: it is not part of the record.
    """
    prev = FIRST_PREV
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                return
            line = raw[:-1]
            try:
                event = Event(**json.loads(line))
            except (ValueError, TypeError, RecursionError) as error:
                raise BrokenRecord(f"{path}:{number}: not an event of this record ({error})") from error
            if not _plain(event):
                raise BrokenRecord(f"{path}:{number}: not an event of this record (a field of another type)")
            if event.prev != prev or event.seq != number - 1:
                raise BrokenRecord(f"{path}:{number}: the chain is broken: this line or the one before was altered")
            prev = hashlib.sha256(line).hexdigest()
            yield event
