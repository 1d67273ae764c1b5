"""The four values: Kleene's laws, and which value decides a row."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sim.expression import Truth, and_, not_, or_

T, F, P, U = Truth.TRUE, Truth.FALSE, Truth.PENDING, Truth.UNKNOWN
TRUTHS = st.sampled_from(list(Truth))


@given(TRUTHS, TRUTHS, TRUTHS)
def test_kleene_laws(a: Truth, b: Truth, c: Truth) -> None:
    """Rows commute, associate and repeat; De Morgan and the neutral and deciding values hold."""
    for row in (and_, or_):
        assert row(a, b) is row(b, a)
        assert row(a, row(b, c)) is row(row(a, b), c) is row(a, b, c)
        assert row(a, a) is a is not_(not_(a))
    assert not_(and_(a, b)) is or_(not_(a), not_(b))
    assert and_(a, T) is a is or_(a, F)
    assert (and_(a, F), or_(a, T)) == (F, T)


def test_a_deciding_value_wins_then_unknown_then_pending() -> None:
    """The whole table of the two rows."""
    order = {and_: (F, U, P, T), or_: (T, U, P, F)}
    for row, ranks in order.items():
        for a, b in itertools.product(Truth, repeat=2):
            assert row(a, b) is min(a, b, key=ranks.index)
    assert (and_(), or_()) == (T, F)
