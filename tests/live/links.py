"""The links of a chain that a case breaks, for any exercise: each changes only what runs, by the hook's own row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from sim.catalogue import catalogue
from tests.conftest import ROOT
from tests.live.chains import Bench

#: What each case of an exercise expects: exit code, outcome, link, and a part of the reasons.
Told = tuple[int, str, str | None, str]


@dataclass(frozen=True)
class Case:
    """One exercise with one link broken. `slow` cases run in `make live` only, `alone` ones beside no other."""

    drill: str
    breaks: Callable[[Bench], None]
    told: Told
    missed: tuple[str, ...] = ()
    slow: bool = False
    alone: bool = False


EXPECTED = {
    name: float(each["expected_s"])
    for name, each in yaml.safe_load((ROOT / "bench/expected.yaml").read_text())["exercises"].items()
}

#: The exercises of which also the broken links are quick enough for `make test`.
LIGHT = ("invariant_breach", "resolution_sla", "schema_drift", "api_contract")

#: No browser and no load beside others: both would be slow by the neighbours' doing.
ALONE = ("latency_budget", "web_cwv_regression")

#: Where the clause about a gauge stands, for the exercises that have one: the cure must have been real.
GAUGES = {"latency_budget": "expect.2", "web_cwv_regression": "expect.2"}


def whole(bench: Bench) -> None:
    """Nothing is broken."""


def hook_off(bench: Bench) -> None:
    """The executor's table has the hook, switched off."""
    bench.table(lambda hook: hook.update(enabled=False))


def rule_deleted(bench: Bench) -> None:
    """Prometheus has none of the hook's alerts."""
    mine = {alert["name"] for alert in bench.bound[1]["alerts"]}

    def change(rules: dict[str, Any]) -> None:
        for group in rules["groups"]:
            group["rules"] = [rule for rule in group["rules"] if rule.get("alert") not in mine]
        rules["groups"] = [group for group in rules["groups"] if group["rules"]]

    bench.ops("a110.rules.yaml", change)


def route_elsewhere(bench: Bench) -> None:
    """Alertmanager sends the owner's alerts to another owner's receivers."""
    owner = bench.bound[1]["owner"]

    def change(config: dict[str, Any]) -> None:
        for route in config["route"]["routes"]:
            if route["receiver"] == owner:
                route["receiver"] = elsewhere(owner)

    bench.ops("alertmanager.yml", change)


def elsewhere(owner: str) -> str:
    """Return another owner."""
    return "PLAT" if owner == "SRE" else "SRE"


def ticket_elsewhere(bench: Bench) -> None:
    """The executor opens the ticket for another assignee."""
    owner = bench.bound[1]["owner"]
    bench.whole_table(lambda data: data["owners"][owner].update(tickets="sre"))


def recorded_not_done(bench: Bench) -> None:
    """The executor records the hook's last action as done and does nothing."""
    bench.env("executor", MBP_EXECUTOR_PRETEND=bench.bound[1]["actions"][-1]["name"])


def _soon_over(breaks: Callable[[Bench], None]) -> Callable[[Bench], None]:
    """Break a link, and wait a minute for recovery: a budget that nobody saved stays burnt for its whole four hours."""

    def change(bench: Bench) -> None:
        breaks(bench)
        bench.exercise["within"] = {"recover": "1m"}

    return change


def built() -> list[str]:
    """Return the seed's exercises whose injector is installed, in the seed's order."""
    seed = yaml.safe_load((ROOT / "scenarios/s2.yaml").read_text())["exercises"]
    have = catalogue().injectors
    return [name for name, block in seed.items() if block["inject"].partition("(")[0] in have]


def cases(drill: str) -> dict[str, Case]:
    """Return the cases of one exercise, the whole chain first."""
    hooks = yaml.safe_load((ROOT / "mbp/hooks/a110.yaml").read_text())["hooks"]
    injector = yaml.safe_load((ROOT / "scenarios/s2.yaml").read_text())["exercises"][drill]["inject"].partition("(")[0]
    hook = next(hook for hook in hooks.values() if injector in hook["faults"])
    last = hook["actions"][-1]["name"]
    slow, alone = drill not in LIGHT, drill in ALONE
    gauge = (GAUGES[drill],) if drill in GAUGES else ()
    rows: dict[str, tuple[Callable[[Bench], None], str, str, tuple[str, ...]]] = {
        "hook_off": (hook_off, "act", f"act: {hook['actions'][0]['name']} was not done", ()),
        "rule_deleted": (rule_deleted, "detect", "detect: ", ()),
        "route_elsewhere": (route_elsewhere, "notify", f"told instead: {elsewhere(hook['owner'])}", ()),
        "recorded_not_done": (recorded_not_done, "act", f"effect: {last} is recorded as succeeded", gauge),
    }
    if "tickets" in hook.get("channels", ()):
        rows["ticket_elsewhere"] = (ticket_elsewhere, "notify", "told instead: ", ())
    broken = {
        f"{drill}:{name}": Case(
            drill,
            _soon_over(breaks) if drill == "latency_budget" else breaks,
            (1, "failed", link, reason),
            missed,
            slow,
            alone,
        )
        for name, (breaks, link, reason, missed) in rows.items()
    }
    return {f"{drill}:whole": Case(drill, whole, (0, "passed", None, ""), alone=alone), **broken}
