"""Hook and audit coverage: what counts as covered, and that what is not known is never good news."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from mbp.hooks import coverage, generate
from mbp.hooks.coverage import Coverage, Unknown, look
from mbp.hooks.table import Table, load
from tests.mbp._a110 import alert, rig

TABLE = load()
ALL = len(TABLE.hooks)


def loaded() -> dict[str, Any]:
    """Return what Prometheus answers with every rule loaded."""
    groups = yaml.safe_load(generate.rules(TABLE))["groups"]
    rules = [{"name": rule["alert"], "labels": rule["labels"]} for group in groups for rule in group["rules"]]
    return {"status": "success", "data": {"groups": [{"name": "all", "rules": rules}]}}


def seen(table: Table = TABLE, rules: Any = None, routes: Any = None) -> float:
    """Return the coverage with these answers."""
    config = yaml.safe_load(generate.alertmanager(TABLE))
    if routes:
        routes(config)
    status = {"config": {"original": yaml.safe_dump(config)}}

    async def ask(url: str) -> Any:
        return {"p/api/v1/rules?type=alert": loaded() if rules is None else rules, "a/api/v2/status": status}[url]

    return asyncio.run(look(table, ask, ("p", "a")))


def test_the_shipped_table_is_covered_whole() -> None:
    """Every rule, route and row is there: no alert about the chain itself."""
    assert seen() == 1.0


def test_each_missing_part_uncovers_its_hook() -> None:
    """A rule of several, a rule under another hook's name, the row, the route, another receiver, an empty receiver."""
    rules = loaded()
    mine = rules["data"]["groups"][0]["rules"]
    mine.remove(next(rule for rule in mine if rule["name"] == "DecErrorBudgetBurnFast"))
    next(rule for rule in mine if rule["name"] == "OracleStale")["labels"]["hook"] = "cdc_lag"
    assert seen(rules=rules) == (ALL - 2) / ALL

    hooks = {**TABLE.hooks, "cdc_lag": TABLE.hooks["cdc_lag"].model_copy(update={"enabled": False})}
    assert seen(TABLE.model_copy(update={"hooks": hooks})) == (ALL - 1) / ALL

    def unrouted(config: dict[str, Any]) -> None:
        routes = {route["receiver"]: route for route in config["route"]["routes"]}
        config["route"]["routes"].remove(routes["FE"])
        routes["ML"]["receiver"] = "SRE"
        next(each for each in config["receivers"] if each["name"] == "PM").clear()
        config["receivers"] = [each for each in config["receivers"] if each] + [{"name": "PM", "email_configs": []}]

    owners = [hook.owner for hook in TABLE.hooks.values()]
    assert seen(routes=unrouted) == sum(owner not in ("FE", "ML", "PM") for owner in owners) / ALL


@pytest.mark.parametrize("odd", [{}, [], "text", {"data": {"groups": [{"rules": [{"name": "x"}]}]}}, {"data": None}])
def test_an_answer_that_is_not_understood_is_unknown(odd: Any) -> None:
    """Neither covered nor uncovered."""
    with pytest.raises(Unknown):
        seen(rules=odd)


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """Return the samples of the two ratios."""
    return {each.name: each.value for family in registry.collect() for each in family.samples}


def test_what_is_not_known_has_no_sample(monkeypatch: Any) -> None:
    """Known, then no answer, then none either; decisions: none yet, then two of which one is audited."""
    registry = CollectorRegistry()
    watched = Coverage(registry)
    answers: list[Any] = [1.0, Unknown("refused"), 0.5]
    decided: list[Any] = [(0, 0), (2, 1), Unknown("store")]
    told = [samples(registry)]

    async def turn(answers: list[Any]) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def rest(seconds: float) -> None:
        assert seconds == 15
        told.append(samples(registry))
        if not answers:
            raise asyncio.CancelledError

    monkeypatch.setattr(coverage.asyncio, "sleep", rest)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watched.watch(lambda: turn(answers), lambda: turn(decided)))
    assert told == [
        {}, {"a110_hook_coverage_ratio": 1.0}, {"audit_coverage_ratio": 0.5}, {"a110_hook_coverage_ratio": 0.5},
    ]  # fmt: skip


def test_decisions_are_counted_against_their_audit(tmp_path: Path) -> None:
    """One execution, audited; then one whose rows were never written."""

    async def go() -> None:
        async with rig(tmp_path) as made:
            await made.send(alert())
            assert made.executor.store.audit.coverage() == (1, 1)
            made.executor.store._db.execute("UPDATE executions SET execution_id = 'lost'")
            assert made.executor.store.audit.coverage() == (1, 0)

    asyncio.run(go())
