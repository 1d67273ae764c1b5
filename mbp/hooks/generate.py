"""Writes from the A110 table what must agree with it.

Prometheus rules, Alertmanager's routes, the profile's hooks, and the Measurement Sheet; and, from the profile of the
local stack, that of the stack of containers, so that the two cannot part.

``python -m mbp.hooks.generate [--table F] [--out DIR | --check]``. With ``--check`` nothing is written: what differs is
printed as a diff and the exit code is 1.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mbp.hooks.table import DEFAULT_TABLE, Hook, Owner, Table, TableError, load

ROOT = Path(__file__).resolve().parents[2]
RULES = Path("mbp/ops/prom/a110.rules.yaml")
ALERTMANAGER = Path("mbp/ops/prom/alertmanager.yml")
PROFILE = Path("scenarios/targets/mbp-local.yaml")
COMPOSE_PROFILE = Path("scenarios/targets/mbp-compose.yaml")
SHEET = Path("mbp/ops/obs/measurement_s2.csv")
BEGIN = "# generated from mbp/hooks/a110.yaml: begin"
END = "# generated from mbp/hooks/a110.yaml: end"
_HEAD = "# Generated from mbp/hooks/a110.yaml by python -m mbp.hooks.generate; change it there.\n"

# One alert: fingerprint, startsAt, status, name. The format of startsAt is the one of Alertmanager's own JSON.
_STAMP = '.StartsAt.UTC.Format "2006-01-02T15:04:05.999999999Z07:00"'
_RECORDS = (
    "{{ range $i, $a := .Alerts }}{{ if $i }}; {{ end }}{{ .Fingerprint }} {{ " + _STAMP + " }} "
    "{{ .Status }} {{ .Labels.alertname }}{{ end }}"
)
_TITLE = "[{{ .Status | toUpper }}] {{ .CommonLabels.alertname }} ({{ .CommonLabels.owner }})"
_TEXT = (
    "{{ range .Alerts }}{{ .Annotations.summary }}\n"
    "runbook: {{ .Annotations.runbook }}\n"
    "labels:{{ range .Labels.SortedPairs }} {{ .Name }}={{ .Value }}{{ end }}\n"
    "since: {{ " + _STAMP + " }}\n{{ end }}"
)


class _Dumper(yaml.SafeDumper):
    """A dumper that writes everything out: no anchors, and sequences indented under their key."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Never write an alias: some readers of these files refuse them."""
        return True

    def increase_indent(self, flow: bool = False, *_: bool, **__: bool) -> None:
        """Indent sequences too."""
        super().increase_indent(flow, False)


def _dump(document: Any) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=4096)


def rules(table: Table) -> str:
    """Return the Prometheus rule file: one group per hook, in the table's order."""
    groups = []
    for name, hook in table.hooks.items():
        group: dict[str, Any] = {"name": f"a110.{name}"}
        if hook.every is not None:
            group["interval"] = hook.every
        group["rules"] = [
            {
                "alert": alert.name,
                "expr": alert.expr,
                "for": alert.for_,
                "labels": {"hook": name, "owner": hook.owner, "severity": alert.severity, **alert.labels},
                "annotations": {"summary": alert.summary, "runbook": alert.runbook},
            }
            for alert in hook.alerts
        ]
        groups.append(group)
    return _HEAD + _dump({"groups": groups})


def _first(expression: str) -> str:
    return "{{ with index .Alerts 0 }}{{ " + expression + " }}{{ end }}"


def _slack(owner: Owner | None, channel: str) -> dict[str, Any]:
    return {
        "send_resolved": True,
        "api_url": "${stack.sinks}/slack",
        "channel": owner.slack if owner else channel,
        "title": _TITLE,
        "text": _TEXT,
        "fallback": _TITLE,
        "fields": [
            {"title": "status", "value": "{{ .Status }}", "short": True},
            {"title": "owner", "value": "{{ .CommonLabels.owner }}", "short": True},
            {"title": "hook", "value": "{{ .CommonLabels.hook }}", "short": True},
            {"title": "alerts", "value": _RECORDS, "short": False},
        ],
    }


def _email(owner: Owner) -> dict[str, Any]:
    return {
        "send_resolved": True,
        "to": owner.email,
        "from": "alertmanager@mbp.test",
        "smarthost": "${stack.smtp}",
        "hello": "localhost",
        "require_tls": False,
        "html": "",
        "text": _TEXT,
        "headers": {
            "Subject": _TITLE,
            "X-MBP-Status": "{{ .Status }}",
            "X-MBP-Alerts": _RECORDS,
            "X-MBP-Owner": "{{ .CommonLabels.owner }}",
            "X-MBP-Hook": "{{ .CommonLabels.hook }}",
        },
    }


def _pagerduty(owner: Owner) -> dict[str, Any]:
    return {
        "send_resolved": True,
        "url": "${stack.sinks}/v2/enqueue",
        "routing_key": owner.oncall,
        "severity": "{{ with .CommonLabels.severity }}{{ . }}{{ else }}error{{ end }}",
        "description": _TITLE + " {{ .CommonAnnotations.summary }}",
        "details": {
            "fingerprint": _first(".Fingerprint"),
            "starts_at": _first(_STAMP),
            "status": "{{ .Status }}",
            "alertname": _first(".Labels.alertname"),
            "owner": "{{ .CommonLabels.owner }}",
            "hook": "{{ .CommonLabels.hook }}",
            "market": "{{ .CommonLabels.market }}",
            "alerts": _RECORDS,
        },
    }


def alertmanager(table: Table) -> str:
    """Return the Alertmanager template: the executor first and always, then one route per owner, then nobody's."""
    executor = {"url": "${stack.executor}/v1/alerts", "send_resolved": True, "max_alerts": 0}
    receivers: list[dict[str, Any]] = [
        {"name": "executor", "webhook_configs": [executor]},
        *(
            {
                "name": name,
                "slack_configs": [_slack(owner, "")],
                "email_configs": [_email(owner)],
                "pagerduty_configs": [_pagerduty(owner)],
            }
            for name, owner in table.owners.items()
        ),
        {"name": "nobody", "slack_configs": [_slack(None, "#unrouted")]},
    ]
    route = {
        "receiver": "nobody",
        "group_by": ["..."],  # all labels: a second alert must never wait in, or vanish into, the group of a first
        "group_wait": "0s",
        "group_interval": "1s",
        "repeat_interval": "4h",
        "routes": [
            {"receiver": "executor", "continue": True},
            *({"receiver": name, "matchers": [f'owner="{name}"']} for name in table.owners),
            # The executor's route has taken every alert, so the top-level receiver is never reached.
            {"receiver": "nobody"},
        ],
    }
    return _HEAD + _dump({"route": route, "receivers": receivers})


def _profile_hook(hook: Hook) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "faults": list(hook.faults),
        "alerts": [alert.name for alert in hook.alerts],
        "owner": hook.owner,
        "channels": list(hook.channels),
        "actions": [
            action.model_dump(by_alias=True, exclude_none=True, exclude={"endpoint", "subject"}, mode="json")
            for action in hook.actions
        ],
        "ramp": hook.ramp.model_dump(),
        "time": hook.time,
        "also": list(hook.also),
        "within": hook.within.model_dump(),
    }
    for action in shown["actions"]:
        if not action["with"]:
            del action["with"]
    return shown


def _flow(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=4096,
                     default_flow_style=True).strip()  # fmt: skip


def profile_block(table: Table) -> str:
    """Return the profile's `owners:` and `hooks:` blocks, between their markers."""
    lines = [BEGIN, "owners:"]
    lines += [f"  {name}: {_flow(owner.model_dump(exclude_none=True))}" for name, owner in table.owners.items()]
    lines.append("hooks:")
    for name, hook in table.hooks.items():
        lines.append(f"  {name}:")
        for key, value in _profile_hook(hook).items():
            if key == "actions":
                lines.append("    actions:")
                lines += [f"      - {_flow(action)}" for action in value]
            else:
                text = value if isinstance(value, str) else _flow(value)
                lines.append(f"    {key}: {text}")
    return "\n".join([*lines, END, ""])


def profile(table: Table, present: str | None) -> str:
    """Return the profile file with the generated block put in; `present` is the file as it is, None if there is none.

    Raises `TableError` when the markers are not there exactly once each and in order.
    """
    block = profile_block(table)
    if present is None:
        return block
    lines = present.splitlines(keepends=True)
    begins = [number for number, line in enumerate(lines) if line.rstrip() == BEGIN]
    ends = [number for number, line in enumerate(lines) if line.rstrip() == END]
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        raise TableError(f"{PROFILE}: needs the lines {BEGIN!r} and {END!r} once each, in this order")
    return "".join(lines[: begins[0]]) + block + "".join(lines[ends[0] + 1 :])


#: Lines of the local profile that read otherwise in that of the containers.
_COMPOSE_LINES = {
    "# The bundled platform on local processes: `sim up` brings it up, no Docker needed.": (
        "# The bundled platform as containers: `sim up --target mbp-compose` brings it up. Generated from\n"
        "# mbp-local.yaml by python -m mbp.hooks.generate: same facts, hooks and owners; change them there."
    ),
    "target: mbp-local": "target: mbp-compose",
    "environment: sim-local": "environment: sim-compose",
    "stack: compose/local.yaml": "stack: compose/docker.yaml",
}
#: Doors that only the containers have, and those that only processes of this machine have.
_COMPOSE_DOORS, _LOCAL_DOORS = ("proxy", "reaper", "docker", "postgres"), ("processes",)
#: What stands behind a door's address: an engine shows this stack's containers only, whatever else runs on it.
_SCOPES = {"docker": "?label=com.docker.compose.project=${stack.docker_project}"}


def compose_profile(local: str) -> str:
    """Return the profile of the stack of containers, made from that of the local stack.

    Raises `TableError` when a line that must differ does not stand there exactly once.
    """
    lines = local.splitlines()
    for line in (*_COMPOSE_LINES, "doors:"):
        if lines.count(line) != 1:
            raise TableError(f"{PROFILE}: needs the line {line!r} once, not {lines.count(line)} times")
    at = lines.index("doors:") + 1
    end = next((number for number in range(at, len(lines)) if not lines[number].startswith("  ")), len(lines))
    names = [line.split(":")[0].strip() for line in lines[at:end]]
    doors = [line for line, name in zip(lines[at:end], names, strict=True) if name not in _LOCAL_DOORS]
    own = [name for name in _COMPOSE_DOORS if name not in names]
    doors += [f"  {name}: {{url: '${{stack.{name}}}{_SCOPES.get(name, '')}'}}" for name in own]
    made = [_COMPOSE_LINES.get(line, line) for line in [*lines[:at], *doors, *lines[end:]]]
    return "\n".join([*made, ""])


#: The Sheet's order, by Query/Id: it goes by what is measured, the table by hook.
_SHEET_ORDER = (
    "apm.ttp_dec_p95",
    "engine.amm_invariant",
    "rum.inp_p75",
    "events.resolution_sla",
    "engine.depth_2pct",
    "engine.twap_gap",
    "cdc.lag_p95",
    "registry.schema_drift",
    "int.contract_status",
    "apm.error_budget_burn",
    "ci.hook_coverage",
    "logs.audit_coverage",
)
_SHEET_HEAD = ("KPI", "Fonte", "Janela", "SLO/Meta", "Watcher", "Hook", "Owner", "Query/Id")


def sheet(table: Table) -> str:
    """Return the Measurement Sheet as CSV. Raises `TableError` when the table's rows are not those of the Sheet."""
    rows = {row.query: row for hook in table.hooks.values() for row in hook.sheet}
    if set(rows) != set(_SHEET_ORDER) or len(rows) != sum(len(hook.sheet) for hook in table.hooks.values()):
        differ = sorted(set(rows) ^ set(_SHEET_ORDER)) or ["a row that stands there twice"]
        raise TableError(f"sheet: the table and the Sheet's order do not name the same rows: {', '.join(differ)}")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_SHEET_HEAD)
    writer.writerows(rows[query].model_dump().values() for query in _SHEET_ORDER)
    return out.getvalue()


def render(table: Table, root: Path) -> dict[Path, str]:
    """Return the text of every generated file, by its path below `root`."""
    present = root / PROFILE
    local = profile(table, present.read_text(encoding="utf-8") if present.is_file() else None)
    by_hand = local != profile_block(table)  # where there is only the block, there is nothing to make another from
    containers = {COMPOSE_PROFILE: compose_profile(local)} if by_hand else {}
    return {
        RULES: rules(table),
        ALERTMANAGER: alertmanager(table),
        PROFILE: local,
        **containers,
        SHEET: sheet(table),
    }


def drift(files: dict[Path, str], root: Path) -> str:
    """Return how the files below `root` differ from what they should be, as unified diffs; empty when they do not."""
    parts: list[str] = []
    for path, wanted in files.items():
        place = root / path
        found = place.read_text(encoding="utf-8") if place.is_file() else ""
        parts += difflib.unified_diff(
            found.splitlines(keepends=True), wanted.splitlines(keepends=True), f"{path} (found)", f"{path} (wanted)"
        )
    return "".join(parts)


def write(files: dict[Path, str], root: Path) -> None:
    """Write the files below `root`, each in one step, and touch none that is right already."""
    for path, text in files.items():
        place = root / path
        if place.is_file() and place.read_text(encoding="utf-8") == text:
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f".{place.name}.{os.getpid()}")
        new.write_text(text, encoding="utf-8")
        new.replace(place)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the generator; 0 done or nothing differs, 1 drift, 3 the table is wrong."""
    parser = argparse.ArgumentParser(prog="python -m mbp.hooks.generate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--table", type=Path, default=DEFAULT_TABLE, help="the table (default: the bundled one)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, default=ROOT, help="project folder to write into (default: this one)")
    where.add_argument("--check", action="store_true", help="write nothing; exit 1 and print a diff on drift")
    arguments = parser.parse_args(argv)
    root = ROOT if arguments.check else arguments.out
    try:
        files = render(load(arguments.table), root)
    except TableError as error:
        print(error, file=sys.stderr)
        return 3
    if not arguments.check:
        write(files, root)
        return 0
    difference = drift(files, root)
    sys.stdout.write(difference)
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
