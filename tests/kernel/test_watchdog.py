"""The dead man's switch: what it takes for the end of a runner, and what it puts back of a folder that was removed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sim import recover, undo, watchdog
from sim.clock import run_virtual
from sim.recover import Left
from sim.undo import Journal, JournalError


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return both ends of a runner's pipe."""
    read, write = os.pipe()
    yield read, write
    os.close(read)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "gone"),
        (b"at 1.000\n", "late"),
        (b"at 1.000\nwithdrawn\n", "gone"),
        (b"at 1.000\nwithdrawn\nat 1.000\n", "late"),
        (b"at 1.0", "gone"),
        (b"at 99999999.000\n", "gone"),
    ],
)
def test_what_ends_the_watch(pipe: tuple[int, int], said: bytes, why: str) -> None:
    """End of file is a runner that is gone, a moment that has passed is one that hangs; withdrawn takes that back."""
    read, write = pipe
    os.write(write, said)
    if why == "gone":
        os.close(write)
    assert watchdog.watch(read) == why
    if why == "late":
        os.close(write)


def told(
    folder: Path, write: Callable[[Journal], None], monkeypatch: Any, remove: bool = False
) -> tuple[int, list[Path]]:
    """Let the watchdog's own part run over a journal whose runner is gone; return its code and whom it finished."""
    journal = Journal(folder)
    write(journal)
    journal.close()
    book = os.open(folder / undo.FILE, os.O_RDONLY)
    read, end = os.pipe()
    os.close(end)
    if remove:
        (folder / undo.FILE).unlink()
        folder.rmdir()
    asked: list[Path] = []

    async def finish(where: Path, _: float) -> bool:
        asked.append(where)
        return True

    monkeypatch.setattr(watchdog, "finish", finish)
    monkeypatch.setattr(watchdog.signal, "signal", lambda *_: None)
    monkeypatch.chdir(folder.parent)
    return watchdog.main(folder, read, book, 0.0), asked


def intended(journal: Journal) -> None:
    """Write a fault that is open."""
    journal.write("open", run="r")
    journal.write("intent", fault="f", injector="x")


def closed(journal: Journal) -> None:
    """Write one that is not."""
    intended(journal)
    journal.write("closed", by="runner")


@pytest.mark.parametrize("remove", [False, True])
def test_an_open_journal_is_finished_wherever_it_is(tmp_path: Path, monkeypatch: Any, remove: bool) -> None:
    """Also when the folder was removed: the journal stands there again, for everybody to read, as it was."""
    folder = tmp_path / "run"
    folder.mkdir()
    assert told(folder, intended, monkeypatch, remove) == (0, [folder])
    assert list(undo.read(folder / undo.FILE).faults) == ["f"]
    assert oct((folder / undo.FILE).stat().st_mode & 0o777) == "0o600"


@pytest.mark.parametrize("remove", [False, True])
def test_a_closed_journal_is_left_alone(tmp_path: Path, monkeypatch: Any, remove: bool) -> None:
    """Nothing is finished; and a folder that somebody removed does not come back for it."""
    folder = tmp_path / "run"
    folder.mkdir()
    assert told(folder, closed, monkeypatch, remove) == (0, [])
    assert folder.exists() is not remove


def test_what_cannot_be_finished_is_tried_again_until_time_is_up(tmp_path: Path, monkeypatch: Any) -> None:
    """A disk may come back, a target too; and nobody waits for ever."""
    begun = time.monotonic()
    ends: list[Any] = [JournalError("read-only"), Left(tmp_path, ("not gone",)), Left(tmp_path, ())]

    async def attempt(*_: Any, **__: Any) -> Left:
        if isinstance(ends[0], Exception):
            raise ends.pop(0)
        return ends.pop(0) if len(ends) > 1 or not ends[0].reasons else ends[0]  # type: ignore[no-any-return]

    monkeypatch.setattr(recover, "recover", attempt)
    assert run_virtual(watchdog.finish(tmp_path, 0.0)) is True
    ends[:] = [Left(tmp_path, ("not gone",))]
    clock = iter([begun, begun + 1, begun + watchdog.AT_MOST_S + 1])
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: next(clock))
    assert run_virtual(watchdog.finish(tmp_path, 0.0)) is False


def test_without_a_journal_no_watchdog_is_started(tmp_path: Path) -> None:
    """There would be nothing to finish from: the run is told, before its first intent."""
    with pytest.raises(FileNotFoundError):
        watchdog.start(tmp_path)
