"""A detection chain as configured, and the latency that follows from it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from expectations._promtext import duration, jobs, whole_window_s, windows, words
from expectations._routes import Route, addresses, read_route
from sim.chain import Stage, StageName, Timing
from sim.duration import spell
from sim.target import Hook, Ramp

#: Prometheus' own defaults, seconds.
SCRAPE_S = EVALUATE_S = 60.0


@dataclass(frozen=True, slots=True)
class Rule:
    """An alerting rule. Times in seconds; `every_s` is its group's interval. `trouble` is why it does not evaluate."""

    name: str
    expr: str
    for_s: float
    every_s: float
    labels: Mapping[str, str]
    trouble: str | None = None

    @property
    def hold_s(self) -> float:
        """`for`, rounded up to whole evaluations."""
        return math.ceil(round(self.for_s * 1000) / round(self.every_s * 1000)) * self.every_s if self.for_s else 0.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording rule."""

    expr: str
    every_s: float


@dataclass(frozen=True, slots=True)
class Scraping:
    """How often jobs are scraped, seconds; `jobs_of` says which jobs a metric comes from, where that is known."""

    default_s: float = SCRAPE_S
    by_job: Mapping[str, float] = field(default_factory=dict)
    jobs_of: Mapping[str, frozenset[str]] = field(default_factory=dict)
    evaluate_s: float = EVALUATE_S
    external_labels: Mapping[str, str] = field(default_factory=dict)

    def interval_s(self, expressions: list[str]) -> float:
        """Return the worst interval of the jobs that these expressions read; of all jobs where that is not known."""
        names = frozenset().union(*(jobs(expr) for expr in expressions))
        for expr in expressions:
            for word in words(expr):
                names |= self.jobs_of.get(word, frozenset())
        known = [self.by_job[name] for name in names if name in self.by_job]
        return max(known or self.by_job.values(), default=self.default_s)


@dataclass(frozen=True, slots=True)
class Routing:
    """The routing tree, and each receiver's addresses by channel."""

    root: Route
    receivers: Mapping[str, Mapping[str, set[str]]]


@dataclass(frozen=True, slots=True)
class Setup:
    """A whole chain. `routing` is None where nothing is known of it."""

    source: Literal["live", "files"]
    rules: Mapping[str, tuple[Rule, ...]]
    recorded: Mapping[str, Recorded]
    scraping: Scraping
    routing: Routing | None

    def behind(self, expr: str, depth: int = 8) -> Iterator[Recorded]:
        """Yield the recording rules that an expression stands on."""
        for name in words(expr) & self.recorded.keys():
            yield self.recorded[name]
            if depth:
                yield from self.behind(self.recorded[name].expr, depth - 1)

    def routes(self, rule: Rule) -> list[Route]:
        """Return the routes of a rule's alerts, as far as labels that the rule sets decide them."""
        if self.routing is None:
            return []
        return self.routing.root.match({**self.scraping.external_labels, **rule.labels, "alertname": rule.name})


def read_scraping(tree: Mapping[str, Any]) -> Scraping:
    """Return how a Prometheus configuration scrapes and evaluates. Raises `ValueError`."""
    everywhere = tree.get("global") or {}
    default_s = duration(everywhere.get("scrape_interval") or "1m")
    by_job = {
        str(job["job_name"]): duration(job.get("scrape_interval") or everywhere.get("scrape_interval") or "1m")
        for job in tree.get("scrape_configs") or []
    }
    return Scraping(
        default_s=default_s,
        by_job=by_job,
        evaluate_s=duration(everywhere.get("evaluation_interval") or "1m"),
        external_labels={str(k): str(v) for k, v in (everywhere.get("external_labels") or {}).items()},
    )


def read_routing(tree: Mapping[str, Any]) -> Routing:
    """Return the routes of an Alertmanager configuration. Raises `ValueError`."""
    receivers = {str(each.get("name")): addresses(each) for each in tree.get("receivers") or []}
    return Routing(read_route(tree.get("route")), receivers)


def timing(setup: Setup, hook: Hook, owners: Mapping[str, Mapping[str, str]], queries: Iterable[str] = ()) -> Timing:
    """Return the bounds of the three stages for a hook: the least floor and the worst of its alerts.

    `queries` are read beside its rules: they count for the windows alone.
    """
    where = "is not loaded" if setup.source == "live" else "is in no declared rule file"
    missing = [f"alert {name} {where}" for name in hook.alerts if not setup.rules.get(name)]
    rules = [rule for name in hook.alerts for rule in setup.rules.get(name, ())]
    routed = [(rule, setup.routes(rule)) for rule in rules]
    stages: dict[StageName, Stage] = {}
    if rules:
        detects = {id(rule): detect(setup, rule, hook.ramp) for rule in rules}
        stages["detect"] = _over(list(detects.values()))
        told = [_told(detects[id(rule)], routes) for rule, routes in routed if routes]
        if told:
            stages["act"] = stages["notify"] = _over(told)
    recorded = {name: rule.expr for name, rule in setup.recorded.items()}
    return Timing(
        source=setup.source,
        stages=stages,
        window_s=max((whole_window_s(rule.expr, recorded) for rule in rules), default=0.0),
        group_interval_s=max((route.group_interval_s for _, routes in routed for route in routes), default=0.0),
        notes=tuple(
            dict.fromkeys(note for rule, routes in routed for note in _notes(setup, hook, owners, rule, routes))
        ),
        missing=tuple(missing),
        windows=_windows(setup, [*(rule.expr for rule in rules), *queries]),
    )


def _windows(setup: Setup, expressions: Iterable[str]) -> dict[str, float]:
    """Return the longest range of each metric that these expressions, and what is recorded for them, look back over."""
    found: dict[str, float] = {}
    for expression in expressions:
        for each in (expression, *(recorded.expr for recorded in setup.behind(expression))):
            for name, window in windows(each).items():
                found[name] = max(found.get(name, 0.0), window)
    return found


def detect(setup: Setup, rule: Rule, ramp: Ramp) -> Stage:
    """Return the bounds of detection by one rule; each recording rule it stands on adds one evaluation of its own."""
    behind = list(setup.behind(rule.expr))
    scrape_s = setup.scraping.interval_s([rule.expr, *(recorded.expr for recorded in behind)])
    waits = scrape_s + rule.every_s + sum(recorded.every_s for recorded in behind)
    return Stage(
        floor_s=ramp.least + rule.hold_s,
        expected_s=(ramp.least + ramp.most) / 2 + waits / 2 + rule.hold_s,
        worst_s=ramp.most + waits + rule.hold_s,
    )


def _told(detected: Stage, routes: list[Route]) -> Stage:
    least = min(route.group_wait_s for route in routes)
    most = max(max(route.group_wait_s, route.group_interval_s) for route in routes)
    wait = max(route.group_wait_s for route in routes)
    return Stage(detected.floor_s + least, detected.expected_s + wait, detected.worst_s + most)


def _over(stages: list[Stage]) -> Stage:
    return Stage(
        floor_s=min(stage.floor_s for stage in stages),
        expected_s=max(stage.expected_s for stage in stages),
        worst_s=max(stage.worst_s for stage in stages),
    )


def _notes(
    setup: Setup, hook: Hook, owners: Mapping[str, Mapping[str, str]], rule: Rule, routes: list[Route]
) -> Iterator[str]:
    """Yield what a person should know about one rule's way: trouble, a foreign owner, a wrong receiver."""
    if rule.trouble:
        yield f"{rule.name} does not evaluate: {rule.trouble}"
    owner = rule.labels.get("owner")
    if owner is not None and owner != hook.owner:
        yield f"{rule.name} carries owner={owner}, the hook's owner is {hook.owner}"
    if not routes or setup.routing is None:
        return
    names = ", ".join(dict.fromkeys(route.receiver for route in routes))
    if routes == [setup.routing.root]:
        yield f"{rule.name} matches no route and falls to the root: owner {hook.owner} is routed to {names}"
    else:
        yield f"owner {hook.owner} is routed to {names}"
    for channel in hook.channels:
        wanted = owners.get(hook.owner, {}).get(channel)
        got = {each for route in routes for each in setup.routing.receivers.get(route.receiver, {}).get(channel, ())}
        if wanted is not None and got and wanted not in got:
            yield f"{rule.name} goes to {channel} {', '.join(sorted(got))}, not to {wanted} of {hook.owner}"


def differences(live: Setup, declared: Setup, hook: Hook) -> Iterator[str]:
    """Yield what the running chain has otherwise than the files say, for one hook."""
    for name in hook.alerts:
        for there, here in zip(live.rules.get(name, ()), declared.rules.get(name, ()), strict=False):
            yield from _differ(f"{name}: ", "for", there.for_s, here.for_s)
            yield from _differ(f"{name}: ", "evaluation", there.every_s, here.every_s)
            there_s, here_s = (s.scraping.interval_s([r.expr]) for s, r in ((live, there), (declared, here)))
            yield from _differ(f"{name}: ", "scrape", there_s, here_s)
            if dict(there.labels) != dict(here.labels):
                yield f"{name}: live labels {_labels(there)}, declared {_labels(here)}"
            if live.routing is None or declared.routing is None:
                continue
            ways = live.routes(there), declared.routes(here)
            told = [", ".join(route.receiver for route in way) for way in ways]
            if told[0] != told[1]:
                yield f"{name}: live routed to {told[0]}, declared {told[1]}"
            for word in ("group_wait", "group_interval"):
                waits = [max(getattr(route, f"{word}_s") for route in way) for way in ways]
                yield from _differ(f"{name}: ", word, *waits)
        here_n, there_n = len(declared.rules.get(name, ())), len(live.rules.get(name, ()))
        if here_n != there_n and there_n:
            yield f"{name}: live {there_n} rules of this name, declared {here_n}"


def _differ(before: str, word: str, live_s: float, declared_s: float) -> Iterator[str]:
    if not math.isclose(live_s, declared_s, abs_tol=1e-6):
        yield f"{before}live {word}: {spell(live_s)}, declared {spell(declared_s)}"


def _labels(rule: Rule) -> str:
    return "{" + ", ".join(f"{name}={value}" for name, value in sorted(rule.labels.items())) + "}"
