"""The record: one chain of lines that nobody alters unseen, and in which no secret and no nonsense can stand."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.event import JSON, Event
from sim.log import FIRST_PREV, BrokenRecord, Log, canonical, read, scrub
from sim.secret import Secrets


class Ticks:
    """A clock that moves by a second at each question, as exact as a float."""

    def __init__(self) -> None:
        self.at = 99.0

    def now(self) -> float:
        """Return the next second."""
        self.at += 1.0
        return self.at

    def wall(self) -> float:
        """Return a fixed time of day."""
        return 1_700_000_000.1234567


def written(path: Path, *data: dict[str, JSON]) -> list[Event]:
    """Write a record of notes and return its events."""
    log = Log(path, Ticks())
    events = [log.append("note", each) for each in data]
    log.close()
    return events


THREE: tuple[dict[str, JSON], ...] = ({"text": "one"}, {"text": "two", "n": [1, 2.5, None]}, {"text": "drei ü"})


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    """Events come back whole, numbered from 0, in seconds since the opening, each with the hash of the line before."""
    events = written(tmp_path / "log.jsonl", *THREE)
    assert list(read(tmp_path / "log.jsonl")) == events
    assert [(event.seq, event.seen_at, event.wall) for event in events] == [
        (0, 1.0, 1_700_000_000.123457),
        (1, 2.0, 1_700_000_000.123457),
        (2, 3.0, 1_700_000_000.123457),
    ]
    assert events[0].prev == FIRST_PREV


def test_the_record_is_private_and_never_overwritten(tmp_path: Path) -> None:
    """Mode 0600, and a second log of the same name is refused."""
    written(tmp_path / "log.jsonl", *THREE)
    assert stat.S_IMODE((tmp_path / "log.jsonl").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        Log(tmp_path / "log.jsonl", Ticks())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_one_altered_byte_breaks_the_chain(tmp_path: Path, data: st.DataObject) -> None:
    """Any byte of any line but the last, changed to any other: reading fails at that line or the next."""
    path = tmp_path / "log.jsonl"
    path.unlink(missing_ok=True)
    written(path, *THREE)
    raw = bytearray(path.read_bytes())
    last = raw.rindex(b"\n", 0, len(raw) - 1)
    place = data.draw(st.integers(0, last))
    raw[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[place]))
    path.write_bytes(raw)
    with pytest.raises(BrokenRecord):
        list(read(path))


@pytest.mark.parametrize(
    "order", [[1, 2], [0, 2], [0, 2, 1], [1, 0, 2], [0, 0, 1, 2], [0, 1, 1, 2]], ids=lambda order: str(order)
)
def test_lines_lost_swapped_or_doubled_break_the_chain(tmp_path: Path, order: list[int]) -> None:
    """Every line has its place."""
    written(tmp_path / "log.jsonl", *THREE)
    lines = (tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(BrokenRecord):
        list(read(tmp_path / "log.jsonl"))


NOT_EVENTS = [
    b"",
    b"[]",
    b"7",
    b"{}",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"seq":0}',
    b'{"seq":true,"seen_at":0,"wall":0,"occurred_at":null,"source":"sim","kind":"note","data":{},"prev":"%s"}',
    b'{"seq":0,"seen_at":"0","wall":0,"occurred_at":null,"source":"sim","kind":"note","data":{},"prev":"%s"}',
    b'{"seq":0,"seen_at":NaN,"wall":0,"occurred_at":null,"source":"sim","kind":"note","data":{},"prev":"%s"}',
    b'{"seq":0,"seen_at":0,"wall":0,"occurred_at":null,"source":"sim","kind":"note","data":[],"prev":"%s"}',
    b'{"seq":0,"seen_at":0,"wall":0,"occurred_at":null,"source":"sim","kind":"note","data":{},"prev":"%s","x":1}',
]


@pytest.mark.parametrize("line", NOT_EVENTS, ids=range(len(NOT_EVENTS)))
def test_a_line_that_is_no_event_is_named_with_its_place(tmp_path: Path, line: bytes) -> None:
    """Whatever stands there, reading ends with the file and the line, never with another error."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(line.replace(b"%s", FIRST_PREV.encode()) + b"\n")
    with pytest.raises(BrokenRecord, match=r"log\.jsonl:1: "):
        list(read(path))


@pytest.mark.parametrize("cut", [1, 2, 50])
def test_the_torn_tail_of_a_killed_writer_is_not_part_of_the_record(tmp_path: Path, cut: int) -> None:
    """A last line without its end is left out; all before it stands."""
    events = written(tmp_path / "log.jsonl", *THREE)
    raw = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(raw[:-cut])
    assert list(read(tmp_path / "log.jsonl")) == events[:-1]


def test_what_json_cannot_hold_is_null_or_made_whole(tmp_path: Path) -> None:
    """NaN and infinities are no data; half a surrogate pair, which a target may send, is replaced."""
    data: dict[str, JSON] = {"a": float("nan"), "b": [float("inf"), {"c": float("-inf")}], "d": "x\ud800y"}
    (event,) = written(tmp_path / "log.jsonl", data)
    assert dict(event.data) == {"a": None, "b": [None, {"c": None}], "d": "x?y"}
    assert list(read(tmp_path / "log.jsonl")) == [event]


def test_secrets_are_blacked_out_in_keys_and_values_at_any_depth(tmp_path: Path) -> None:
    """The one door to the disk lets no value through, however deep it stands."""
    secrets = Secrets({"T": "hunter2hunter2"})
    secrets.resolve("env:T")
    log = Log(tmp_path / "log.jsonl", Ticks(), secrets.redact)
    seen: list[Event] = []
    log.listen(seen.append)
    event = log.append("note", {"a": ["x hunter2hunter2 y"], "b": {"k hunter2hunter2": {"c": ("hunter2hunter2",)}}})
    log.close()
    expected = {"a": ["x [redacted] y"], "b": {"k [redacted]": {"c": ["[redacted]"]}}}
    assert (dict(event.data), seen) == (expected, [event])
    assert "hunter2" not in (tmp_path / "log.jsonl").read_text()


def test_a_listener_is_called_after_the_line_is_there(tmp_path: Path) -> None:
    """Whoever judges an event can already read it from the file."""
    log = Log(tmp_path / "log.jsonl", Ticks())
    seen: list[int] = []
    log.listen(lambda event: seen.append(len((tmp_path / "log.jsonl").read_bytes().splitlines())))
    log.append("note", {})
    log.append("note", {})
    log.close()
    log.close()
    assert seen == [1, 2]


def test_canonical_is_one_spelling() -> None:
    """Sorted keys, no blanks, plain letters, and no NaN."""
    assert canonical({"b": 1, "a": ["ü", None, True]}) == '{"a":["ü",null,true],"b":1}'
    with pytest.raises(ValueError, match="Out of range"):
        canonical(float("nan"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=3))
def test_scrubbed_data_survives_the_disk(data: dict[str, JSON]) -> None:
    """Scrubbing once is enough: what comes out can be written, and is read back the same."""
    once = scrub(data, lambda text: text)
    assert json.loads(canonical(once)) == once
    assert scrub(once, lambda text: text) == once
