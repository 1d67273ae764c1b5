"""The pool: an integer fixed-product maker over outcome shares. Pure; knows no store, no clock, no fault.

One unit of money mints one full set (one YES, one NO). Buying YES mints sets, keeps their NO in the pool and pays out
YES, so that ``k = yes * no`` stays what it was, up to rounding in the pool's favour. Fees are taken outside the pool,
so an honest swap moves k by less than one part in the smallest reserve. All amounts are integers of 1e-9, and no
operation leaves a reserve under :data:`RESERVE_FLOOR`: below 1e9 base units honest rounding alone could pass 1e-9 of k.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from math import isqrt, sqrt
from typing import Literal

from mbp.engine.amounts import LARGEST, UNIT

Side = Literal["yes", "no"]
Action = Literal["buy", "sell"]

FEE_PPM = 2_000  # 0.2 % of the money that moves, rounded up
PPM = 1_000_000
RESERVE_FLOOR = 10 * UNIT
RESERVE_CEILING = 1_000 * LARGEST
LIMIT_DENOMINATOR = 10**9  # a swap is a breach when abs(Δk/k) > 1 / this


class Refused(Exception):
    """The pool does not do what was asked; ``code`` is stable, the text says why and what would be done."""

    def __init__(self, code: str, detail: str) -> None:
        """Keep the stable code and the text."""
        super().__init__(detail)
        self.code, self.detail = code, detail


@dataclass(frozen=True, slots=True)
class Pool:
    """What one market holds: reserves, minted sets, shares in traders' hands, shares of the liquidity, fees taken."""

    yes: int
    no: int
    sets: int  # minted full sets = money held against them
    yes_out: int  # YES in traders' and providers' hands
    no_out: int
    liquidity: int  # shares of the pool itself
    fees: int = 0

    @property
    def k(self) -> int:
        """The product of the reserves, in base units squared."""
        return self.yes * self.no

    @property
    def price_yes(self) -> Fraction:
        """The price of one YES in money, exactly; that of NO is 1 less it."""
        return Fraction(self.no, self.yes + self.no)

    def balanced(self) -> bool:
        """Tell whether money held = minted sets = YES in existence = NO in existence."""
        return self.sets == self.yes + self.yes_out == self.no + self.no_out

    def reserve(self, side: Side) -> int:
        """Return the reserve of one side."""
        return self.yes if side == "yes" else self.no


@dataclass(frozen=True, slots=True)
class Trade:
    """What one swap does: what goes in, what comes out, the fee (money), and the pool after it."""

    amount_in: int
    amount_out: int
    fee: int
    pool: Pool


@dataclass(frozen=True, slots=True)
class Funding:
    """What adding or removing liquidity does: money, pool shares, outcome shares handed out, the pool after it."""

    money: int
    shares: int
    yes: int
    no: int
    pool: Pool


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up, for b > 0."""
    return -(-a // b)


def fee_on(money: int) -> int:
    """Return the fee on an amount of money, rounded up."""
    return ceil_div(money * FEE_PPM, PPM)


def open_pool(reserve: int) -> Pool:
    """Return a pool at even price with ``reserve`` sets in it; raises :class:`Refused` outside the bounds."""
    if not RESERVE_FLOOR <= reserve <= LARGEST:
        raise Refused("reserve_out_of_range", f"a reserve is from {RESERVE_FLOOR // UNIT} to {LARGEST // UNIT}")
    return Pool(yes=reserve, no=reserve, sets=reserve, yes_out=0, no_out=0, liquidity=reserve)


def swap(pool: Pool, side: Side, action: Action, amount: int, bias: Fraction | None = None) -> Trade:
    """Return what buying for ``amount`` of money, or selling ``amount`` shares, does; raises :class:`Refused`.

    ``bias`` is the planted defect: that part of the bought reserve is paid out beyond what is due: Δk/k = -bias.
    """
    if amount <= 0:
        raise Refused("amount_too_small", "an amount is more than 0")
    trade = _buy(pool, side, amount, bias) if action == "buy" else _sell(pool, side, amount, bias)
    after = trade.pool
    if min(after.yes, after.no) < RESERVE_FLOOR:
        raise Refused("reserve_floor", f"the swap would leave a reserve under {RESERVE_FLOOR // UNIT}; ask for less")
    if max(after.yes, after.no) > RESERVE_CEILING:
        raise Refused("reserve_ceiling", "the swap would make a reserve too large; ask for less")
    if trade.amount_out <= 0:
        raise Refused("amount_too_small", "the amount buys nothing after fee and rounding; ask for more")
    return trade


def _buy(pool: Pool, side: Side, amount: int, bias: Fraction | None) -> Trade:
    fee = fee_on(amount)
    net = amount - fee
    kept, other = (pool.yes, pool.no) if side == "yes" else (pool.no, pool.yes)
    left = ceil_div(pool.k, other + net)
    if bias is not None:
        left -= ceil_div(left * bias.numerator, bias.denominator)
    out = kept + net - left
    after = replace(pool, sets=pool.sets + net, fees=pool.fees + fee)
    if side == "yes":
        after = replace(after, yes=left, no=other + net, yes_out=pool.yes_out + out)
    else:
        after = replace(after, no=left, yes=other + net, no_out=pool.no_out + out)
    return Trade(amount, out, fee, after)


def _sell(pool: Pool, side: Side, shares: int, bias: Fraction | None) -> Trade:
    in_hands = pool.yes_out if side == "yes" else pool.no_out
    if shares > in_hands:
        raise Refused("insufficient_shares", "more shares than are in traders' hands")
    kept, other = (pool.yes, pool.no) if side == "yes" else (pool.no, pool.yes)
    # The largest m with (kept + shares - m)(other - m) >= k, i.e. m² - total·m + shares·other >= 0, exactly.
    total = kept + shares + other
    square = total * total - 4 * shares * other
    root = isqrt(square)
    root += root * root < square
    money = (total - root) // 2
    if bias is not None:
        a, b = kept + shares - money, other - money
        money += ceil_div(a * b * bias.numerator, (a + b) * bias.denominator)
    fee = fee_on(money)
    after = replace(pool, sets=pool.sets - money, fees=pool.fees + fee)
    if side == "yes":
        after = replace(after, yes=kept + shares - money, no=other - money, yes_out=pool.yes_out - shares)
    else:
        after = replace(after, no=kept + shares - money, yes=other - money, no_out=pool.no_out - shares)
    return Trade(shares, money - fee, fee, after)


def add(pool: Pool, money: int) -> Funding:
    """Return what adding liquidity does: the price stays, the provider gets pool shares and the sets left over."""
    if money <= 0:
        raise Refused("amount_too_small", "an amount is more than 0")
    largest = max(pool.yes, pool.no)
    keep_yes, keep_no = ceil_div(money * pool.yes, largest), ceil_div(money * pool.no, largest)
    shares = pool.liquidity * money // largest
    if shares <= 0:
        raise Refused("amount_too_small", "the amount is worth no share of the pool; add more")
    if largest + money > RESERVE_CEILING:
        raise Refused("reserve_ceiling", "the pool would become too large; add less")
    yes, no = money - keep_yes, money - keep_no
    after = replace(
        pool,
        yes=pool.yes + keep_yes,
        no=pool.no + keep_no,
        sets=pool.sets + money,
        yes_out=pool.yes_out + yes,
        no_out=pool.no_out + no,
        liquidity=pool.liquidity + shares,
    )
    return Funding(money, shares, yes, no, after)


def remove(pool: Pool, shares: int) -> Funding:
    """Return what giving back pool shares does: whole sets become money, the rest of the larger side is handed out."""
    if shares <= 0:
        raise Refused("amount_too_small", "a number of shares is more than 0")
    if shares >= pool.liquidity:
        raise Refused("insufficient_shares", "at least one share of the pool must stay in it")
    yes, no = pool.yes * shares // pool.liquidity, pool.no * shares // pool.liquidity
    if min(pool.yes - yes, pool.no - no) < RESERVE_FLOOR:
        raise Refused("reserve_floor", f"a reserve would fall under {RESERVE_FLOOR // UNIT}; remove less")
    money = min(yes, no)
    after = replace(
        pool,
        yes=pool.yes - yes,
        no=pool.no - no,
        sets=pool.sets - money,
        yes_out=pool.yes_out + yes - money,
        no_out=pool.no_out + no - money,
        liquidity=pool.liquidity - shares,
    )
    return Funding(money, shares, yes - money, no - money, after)


def delta_k_ratio(k_before: int, k_after: int) -> Fraction:
    """Return Δk/k exactly."""
    return Fraction(k_after - k_before, k_before)


def is_breach(k_before: int, k_after: int) -> bool:
    """Tell whether abs(Δk/k) is more than 1e-9, exactly: at the limit itself it is not."""
    return abs(k_after - k_before) * LIMIT_DENOMINATOR > k_before


def depth_2pct(pool: Pool) -> float:
    """Return the money that moves the price of YES by 2 % of itself, the smaller of both directions, before the fee.

    A float: for export only. Upwards is unbounded where 1.02 of the price passes 1.
    """
    price, k = float(pool.price_yes), float(pool.k)
    down = 0.98 * price
    to_fall = sqrt(k * (1 - down) / down) - pool.yes
    up = 1.02 * price
    to_rise = sqrt(k * up / (1 - up)) - pool.no if up < 1 else float("inf")
    return min(to_fall, to_rise) / UNIT
