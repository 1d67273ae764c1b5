"""What the engine does: markets, quotes, swaps, liquidity and leased faults, each change stored before it is answered.

Single-threaded by design: every call runs to its end on the event loop, so no two swaps see one pool. A change is
committed first and taken into memory second; when the store fails, nothing has happened.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction

from mbp.engine import cpmm, krule, news, resolution
from mbp.engine.cpmm import Action, Funding, Pool, Refused, Side, Trade
from mbp.engine.faults import DELAY, FAULTS_AT_ONCE, SWAP, BiasSpec, DelaySpec, Fault, FaultSpec, Leases
from mbp.engine.flags import CREATE_MARKET, Flags
from mbp.engine.records import Change, Happening
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
    trace_id: str | None = None


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
        self.flags = Flags(store, wall)
        self._live: dict[str, Market] = {}
        self._timed: set[str] = set()  # open markets that are to close by themselves
        self._ended: dict[str, tuple[Market, Happening | None, Change]] = {}  # ended here, not yet in the store
        for market in store.live_markets():
            if market.fault is None:
                self.take(market)
            else:
                self._ended[market.id] = self._end_of(market)
        self._store_ended()

    @contextmanager
    def rehearsing(self, on: bool) -> Iterator[None]:
        """Run a block for real, or (``on``) only to see what it would come to: no row, event, hit or change stays.

        Nothing may await inside: the next request must not meet what is only rehearsed.
        """
        if not on:
            yield
            return
        self.sweep()
        kept = self.leases, dict(self._live), set(self._timed), dict(self._ended)
        self.leases = copy.deepcopy(self.leases)
        try:
            with self._store.rehearsal():
                yield
        finally:
            self.leases, self._live, self._timed, self._ended = kept

    # Markets

    def open_market(
        self,
        market_id: str | None,
        question: str,
        reserve: int,
        closes_at: float | None = None,
        trace_id: str | None = None,
    ) -> Market:
        """Open a market, whose resolution starts by itself at ``closes_at`` (Unix seconds) if that is given.

        Raises :class:`Refused` when its id was ever used, there are too many, it would close in the past, or the flag
        ``mbp.create_market`` is off.
        """
        self.sweep()
        self.flags.require(CREATE_MARKET)
        if closes_at is not None and closes_at <= self._wall():
            raise Refused("closes_at_past", "a market closes in the future")
        market = self._new_market(market_id or f"m-{uuid.uuid4().hex[:12]}", question, reserve, None)
        market = replace(market, closes_at=closes_at)
        self._commit(market, news.created(market, trace_id))
        return market

    def _commit(self, market: Market, *happened: Happening, change: Change | None = None) -> None:
        """Store a market with what happened to it, all or nothing, and then take it into memory."""
        with self._store.transaction():
            self._store.put_market(market)
            for event in happened:
                self._store.records.add_event(event, self._wall())
            if change is not None:
                self._store.records.add_change(change)
        self.take(market)

    def take(self, market: Market) -> None:
        """Take a market into memory as it was just stored."""
        if market.live:
            self._live[market.id] = market
        else:
            self._live.pop(market.id, None)
        if market.status == "open" and market.closes_at is not None:
            self._timed.add(market.id)
        else:
            self._timed.discard(market.id)

    def _new_market(self, market_id: str, question: str, reserve: int, fault: str | None) -> Market:
        if self._store.market(market_id) is not None:
            raise Refused("market_exists", f"there is or was a market {market_id!r}; an id is never used twice")
        if len(self._live) >= MARKETS_AT_ONCE:
            raise Refused("too_many_markets", f"at most {MARKETS_AT_ONCE} markets are open at once")
        return Market(market_id, question, "open", cpmm.open_pool(reserve), 0, 0, fault, self._wall())

    def market(self, market_id: str) -> Market:
        """Return a market, open or closed; raises :class:`Refused` (``market_not_found``)."""
        self.sweep()
        market = self._live.get(market_id) or self._store.market(market_id)
        if market is None:
            raise Refused("market_not_found", f"there is no market {market_id!r}")
        return market

    def markets(self) -> list[Market]:
        """Return at most 1,000 markets, open ones first."""
        self.sweep()
        return self._store.recent_markets(LISTED)

    def live(self) -> list[Market]:
        """Return the markets that are open or being resolved, for the metrics."""
        self.sweep()
        return list(self._live.values())

    def now(self) -> float:
        """Return the wall clock, which stamps are compared with."""
        return self._wall()

    def _tradable(self, market_id: str) -> Market:
        """Return a market that may be traded; one that is late with its resolution may be, a frozen one may not."""
        market = self.market(market_id)
        if not market.live:
            raise Refused(f"market_{market.status}", f"market {market_id!r} is {market.status}")
        if market.frozen:
            raise Refused("market_frozen", f"market {market_id!r} is frozen: nothing is traded in it for now")
        return market

    # Trading

    def quote(self, market_id: str, side: Side, action: Action, amount: int) -> Trade:
        """Return what a swap would do now, a planted bias included: a quote is what the swap then executes."""
        market = self._tradable(market_id)
        spec = self._bias(market_id)
        bias = spec[1].delta_k_ratio if spec is not None and spec[1].rate >= 1.0 else None
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
        fault, bias = self._met_fault(order.market)
        trade = cpmm.swap(market.pool, order.side, order.action, order.amount, bias)
        if bias is None:
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
            fault=fault.id if fault is not None and bias is not None else None,
            request_id=order.request_id,
            idempotency_key=order.idempotency_key,
            trace_id=order.trace_id,
        )
        after = replace(market, pool=trade.pool, swaps=market.swaps + 1, breaches=market.breaches + breach)
        with self._store.transaction():
            row = replace(row, seq=self._store.add_swap(row))
            self._store.put_market(after)
            self._store.records.add_event(news.traded(row, after, order.trace_id), self._wall())
        self.take(after)
        if fault is not None and bias is not None:
            fault.impacted += 1
        return row

    def _bias(self, market_id: str) -> tuple[Fault, BiasSpec] | None:
        fault = None if self._deaf else self.leases.of_market(market_id)
        return (fault, fault.spec) if fault is not None and isinstance(fault.spec, BiasSpec) else None

    def _met_fault(self, market_id: str) -> tuple[Fault | None, Fraction | None]:
        """Return the fault that a swap in this market meets, counted as a hit, and the bias if it changes this swap."""
        found = self._bias(market_id)
        if found is None:
            return None, None
        fault, spec = found
        self.leases.hits[SWAP] += 1
        return fault, spec.delta_k_ratio if fault.bites(self._wall()) else None

    def add_liquidity(self, market_id: str, money: int, trace_id: str | None = None) -> tuple[Funding, Market]:
        """Add money to a pool; raises :class:`Refused`."""
        market = self._tradable(market_id)
        funding = cpmm.add(market.pool, money)
        after = replace(market, pool=funding.pool)
        self._commit(after, news.funded(after, funding, self._wall(), trace_id))
        return funding, after

    def remove_liquidity(self, market_id: str, shares: int) -> tuple[Funding, Market]:
        """Give pool shares back; raises :class:`Refused`."""
        market = self._tradable(market_id)
        funding = cpmm.remove(market.pool, shares)
        after = replace(market, pool=funding.pool)
        self._commit(after)
        return funding, after

    def audit(self, market: str | None, after: int, limit: int) -> list[SwapRow]:
        """Return audit rows with seq > ``after``, of open and closed markets alike."""
        return self._store.swaps(market, after, limit)

    def event_counts(self) -> dict[str, int]:
        """Return how many events of each type were recorded, also at 0."""
        return dict(self._store.records.counts)

    def probe(self) -> None:
        """Raise sqlite3.Error when the engine could not take a swap now."""
        self._store.probe()

    # Faults

    def put_fault(self, fault_id: str, spec: FaultSpec) -> Fault:
        """Put a fault in force and open its market, or renew the lease of the very same fault. No flag refuses it.

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
        happened = []
        if isinstance(spec, DelaySpec) and not self._deaf:
            # The data are moved, not the clock: the market is as if its resolution had started so long ago.
            at = self._wall() - spec.hours * resolution.HOUR_S
            market = replace(market, opened_at=at, closes_at=at)
            market, event = resolution.started(market, at, "fault", f"held by fault {fault_id}", None)
            happened = [event]
        self._commit(market, news.created(market, None), *happened)
        return self.leases.grant(fault_id, spec, self._monotonic(), self._wall())

    def delete_fault(self, fault_id: str) -> None:
        """Take a fault out of force and close its market; an absent fault is no error."""
        fault = self.leases.get(fault_id)
        self._end([fault] if fault is not None else [])

    def delete_run(self, run: str) -> None:
        """Take all faults of one run out of force and close their markets."""
        self._end([fault for fault in self.leases if fault.spec.run == run])

    def refuse_held(self, market_id: str) -> None:
        """Raise :class:`Refused` (``resolution_held``), and count a hit, when a fault holds a market's resolution."""
        fault = self.leases.of_market(market_id)
        if fault is None or not isinstance(fault.spec, DelaySpec) or self._deaf:
            return
        self.leases.hits[DELAY] += 1
        fault.bites(self._wall())
        fault.impacted += 1
        raise Refused("resolution_held", f"resolution_finished of market {market_id!r} is held by fault {fault.id!r}")

    def sweep(self) -> None:
        """End every fault whose lease is over, and start each resolution that is due.

        Called on a timer and before every read and swap.
        """
        self._end(self.leases.expired(self._monotonic()))
        now = self._wall()
        for market in [self._live[each] for each in self._timed]:
            if market.closes_at is not None and market.closes_at <= now:
                why = "its closing time has come"
                after, event = resolution.started(market, market.closes_at, "rule", why, None)
                self._commit(after, event, change=news.changed(market, after, event.type, now, why))

    def _end(self, faults: list[Fault]) -> None:
        """Take faults out of force and end their markets in one step, in memory first: a full disk must keep no bias.

        What the store did not take is kept and tried again at the next sweep.
        """
        for fault in faults:
            self.leases.drop(fault)
            market = self._live.pop(fault.spec.market, None)
            if market is not None:
                self._ended[market.id] = self._end_of(market)
        self._store_ended()

    def _end_of(self, market: Market) -> tuple[Market, Happening | None, Change]:
        """Return a fault's market closed; one whose resolution was held is resolved: the event comes at last."""
        now, why, event = self._wall(), "the end of its fault", None
        if market.status == "resolving":
            after, event = resolution.finished(market, resolution.rule(market.pool), now, "fault", why, None)
        else:
            after = replace(market, status="closed", closed_at=now)
        return after, event, news.changed(market, after, event.type if event else "closed", now, why)

    def _store_ended(self) -> None:
        if not self._ended:
            return
        with self._store.transaction():
            for market, event, change in self._ended.values():
                self._store.put_market(market)
                self._store.records.add_change(change)
                if event is not None:
                    self._store.records.add_event(event, self._wall())
        self._ended.clear()


def _same_or_refused(order: Order, earlier: SwapRow) -> SwapRow:
    asked = (order.market, order.side, order.action, order.amount)
    if asked != (earlier.market, earlier.side, earlier.action, earlier.amount_in):
        raise Refused("idempotency_key_reused", f"the key was used for another order, audit row {earlier.seq}")
    return earlier


def _check_honest(before: Pool, after: Pool) -> None:
    """Raise RuntimeError when an unbiased swap would break the books: better no answer than a wrong one."""
    if not krule.holds(before.yes, before.no, after.yes, after.no, 0, 0, fee_per_mille=0) or not after.balanced():
        raise RuntimeError(f"a swap would break the books: {before} -> {after}")
