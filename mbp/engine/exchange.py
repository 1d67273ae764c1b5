"""What the engine does: markets, quotes, swaps, liquidity and leased faults, each change stored before it is answered.

Single-threaded by design: every call runs to its end on the event loop, so no two swaps see one pool. A change is
committed first and taken into memory second; when the store fails, nothing has happened.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from mbp.engine import cpmm, krule
from mbp.engine.cpmm import Action, Funding, Pool, Refused, Side, Trade
from mbp.engine.faults import FAULTS_AT_ONCE, Fault, FaultSpec, Leases
from mbp.engine.store import Market, Store, SwapRow

MARKETS_AT_ONCE = 1_000
LISTED = 1_000  # a list of markets names at most so many; open ones come first


@dataclass(frozen=True, slots=True)
class Order:
    """One swap as it is asked for."""

    market: str
    side: Side
    action: Action
    amount: int
    request_id: str
    idempotency_key: str | None = None


class Exchange:
    """The markets of one engine over one store."""

    def __init__(
        self, store: Store, *, monotonic: Callable[[], float], wall: Callable[[], float], deaf: bool = False
    ) -> None:
        """Load the open markets, and close those that a fault of an earlier life had opened.

        ``deaf`` makes the engine take a fault and open its market but never bias a swap: the defect that a harness
        must be able to notice.
        """
        self._store, self._monotonic, self._wall, self._deaf = store, monotonic, wall, deaf
        self.leases = Leases()
        self._open: dict[str, Market] = {}
        self._closing: dict[str, Market] = {}  # closed here, not yet in the store
        left_over = []
        for market in store.open_markets():
            if market.fault is None:
                self._open[market.id] = market
            else:
                left_over.append(market)
        with store.transaction():
            for market in left_over:
                store.put_market(replace(market, status="closed", closed_at=wall()))

    # Markets

    def open_market(self, market_id: str | None, question: str, reserve: int) -> Market:
        """Open a market; raises :class:`Refused` when its id was ever used, or there are too many."""
        self.sweep()
        market = self._new_market(market_id or f"m-{uuid.uuid4().hex[:12]}", question, reserve, None)
        with self._store.transaction():
            self._store.put_market(market)
        self._open[market.id] = market
        return market

    def _new_market(self, market_id: str, question: str, reserve: int, fault: str | None) -> Market:
        if self._store.market(market_id) is not None:
            raise Refused("market_exists", f"there is or was a market {market_id!r}; an id is never used twice")
        if len(self._open) >= MARKETS_AT_ONCE:
            raise Refused("too_many_markets", f"at most {MARKETS_AT_ONCE} markets are open at once")
        return Market(market_id, question, "open", cpmm.open_pool(reserve), 0, 0, fault, self._wall())

    def market(self, market_id: str) -> Market:
        """Return a market, open or closed; raises :class:`Refused` (``market_not_found``)."""
        self.sweep()
        market = self._open.get(market_id) or self._closing.get(market_id) or self._store.market(market_id)
        if market is None:
            raise Refused("market_not_found", f"there is no market {market_id!r}")
        return market

    def markets(self) -> list[Market]:
        """Return at most 1,000 markets, open ones first."""
        self.sweep()
        return self._store.recent_markets(LISTED)

    def open_now(self) -> list[Market]:
        """Return the open markets, for the metrics."""
        self.sweep()
        return list(self._open.values())

    def _tradable(self, market_id: str) -> Market:
        market = self.market(market_id)
        if market.status != "open":
            raise Refused("market_closed", f"market {market_id!r} is closed")
        return market

    # Trading

    def quote(self, market_id: str, side: Side, action: Action, amount: int) -> Trade:
        """Return what a swap would do now, a planted bias included: a quote is what the swap then executes."""
        market = self._tradable(market_id)
        fault = None if self._deaf else self.leases.of_market(market_id)
        bias = fault.spec.delta_k_ratio if fault is not None and fault.spec.rate >= 1.0 else None
        return cpmm.swap(market.pool, side, action, amount, bias)

    def swap(self, order: Order) -> SwapRow:
        """Execute a swap and return its audit row; the same idempotency key and order give the same row again.

        Raises :class:`Refused`; sqlite3.Error when the store does not take the row, and then nothing has happened.
        """
        if order.idempotency_key is not None:
            earlier = self._store.swap_by_key(order.idempotency_key)
            if earlier is not None:
                return _same_or_refused(order, earlier)
        market = self._tradable(order.market)
        fault, biased = self._met_fault(order.market)
        trade = cpmm.swap(
            market.pool, order.side, order.action, order.amount, fault.spec.delta_k_ratio if fault and biased else None
        )
        if not biased:
            _check_honest(market.pool, trade.pool)
        k_before, k_after = market.pool.k, trade.pool.k
        breach = cpmm.is_breach(k_before, k_after)
        row = SwapRow(
            seq=0,
            at=self._wall(),
            market=market.id,
            side=order.side,
            action=order.action,
            amount_in=trade.amount_in,
            amount_out=trade.amount_out,
            fee=trade.fee,
            k_before=k_before,
            k_after=k_after,
            breach=breach,
            fault=fault.id if fault and biased else None,
            request_id=order.request_id,
            idempotency_key=order.idempotency_key,
        )
        after = replace(market, pool=trade.pool, swaps=market.swaps + 1, breaches=market.breaches + breach)
        with self._store.transaction():
            seq = self._store.add_swap(row)
            self._store.put_market(after)
        self._open[market.id] = after
        if fault is not None and biased:
            fault.impacted += 1
        return replace(row, seq=seq)

    def _met_fault(self, market_id: str) -> tuple[Fault | None, bool]:
        """Return the fault that a swap in this market meets, counted as a hit, and whether it changes this swap."""
        fault = None if self._deaf else self.leases.of_market(market_id)
        if fault is None:
            return None, False
        self.leases.hits_total += 1
        return fault, fault.bites(self._wall())

    def add_liquidity(self, market_id: str, money: int) -> tuple[Funding, Market]:
        """Add money to a pool; raises :class:`Refused`."""
        market = self._tradable(market_id)
        return self._fund(market, cpmm.add(market.pool, money))

    def remove_liquidity(self, market_id: str, shares: int) -> tuple[Funding, Market]:
        """Give pool shares back; raises :class:`Refused`."""
        market = self._tradable(market_id)
        return self._fund(market, cpmm.remove(market.pool, shares))

    def _fund(self, market: Market, funding: Funding) -> tuple[Funding, Market]:
        after = replace(market, pool=funding.pool)
        with self._store.transaction():
            self._store.put_market(after)
        self._open[market.id] = after
        return funding, after

    def audit(self, market: str | None, after: int, limit: int) -> list[SwapRow]:
        """Return audit rows with seq > ``after``, of open and closed markets alike."""
        return self._store.swaps(market, after, limit)

    def probe(self) -> None:
        """Raise sqlite3.Error when the engine could not take a swap now."""
        self._store.probe()

    # Faults

    def put_fault(self, fault_id: str, spec: FaultSpec) -> Fault:
        """Put a fault in force and open its market, or renew the lease of the very same fault.

        Raises :class:`Refused` for the same id with another body, a market id that was ever used (so an ended fault
        stays ended), or too many faults.
        """
        self.sweep()
        known = self.leases.get(fault_id)
        if known is not None:
            if known.spec != spec:
                raise Refused("fault_differs", f"fault {fault_id!r} is in force with another body; delete it first")
            self.leases.renew(known, self._monotonic(), self._wall())
            return known
        if len(self.leases) >= FAULTS_AT_ONCE:
            raise Refused("too_many_faults", f"at most {FAULTS_AT_ONCE} faults are in force at once")
        market = self._new_market(spec.market, f"opened by fault {fault_id}", spec.reserve, fault_id)
        with self._store.transaction():
            self._store.put_market(market)
        self._open[market.id] = market
        return self.leases.grant(fault_id, spec, self._monotonic(), self._wall())

    def delete_fault(self, fault_id: str) -> None:
        """Take a fault out of force and close its market; an absent fault is no error."""
        fault = self.leases.get(fault_id)
        self._end([fault] if fault is not None else [])

    def delete_run(self, run: str) -> None:
        """Take all faults of one run out of force and close their markets."""
        self._end([fault for fault in self.leases if fault.spec.run == run])

    def sweep(self) -> None:
        """End every fault whose lease is over; called on a timer and before every read and swap."""
        self._end(self.leases.expired(self._monotonic()))

    def _end(self, faults: list[Fault]) -> None:
        """Remove the bias and close the market in one step, in memory first: a full disk must not keep a bias alive.

        What the store did not take is kept and tried again at the next sweep.
        """
        for fault in faults:
            self.leases.drop(fault)
            market = self._open.pop(fault.spec.market)
            self._closing[market.id] = replace(market, status="closed", closed_at=self._wall())
        if self._closing:
            with self._store.transaction():
                for market in self._closing.values():
                    self._store.put_market(market)
            self._closing.clear()


def _same_or_refused(order: Order, earlier: SwapRow) -> SwapRow:
    asked = (order.market, order.side, order.action, order.amount)
    if asked != (earlier.market, earlier.side, earlier.action, earlier.amount_in):
        raise Refused("idempotency_key_reused", f"the key was used for another order, audit row {earlier.seq}")
    return earlier


def _check_honest(before: Pool, after: Pool) -> None:
    """Raise RuntimeError when an unbiased swap would break the books: better no answer than a wrong one."""
    if not krule.holds(before.yes, before.no, after.yes, after.no, 0, 0, fee_per_mille=0) or not after.balanced():
        raise RuntimeError(f"a swap would break the books: {before} -> {after}")
