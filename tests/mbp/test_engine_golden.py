"""Golden sequences v1 and v2, replayed by two implementations that share no code."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from tests.mbp.golden import EVERY, V1, V2, operations, path, read, trace
from tests.mbp.golden.books import FractionBook, IntegerBook

#: The digests of the files as they were accepted. A sequence is never changed: new arithmetic is a new version.
ACCEPTED = {
    "v1": "01232b20973fa9df2f16715725a4518ee409fa2679d4d14b9e9d2f8072eb4df4",
    "v2": "a4296a73f229060771dcbf5a0ceeb8f0f62d14a20f6d7fb9823cc069bd25f737",
}


@pytest.mark.parametrize("recipe", [V1, V2], ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("book", [IntegerBook, FractionBook])
def test_a_replay_gives_the_same_lines(recipe, book):
    """Each implementation, fed the kept operations, gives every checkpoint and the final hash as they were kept."""
    header, *kept = read(recipe)
    ops = ((line["op"], line["amount"]) for line in kept if "op" in line)
    assert list(trace(book(header["reserve"]), ops)) == kept


@pytest.mark.parametrize("recipe", [V1, V2], ids=lambda recipe: recipe.name)
def test_the_kept_file_is_the_accepted_one(recipe):
    """The file on disk is byte for byte the accepted one, and holds the operations that its seed gives."""
    assert hashlib.sha256(path(recipe).read_bytes()).hexdigest() == ACCEPTED[recipe.name]
    header, *kept = read(recipe)
    assert header == {"sequence": recipe.name, "seed": recipe.seed, "reserve": recipe.reserve, "count": recipe.count}
    assert [(line["op"], line["amount"]) for line in kept if "op" in line] == list(operations(recipe))


def test_v2_is_long_and_wide():
    """V2 has at least 10,000 operations, of every kind, and meets every refusal but the ceiling."""
    book = IntegerBook(V2.reserve)
    met = Counter()
    for kind, amount in operations(V2):
        result = book.do(kind, amount)
        met[kind, result if result.startswith("refused") else "done"] += 1
    done = {kind: count for (kind, result), count in met.items() if result == "done"}
    assert sum(met.values()) >= 10_000
    assert set(done) == {"buy yes", "buy no", "sell yes", "sell no", "add", "remove"}
    assert min(done.values()) >= 100
    assert {result for _, result in met} == {
        "done",
        "refused amount_too_small",
        "refused insufficient_shares",
        "refused reserve_floor",
    }


def test_one_unit_off_is_noticed_at_the_next_checkpoint():
    """A book that once pays out one unit too much differs at the first checkpoint after it, not before."""

    class Sloppy(IntegerBook):
        count = 0

        def do(self, kind, amount):
            self.count += 1
            result = super().do(kind, amount)
            return result + "1" if self.count == EVERY + 1 else result

    header, *kept = read(V1)
    ops = ((line["op"], line["amount"]) for line in kept if "op" in line)
    marks = [
        (mine["checkpoint"], mine == theirs)
        for mine, theirs in zip(trace(Sloppy(header["reserve"]), ops), kept, strict=True)
        if "checkpoint" in mine
    ]
    assert marks[:3] == [(100, True), (200, False), (300, False)]
