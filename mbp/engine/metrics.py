"""The engine's Prometheus series, read from its state at scrape time, so that they cannot drift from it.

A market's series exist from its opening, at 0, and are gone when it is resolved or closed. `res_sla_hours` exists for a
market whose resolution has started and is not finished, and for no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mbp.engine.cpmm import depth_2pct
from mbp.engine.exchange import Exchange
from mbp.engine.faults import KINDS
from mbp.engine.resolution import age_hours

Family = CounterMetricFamily | GaugeMetricFamily


class EngineCollector(Collector):
    """Turns the state of an exchange into metric families."""

    def __init__(self, exchange: Exchange, faults_on: bool) -> None:
        """Read ``exchange``; the fault series exist only where the fault door does."""
        self._exchange, self._faults_on = exchange, faults_on

    def collect(self) -> Iterator[Family]:
        """Yield the families as they stand now."""
        markets, now = self._exchange.live(), self._exchange.now()
        swaps = CounterMetricFamily("amm_swaps", "Swaps in a market that lives.", labels=["market"])
        wrong = CounterMetricFamily(
            "amm_invariant_error", "Swaps with abs(dk/k) > 1e-9 in a market that lives.", labels=["market"]
        )
        depth = GaugeMetricFamily(
            "liquidity_depth_2pct", "Money that moves the price of YES by 2 %, smaller direction.", labels=["market"]
        )
        price = GaugeMetricFamily("amm_price_yes", "Price of YES.", labels=["market"])
        late = GaugeMetricFamily(
            "res_sla_hours", "Hours since resolution_started of a market that is not resolved.", labels=["market"]
        )
        for market in markets:
            hours = age_hours(market, now)
            if hours is not None:
                late.add_metric([market.id], hours)
            swaps.add_metric([market.id], market.swaps)
            wrong.add_metric([market.id], market.breaches)
            depth.add_metric([market.id], depth_2pct(market.pool))
            price.add_metric([market.id], float(market.pool.price_yes))
        yield from (swaps, wrong, depth, price, late)
        resolving = sum(market.status == "resolving" for market in markets)
        yield GaugeMetricFamily("mbp_markets_open", "Open markets.", value=len(markets) - resolving)
        yield GaugeMetricFamily("mbp_markets_resolving", "Markets whose resolution has started.", value=resolving)
        frozen = sum(market.frozen for market in markets)
        yield GaugeMetricFamily("mbp_markets_frozen", "Frozen markets that are not resolved.", value=frozen)
        events = CounterMetricFamily("mbp_events", "Events of mbp.events.v1 recorded.", labels=["type"])
        for kind, number in sorted(self._exchange.event_counts().items()):
            events.add_metric([kind], number)
        yield events
        if self._faults_on:
            yield from self._faults()

    def _faults(self) -> Iterable[Family]:
        active = GaugeMetricFamily("sim_fault_active", "Faults in force at a point.", labels=["point"])
        hits = CounterMetricFamily("sim_fault_hits", "Times that a fault in force was met.", labels=["point"])
        leases = self._exchange.leases
        for point in KINDS:
            active.add_metric([point], sum(fault.spec.point == point for fault in leases))
            hits.add_metric([point], leases.hits[point])
        return (active, hits)


def registry(exchange: Exchange, *, faults_on: bool) -> CollectorRegistry:
    """Return a registry with the engine's families."""
    made = CollectorRegistry(auto_describe=False)
    made.register(EngineCollector(exchange, faults_on))
    return made
