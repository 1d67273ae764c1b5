"""The A110 table and what is generated from it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mbp.hooks import generate
from mbp.hooks.table import TableError, load, parse
from sim.target import Hook

FIXTURES = Path(__file__).parents[1] / "fixtures" / "notifications"
TABLE = load()
SHEET = """\
Latency p95 (ms),APM/Traces,5m,<=800,slo_budget_breach,rollback,SRE,apm.ttp_dec_p95
Invariant error,Engine,1m,==0,amm_invariant_breach,block_release,DEC/PM,engine.amm_invariant
INP p75 (ms),RUM,24h,<=200,web_cwv_regression,rollback_fe,FE,rum.inp_p75
Resolution SLA (h),Events,24h,<=24,mbp_resolution_sla,freeze,PM/BC,events.resolution_sla
Liquidity depth @2%,Engine,15m,>=500,mbp_liquidity_depth,degrade,PM,engine.depth_2pct
TWAP gap %,Engine (sim),5m,<=1.0,mbp_price_spike_divergence,freeze,PM/SRE,engine.twap_gap
CDC lag p95 (s),CDC/APM,5m,<=120,cdc_lag,degrade+rollback,DATA,cdc.lag_p95
Schema drift,Registry,run,==0,schema_registry_drift,block_deploy,DATA,registry.schema_drift
API contract,INT Tests,run,OK,int.api_contract_break,rollback,INT,int.contract_status
Error budget burn,XLA,4h,<1x,slo_budget_breach,rollback,SRE,apm.error_budget_burn
Hook coverage %,CI,24h,>=98,metrics_decision_hook_gap,open_incident,PLAT,ci.hook_coverage
Audit coverage %,Logs,24h,>=99,metrics_decision_hook_gap,open_incident,PLAT,logs.audit_coverage
"""


def raw() -> dict[str, Any]:
    """Return the bundled table as plain data."""
    return TABLE.model_dump(by_alias=True, mode="json", exclude_none=True)


def test_the_table_holds_the_fifteen_hooks_in_order() -> None:
    """The first thirteen are must-have; owner and actions are those that the platform was promised with."""
    assert [(name, "+".join(each.name for each in hook.actions), hook.owner) for name, hook in TABLE.hooks.items()] == [
        ("slo_budget_breach", "rollback", "SRE"),
        ("amm_invariant_breach", "block_release", "DEC/PM"),
        ("web_cwv_regression", "rollback_fe", "FE"),
        ("mbp_resolution_sla", "freeze", "PM/BC"),
        ("mbp_liquidity_depth", "degrade", "PM"),
        ("mbp_price_spike_divergence", "freeze", "PM/SRE"),
        ("cdc_lag", "degrade+rollback", "DATA"),
        ("schema_registry_drift", "block_deploy", "DATA"),
        ("api_contract_break", "rollback", "INT"),
        ("api_breaking_change", "block_merge", "INT"),
        ("data_contract_break", "block_deploy", "DATA"),
        ("model_drift", "alert", "ML"),
        ("dp_budget_breach", "freeze", "SEC/RSK"),
        ("metrics_decision_hook_gap", "open_incident+block_merge", "PLAT"),
        ("dbt_test_failure", "block_merge", "DATA"),
    ]
    assert [hook.must_have for hook in TABLE.hooks.values()] == [True] * 13 + [False] * 2


def test_the_sheet_rows_are_the_seeds_own() -> None:
    """Cell by cell; a row of the Sheet names a hook of the table, or its alias, and that hook's owner and actions."""
    rows = [list(row.model_dump().values()) for hook in TABLE.hooks.values() for row in hook.sheet]
    assert sorted(rows) == sorted(csv.reader(SHEET.splitlines()))
    for name, hook in TABLE.hooks.items():
        for row in hook.sheet:
            assert row.watcher in (name, *hook.aliases)
            assert row.owner == hook.owner
            assert "+".join(each.name for each in hook.actions).startswith(row.hook)


def test_the_measurement_sheet_is_the_seeds_byte_for_byte() -> None:
    """Eight columns, twelve rows, in the seed's order and spelling."""
    head = "KPI,Fonte,Janela,SLO/Meta,Watcher,Hook,Owner,Query/Id\n"
    assert generate.sheet(TABLE) == head + SHEET
    assert (Path(generate.ROOT) / generate.SHEET).read_bytes() == (head + SHEET).encode()


def test_a_row_that_the_sheet_does_not_know_is_an_error() -> None:
    """Missing, doubled or of another name: said by its id."""
    for change, why in (
        (lambda rows: rows.clear(), "apm.error_budget_burn, apm.ttp_dec_p95"),
        (lambda rows: rows[0].update(query="apm.other"), "apm.other, apm.ttp_dec_p95"),
        (lambda rows: rows.append(rows[0]), "a row that stands there twice"),
    ):
        data = raw()
        change(data["hooks"]["slo_budget_breach"]["sheet"])
        with pytest.raises(TableError, match=re.escape(f"do not name the same rows: {why}")):
            generate.sheet(parse(json.dumps(data), "table"))


def test_nothing_has_drifted_from_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Run the generator after a change of the table."""
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


def test_drift_is_an_error_with_a_diff_and_writing_cures_it(tmp_path: Path) -> None:
    """Also where a file is missing; writing again changes nothing."""
    files = generate.render(TABLE, tmp_path)
    assert f"{generate.RULES} (wanted)" in generate.drift(files, tmp_path)
    generate.write(files, tmp_path)
    assert generate.drift(files, tmp_path) == ""
    stamp = (tmp_path / generate.RULES).stat().st_mtime_ns
    generate.write(generate.render(TABLE, tmp_path), tmp_path)
    assert (tmp_path / generate.RULES).stat().st_mtime_ns == stamp
    changed = (tmp_path / generate.RULES).read_text().replace("> 0", "> 1")
    (tmp_path / generate.RULES).write_text(changed)
    assert "-        expr: sum by (market) (increase(amm_invariant_error_total[1m])) > 1" in generate.drift(
        files, tmp_path
    )


def test_the_profile_keeps_what_others_wrote_around_the_block() -> None:
    """Only what stands between the markers is replaced; without them nothing is."""
    before = f"target: x\n{generate.BEGIN}\nold: 1\n{generate.END}\nquiet: 10m\n"
    assert generate.profile(TABLE, before) == f"target: x\n{generate.profile_block(TABLE)}quiet: 10m\n"
    for broken in ("target: x\n", f"{generate.END}\n{generate.BEGIN}\n", before + generate.BEGIN + "\n"):
        with pytest.raises(TableError, match="once each"):
            generate.profile(TABLE, broken)


def test_the_profiles_hooks_are_valid_and_the_invariants_is_as_promised() -> None:
    """Each hook of the block passes the harness' own model."""
    block = yaml.safe_load(generate.profile_block(TABLE))
    hooks = {name: Hook.model_validate(hook) for name, hook in block["hooks"].items()}
    assert hooks["amm_invariant_breach"] == Hook.model_validate(yaml.safe_load("""
      {faults: [engine.swap_sequence], alerts: [AmmInvariantBreach], owner: DEC/PM, channels: [oncall, slack, email],
       actions: [{name: block_release, effect: "release.gate=='blocked'", ready: "release.gate=='open'",
                  reversal: on_resolved}],
       ramp: {least: 0s, most: 1.6s}, time: live, also: [],
       within: {effect: 10s, detect: 15s, act: 20s, notify: 20s, recover: 3m}}
    """))  # fmt: skip
    assert block["owners"]["DEC/PM"] == {"oncall": "dec-pm", "slack": "#dec-pm", "email": "dec-pm@mbp.test"}
    assert {hook.owner for hook in hooks.values()} == set(block["owners"])


def test_the_invariants_rule_is_as_promised() -> None:
    """Compared whole: expression, hold, labels, annotations."""
    groups = {group["name"]: group for group in yaml.safe_load(generate.rules(TABLE))["groups"]}
    assert list(groups) == [f"a110.{name}" for name in TABLE.hooks]
    assert groups["a110.amm_invariant_breach"]["rules"] == [{
        "alert": "AmmInvariantBreach",
        "expr": "sum by (market) (increase(amm_invariant_error_total[1m])) > 0",
        "for": "0s",
        "labels": {"hook": "amm_invariant_breach", "owner": "DEC/PM", "severity": "critical"},
        "annotations": {
            "summary": "swaps in market {{ $labels.market }} broke the invariant (abs(delta k / k) > 1e-9) "
            "in the last minute",
            "runbook": "docs/runbooks/amm_invariant.md",
        },
    }]  # fmt: skip


def test_every_owner_has_one_route_behind_the_executors() -> None:
    """First the executor, going on; then one route an owner; then nobody's, for an owner that nobody knows."""
    config = yaml.safe_load(generate.alertmanager(TABLE))
    assert config["route"]["routes"] == [
        {"receiver": "executor", "continue": True},
        *({"receiver": name, "matchers": [f'owner="{name}"']} for name in TABLE.owners),
        {"receiver": "nobody"},
    ]
    assert config["route"]["group_by"] == ["..."]
    receivers = {each["name"]: each for each in config["receivers"]}
    assert list(receivers) == ["executor", *TABLE.owners, "nobody"]
    told = {
        name: (
            receivers[name]["pagerduty_configs"][0]["routing_key"],
            receivers[name]["slack_configs"][0]["channel"],
            receivers[name]["email_configs"][0]["to"],
        )
        for name in TABLE.owners
    }
    assert told == {name: (owner.oncall, owner.slack, owner.email) for name, owner in TABLE.owners.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["hooks"]["cdc_lag"].update(owner="NOBODY"), "hooks.cdc_lag.owner: 'NOBODY' is not among"),
        (lambda t: t["owners"]["DATA"].pop("tickets"), "hooks.cdc_lag.channels: DATA has no ticket queue"),
        (lambda t: t["owners"]["PM"].update(slack="#data"), "slack: '#data' is"),
        (lambda t: t["hooks"]["cdc_lag"]["alerts"][0].update(name="AmmInvariantBreach"), "belongs to amm_invariant"),
        (lambda t: t["hooks"]["cdc_lag"].update(faults=["apm.loadtest"]), "apm.loadtest belongs to slo_budget_breach"),
        (lambda t: t["hooks"]["cdc_lag"]["actions"].append(t["hooks"]["cdc_lag"]["actions"][0]), "stands twice"),
        (lambda t: t["hooks"]["cdc_lag"]["alerts"][0].update(labels={"owner": "x"}), "owner is set from the table"),
        (lambda t: t["operations"]["block_release"].pop("undo"), "its operation has no undo"),
        (lambda t: t["operations"]["rollback"]["do"].update(path="/{market}"), "{market} is not understood"),
        (lambda t: t["hooks"]["cdc_lag"].update(colour="red"), "hooks.cdc_lag.colour: Extra inputs"),
        (lambda t: t["hooks"]["cdc_lag"]["ramp"].update(most="2 min"), "hooks.cdc_lag.ramp.most"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_hold_together_is_refused(change: Any, said: str) -> None:
    """With the place and what is wrong there."""
    table = raw()
    change(table)
    with pytest.raises(TableError, match=re.escape(said)):
        parse(json.dumps(table), "t.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: 1\na: 2", "stands twice"), ("{", "not YAML"), ("", "t.yaml: table: "), ("1: x", "the key 1 is not text")],
)
def test_a_file_that_is_no_table_is_refused(text: str, said: str) -> None:
    """Also a key written twice, which YAML readers like to swallow."""
    with pytest.raises(TableError, match=re.escape(said)):
        parse(text, "t.yaml")


def test_a_missing_table_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said on stderr, with the path."""
    assert generate.main(["--table", str(tmp_path / "none.yaml"), "--out", str(tmp_path)]) == 3
    assert "none.yaml: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("status", ["firing", "resolved"])
def test_every_channel_carries_the_same_record_in_captured_messages(status: str) -> None:
    """Fingerprint, startsAt, status and name, in what Alertmanager 0.25 really sent, equal to its own webhook's."""
    hook = json.loads((FIXTURES / f"webhook_{status}.json").read_text())["alerts"][0]
    record = f"{hook['fingerprint']} {hook['startsAt']} {status} AmmInvariantBreach"
    rows = {name: json.loads((FIXTURES / f"{name}_{status}.json").read_text()) for name in ("slack", "oncall", "email")}
    assert {name: row["address"] for name, row in rows.items()} == {
        "slack": "#dec-pm", "oncall": "dec-pm", "email": "dec-pm@mbp.test",
    }  # fmt: skip
    fields = {field["title"]: field["value"] for field in rows["slack"]["payload"]["attachments"][0]["fields"]}
    assert fields == {"status": status, "owner": "DEC/PM", "hook": "amm_invariant_breach", "alerts": record}
    details = rows["oncall"]["payload"]["payload"]["custom_details"]
    assert (details["alerts"], details["status"], details["fingerprint"], details["starts_at"]) == (
        record, status, hook["fingerprint"], hook["startsAt"],
    )  # fmt: skip
    headers = {name.lower(): value for name, value in rows["email"]["payload"]["headers"].items()}
    assert (headers["x-mbp-alerts"], headers["x-mbp-status"]) == (record, status)
