"""How the engine answers: markets, prices, events and audit rows as JSON."""

from __future__ import annotations

from typing import Any

from mbp._service import wall_text
from mbp.engine import amounts, cpmm
from mbp.engine.records import Change, EventRow
from mbp.engine.store import Market
from mbp.events import schema_name


def show_wall(seconds: float | None) -> str | None:
    """Return a wall-clock time as RFC 3339, or None."""
    return None if seconds is None else wall_text(seconds)


def show_price(pool: cpmm.Pool) -> str:
    """Return the price of YES as a decimal string, rounded to 9 decimals."""
    return amounts.show(round(pool.price_yes * amounts.UNIT))


def show_market(market: Market) -> dict[str, Any]:
    """Return a market as it is answered."""
    pool = market.pool
    return {
        "id": market.id,
        "question": market.question,
        "status": market.status,
        "reserve_yes": amounts.show(pool.yes),
        "reserve_no": amounts.show(pool.no),
        "price_yes": show_price(pool),
        "k": amounts.show_product(pool.k),
        "frozen": market.frozen,
        "liquidity": amounts.show(pool.liquidity),
        "collateral": amounts.show(pool.sets),
        "fees": amounts.show(pool.fees),
        "swaps": market.swaps,
        "fault": market.fault,
        "opened_at": wall_text(market.opened_at),
        "closes_at": show_wall(market.closes_at),
        "resolution_started_at": show_wall(market.resolution_started_at),
        "resolved_at": show_wall(market.resolved_at),
        "outcome": market.outcome,
        "closed_at": show_wall(market.closed_at),
    }


def show_event(row: EventRow) -> dict[str, Any]:
    """Return an event as it is answered."""
    event = row.event
    return {
        "seq": row.seq,
        "id": row.id,
        "type": event.type,
        "subject": event.subject,
        "at": wall_text(event.at),
        "recorded_at": wall_text(row.recorded_at),
        "trace_id": event.trace_id,
        "schema": schema_name(event.type),
        "data": event.data,
    }


def show_change(seq: int, change: Change) -> dict[str, Any]:
    """Return a row of the audit of flags or markets as it is answered."""
    return {
        "seq": seq,
        "at": wall_text(change.at),
        "subject": change.subject,
        "event": change.event,
        "before": change.before,
        "after": change.after,
        "reason": change.reason,
        "idempotency_key": change.key,
        "trace_id": change.trace_id,
    }
