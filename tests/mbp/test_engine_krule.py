"""The one-sided k-rule against an outside oracle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mbp.engine import krule

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "amm" / "uniswap-v2.json").read_text())


def numbers(row):
    """Return a row with integers for its decimal strings."""
    return {name: int(value) for name, value in row.items()}


def test_the_oracle_has_all_its_rows():
    """Seven swaps and four same-token rows: a lost row would be a lost test."""
    assert (len(VECTORS["swap"]), len(VECTORS["same_token_back"])) == (7, 4)


@pytest.mark.parametrize("row", [numbers(row) for row in VECTORS["swap"]])
def test_the_most_that_a_swap_may_take(row):
    """The bound is the oracle's number; taking it keeps the rule, taking one unit more breaks it."""
    x, y, dx, out = row["reserve_in"], row["reserve_out"], row["amount_in"], row["amount_out_max"]
    assert krule.amount_out_max(dx, x, y, fee_per_mille=3) == out
    assert krule.holds(x, y, x + dx, y - out, dx, 0, fee_per_mille=3)
    assert not krule.holds(x, y, x + dx, y - out - 1, dx, 0, fee_per_mille=3)


@pytest.mark.parametrize("row", [numbers(row) for row in VECTORS["same_token_back"]])
def test_the_most_that_the_same_token_may_give_back(row):
    """All but the fee may go back; one unit more breaks the rule."""
    x, y, dx, out = row["reserve_0"], row["reserve_1"], row["amount_in"], row["amount_out_max"]
    assert krule.same_token_out_max(dx, fee_per_mille=3) == out
    assert krule.holds(x, y, x + dx - out, y, dx, 0, fee_per_mille=3)
    assert not krule.holds(x, y, x + dx - out - 1, y, dx, 0, fee_per_mille=3)


def test_an_emptied_reserve_never_keeps_the_rule():
    """Two negative sides have a large product; that is no reserve."""
    assert not krule.holds(10, 10, -100, -100, 0, 0, fee_per_mille=0)
