"""Amounts on the wire are decimal strings; inside they are integers of 1e-9. This module is the only crossing."""

from __future__ import annotations

import re
from fractions import Fraction

DECIMALS = 9
UNIT = 1_000_000_000  # base units in one share or one unit of money
LARGEST = 10**9 * UNIT  # the largest amount that one request may name

_PLAIN = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?", re.ASCII)
_RATIO = re.compile(r"[0-9]{1,6}(\.[0-9]{1,24})?([eE][-+]?[0-9]{1,2})?", re.ASCII)


def parse(text: str) -> int:
    """Return a decimal string as base units; raises ValueError naming what is wrong with it."""
    if not _PLAIN.fullmatch(text):
        raise ValueError("an amount is a plain decimal string with at most 9 decimals, such as '12.5'")
    whole, _, part = text.partition(".")
    units = int(whole) * UNIT + int(part.ljust(DECIMALS, "0"))
    if units > LARGEST:
        raise ValueError(f"an amount is at most {LARGEST // UNIT}")
    return units


def parse_ratio(text: str) -> Fraction:
    """Return a positive ratio such as ``1.5e-9`` exactly; raises ValueError naming what is wrong with it."""
    if not _RATIO.fullmatch(text):
        raise ValueError("a ratio is a decimal string, such as '1.5e-9'")
    return Fraction(text)


def show(units: int, decimals: int = DECIMALS) -> str:
    """Return an integer of 10**-decimals as a decimal string without needless zeros."""
    sign = "-" if units < 0 else ""
    whole, part = divmod(abs(units), 10**decimals)
    return f"{sign}{whole}.{part:0{decimals}d}".rstrip("0").rstrip(".") if part else f"{sign}{whole}"


def show_product(product: int) -> str:
    """Return a product of two reserves (base units squared) as a decimal string, exact to its 18 decimals."""
    return show(product, 2 * DECIMALS)
