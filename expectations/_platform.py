"""What a live platform of Prometheus and Alertmanager says of itself, for whoever writes its first profile.

Every look is one bounded call that changes nothing. What cannot be asked is told as a trouble, and the rest goes on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import yaml

from expectations._http import rows, table, text
from expectations._samples import single
from expectations._setup import Routing, Rule, read_routing
from expectations.chain.prometheus import chain, loaded
from sim.chain import ChainQuestion, Timing
from sim.event import JSON
from sim.observation import CannotLook
from sim.secret import SecretMissing, Secrets
from sim.target import Auth, Hook, ObserverSpec, Ramp
from sim.wire import Client

#: Labels by which platforms name what they are; the first that fits is taken.
ENVIRONMENT_LABELS = ("environment", "env", "cluster", "namespace", "stage", "tier")

#: Labels by which rules name who looks after an alert.
OWNER_LABELS = ("owner", "team", "service_owner", "squad")

#: ``anything > 0.05``: what is held against a limit, how, and the limit.
_LIMIT = re.compile(r"(?s)\s*(.+?)\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*")
_TOP_LEVEL = re.compile(r"\b(and|or|unless)\b")
_NORMAL = {">": "<=", ">=": "<", "<": ">=", "<=": ">"}


@dataclass(frozen=True, slots=True)
class Normal:
    """What normal is: a gauge by its query, and the expression over it that holds when all is well."""

    fact: str
    query: str
    worse: str
    condition: str

    def holds(self, value: float) -> bool:
        """Tell whether this value of the gauge is normal."""
        _, sign, limit = self.condition.split()
        bound = float(limit)
        return {"<=": value <= bound, "<": value < bound, ">=": value >= bound, ">": value > bound}[sign]


@dataclass(frozen=True, slots=True)
class Platform:
    """What was found. `rules` and `routing` are None where they could not be asked."""

    rules: Mapping[str, tuple[Rule, ...]] | None = None
    environments: Mapping[str, tuple[str, ...]] | None = None
    routing: Routing | None = None
    troubles: tuple[str, ...] = ()

    def label_for(self, environment: str) -> str | None:
        """Return the label by which the scrape targets, all of those that carry it, name this environment."""
        found = self.environments or {}
        return next((name for name, values in found.items() if values == (environment,)), None)

    def receiver(self, alert: str) -> str | None:
        """Return the first receiver that an alert of this name is routed to, as far as its rule's labels say."""
        if self.routing is None:
            return None
        rule = next(iter((self.rules or {}).get(alert, ())), None)
        routes = self.routing.root.match({**(rule.labels if rule else {}), "alertname": alert})
        return routes[0].receiver if routes else None


def identity_url(prometheus: str, label: str) -> str:
    """Return the address of the query that tells which values the scrape targets carry at `label`."""
    return f"{prometheus.rstrip('/')}/api/v1/query?query={quote(f'count by ({label}) (up)', safe='')}"


async def look(prometheus: str, alertmanager: str | None, auth: Auth | None, secrets: Secrets) -> Platform:
    """Ask both. Raises nothing that they do."""
    troubles: list[str] = []
    rules: Mapping[str, tuple[Rule, ...]] | None = None
    environments: dict[str, tuple[str, ...]] | None = None
    routing: Routing | None = None
    try:
        async with Client(prometheus, auth, secrets, CannotLook) as client:
            rules = loaded(rows((await _data(client, "/api/v1/rules")).get("groups"), "/api/v1/rules"))[0]
            environments = {}
            for label in ENVIRONMENT_LABELS:
                result = rows((await _query(client, f"count by ({label}) (up)")), "/api/v1/query")
                found = {str(table(each.get("metric"), "/api/v1/query").get(label, "")) for each in result} - {""}
                environments[label] = tuple(sorted(found))
    except (CannotLook, SecretMissing, ValueError) as error:
        troubles.append(str(error))
    if alertmanager is not None:
        try:
            async with Client(alertmanager, auth, secrets, CannotLook) as client:
                answer = table((await client.ask("GET", "/api/v2/status")).json, "/api/v2/status")
            config = text(table(answer.get("config"), "/api/v2/status"), "original", "/api/v2/status")
            routing = read_routing(yaml.load(config, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506 (safe)
        except (CannotLook, SecretMissing, ValueError, yaml.YAMLError, AttributeError, TypeError) as error:
            troubles.append(str(error))
    return Platform(rules, environments, routing, tuple(dict.fromkeys(troubles)))


async def _data(client: Client, path: str, **params: str) -> Mapping[str, JSON]:
    return table(table((await client.ask("GET", path, params=params)).json, path).get("data"), path)


async def _query(client: Client, query: str) -> JSON:
    return (await _data(client, "/api/v1/query", query=query)).get("result")


async def normal(
    prometheus: str, auth: Auth | None, secrets: Secrets, rule: Rule | None
) -> tuple[Normal, float | None]:
    """Return what normal is, and its value now; None where the platform could not be asked.

    What the rule holds against its limit where that has a value and is within the limit now; else that every scrape
    target is up; else, where some are down, that none of the alert's own fires.
    """
    candidates = [*_candidates(rule)]
    try:
        async with Client(prometheus, auth, secrets, CannotLook) as client:
            for each in candidates:
                result: Any = await _query(client, each.query)
                value = single(result if isinstance(result, list) else [])[0]
                if value is not None and each.holds(value):
                    return each, value
    except (CannotLook, SecretMissing, ValueError):
        return candidates[-1] if rule is None else candidates[0], None
    return candidates[-1], None


def _candidates(rule: Rule | None) -> Sequence[Normal]:
    found = []
    if rule is not None:
        match = _LIMIT.fullmatch(rule.expr)
        if match and not _TOP_LEVEL.search(_outside(match[1])):
            inner, sign, limit = match[1], match[2], match[3]
            worst, worse = ("max", "up") if ">" in sign else ("min", "down")
            found.append(Normal("reading", f"{worst}({inner})", worse, f"reading {_NORMAL[sign]} {limit}"))
    found.append(Normal("targets_up", "min(up)", "down", "targets_up >= 1"))
    if rule is not None:
        name = json.dumps(rule.name, ensure_ascii=False)  # PromQL escapes as Go does
        # Only what was written lately: a series whose end Prometheus lost (it may evaluate a group twice at one time,
        # and an end cannot be written over a value) would be read as firing for 5 minutes.
        alive_s = math.ceil(3 * rule.every_s) + 5
        firing = f'timestamp(ALERTS{{alertname={name},alertstate="firing"}})'
        query = f"count({firing} > time() - {alive_s}) or vector(0)"
        found.append(Normal("firing", query, "up", "firing <= 0"))
    return found


def _outside(expr: str) -> str:
    """Return what of an expression stands outside brackets and texts; `` and `` where its brackets do not match."""
    outside, depth, quoted = [], 0, ""
    for char in expr:
        if quoted:
            quoted = "" if char == quoted else quoted
        elif char in "\"'`":
            quoted = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth < 0:
                return " and "
        elif not depth:
            outside.append(char)
    return " and " if depth or quoted else "".join(outside)


async def timing(alert: str, owner: str, observers: Mapping[str, Mapping[str, Any]], secrets: Secrets) -> Timing | None:
    """Return the bounds that the live chain sets for one alert; None where it does not say."""
    specs = {name: ObserverSpec.model_validate(spec) for name, spec in observers.items()}
    bare = ChainQuestion(Hook(alerts=(alert,), owner=owner), specs, None, secrets)
    first = await chain.live(bare)
    if first is None or not first.stages:
        return None
    hook = Hook(alerts=(alert,), owner=owner, ramp=Ramp(least=0.0, most=first.window_s))
    return await chain.live(ChainQuestion(hook, specs, None, secrets)) or first


def budget_s(worst_s: float) -> float:
    """Return a budget for what takes `worst_s` at worst: a quarter and 5 s more, in whole fives, 15 s at least."""
    return max(15.0, math.ceil((1.25 * worst_s + 5) / 5) * 5.0)
