"""Two independent implementations of the pool: the engine's integers, and exact fractions from the definition alone."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

from mbp.engine import amounts, cpmm


class IntegerBook:
    """The engine's own pool."""

    def __init__(self, reserve: str) -> None:
        """Open a pool."""
        self.pool = cpmm.open_pool(amounts.parse(reserve))

    def do(self, kind: str, amount: str) -> str:
        """Do one operation."""
        units = amounts.parse(amount)
        show = amounts.show
        try:
            if kind in ("add", "remove"):
                funding = cpmm.add(self.pool, units) if kind == "add" else cpmm.remove(self.pool, units)
                self.pool = funding.pool
                return " ".join(map(show, (funding.money, funding.shares, funding.yes, funding.no)))
            action, side = kind.split()
            trade = cpmm.swap(self.pool, side, action, units)
        except cpmm.Refused as refused:
            return f"refused {refused.code}"
        self.pool = trade.pool
        return f"{show(trade.amount_out)} {show(trade.fee)}"

    def state(self) -> dict[str, str]:
        """Return the state."""
        names = ("yes", "no", "sets", "yes_out", "no_out", "liquidity", "fees")
        return {name: amounts.show(getattr(self.pool, name)) for name in names}


GRAIN = Fraction(1, 10**9)
FEE = Fraction(2, 1000)
FLOOR, CEILING = Fraction(10), Fraction(10**12)


class Refusal(Exception):
    """The reference does not do it."""


def down(value: Fraction) -> Fraction:
    """Round down to the grain."""
    return floor(value / GRAIN) * GRAIN


def up(value: Fraction) -> Fraction:
    """Round up to the grain."""
    return ceil(value / GRAIN) * GRAIN


class FractionBook:
    """The pool from its definition, in exact fractions of whole units; shares no code with the engine."""

    def __init__(self, reserve: str) -> None:
        """Open a pool."""
        self.pool = {"yes": Fraction(reserve), "no": Fraction(reserve)}
        self.hands = {"yes": Fraction(0), "no": Fraction(0)}
        self.sets = self.liquidity = Fraction(reserve)
        self.fees = Fraction(0)

    def do(self, kind: str, amount: str) -> str:
        """Do one operation."""
        value = Fraction(amount)
        try:
            if value <= 0:
                raise Refusal("amount_too_small")
            if kind == "add":
                return self._add(value)
            if kind == "remove":
                return self._remove(value)
            action, side = kind.split()
            return self._buy(side, value) if action == "buy" else self._sell(side, value)
        except Refusal as refusal:
            return f"refused {refusal}"

    def _accept(self, side: str, mine: Fraction, theirs: Fraction, out: Fraction) -> None:
        if min(mine, theirs) < FLOOR:
            raise Refusal("reserve_floor")
        if max(mine, theirs) > CEILING:
            raise Refusal("reserve_ceiling")
        if out <= 0:
            raise Refusal("amount_too_small")
        self.pool = {side: mine, other(side): theirs}

    def _buy(self, side: str, money: Fraction) -> str:
        fee = up(money * FEE)
        net = money - fee
        theirs = self.pool[other(side)] + net
        mine = up(self.pool["yes"] * self.pool["no"] / theirs)  # the least that keeps the product
        out = self.pool[side] + net - mine
        self._accept(side, mine, theirs, out)
        self.hands[side] += out
        self.sets, self.fees = self.sets + net, self.fees + fee
        return f"{text(out)} {text(fee)}"

    def _sell(self, side: str, shares: Fraction) -> str:
        if shares > self.hands[side]:
            raise Refusal("insufficient_shares")
        product = self.pool["yes"] * self.pool["no"]
        mine, theirs = self.pool[side] + shares, self.pool[other(side)]
        # The most money that keeps the product, found by halving: nothing is known here but the inequality.
        low, high = 0, floor(min(mine, theirs) / GRAIN)
        while low < high:
            middle = (low + high + 1) // 2
            if (mine - middle * GRAIN) * (theirs - middle * GRAIN) >= product:
                low = middle
            else:
                high = middle - 1
        money = low * GRAIN
        fee = up(money * FEE)
        self._accept(side, mine - money, theirs - money, money - fee)
        self.hands[side] -= shares
        self.sets, self.fees = self.sets - money, self.fees + fee
        return f"{text(money - fee)} {text(fee)}"

    def _add(self, money: Fraction) -> str:
        largest = max(self.pool.values())
        shares = down(self.liquidity * money / largest)
        if shares <= 0:
            raise Refusal("amount_too_small")
        if largest + money > CEILING:
            raise Refusal("reserve_ceiling")
        kept = {side: up(money * held / largest) for side, held in self.pool.items()}
        for side, more in kept.items():
            self.pool[side] += more
            self.hands[side] += money - more
        self.sets, self.liquidity = self.sets + money, self.liquidity + shares
        return " ".join(map(text, (money, shares, money - kept["yes"], money - kept["no"])))

    def _remove(self, shares: Fraction) -> str:
        if shares >= self.liquidity:
            raise Refusal("insufficient_shares")
        given = {side: down(held * shares / self.liquidity) for side, held in self.pool.items()}
        if min(self.pool[side] - given[side] for side in given) < FLOOR:
            raise Refusal("reserve_floor")
        money = min(given.values())
        for side, less in given.items():
            self.pool[side] -= less
            self.hands[side] += less - money
        self.sets, self.liquidity = self.sets - money, self.liquidity - shares
        return " ".join(map(text, (money, shares, given["yes"] - money, given["no"] - money)))

    def state(self) -> dict[str, str]:
        """Return the state."""
        held = {**self.pool, "yes_out": self.hands["yes"], "no_out": self.hands["no"]}
        return {name: text(value) for name, value in
                {**held, "sets": self.sets, "liquidity": self.liquidity, "fees": self.fees}.items()}  # fmt: skip


def other(side: str) -> str:
    """Return the other side."""
    return "no" if side == "yes" else "yes"


def text(value: Fraction) -> str:
    """Return a multiple of the grain as a decimal string."""
    grains = value / GRAIN
    assert grains.denominator == 1, value
    whole, part = divmod(abs(grains.numerator), 10**9)
    digits = f"{whole}.{part:09d}".rstrip("0").rstrip(".")
    return f"-{digits}" if grains < 0 else digits
