"""The one-sided rule of every constant-product pool: what is left after a swap must be worth at least what was there.

The rule is Uniswap v2's: with a fee of ``fee_per_mille`` taken from what came in,
``(1000·x' - fee·dx) · (1000·y' - fee·dy) >= 1000² · x · y``. With no fee it is "k never falls", and that is how the
engine checks each honest swap before it commits it (its own fees never enter the pool).
"""

from __future__ import annotations

MILLE = 1000


def holds(x: int, y: int, x_after: int, y_after: int, x_in: int, y_in: int, fee_per_mille: int) -> bool:
    """Tell whether a swap keeps the rule; all amounts are integers of the smallest unit."""
    left = (MILLE * x_after - fee_per_mille * x_in) * (MILLE * y_after - fee_per_mille * y_in)
    return min(x_after, y_after) > 0 and left >= MILLE * MILLE * x * y


def amount_out_max(amount_in: int, reserve_in: int, reserve_out: int, fee_per_mille: int) -> int:
    """Return the most of the other token that ``amount_in`` may buy under the rule."""
    net = amount_in * (MILLE - fee_per_mille)
    return net * reserve_out // (reserve_in * MILLE + net)


def same_token_out_max(amount_in: int, fee_per_mille: int) -> int:
    """Return the most of the *same* token that may be handed back for ``amount_in``: all but the fee."""
    return amount_in * (MILLE - fee_per_mille) // MILLE
