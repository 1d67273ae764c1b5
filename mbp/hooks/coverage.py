"""How much of the A110 table is in force, and how much of what the executor decided stands in its audit.

A hook is covered when Prometheus has each of its rules loaded, Alertmanager has a route and a receiver for its owner,
and the executor's own row of it acts. Both are asked every `EVERY_S`; while either gives no answer the coverage is not
known, and the series is absent: no answer is never good news.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import aiohttp
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mbp.hooks.table import Hook, Table

log = logging.getLogger(__name__)

#: How often the chain is asked, seconds: coverage is judged over 24 h.
EVERY_S = 15.0

Ask = Callable[[str], Awaitable[Any]]
Counted = tuple[int, int]


class Unknown(Exception):
    """Nobody can say: no answer, or one that is not understood."""


class Coverage(Collector):
    """Both ratios as metrics; a ratio that is not known has no sample."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register; nothing is known yet."""
        self.hooks: float | None = None
        self.audit: float | None = None
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name the metrics without asking anybody."""
        yield GaugeMetricFamily("a110_hook_coverage_ratio", "Hooks with rules, route and policy, over all.")
        yield GaugeMetricFamily("audit_coverage_ratio", "Decisions with an audit row, over decisions.")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return both, each with a sample where it is known."""
        for family, value in zip(self.describe(), (self.hooks, self.audit), strict=True):
            if value is not None:
                family.add_metric([], value)
            yield family

    async def watch(self, hooks: Callable[[], Awaitable[float]], decisions: Callable[[], Awaitable[Counted]]) -> None:
        """Ask again and again until cancelled; say in the log when the hooks' answer changes.

        `hooks` returns the share of hooks in force, `decisions` how many there are and how many of them are in the
        audit; either may raise `Unknown`.
        """
        while True:
            why = ""
            try:
                found: float | None = await hooks()
            except Unknown as error:
                found, why = None, f" ({error})"
            if found != self.hooks:
                log.info("hook coverage is %s%s", "unknown" if found is None else f"{found:.4f}", why)
            self.hooks = found
            try:
                made, audited = await decisions()
                self.audit = audited / made if made else None  # of no decisions nothing can be said
            except Unknown:
                self.audit = None
            await asyncio.sleep(EVERY_S)


def asker(session: aiohttp.ClientSession) -> Ask:
    """Return what asks a service for JSON. Raises `Unknown`."""

    async def ask(url: str) -> Any:
        try:
            async with session.get(url) as answer:
                if answer.status != 200:
                    raise Unknown(f"{url}: {answer.status}")
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unknown(f"{url}: {type(error).__name__}") from error

    return ask


async def look(table: Table, ask: Ask, chain: tuple[str, str] | None) -> float:
    """Return the share of the table's hooks that are covered now. Raises `Unknown`.

    `chain` are the base URLs of Prometheus and Alertmanager.
    """
    if chain is None:
        raise Unknown("there is nobody to ask")
    prometheus, alertmanager = chain
    rules = await ask(f"{prometheus}/api/v1/rules?type=alert")
    status = await ask(f"{alertmanager}/api/v2/status")
    try:
        loaded = {
            (str(rule["labels"].get("hook")), str(rule["name"]))
            for group in rules["data"]["groups"]
            for rule in group["rules"]
        }
        routed = _routed(yaml.load(status["config"]["original"], getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506 - both are safe loaders
    except (KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise Unknown(f"an answer is not understood: {type(error).__name__}: {error}") from error
    covered = [name for name, hook in table.hooks.items() if _covered(name, hook, loaded, routed)]
    return len(covered) / len(table.hooks)


def _covered(name: str, hook: Hook, loaded: set[tuple[str, str]], routed: set[str]) -> bool:
    return hook.enabled and hook.owner in routed and all((name, alert.name) in loaded for alert in hook.alerts)


def _routed(config: Mapping[str, Any]) -> set[str]:
    """Return the owners that have a route of their own, to a receiver of their name that tells somebody."""
    receivers = {
        str(each["name"]) for each in config["receivers"] if any(key.endswith("_configs") and each[key] for key in each)
    }
    owners = set()
    for route in config["route"]["routes"]:
        receiver = str(route.get("receiver"))
        if receiver in receivers and f'owner="{receiver}"' in route.get("matchers", ()):
            owners.add(receiver)
    return owners
