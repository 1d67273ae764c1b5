"""What the pages promise of the platform: metrics that are exported, names of the field, runbooks that are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from expectations._promtext import words
from mbp.hooks.table import load

ROOT = Path(__file__).parents[2]
TABLE = load()
PAGE = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")}

#: What the specification of the sprint names.
NAMES = (
    "lat.p50", "lat.p95", "rps", "5xx", "error_budget_burn", "amm.invariant_error", "price.twap_gap",
    "liquidity.depth@2pct", "res.sla_hours",
)  # fmt: skip
EVENTS = (
    "market_created", "liquidity_added", "trade_executed", "resolution_started", "resolution_finished", "flagged_abuse",
)  # fmt: skip
SPANS = ("amm.quote", "amm.swap", "resolution.rule", "audit.write")

#: The ending that a client library or a histogram adds to the name in the source.
_ENDING = re.compile(r"_(total|bucket|count|sum)$")


def rows(section: str) -> list[list[str]]:
    """Return the rows of a section's table, each cell as it stands."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def exported() -> list[tuple[str, str]]:
    """Return each series of the page that a service exports, with the service."""
    found = [(series, service) for _, series, service, *_ in rows("Measures")]
    found += [(series, service) for series, service, *_ in rows("Beside them")]
    return [(series.strip("`"), service.strip("`")) for series, service in found]


def source(service: str) -> str:
    """Return the source of a service: all of its folder, or its one file."""
    place = ROOT / "mbp" / service
    files = [place] if place.is_file() else [each for each in place.rglob("*") if each.suffix in (".py", ".js")]
    return "\n".join(each.read_text(encoding="utf-8") for each in files if "node_modules" not in each.parts)


@pytest.mark.parametrize(("series", "service"), sorted(set(exported())))
def test_a_series_of_the_page_is_exported_by_its_service(series: str, service: str) -> None:
    """Its name, as the metrics library takes it, stands as a literal in the service's source."""
    base = _ENDING.sub("", series)
    assert re.search(rf"""["'`]{re.escape(base)}(_total|_bucket)?["'`{{]""", source(service)), f"{service}: {series}"


def test_every_name_of_the_specification_is_mapped() -> None:
    """Each has a row, or its series is named among those that nothing exports."""
    mapped = {name for cells in rows("Measures") for name in re.findall(r"`([^`]+)`", cells[0])}
    assert set(NAMES) - mapped <= {"price.twap_gap"}
    assert all(f"`{name}`" in SECTIONS["Events and spans"] for name in (*EVENTS, *SPANS))


def test_events_and_spans_are_those_of_the_source() -> None:
    """Each event has its schema; each span is begun somewhere."""
    folder = ROOT / "mbp/schemas/mbp/events/v1"
    assert sorted(path.stem for path in folder.glob("*.json")) == sorted(EVENTS)
    assert all(json.loads(path.read_text())["type"] == "object" for path in folder.glob("*.json"))
    engine = source("engine")
    assert [name for name in SPANS if f'"{name}"' not in engine] == []


def test_every_series_that_a_rule_reads_is_on_the_page() -> None:
    """As exported, or as exported by nothing; and what is said to be exported by nothing stands in no source."""
    read = {word for hook in TABLE.hooks.values() for alert in hook.alerts for word in words(alert.expr) if "_" in word}
    functions = {"histogram_quantile", "quantile_over_time", "avg_over_time"}
    missing = {cells[0].strip("`") for cells in rows("Read by a rule, exported by nothing here")}
    known = {_ENDING.sub("", series) for series, _ in exported()}
    assert {each for each in read - functions if _ENDING.sub("", each) not in known} == missing
    everything = source("")
    assert [series for series in missing if re.search(rf'"{series}"', everything)] == []


def test_every_runbook_is_there() -> None:
    """Each alert's runbook is a page that names the alert, its owner and its actions."""
    for name, hook in TABLE.hooks.items():
        for alert in hook.alerts:
            page = ROOT / alert.runbook
            assert page.is_file(), f"{alert.name}: {alert.runbook}"
            text = page.read_text(encoding="utf-8")
            told = [alert.name, hook.owner, name, *(action.name for action in hook.actions)]
            assert [each for each in told if each not in text] == [], alert.runbook


def test_every_runbook_of_the_platforms_own_rules_is_there() -> None:
    """Those beside the table: the page names each alert and whom it tells."""
    rules = yaml.safe_load((ROOT / "mbp/ops/prom/platform.rules.yaml").read_text(encoding="utf-8"))
    found = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    assert len(found) >= 3
    for rule in found:
        page = (ROOT / rule["annotations"]["runbook"]).read_text(encoding="utf-8")
        heads = [line for line in page.splitlines() if line.startswith("## ") and rule["alert"] in line]
        assert [rule["labels"]["owner"] in head for head in heads] == [True], rule["alert"]
