"""The pool's laws, by property and by a stateful machine, and the planted bias."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mbp.engine import amounts, cpmm
from mbp.engine.amounts import UNIT

SIDES = st.sampled_from(["yes", "no"])
MONEY = st.integers(1, 10**6 * UNIT)
RESERVES = st.integers(cpmm.RESERVE_FLOOR, 10**6 * UNIT)


class Trading(RuleBasedStateMachine):
    """Any honest operations in any order; a refusal leaves the pool as it was."""

    @initialize(reserve=RESERVES)
    def begin(self, reserve):
        self.pool = cpmm.open_pool(reserve)
        self.fees_seen = 0

    def attempt(self, work):
        before = self.pool
        try:
            done = work()
        except cpmm.Refused:
            assert self.pool == before
            return None
        self.pool = done.pool
        return done

    @rule(side=SIDES, money=MONEY)
    def buy(self, side, money):
        before = self.pool
        trade = self.attempt(lambda: cpmm.swap(self.pool, side, "buy", money))
        if trade:
            self.check_swap(before, trade)
            assert trade.fee == -(-money * 2 // 1000)

    @rule(side=SIDES, part=st.floats(0.001, 1))
    def sell(self, side, part):
        before = self.pool
        hands = self.pool.yes_out if side == "yes" else self.pool.no_out
        trade = self.attempt(lambda: cpmm.swap(self.pool, side, "sell", max(1, int(hands * part))))
        if trade:
            self.check_swap(before, trade)

    def check_swap(self, before, trade):
        assert self.pool.k >= before.k
        assert not cpmm.is_breach(before.k, self.pool.k)
        self.fees_seen += trade.fee

    @rule(money=MONEY)
    def add(self, money):
        before = self.pool
        if self.attempt(lambda: cpmm.add(self.pool, money)):
            # What one pool share is worth never falls for those who were there before.
            assert self.pool.yes * before.liquidity >= before.yes * self.pool.liquidity
            assert self.pool.no * before.liquidity >= before.no * self.pool.liquidity

    @rule(part=st.floats(0.001, 0.999))
    def remove(self, part):
        before = self.pool
        if self.attempt(lambda: cpmm.remove(self.pool, max(1, int(self.pool.liquidity * part)))):
            assert self.pool.yes * before.liquidity >= before.yes * self.pool.liquidity
            assert self.pool.no * before.liquidity >= before.no * self.pool.liquidity

    @rule(side=SIDES, money=MONEY)
    def there_and_back(self, side, money):
        try:
            bought = cpmm.swap(self.pool, side, "buy", money)
            sold = cpmm.swap(bought.pool, side, "sell", bought.amount_out)
        except cpmm.Refused:
            return
        assert sold.amount_out < money

    @invariant()
    def books_balance(self):
        assert self.pool.balanced()
        assert self.pool.fees == self.fees_seen
        assert min(self.pool.yes, self.pool.no) >= cpmm.RESERVE_FLOOR
        assert min(self.pool.yes_out, self.pool.no_out) >= 0

    @invariant()
    def prices_sum_to_one(self):
        mirror = cpmm.Pool(self.pool.no, self.pool.yes, 0, 0, 0, 0)
        assert self.pool.price_yes + mirror.price_yes == 1


Trading.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestTrading = Trading.TestCase


@given(reserve=RESERVES, side=SIDES, action=st.sampled_from(["buy", "sell"]), amount=MONEY)
@settings(max_examples=100, deadline=None)
def test_both_sides_are_alike(reserve, side, action, amount):
    """YES and NO are mirror images: swapping the names swaps the result."""
    pool = cpmm.Pool(reserve, reserve * 2, reserve * 10, reserve * 9, reserve * 8, reserve)
    mirror = cpmm.Pool(pool.no, pool.yes, pool.sets, pool.no_out, pool.yes_out, pool.liquidity)
    other = "no" if side == "yes" else "yes"
    try:
        one = cpmm.swap(pool, side, action, amount)
    except cpmm.Refused as refused:
        with pytest.raises(cpmm.Refused) as mirrored:
            cpmm.swap(mirror, other, action, amount)
        assert mirrored.value.code == refused.code
        return
    two = cpmm.swap(mirror, other, action, amount)
    assert (one.amount_out, one.fee, one.pool.yes, one.pool.no) == (
        two.amount_out,
        two.fee,
        two.pool.no,
        two.pool.yes,
    )


@given(side=SIDES, action=st.sampled_from(["buy", "sell"]), amount=st.integers(UNIT // 100, 200 * UNIT))
@settings(max_examples=150, deadline=None)
def test_a_bias_moves_k_by_itself(side, action, amount):
    """With a bias of 1.5e-9 every swap is a breach of that size, to one in a hundred, and the books still balance."""
    pool = cpmm.Pool(*[1000 * UNIT] * 2, 2000 * UNIT, 1000 * UNIT, 1000 * UNIT, 1000 * UNIT)
    bias = Fraction("1.5e-9")
    trade = cpmm.swap(pool, side, action, amount, bias)
    moved = cpmm.delta_k_ratio(pool.k, trade.pool.k)
    assert cpmm.is_breach(pool.k, trade.pool.k)
    assert abs(moved + bias) < bias / 100
    assert trade.pool.balanced()
    assert trade.amount_out > cpmm.swap(pool, side, action, amount).amount_out


def test_half_a_dose_is_no_breach():
    """A bias below the limit stays below it: the negative control of the exercise."""
    pool = cpmm.open_pool(1000 * UNIT)
    trade = cpmm.swap(pool, "yes", "buy", UNIT, Fraction("0.9e-9"))
    assert not cpmm.is_breach(pool.k, trade.pool.k)
    assert trade.pool.k < pool.k


def test_the_limit_itself_is_no_breach():
    """Exactly 1e-9 is within the limit, in both directions; one part more is not."""
    k = 10**24
    assert [cpmm.is_breach(k, k + step) for step in (10**15, 10**15 + 1, -(10**15), -(10**15) - 1)] == [
        False,
        True,
        False,
        True,
    ]


def test_known_numbers():
    """A pool of 1,000 and a purchase for 10: fee 0.02, 19.861383789 shares, as the definition gives by hand."""
    trade = cpmm.swap(cpmm.open_pool(1000 * UNIT), "yes", "buy", 10 * UNIT)
    assert (amounts.show(trade.amount_out), amounts.show(trade.fee)) == ("19.861383789", "0.02")
    assert amounts.show_product(trade.pool.k) == "1000000.00000078578"


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (lambda pool: cpmm.swap(pool, "yes", "buy", 0), "amount_too_small"),
        (lambda pool: cpmm.swap(pool, "yes", "buy", 1), "amount_too_small"),
        (lambda pool: cpmm.swap(pool, "yes", "buy", amounts.LARGEST), "reserve_floor"),
        (lambda pool: cpmm.swap(pool, "no", "sell", 1), "insufficient_shares"),
        (lambda pool: cpmm.add(pool, 0), "amount_too_small"),
        (lambda pool: cpmm.remove(pool, 0), "amount_too_small"),
        (lambda pool: cpmm.remove(pool, pool.liquidity), "insufficient_shares"),
        (lambda pool: cpmm.remove(pool, pool.liquidity - 1), "reserve_floor"),
        (lambda pool: cpmm.open_pool(cpmm.RESERVE_FLOOR - 1), "reserve_out_of_range"),
        (lambda pool: cpmm.open_pool(amounts.LARGEST + 1), "reserve_out_of_range"),
    ],
)
def test_refusals(work, code):
    """What the pool does not do has a stable code."""
    with pytest.raises(cpmm.Refused) as refused:
        work(cpmm.open_pool(1000 * UNIT))
    assert refused.value.code == code


def test_a_pool_has_a_ceiling():
    """Neither liquidity nor swaps grow a reserve past what the store and the arithmetic are proven for."""
    full = cpmm.Pool(*[cpmm.RESERVE_CEILING] * 2, cpmm.RESERVE_CEILING, 0, 0, cpmm.RESERVE_CEILING)
    for work in (lambda: cpmm.add(full, UNIT), lambda: cpmm.swap(full, "yes", "buy", UNIT)):
        with pytest.raises(cpmm.Refused) as refused:
            work()
        assert refused.value.code == "reserve_ceiling"


@pytest.mark.parametrize(("price", "depth"), [(0.2, 6.24), (0.5, 20.20), (0.8, 105.9)])
def test_depth_is_the_money_that_moves_the_price(price, depth):
    """The rise by 2 % costs what the fact sheet measured; the export is the smaller of rise and fall."""
    k = 10**6
    no = (k * price / (1 - price)) ** 0.5
    pool = cpmm.Pool(int(k / no * UNIT), int(no * UNIT), 0, 0, 0, 0)
    up = 1.02 * price
    assert ((k * up / (1 - up)) ** 0.5 - no) == pytest.approx(depth, rel=0.005)
    down = 0.98 * price
    fall = (k * (1 - down) / down) ** 0.5 - k / no
    assert cpmm.depth_2pct(pool) == pytest.approx(min(depth, fall), rel=0.005)


def test_depth_near_certainty_is_the_fall():
    """Where 1.02 of the price passes 1 the price cannot rise by 2 %: the fall is what counts."""
    pool = cpmm.Pool(10 * UNIT, 1000 * UNIT, 0, 0, 0, 0)
    assert 0 < cpmm.depth_2pct(pool) < 100


@given(st.integers(0, amounts.LARGEST))
def test_amounts_come_back(units):
    """An amount survives the wire unchanged."""
    assert amounts.parse(amounts.show(units)) == units


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "1e3", "NaN", "inf", " 1", "1 ", "1.", ".5", "1.0000000001", "1000000000.1", "١", "1_0", "1\n"],
)
def test_what_is_no_amount(text):
    """Signs, exponents, spaces, other digits, a tenth decimal, or too much: refused."""
    with pytest.raises(ValueError, match="an amount is"):
        amounts.parse(text)


@pytest.mark.parametrize("text", ["", "-1e-9", "nan", "1/3", "1e999", "0x1", "1e-9 "])
def test_what_is_no_ratio(text):
    """A ratio is a plain decimal with a small exponent: no huge power can be smuggled in."""
    with pytest.raises(ValueError, match="a ratio is"):
        amounts.parse_ratio(text)


@given(st.integers(-(10**30), 10**30))
def test_products_are_exact(product):
    """A product is shown with all its 18 decimals."""
    assume(product != 0)
    assert Fraction(amounts.show_product(product)) == Fraction(product, 10**18)
