"""The A110 table as written: hooks, their alerts and actions, their owners, and how each action is done and undone.

`a110.yaml` is the only source; rules, routes, profile and executor policy all come from what this module returns.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DEFAULT_TABLE = Path(__file__).with_name("a110.yaml")
CHANNELS = ("oncall", "slack", "email", "tickets")
_MAX_TABLE_BYTES = 256 * 1024
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
#: A length of time as Prometheus and the profile both spell it: ``250ms``, ``1.6s``, ``3m``.
Span = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(ms|s|m|h|d)$")]
Severity = Literal["critical", "error", "warning", "info"]  # PagerDuty's four, so that it is passed on as it is
Channel = Literal["oncall", "slack", "email", "tickets"]


class TableError(Exception):
    """The table cannot be used; the text names the file, each place and what is wrong there."""


class Row(BaseModel):
    """The base of everything in the table: frozen, and no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Alert(Row):
    """One alert rule. `window` is the time its expression looks back on (``run`` for the last run of a check)."""

    name: str = Field(pattern=r"^[A-Z][A-Za-z0-9]{2,63}$")
    expr: str = Field(min_length=1)
    for_: Span = Field("0s", alias="for")
    window: Span | Literal["run"]
    severity: Severity
    labels: dict[Word, str] = {}
    summary: str = Field(min_length=1)
    runbook: str = Field(pattern=r"^docs/runbooks/[a-z0-9_]+\.md$")


class Action(Row):
    """One action of a hook: `endpoint` names the service that does it, `subject` the alert label of what it is done to.

    `effect` and `ready` are expressions over state facts of the target profile; the executor does not read them.
    """

    name: Word
    endpoint: Word
    subject: Word | None = None
    effect: str | None = None
    ready: str | None = None
    reversal: Literal["on_resolved", "restore", "none"]
    with_: tuple[Word, ...] = Field((), alias="with")


class Request(Row):
    """One HTTP call to an endpoint. ``{reason}`` and ``{subject}`` in `path` and in texts of `json` are filled in."""

    method: Literal["PUT", "POST", "PATCH", "DELETE"]
    path: str = Field(pattern=r"^/\S*$")
    body: dict[str, Any] | None = Field(None, alias="json")


class Reading(Row):
    """How to see at the endpoint whether the action is in effect: `field` of the JSON at `path` equals `equals`."""

    path: str = Field(pattern=r"^/\S*$")
    field: str = Field(min_length=1, description="keys parted by dots")
    equals: bool | int | str


class Operation(Row):
    """How one action is done, seen and undone. Its key is the action's name, or ``name@endpoint`` where two differ."""

    endpoint: Word
    do: Request
    read: Reading
    undo: Request | None = None


class Ramp(Row):
    """From the fault's start until it can make a rule of the hook true."""

    least: Span
    most: Span


class Within(Row):
    """Budgets from the fault's start; `recover` from its end."""

    effect: Span
    detect: Span
    act: Span
    notify: Span
    recover: Span


class SheetRow(Row):
    """One row of the Measurement Sheet, spelled as the Sheet spells it."""

    kpi: str
    fonte: str
    janela: str
    slo: str
    watcher: str
    hook: str
    owner: str
    query: str


class Hook(Row):
    """One hook: which alerts it answers, what it does, in order, and whom it tells on which channels."""

    enabled: bool = True
    must_have: bool = False
    owner: str
    aliases: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ("oncall", "slack", "email")
    every: Span | None = Field(None, description="how often its rules are evaluated; null: as the server says")
    alerts: tuple[Alert, ...] = Field(min_length=1)
    actions: tuple[Action, ...] = Field(min_length=1)
    faults: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    time: Literal["live", "seeded"] = "live"
    ramp: Ramp
    within: Within
    sheet: tuple[SheetRow, ...] = ()


class Owner(Row):
    """Where one owner is told: an on-call routing key, a Slack channel, an address, and perhaps a ticket queue."""

    oncall: str = Field(pattern=r"^[a-z0-9-]{1,32}$")
    slack: str = Field(pattern=r"^#[a-z0-9-]{1,79}$")
    email: str = Field(pattern=r"^[a-z0-9.-]+@[a-z0-9.-]+$")
    tickets: str | None = None


class Table(Row):
    """The whole table."""

    version: Literal[1]
    owners: dict[Annotated[str, Field(pattern=r"^[A-Z]+(/[A-Z]+)?$")], Owner]
    operations: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}(@[a-z][a-z0-9_]{0,63})?$")], Operation]
    hooks: dict[Word, Hook] = Field(min_length=1)

    def hook_of(self, alertname: str) -> str | None:
        """Return the name of the hook that answers this alert, None when there is none."""
        for name, hook in self.hooks.items():
            if any(alert.name == alertname for alert in hook.alerts):
                return name
        return None

    def operation_of(self, action: Action) -> Operation | None:
        """Return how this action is done at its endpoint, None when the platform cannot do it yet."""
        exact = self.operations.get(f"{action.name}@{action.endpoint}")
        if exact is not None:
            return exact
        named = self.operations.get(action.name)
        return named if named is not None and named.endpoint == action.endpoint else None

    @model_validator(mode="after")
    def _holds_together(self) -> Table:
        wrong = [*_owners_wrong(self), *_names_wrong(self), *_operations_wrong(self)]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


def _owners_wrong(table: Table) -> list[str]:
    wrong = []
    for name, hook in table.hooks.items():
        owner = table.owners.get(hook.owner)
        if owner is None:
            wrong.append(f"hooks.{name}.owner: {hook.owner!r} is not among the owners ({', '.join(table.owners)})")
        elif "tickets" in hook.channels and owner.tickets is None:
            wrong.append(f"hooks.{name}.channels: {hook.owner} has no ticket queue under owners.{hook.owner}.tickets")
    for channel in CHANNELS:
        seen: dict[str, str] = {}
        for name, owner in table.owners.items():
            address = getattr(owner, channel)
            if address is not None and address in seen:
                wrong.append(f"owners.{name}.{channel}: {address!r} is {seen[address]}'s already")
            seen[address] = name
    return wrong


def _names_wrong(table: Table) -> list[str]:
    wrong = []
    alerts: dict[str, str] = {}
    faults: dict[str, str] = {}
    for name, hook in table.hooks.items():
        for alert in hook.alerts:
            if alert.name in alerts:
                wrong.append(f"hooks.{name}.alerts: {alert.name} belongs to {alerts[alert.name]} already")
            alerts[alert.name] = name
            if taken := sorted({"alertname", "hook", "owner", "severity"} & set(alert.labels)):
                wrong.append(f"hooks.{name}.alerts.{alert.name}.labels: {taken[0]} is set from the table itself")
        for fault in hook.faults:
            if fault in faults:
                wrong.append(f"hooks.{name}.faults: {fault} belongs to {faults[fault]} already")
            faults[fault] = name
        actions = [action.name for action in hook.actions]
        if len(set(actions)) != len(actions):
            wrong.append(f"hooks.{name}.actions: the same action stands twice")
    return wrong


def _operations_wrong(table: Table) -> list[str]:
    wrong = []
    for name, operation in table.operations.items():
        for call in (operation.do, operation.undo):
            for text in (call.path, *map(str, (call.body or {}).values())) if call else ():
                for unknown in set(_PLACEHOLDER.findall(text)) - {"reason", "subject"}:
                    wrong.append(f"operations.{name}: {{{unknown}}} is not understood; use {{reason}} or {{subject}}")
    for name, hook in table.hooks.items():
        for action in hook.actions:
            known = table.operation_of(action)
            if known is not None and action.reversal == "on_resolved" and known.undo is None:
                wrong.append(f"hooks.{name}.actions.{action.name}: reversal on_resolved, but its operation has no undo")
    return wrong


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that refuses a key written twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse(text: str, source: str) -> Table:
    """Return the table in `text`; `source` names it in errors. Raises `TableError` with every place that is wrong."""
    try:
        written = yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError as error:
        raise TableError(f"{source}: not YAML: {error}") from error
    try:
        return Table.model_validate(written)
    except ValidationError as error:
        places = [f"{'.'.join(str(part) for part in each['loc']) or 'table'}: {each['msg']}" for each in error.errors()]
        raise TableError(f"{source}: " + f"\n{source}: ".join(places)) from error


def load(path: Path = DEFAULT_TABLE) -> Table:
    """Return the table in the file `path`. Raises `TableError` when it cannot be read or is wrong."""
    try:
        if path.stat().st_size > _MAX_TABLE_BYTES:
            raise TableError(f"{path}: larger than {_MAX_TABLE_BYTES >> 10} KiB")
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: cannot be read: {error}") from error
