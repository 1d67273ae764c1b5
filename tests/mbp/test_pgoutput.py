"""The pgoutput decoder against messages put together here, byte by byte as the protocol has them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbp.data.cdc.pgoutput import EPOCH_S, Change, Decoder, Transaction, Undecodable
from mbp.data.cdc.warehouse import lsn_number, lsn_text


def begin(at_us=5_000_000, xid=7):
    return b"B" + struct.pack("!qqI", 100, at_us, xid)


def commit(end=200, at_us=5_000_000):
    return b"C" + struct.pack("!bqqq", 0, 100, end, at_us)


def relation(number=1, name="mbp_quotes", columns=(("id", 1), ("price", 0)), schema="public"):
    head = b"R" + struct.pack("!I", number) + schema.encode() + b"\0" + name.encode() + b"\0"
    body = b"".join(
        struct.pack("!b", key) + each.encode() + b"\0" + struct.pack("!Ii", 25, -1) for each, key in columns
    )
    return head + b"d" + struct.pack("!h", len(columns)) + body


def row(*values):
    """Return a row: text, None for NULL, ``...`` for unchanged."""
    parts = [struct.pack("!h", len(values))]
    for value in values:
        if value is None or value is ...:
            parts.append(b"n" if value is None else b"u")
        else:
            parts.append(b"t" + struct.pack("!i", len(value.encode())) + value.encode())
    return b"".join(parts)


def insert(*values, number=1):
    return b"I" + struct.pack("!I", number) + b"N" + row(*values)


def feed(*messages):
    """Return what the last message gave."""
    decoder = Decoder()
    return [decoder.feed(each) for each in messages][-1]


def test_a_transaction_comes_out_whole_with_its_time_and_position():
    """Insert, update (with and without the old key, with an unchanged value) and delete, in order."""
    messages = (
        begin(),
        relation(),
        insert("1", "0.5é"),
        b"U" + struct.pack("!I", 1) + b"N" + row("1", ...),
        b"U" + struct.pack("!I", 1) + b"K" + row("1", None) + b"N" + row("2", None),
        b"D" + struct.pack("!I", 1) + b"K" + row("2", None),
        commit(),
    )
    assert feed(*messages) == Transaction(
        xid=7,
        commit_at=EPOCH_S + 5.0,
        end_lsn=200,
        size=sum(map(len, messages)),
        changes=[
            Change("insert", "public", "mbp_quotes", {"id": "1", "price": "0.5é"}),
            Change("update", "public", "mbp_quotes", {"id": "1"}),
            Change("update", "public", "mbp_quotes", {"id": "2", "price": None}, {"id": "1"}),
            Change("delete", "public", "mbp_quotes", {}, {"id": "2"}),
        ],
    )


def test_a_relation_that_is_announced_anew_replaces_the_old_one():
    """A column that was added shows from then on."""
    wider = relation(columns=(("id", 1), ("price", 0), ("note", 0)))
    done = feed(begin(), relation(), wider, insert("1", "2", "3"), b"O" + struct.pack("!q", 1) + b"x\0", commit())
    assert done.changes[0].values == {"id": "1", "price": "2", "note": "3"}


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ((insert("1", "2"),), "outside of a transaction"),
        ((commit(),), "outside of a transaction"),
        ((begin(), insert("1", "2")), "relation 1, which was not announced"),
        ((begin(), relation(), insert("1")), "with 1 columns, announced were 2"),
        ((begin(), relation(), insert("1", "2")[:-1]), "ends in the middle of a value"),
        ((begin(), relation()[:-3]), "ends too early"),
        ((begin()[:-1],), "ends too early"),
        ((b"R" + struct.pack("!I", 1) + b"public",), "ends in the middle of a name"),
        ((begin(), relation(), b"I" + struct.pack("!I", 1) + b"X"), "unknown kind b'X'"),
        ((begin(), relation(), insert("1", "2").replace(b"t\0", b"b\0", 1)), "of the unknown kind b'b'"),
        ((b"S" + b"\0" * 8,), "unknown kind b'S'"),
        ((b"",), "unknown kind b''"),
    ],
)
def test_what_is_not_understood_is_an_error_and_never_skipped(messages, told):
    """A change that is skipped would be a change that is lost."""
    with pytest.raises(Undecodable, match=told.replace("(", r"\(")):
        feed(*messages)


@given(st.binary(max_size=60))
def test_no_bytes_break_the_decoder_in_another_way(tail):
    """Whatever comes is a message or an Undecodable."""
    decoder = Decoder()
    decoder.feed(begin())
    decoder.feed(relation())
    for kind in (b"I", b"U", b"D", b"R", b"C"):
        try:
            decoder.feed(kind + struct.pack("!I", 1) + tail)
        except Undecodable:
            continue


@given(st.integers(0, 2**64 - 1))
def test_positions_are_written_as_postgresql_writes_them(lsn):
    """And read back the same."""
    assert lsn_number(lsn_text(lsn)) == lsn
    assert lsn_text(0x16B3748) == "0/16B3748"
