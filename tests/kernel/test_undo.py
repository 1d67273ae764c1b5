"""The undo journal: on the disk before the effect, understood by any later process, and never guessed at."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim import undo
from sim.undo import FILE, Journal, JournalError, read
from tests.kernel.scripted import play


def intent(fault: str = "f-1") -> dict[str, Any]:
    """Return the fields of an intent, as far as reading needs them."""
    return {"fault": fault, "injector": "break", "receipt": {"a": 1}}


def journal(folder: Path, *records: tuple[str, dict[str, Any]]) -> Path:
    """Write these records and return the file."""
    made = Journal(folder)
    for record, fields in records:
        made.write(record, **fields)
    made.close()
    return folder / FILE


FULL: tuple[tuple[str, dict[str, Any]], ...] = (
    ("open", {"run": "r", "target": "t"}),
    ("restore", {"fact": "gate", "prior": "open"}),
    ("intent", intent("f-1")),
    ("intent", intent("f-2")),
    ("applied", {"fault": "f-1"}),
    ("withdrawn", {"fault": "f-2"}),
    ("withdrawn", {"fault": "f-1"}),
    ("restored", {"fact": "gate"}),
    ("closed", {"by": "runner"}),
)

OPEN_AFTER = [
    (0, [], []),
    (1, [], []),
    (2, [], ["gate"]),
    (3, ["f-1"], ["gate"]),
    (4, ["f-1", "f-2"], ["gate"]),
    (5, ["f-1", "f-2"], ["gate"]),
    (6, ["f-1"], ["gate"]),
    (7, [], ["gate"]),
    (8, [], []),
    (9, [], []),
]


@pytest.mark.parametrize(("count", "faults", "restores"), OPEN_AFTER)
@pytest.mark.parametrize("times", [1, 2], ids=["once", "each twice"])
def test_what_is_open_after_each_record(
    tmp_path: Path, count: int, faults: list[str], restores: list[str], times: int
) -> None:
    """At each boundary the journal says what must still be done; a record written twice changes nothing."""
    found = read(journal(tmp_path, *(row for row in FULL[:count] for _ in range(times))))
    assert (list(found.faults), list(found.restores)) == (faults, restores)
    assert found.unfinished is (2 < count < 8)  # without an intent nothing was changed, so nothing is put back


def test_a_record_written_twice_later_reopens_nothing(tmp_path: Path) -> None:
    """The whole journal written again after its end: a fault withdrawn twice is withdrawn."""
    assert read(journal(tmp_path, *FULL[:8], *FULL[:8])).unfinished is False


def test_the_journal_is_private_and_on_the_disk(tmp_path: Path, monkeypatch: Any) -> None:
    """Mode 0600; one fsync per record, and one of the folder when the file is created, none when it is reopened."""
    synced: list[str] = []
    original = os.fsync

    def fsync(fd: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        original(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    path = journal(tmp_path, *FULL[:2])
    assert (stat.S_IMODE(path.stat().st_mode), synced) == (0o600, ["folder", "file", "file"])
    journal(tmp_path, FULL[2])
    assert synced == ["folder", "file", "file", "file"]


def test_a_torn_tail_is_ignored_and_cut_when_it_is_reopened(tmp_path: Path) -> None:
    """Half a record was not begun: it is not read, and the next record starts on its own line."""
    path = journal(tmp_path, *FULL[:3])
    whole = path.read_bytes()
    for keep in range(len(whole.splitlines(keepends=True)[-1])):
        path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:keep])
        assert list(read(path).faults) == ["f-1"]
    journal(tmp_path, ("withdrawn", {"fault": "f-1"}))
    assert path.read_bytes().startswith(whole)
    assert [json.loads(line)["record"] for line in path.read_bytes().splitlines()] == [
        "open", "restore", "intent", "withdrawn",
    ]  # fmt: skip


REFUSED = [
    ("another version", b'{"v":2,"record":"open"}', "journal version 2; this sim reads version 1"),
    ("a truth value for a version", b'{"v":true,"record":"open"}', "journal version True"),
    ("no version", b'{"record":"open"}', "not a journal record"),
    ("no JSON", b"{'v':1}", "not a journal record"),
    ("no object", b"[1]", "not a journal record"),
    ("no text", b"\xff\xff", "not a journal record"),
    ("nested without end", b"[" * 100_000, "not a journal record"),
    ("an unknown record", b'{"v":1,"record":"undo"}', "unknown record 'undo'"),
    ("a list as record", b'{"v":1,"record":["intent"]}', "unknown record"),
    ("an intent without its fault", b'{"v":1,"record":"intent"}', "'intent' without its 'fault'"),
    ("a restore without its fact", b'{"v":1,"record":"restore"}', "'restore' without its 'fact'"),
    ("an empty line", b"", "not a journal record"),
]


@pytest.mark.parametrize(("line", "why"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_understood_is_refused(tmp_path: Path, line: bytes, why: str) -> None:
    """The state of the target is unknown then: the error names the file, the line and the reason."""
    path = journal(tmp_path, *FULL[:3])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(JournalError, match=r"undo\.jsonl:4: ") as raised:
        read(path)
    assert why in str(raised.value)


def test_no_journal_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Nothing is open is said of a journal, not of its absence."""
    with pytest.raises(JournalError, match="No such file"):
        read(tmp_path / FILE)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800"], ids=["NaN", "a set", "half a pair"])
def test_what_json_cannot_hold_is_an_error_of_the_journal(tmp_path: Path, value: Any) -> None:
    """A receipt that cannot be written is one that cannot be undone: said before anything is applied."""
    made = Journal(tmp_path)
    with pytest.raises(JournalError, match="cannot stand in the undo journal"):
        made.write("intent", fault="f", receipt=value)
    made.close()
    assert (tmp_path / FILE).read_bytes() == b""


# -- a disk that does not serve ----------------------------------------------------------------------------------

REAL_WRITE, REAL_FSYNC = os.write, os.fsync


def full(fd: int, data: bytes) -> int:
    """No space left."""
    raise OSError(errno.ENOSPC, "No space left on device")


def short(fd: int, data: bytes) -> int:
    """Only half of it fits."""
    return REAL_WRITE(fd, data[: len(data) // 2])


def sick(fd: int) -> None:
    """The disk does not confirm."""
    raise OSError(errno.EIO, "Input/output error")


def only_files(broken: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    """Let the broken call meet the journal only, not what asyncio or the record does with other files."""

    def call(fd: int, *rest: Any) -> Any:
        path = Path(f"/proc/self/fd/{fd}").resolve()
        return (broken if path.name == FILE else real)(fd, *rest)

    return call


DISKS = [("write", full, "No space left"), ("write", short, "short write"), ("fsync", sick, "Input/output error")]


@pytest.mark.parametrize(("call", "broken", "why"), DISKS, ids=["ENOSPC", "short write", "fsync"])
def test_a_journal_that_cannot_be_written_says_so(
    tmp_path: Path, monkeypatch: Any, call: str, broken: Callable[..., Any], why: str
) -> None:
    """The record is not taken for written; once there is room again, the journal goes on and is whole."""
    made = Journal(tmp_path)
    made.write(*[FULL[0][0]], **FULL[0][1])
    with monkeypatch.context() as patched:
        patched.setattr(os, call, broken)
        with pytest.raises(JournalError, match=why):
            made.write("intent", **intent())
    made.write("intent", **intent())
    made.write("withdrawn", fault="f-1")
    made.close()
    records = [json.loads(line)["record"] for line in (tmp_path / FILE).read_bytes().splitlines()]
    assert [record for record in records if record != "intent"] == ["open", "withdrawn"]
    assert read(tmp_path / FILE).unfinished is False


@pytest.mark.parametrize(("call", "broken", "why"), DISKS, ids=["ENOSPC", "short write", "fsync"])
def test_without_a_journal_nothing_is_injected(
    tmp_path: Path, monkeypatch: Any, call: str, broken: Callable[..., Any], why: str
) -> None:
    """A whole run over such a disk: inconclusive, apply never called, and the reason is told."""
    monkeypatch.setattr(os, call, only_files(broken, getattr(os, call)))
    judgement, world = play(tmp_path, monkeypatch)
    assert (str(judgement.outcome), judgement.exit_code) == ("inconclusive", 4)
    assert why in judgement.reasons[0]
    assert "apply" not in world.calls


@pytest.mark.parametrize("record", ["open", "restore", "intent"])
def test_whichever_record_fails_first_nothing_is_injected(tmp_path: Path, monkeypatch: Any, record: str) -> None:
    """The disk fills at the opening, at a restore or at the intent: no apply."""

    def write(fd: int, data: bytes) -> int:
        return full(fd, data) if f'"record":"{record}"'.encode() in data else REAL_WRITE(fd, data)

    monkeypatch.setattr(os, "write", only_files(write, REAL_WRITE))
    judgement, world = play(tmp_path, monkeypatch)
    assert (str(judgement.outcome), "apply" in world.calls) == ("inconclusive", False)


def test_a_disk_that_fills_after_t0_does_not_keep_the_fault(tmp_path: Path, monkeypatch: Any) -> None:
    """The withdrawal cannot be written down: it is done all the same, and told as unsafe, since the journal is open."""

    def write(fd: int, data: bytes) -> int:
        return full(fd, data) if b'"record":"w' in data or b'"record":"restored' in data else REAL_WRITE(fd, data)

    monkeypatch.setattr(os, "write", only_files(write, REAL_WRITE))
    judgement, world = play(tmp_path, monkeypatch)
    assert world.off is not None
    assert (str(judgement.outcome), judgement.exit_code) == ("unsafe", 6)
    assert undo.read(tmp_path / FILE).unfinished is True


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The folder of the run is gone: the error names the journal."""
    with pytest.raises(JournalError, match=r"cannot open the undo journal .*undo\.jsonl: No such file"):
        Journal(tmp_path / "gone")


def test_a_journal_that_cannot_be_opened_leaves_no_file_open(tmp_path: Path, monkeypatch: Any) -> None:
    """The folder cannot be synced: an error, and the descriptor is closed."""
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fsync", sick)
    with pytest.raises(JournalError, match="Input/output error"):
        Journal(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_journal_with_a_line_missing_is_refused(tmp_path: Path) -> None:
    """A fault applied or withdrawn that nobody intended: a line was taken out, and what else was is not known."""
    for record in ("applied", "withdrawn"):
        folder = tmp_path / record
        folder.mkdir()
        made = Journal(folder)
        made.write(*[FULL[0][0]], **FULL[0][1])
        made.write(record, fault="f-1")
        made.close()
        with pytest.raises(JournalError, match="without its intent"):
            read(folder / FILE)


def test_a_journal_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """What it says is done with this user's secrets."""
    Journal(tmp_path).close()
    (tmp_path / FILE).chmod(0o666)
    with pytest.raises(JournalError, match="can be written by others"):
        read(tmp_path / FILE)
