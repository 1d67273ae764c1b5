"""The chain of Prometheus and Alertmanager: rules, routes, and the latency that their settings imply.

From files: a Prometheus configuration, rule files and an Alertmanager configuration (templates with ``${stack.NAME}``
in them are fine). Live: ``/api/v1/status/config``, ``/api/v1/rules`` and Alertmanager's ``/api/v2/status`` of the
observers that the profile names. Routes are matched by the labels that a rule sets itself; those that only its
expression brings are not known before it fires.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from expectations._http import HttpConfig, looker, rows, table, text
from expectations._promtext import duration, words
from expectations._setup import (
    Recorded,
    Routing,
    Rule,
    Scraping,
    Setup,
    differences,
    read_routing,
    read_scraping,
    timing,
)
from sim.chain import Chain, ChainError, ChainQuestion, Timing
from sim.event import JSON
from sim.observation import CannotLook
from sim.secret import SecretMissing
from sim.target import Model

_MAX_FILE = 8 * 1024 * 1024
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: No answer, or one that is no configuration.
_NO_ANSWER = (CannotLook, SecretMissing, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError)


class Files(Model):
    """The profile's ``chain:`` block: paths below the project, `rules` also as patterns such as ``rules/*.yml``."""

    kind: str = "prometheus"
    prometheus: str | None = None
    alertmanager: str | None = None
    rules: tuple[str, ...] = ()


class _AnyHttp(HttpConfig, extra="ignore"):
    """Address and authentication of an observer, whatever else its kind takes."""


def declared(question: ChainQuestion) -> Timing | None:
    """Return the timing that the files imply; None when the profile names no rule files. Raises `ChainError`."""
    setup = _declared_setup(question)
    return timing(setup, question.hook, question.owners, question.queries) if setup is not None else None


async def live(question: ChainQuestion) -> Timing | None:
    """Return the timing of the running chain; None when the profile has no Prometheus to ask, or it does not answer."""
    prometheus = _observer(question, "prometheus")
    if prometheus is None:
        return None
    notes: list[str] = []
    missing: list[str] = []
    try:
        setup = await _live_setup(question, prometheus, missing)
    except _NO_ANSWER:
        return None
    try:
        files = _declared_setup(question)
    except ChainError as error:
        files = None
        notes.append(f"declared files: {error}")
    try:
        setup = replace(setup, routing=await _live_routing(question))
    except _NO_ANSWER as error:
        notes.append(f"routes are taken as declared: {error}")
        setup = replace(setup, routing=files.routing if files else None)
    found = timing(setup, question.hook, question.owners, question.queries)
    if files is not None:
        notes += differences(setup, files, question.hook)
    return replace(found, notes=(*notes, *found.notes), missing=(*found.missing, *missing))


def _declared_setup(question: ChainQuestion) -> Setup | None:
    try:
        files = Files.model_validate({**(question.files or {}), "kind": "prometheus"})
    except ValidationError as error:
        first = error.errors()[0]
        raise ChainError(f"chain.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if not files.rules:
        return None
    scraping = Scraping()
    if files.prometheus is not None:
        scraping = _read(question.base / files.prometheus, read_scraping)
    routing = None
    if files.alertmanager is not None:
        routing = _read(question.base / files.alertmanager, read_routing)
    rules: dict[str, tuple[Rule, ...]] = {}
    recorded: dict[str, Recorded] = {}
    for path in _paths(question.base, files.rules):
        for rule in _read(path, lambda tree: list(_rules_of(tree, scraping.evaluate_s))):
            if isinstance(rule, Rule):
                rules[rule.name] = (*rules.get(rule.name, ()), rule)
            else:
                recorded[rule[0]] = rule[1]
    return Setup("files", rules, recorded, scraping, routing)


def _paths(base: Path, patterns: Iterable[str]) -> list[Path]:
    """Return the files that the patterns name. Raises `ChainError` when one names none."""
    found: list[Path] = []
    for pattern in patterns:
        path = base / pattern
        if any(sign in path.name for sign in "*?["):
            matched = sorted(path.parent.glob(path.name))
            if not matched:
                raise ChainError(f"chain.rules: no file matches {pattern}")
            found += matched
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def _read(path: Path, understand: Any) -> Any:
    """Load a YAML file and understand it. Raises `ChainError` naming the file."""
    try:
        if path.stat().st_size > _MAX_FILE:
            raise ChainError(f"{path}: larger than {_MAX_FILE} bytes")
        tree = yaml.load(path.read_text(encoding="utf-8"), _LOADER)  # noqa: S506 (a safe loader, see _LOADER)
        if not isinstance(tree, dict):
            raise ChainError(f"{path}: expected a mapping at the top")
        return understand(tree)
    except OSError as error:
        raise ChainError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        raise ChainError(f"{path}{place}: {getattr(error, 'problem', None) or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ChainError(f"{path}: {what}") from error


def _rules_of(tree: Mapping[str, Any], evaluate_s: float) -> Iterable[Rule | tuple[str, Recorded]]:
    for group in tree.get("groups") or []:
        every_s = duration(group["interval"]) if group.get("interval") else evaluate_s
        for rule in group.get("rules") or []:
            if "record" in rule:
                yield str(rule["record"]), Recorded(str(rule["expr"]), every_s)
            else:
                labels = {str(k): str(v) for k, v in (rule.get("labels") or {}).items()}
                for_s = duration(rule.get("for") or 0)
                yield Rule(str(rule["alert"]), str(rule["expr"]), for_s, every_s, labels)


def _observer(question: ChainQuestion, kind: str) -> _AnyHttp | None:
    """Return where the first observer of a kind looks, or None."""
    for spec in question.observers.values():
        if spec.kind == kind:
            try:
                return _AnyHttp.model_validate(spec.model_dump())
            except ValidationError:
                return None
    return None


async def _live_setup(question: ChainQuestion, config: _AnyHttp, missing: list[str]) -> Setup:
    """Ask Prometheus. Raises `CannotLook`, `ValueError`, `SecretMissing`."""
    async with looker(config, question.secrets) as client:

        async def data(path: str, **params: str) -> Mapping[str, JSON]:
            return table(table((await client.ask("GET", path, params=params)).json, path).get("data"), path)

        tree = yaml.load(text(await data("/api/v1/status/config"), "yaml", "/api/v1/status/config"), _LOADER)  # noqa: S506
        scraping = read_scraping(tree if isinstance(tree, dict) else {})
        groups = rows((await data("/api/v1/rules")).get("groups"), "/api/v1/rules")
        rules, recorded = loaded(groups)
        if not (await data("/api/v1/alertmanagers")).get("activeAlertmanagers"):
            missing.append("Prometheus knows no Alertmanager")
        setup = Setup("live", rules, recorded, scraping, None)
        names = _metrics(setup, question.hook.alerts)
        of: dict[str, frozenset[str]] = {}
        for name in names:
            query = f"count by (job) ({{__name__={json.dumps(name)}}})"
            result = rows((await data("/api/v1/query", query=query)).get("result"), "/api/v1/query")
            of[name] = frozenset(str(table(each.get("metric"), "/api/v1/query").get("job", "")) for each in result)
    return replace(setup, scraping=replace(scraping, jobs_of=of))


def _metrics(setup: Setup, alerts: Iterable[str]) -> list[str]:
    """Return the words in the expressions behind these alerts that may be metric names; at most 40."""
    found: set[str] = set()
    for name in alerts:
        for rule in setup.rules.get(name, ()):
            found |= words(rule.expr).union(*(words(recorded.expr) for recorded in setup.behind(rule.expr)))
    # Only metric names of more than one part: functions and keywords mostly have none of these signs.
    return sorted(name for name in found - setup.recorded.keys() if "_" in name or ":" in name)[:40]


def loaded(groups: Iterable[Mapping[str, JSON]]) -> tuple[dict[str, tuple[Rule, ...]], dict[str, Recorded]]:
    """Return the rules that `/api/v1/rules` lists. Raises `CannotLook`."""
    rules: dict[str, tuple[Rule, ...]] = {}
    recorded: dict[str, Recorded] = {}
    where = "/api/v1/rules"
    for group in groups:
        every_s = group.get("interval")
        if not isinstance(every_s, int | float) or every_s <= 0:
            raise CannotLook(f"{where}: a group without interval: {group!r:.100}")
        for row in rows(group.get("rules"), where):
            name, expr = text(row, "name", where), text(row, "query", where)
            if row.get("type") == "recording":
                recorded[name] = Recorded(expr, float(every_s))
                continue
            labels = {key: str(value) for key, value in table(row.get("labels") or {}, where).items()}
            for_s = row.get("duration")
            trouble = str(row.get("lastError")) if row.get("health") == "err" else None
            rule = Rule(
                name, expr, float(for_s) if isinstance(for_s, int | float) else 0.0, float(every_s), labels, trouble
            )
            rules[name] = (*rules.get(name, ()), rule)
    return rules, recorded


async def _live_routing(question: ChainQuestion) -> Routing:
    """Ask Alertmanager. Raises `CannotLook`, `ValueError`, `SecretMissing`."""
    config = _observer(question, "alertmanager")
    if config is None:
        raise CannotLook("no alertmanager observer to ask")
    where = "/api/v2/status"
    async with looker(config, question.secrets) as client:
        answer = table((await client.ask("GET", where)).json, where)
    tree = yaml.load(text(table(answer.get("config"), where), "original", where), _LOADER)  # noqa: S506
    return read_routing(tree)


chain = Chain(
    summary="Prometheus rules and Alertmanager routes: how soon they can, should and must answer",
    config=Files,
    declared=declared,
    live=live,
)
