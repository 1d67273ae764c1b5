"""What the engine tells others: an event for each thing that happens to a market, an audit row for a change. Pure."""

from __future__ import annotations

from mbp.engine import amounts
from mbp.engine.cpmm import Funding
from mbp.engine.records import Change, Happening
from mbp.engine.show import show_price, show_wall
from mbp.engine.store import Market, SwapRow

CHANGING = ("status", "outcome", "frozen")


def created(market: Market, trace_id: str | None) -> Happening:
    """Return the event of a market's opening."""
    data = {
        "market": market.id,
        "question": market.question,
        "reserve": amounts.show(market.pool.liquidity),
        "price_yes": show_price(market.pool),
        "closes_at": show_wall(market.closes_at),
        "fault": market.fault,
    }
    return Happening("market_created", market.id, market.opened_at, data, trace_id)


def funded(market: Market, funding: Funding, at: float, trace_id: str | None) -> Happening:
    """Return the event of money added to the pool of ``market``, as it is after it."""
    data = {
        "market": market.id,
        "amount": amounts.show(funding.money),
        "shares": amounts.show(funding.shares),
        "yes_out": amounts.show(funding.yes),
        "no_out": amounts.show(funding.no),
        "reserve_yes": amounts.show(market.pool.yes),
        "reserve_no": amounts.show(market.pool.no),
        "price_yes": show_price(market.pool),
    }
    return Happening("liquidity_added", market.id, at, data, trace_id)


def traded(row: SwapRow, market: Market, trace_id: str | None) -> Happening:
    """Return the event of a stored swap; ``market`` is as it is after it."""
    data = {
        "market": row.market,
        "swap": row.seq,
        "side": row.side,
        "action": row.action,
        "amount_in": amounts.show(row.amount_in),
        "amount_out": amounts.show(row.amount_out),
        "fee": amounts.show(row.fee),
        "price_yes": show_price(market.pool),
        "request_id": row.request_id,
        "fault": row.fault,
    }
    return Happening("trade_executed", row.market, row.at, data, trace_id)


def changed(
    before: Market,
    after: Market,
    event: str,
    at: float,
    reason: str,
    key: str | None = None,
    trace_id: str | None = None,
) -> Change:
    """Return the audit row of what was changed about a market."""
    names = [name for name in CHANGING if getattr(before, name) != getattr(after, name)]
    old, new = ({name: getattr(market, name) for name in names} for market in (before, after))
    return Change(at, "market", before.id, event, old, new, reason, key, trace_id)
