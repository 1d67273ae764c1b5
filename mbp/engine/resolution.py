"""How a market's life ends: its resolution starts, ages, and is finished by rule, by hand, or by a fault's end. Pure.

Trading does not stop with resolution_started: a market whose resolution is late is still traded on what others may know
already. That is the danger; a freeze stops the trading, and so does the resolution itself.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Literal

from mbp.engine.cpmm import Pool, Side
from mbp.engine.records import Happening
from mbp.engine.show import show_wall
from mbp.engine.store import Market

HOUR_S = 3600.0
SLA_HOURS = 24.0  # a resolution that takes longer is overdue

Decider = Literal["rule", "manual", "fault"]


def rule(pool: Pool) -> Side:
    """Return the outcome by the platform's one rule: YES if the market's last price of YES is at least 0.5."""
    return "yes" if pool.price_yes >= Fraction(1, 2) else "no"


def age_hours(market: Market, now: float) -> float | None:
    """Return the hours since resolution_started, by its stamp, of a market that is not resolved; None otherwise."""
    if market.status != "resolving" or market.resolution_started_at is None:
        return None
    return max(0.0, now - market.resolution_started_at) / HOUR_S


def started(market: Market, at: float, by: Decider, reason: str, trace_id: str | None) -> tuple[Market, Happening]:
    """Return the market with its resolution started, stamped ``at``, and the event that says so."""
    data = {"market": market.id, "by": by, "reason": reason, "closes_at": show_wall(market.closes_at)}
    event = Happening("resolution_started", market.id, at, data, trace_id)
    return replace(market, status="resolving", resolution_started_at=at), event


def finished(
    market: Market, outcome: Side, at: float, by: Decider, reason: str, trace_id: str | None
) -> tuple[Market, Happening]:
    """Return the market resolved, stamped ``at``, and the event that says so; its resolution must have started."""
    data = {
        "market": market.id,
        "outcome": outcome,
        "by": by,
        "reason": reason,
        "started_at": show_wall(market.resolution_started_at),
    }
    event = Happening("resolution_finished", market.id, at, data, trace_id)
    return replace(market, status="resolved", resolved_at=at, outcome=outcome), event
