"""Links of the platform, slow, cut and flapping: what the chain notices, what it does not; and a pass that can fail."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from injectors.cdc import delay
from injectors.net import latency
from sim.injector import Injector, Site
from sim.secret import Secrets
from sim.target import Door
from tests.conftest import ROOT, tool
from tests.live.chains import Bench, Result

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

LINKS = yaml.safe_load((ROOT / "scenarios/links.yaml").read_text())["exercises"]
QUICK = ("scrape_slow", "executor_sink_slow", "executor_sink_dead")
#: What both ways of delaying the change stream are asked for, seconds: well within the 10 s of silence after which the
#: consumer takes its connection for dead.
DOSE_S = 6.0
TOLERANCE_S = min(delay.TOLERANCE_S, DOSE_S / 2)


def bench_of(folder: Path, name: str, drills: tuple[str, ...]) -> Bench:
    """Return a folder with these exercises of scenarios/links.yaml."""
    tool("prometheus")
    tool("alertmanager")
    made = Bench(folder / name, name, ())
    made.blocks = {drill: LINKS[drill] for drill in drills}
    made.drills = drills
    return made


def told(results: dict[str, Result]) -> dict[str, tuple[int, Any]]:
    """Return exit code and reasons of each."""
    return {drill: (result.code, result.report.get("reasons")) for drill, result in results.items()}


def test_a_slow_scrape_is_told_and_a_sink_that_nobody_needs_is_not(tmp_path: Path) -> None:
    """TargetDown reaches PLAT; the executor's way to the tickets may be slow or dead, and nobody is told."""
    bench = bench_of(tmp_path, "links", QUICK)
    with bench.kept():
        results = {drill: bench.once(drill) for drill in QUICK}
    assert told(results) == {drill: (0, []) for drill in QUICK}


@pytest.mark.slow
def test_a_database_that_is_slow_or_away_is_told_and_nothing_acts(tmp_path: Path) -> None:
    """DatabaseSlow, DatabaseUnavailable (once, however often the link goes): SRE is told, no release goes back."""
    drills = tuple(drill for drill in LINKS if drill not in QUICK)
    assert len(drills) == 3
    bench = bench_of(tmp_path, "database", drills)
    with bench.kept():
        results = {drill: bench.once(drill) for drill in drills}
    assert told(results) == {drill: (0, []) for drill in drills}


@pytest.mark.slow
def test_without_the_rule_the_exercise_fails_at_detection(tmp_path: Path) -> None:
    """The same slow scrape, and Prometheus has no TargetDown: failed, and the link is named."""
    bench = bench_of(tmp_path, "deaf", ("scrape_slow",))

    def deaf(rules: dict[str, Any]) -> None:
        rules["groups"] = [group for group in rules["groups"] if group["name"] != "platform.targets"]

    bench.ops("platform.rules.yaml", deaf)
    with bench.kept():
        result = bench.once("scrape_slow")
    assert (result.code, result.report["outcome"], result.report["link"]) == (1, "failed", "detect")


# -- one lag, two ways to it -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def lagging(bench: Bench, injector: Injector, given: dict[str, Any]) -> Iterator[Any]:
    """Have a fault in while the block runs; proven gone when it ends."""
    exports = bench.state.exports
    doors = {
        "cdc": Door(url=exports["cdc"], auth=f"file:{exports['fault_token']}"),
        "proxy": Door(url=exports["proxy"]),
    }
    site = Site("lag-1", "lag", {name: doors[name] for name in injector.doors}, Secrets({}), ttl_s=60.0)
    prepared = asyncio.run(injector.prepare(site, injector.params.model_validate(given)))
    asyncio.run(injector.apply(site, prepared.receipt))

    def looked() -> Any:
        assert injector.renew is not None
        asyncio.run(injector.renew(site, prepared.receipt))
        return asyncio.run(injector.effective(site, prepared.receipt))

    try:
        yield looked
    finally:
        asyncio.run(injector.withdraw(site, prepared.receipt))
        deadline = time.monotonic() + 60
        while not (probe := asyncio.run(injector.gone(site, prepared.receipt))).holds:
            assert time.monotonic() < deadline, probe
            time.sleep(0.5)


def measured(bench: Bench, looked: Any, within_s: float = 120.0) -> dict[str, float]:
    """Wait until all three witnesses agree with the dose; return the last value of each, seconds."""
    deadline = time.monotonic() + within_s
    while True:
        lag = bench.ask("cdc", "GET", "/lag")
        seen = {name: lag.get(name) or {} for name in delay.WITNESSES}
        lasts = {name: each.get("last") for name, each in seen.items()}
        if all(
            each.get("count", 0) >= 2
            and all(value is not None and abs(value - DOSE_S) <= TOLERANCE_S for value in (each["p95"], each["last"]))
            for each in seen.values()
        ):
            return {name: float(value) for name, value in lasts.items()}
        assert time.monotonic() < deadline, f"the witnesses do not agree on {DOSE_S:g} s: {seen}"
        looked()
        time.sleep(0.5)


def test_the_proxy_and_the_consumer_delay_the_changes_alike(tmp_path: Path, record_property: Any) -> None:
    """Late by the network, and late by the consumer: each witness sees the dose, and the two within the tolerance."""
    bench = bench_of(tmp_path, "lag", ("scrape_slow",))
    with bench.kept():
        with lagging(bench, delay.injector, {"p95": DOSE_S}) as effective:
            by_consumer = measured(bench, effective)
            assert effective().holds
        with lagging(
            bench, latency.injector, {"link": "postgres_cdc", "latency": DOSE_S, "speaks": "postgres"}
        ) as effective:
            by_proxy = measured(bench, effective)
            probe = effective()
            assert (probe.holds, probe.evidence["proven_by"]) == (True, "a connection through the link")
    record_property("by_consumer", by_consumer)
    record_property("by_proxy", by_proxy)
    apart = {name: abs(by_consumer[name] - by_proxy[name]) for name in delay.WITNESSES}
    assert {name: s for name, s in apart.items() if s > TOLERANCE_S} == {}
