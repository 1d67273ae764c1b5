"""What operators and the hook executor do to a market: resolve it, freeze it, flag abuse. Audited, and done once a key.

Asking for what already is so answers 200 and leaves no audit row and no event: nothing was changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mbp._trace import child
from mbp.engine import news, resolution
from mbp.engine.cpmm import Refused, Side
from mbp.engine.exchange import Exchange
from mbp.engine.flags import RESOLVE_MANUAL, answered
from mbp.engine.records import Change, Happening
from mbp.engine.resolution import Decider
from mbp.engine.show import show_market, show_wall
from mbp.engine.store import Market, Store


@dataclass(frozen=True, slots=True)
class By:
    """Why a change is asked for, under which idempotency key, in which trace."""

    reason: str
    key: str | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What a request comes to: the market after it, and what is recorded of it; nothing when nothing changed."""

    market: Market
    change: Change | None = None
    event: Happening | None = None
    answer: dict[str, Any] | None = None  # else the market


class Lifecycle:
    """These changes, over the markets of an exchange."""

    def __init__(self, exchange: Exchange, store: Store) -> None:
        """Change the markets of ``exchange``, which are kept in ``store``."""
        self._exchange, self._store, self._wall = exchange, store, exchange.now
        self.rehearsing = exchange.rehearsing
        self.flags = exchange.flags

    def start(self, market_id: str, by: By) -> dict[str, Any]:
        """Start the resolution of an open market now; raises :class:`Refused`."""

        def step(market: Market) -> Step:
            _refuse_ended(market)
            if market.status == "resolving":
                return Step(market)
            after, event = resolution.started(market, self._wall(), "manual", by.reason, by.trace_id)
            return Step(after, _audited(market, after, event.type, event.at, by), event)

        return self._once(f"start {market_id} {by.reason!r}", market_id, by, step)

    def finish(self, market_id: str, outcome: Side | None, by: By) -> dict[str, Any]:
        """Resolve a market whose resolution has started: by hand to ``outcome``, or (None) by the rule.

        Raises :class:`Refused`: ``flag_off`` for a resolution by hand while that is not allowed,
        ``resolution_not_started``, ``resolution_held`` by a fault, ``market_resolved`` to another outcome.
        """

        def step(market: Market) -> Step:
            if outcome is not None:
                self.flags.require(RESOLVE_MANUAL)
            if market.status == "resolved" and outcome in (None, market.outcome):
                return Step(market)
            _refuse_ended(market)
            if market.status == "open":
                raise Refused("resolution_not_started", f"the resolution of market {market_id!r} has not started")
            self._exchange.refuse_held(market_id)
            decided: tuple[Side, Decider] = (_by_rule(market), "rule") if outcome is None else (outcome, "manual")
            after, event = resolution.finished(market, decided[0], self._wall(), decided[1], by.reason, by.trace_id)
            return Step(after, _audited(market, after, event.type, event.at, by), event)

        return self._once(f"finish {market_id} {outcome} {by.reason!r}", market_id, by, step)

    def freeze(self, market_id: str, frozen: bool, by: By) -> dict[str, Any]:
        """Stop all trading in a market, or allow it again; in any state of its life, so that it can be undone."""

        def step(market: Market) -> Step:
            if market.frozen == frozen:
                return Step(market)
            after = replace(market, frozen=frozen)
            return Step(after, _audited(market, after, "freeze" if frozen else "unfreeze", self._wall(), by))

        return self._once(f"frozen {market_id} {frozen} {by.reason!r}", market_id, by, step)

    def flag(self, market_id: str, by: By) -> dict[str, Any]:
        """Record that abuse was reported in a market; the market itself is not changed."""

        def step(market: Market) -> Step:
            at, data = self._wall(), {"market": market_id, "reason": by.reason}
            event = Happening("flagged_abuse", market_id, at, data, by.trace_id)
            answer = {**data, "at": show_wall(at)}
            return Step(market, _audited(market, market, "abuse_flagged", at, by), event, answer)

        return self._once(f"flag {market_id} {by.reason!r}", market_id, by, step)

    def resolution(self, market_id: str) -> dict[str, Any]:
        """Return how a market's resolution stands; ``by_rule`` is what the rule would decide now."""
        market = self._exchange.market(market_id)
        age = resolution.age_hours(market, self._wall())
        return {
            "market": market.id,
            "status": market.status,
            "started_at": show_wall(market.resolution_started_at),
            "finished_at": show_wall(market.resolved_at),
            "outcome": market.outcome,
            "by_rule": resolution.rule(market.pool),
            "age_hours": age,
            "overdue": age is not None and age > resolution.SLA_HOURS,
        }

    def _once(self, request: str, market_id: str, by: By, step: Callable[[Market], Step]) -> dict[str, Any]:
        """Take one step in one transaction, or give the answer that its idempotency key already got.

        Refusals are not kept: what was refused may be asked again under the same key.
        """
        market = self._exchange.market(market_id)
        if by.key is not None and (kept := answered(self._store, by.key, request)) is not None:
            return kept
        made = step(market)
        answer = made.answer or show_market(made.market)
        with self._store.transaction():
            if made.market != market:
                self._store.put_market(made.market)
            if made.change is not None:
                self._store.records.add_change(made.change)
            if made.event is not None:
                self._store.records.add_event(made.event, self._wall())
            if by.key is not None:
                self._store.records.keep(by.key, request, answer)
        self._exchange.take(made.market)
        return answer


def _refuse_ended(market: Market) -> None:
    if not market.live:
        raise Refused(f"market_{market.status}", f"market {market.id!r} is {market.status}")


def _by_rule(market: Market) -> Side:
    with child("resolution.rule", {"mbp.market": market.id}) as span:
        outcome = resolution.rule(market.pool)
        span.set_attribute("mbp.outcome", outcome)
    return outcome


def _audited(before: Market, after: Market, event: str, at: float, by: By) -> Change:
    return news.changed(before, after, event, at, by.reason, by.key, by.trace_id)
