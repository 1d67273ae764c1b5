"""The engine's Prometheus series, read from its state at scrape time, so that they cannot drift from it.

A market's series exist from its opening, at 0, and are gone when it is closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mbp.engine.cpmm import depth_2pct
from mbp.engine.exchange import Exchange
from mbp.engine.faults import POINT

Family = CounterMetricFamily | GaugeMetricFamily


class EngineCollector(Collector):
    """Turns the state of an exchange into metric families."""

    def __init__(self, exchange: Exchange, faults_on: bool) -> None:
        """Read ``exchange``; the fault series exist only where the fault door does."""
        self._exchange, self._faults_on = exchange, faults_on

    def collect(self) -> Iterator[Family]:
        """Yield the families as they stand now."""
        markets = self._exchange.open_now()
        swaps = CounterMetricFamily("amm_swaps", "Swaps in an open market.", labels=["market"])
        wrong = CounterMetricFamily(
            "amm_invariant_error", "Swaps with abs(dk/k) > 1e-9 in an open market.", labels=["market"]
        )
        depth = GaugeMetricFamily(
            "liquidity_depth_2pct", "Money that moves the price of YES by 2 %, smaller direction.", labels=["market"]
        )
        price = GaugeMetricFamily("amm_price_yes", "Price of YES.", labels=["market"])
        for market in markets:
            swaps.add_metric([market.id], market.swaps)
            wrong.add_metric([market.id], market.breaches)
            depth.add_metric([market.id], depth_2pct(market.pool))
            price.add_metric([market.id], float(market.pool.price_yes))
        count = GaugeMetricFamily("mbp_markets_open", "Open markets.", value=len(markets))
        yield from (swaps, wrong, depth, price, count)
        if self._faults_on:
            yield from self._faults()

    def _faults(self) -> Iterable[Family]:
        active = GaugeMetricFamily("sim_fault_active", "Faults in force at a point.", labels=["point"])
        active.add_metric([POINT], len(self._exchange.leases))
        hits = CounterMetricFamily("sim_fault_hits", "Times that a fault in force was met.", labels=["point"])
        hits.add_metric([POINT], self._exchange.leases.hits_total)
        return (active, hits)


def registry(exchange: Exchange, *, faults_on: bool) -> CollectorRegistry:
    """Return a registry with the engine's families."""
    made = CollectorRegistry(auto_describe=False)
    made.register(EngineCollector(exchange, faults_on))
    return made
