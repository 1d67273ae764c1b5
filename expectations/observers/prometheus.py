"""Reads a Prometheus: its alerts, and facts by query.

``startsAt``, by which an alert's episode is known downstream, is not in Prometheus' API: it shows `activeAt`,
while the alert is sent with the time of the evaluation at which it began to fire. For a rule without `for` the two are
one. With `for` it is the time of the first sample of ``ALERTS{alertstate="firing"}`` of this episode, which is right
also when evaluations were missed; where that series cannot be had (the alert is older than `BACK_S`), `activeAt` plus
`for` rounded up to whole evaluations. Fingerprints are those of the labels as sent: with the external labels, and after
label drops of ``alert_relabel_configs`` (other relabelling of alerts is not modelled).
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import yaml

from expectations._episodes import Changes, Episode, Episodes
from expectations._http import HttpConfig, count, looker, rows, table, text
from expectations._samples import BadQuery, firing_since
from expectations._stamp import cut, fingerprint, nanoseconds
from sim.event import JSON
from sim.observation import CannotLook, Observation, ObserverKind, Opening, Remark
from sim.target import Fact
from sim.wire import Client

if TYPE_CHECKING:
    from expectations._promql import Queries

#: How far back the beginning of a firing is looked for in the ALERTS series, in seconds.
BACK_S = 600.0

_ALERTS = "/api/v1/alerts"
_RULES = "/api/v1/rules"
#: What else must be there for a detection: where it is listed, under which key, what it is, and the cure for none.
_AROUND = (
    ("/api/v1/targets", "activeTargets", "active target", "see /targets of its web page: is anything scraped, and up?"),
    ("/api/v1/alertmanagers", "activeAlertmanagers", "Alertmanager", "name one in alerting: of its configuration"),
)


class Config(HttpConfig):
    """`external_labels` need be given only where the server does not show its configuration."""

    kind: Literal["prometheus"] = "prometheus"
    external_labels: dict[str, str] | None = None


class Outgoing:
    """What happens to an alert's labels on the way out of Prometheus."""

    def __init__(self, external: Mapping[str, str], drops: Sequence[tuple[str, re.Pattern[str]]] = ()) -> None:
        self._external, self._drops = external, drops

    @classmethod
    def of(cls, configuration: str) -> Outgoing:
        """Read the server's configuration. Raises `CannotLook`."""
        try:
            tree = yaml.load(configuration, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}  # noqa: S506 (safe)
            external = {str(k): str(v) for k, v in (tree.get("global", {}).get("external_labels") or {}).items()}
            drops = [
                (step["action"], re.compile(str(step.get("regex", "(.*)"))))
                for step in (tree.get("alerting", {}).get("alert_relabel_configs") or [])
                if step.get("action") in ("labeldrop", "labelkeep")
            ]
        except (yaml.YAMLError, AttributeError, TypeError, KeyError, re.error) as error:
            raise CannotLook(f"/api/v1/status/config: not a Prometheus configuration ({error!r:.100})") from error
        return cls(external, drops)

    def labels(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Return the labels as Alertmanager gets them."""
        sent = {**self._external, **{k: v for k, v in labels.items() if v != ""}}
        for action, pattern in self._drops:
            keep = action == "labelkeep"
            sent = {k: v for k, v in sent.items() if (pattern.fullmatch(k) is not None) == keep}
        return sent


@dataclass(frozen=True, slots=True)
class _Row:
    """One alert as `/api/v1/alerts` lists it."""

    labels: tuple[tuple[str, str], ...]
    active_ns: int
    state: str

    @classmethod
    def of(cls, row: Mapping[str, JSON]) -> _Row:
        """Read one alert. Raises `CannotLook`."""
        labels = tuple(sorted((name, str(value)) for name, value in table(row.get("labels"), _ALERTS).items()))
        state = text(row, "state", _ALERTS)
        if state not in ("pending", "firing"):
            raise CannotLook(f"{_ALERTS}: unknown state {state!r:.40}")
        try:
            return cls(labels, nanoseconds(text(row, "activeAt", _ALERTS)), state)
        except ValueError as error:
            raise CannotLook(f"{_ALERTS}: {error}") from error

    @property
    def name(self) -> str:
        """The alert's name."""
        return dict(self.labels).get("alertname", "")


class Prometheus:
    """The observer. See `sim.observation.Observer`."""

    def __init__(self, config: Config, client: Client, queries: Queries, facts: Mapping[str, Fact]) -> None:
        self._config, self._client, self._queries = config, client, queries
        self._facts = {name: fact for name, fact in facts.items() if fact.query is not None}
        self._known: dict[_Row, Episode] = {}
        self._episodes, self._states = Episodes(), Changes()

    async def source_time(self) -> float:
        """Return the server's clock. Raises `CannotLook`."""
        return await asyncio.to_thread(self._queries.time)

    async def poll(self) -> Sequence[Observation]:
        """Look once. Raises `CannotLook`, and then has forgotten nothing."""
        wanted = {name: fact.query for name, fact in self._facts.items() if fact.query is not None}
        values = await asyncio.to_thread(self._queries.look, wanted) if wanted else {}
        listed = [_Row.of(row) for row in rows((await self._data(_ALERTS)).get("alerts"), _ALERTS)]
        fresh = await self._episodes_of([row for row in listed if row not in self._known])
        # From here on nothing waits and nothing fails: what is seen is either all told or all still to tell.
        self._known = {row: self._known[row] if row in self._known else fresh[row] for row in listed}
        now: dict[str, Episode] = {}
        for episode in self._known.values():  # two rules may make the same alert; Alertmanager sees one
            twin = now.get(episode.fingerprint)
            if twin is None or _precedence(episode) < _precedence(twin):
                now[episode.fingerprint] = episode
        return [*self._episodes.turn(now), *self._readings(values)]

    async def closely(self) -> Sequence[Remark]:
        """Say what there is to see: alerting rules, targets that are scraped, an Alertmanager to tell."""
        groups = rows((await self._data(_RULES)).get("groups"), _RULES)
        listed = [rule for group in groups for rule in rows(group.get("rules"), _RULES)]
        alerting = [rule for rule in listed if rule.get("type") == "alerting"]
        remarks = [
            Remark(True, count(len(alerting), "alerting rule"))
            if alerting
            else Remark(False, "no alerting rule is loaded", "name the rule files in rule_files: of its configuration")
        ]
        for path, key, what, cure in _AROUND:
            answer = await self._client.ask("GET", path, accept=(200, 404))
            if answer.status == 404:
                remarks.append(Remark(True, f"does not tell its {what}s"))  # not a Prometheus itself, but like one
                continue
            found = rows(table(table(answer.json, path).get("data"), path).get(key), path)
            up = [row for row in found if row.get("health", "up") == "up"]
            down = f" ({len(found) - len(up)} more down)" if len(up) < len(found) else ""
            text = f"{count(len(up), what)}{down}" if up else f"no {what}{down}"
            remarks.append(Remark(bool(up), text, "" if up else cure))
        return remarks

    def _readings(self, values: Mapping[str, tuple[float | None, str | None]]) -> list[Observation]:
        seen: list[Observation] = []
        states: dict[str, JSON] = {}
        for name, (value, reason) in values.items():
            if self._facts[name].kind == "state":
                states[name] = int(value) if value is not None and value.is_integer() else value
            elif value is None:
                seen.append(Observation("gauge", {"fact": name, "value": None, "reason": reason}))
            else:
                seen.append(Observation("gauge", {"fact": name, "value": value}))
        return self._states.turn(states) + seen

    async def _data(self, path: str) -> Mapping[str, JSON]:
        answer = table((await self._client.ask("GET", path)).json, path)
        if answer.get("status") != "success":
            raise CannotLook(f"{path}: {json.dumps(answer)[:200]}")
        return table(answer.get("data"), path)

    async def _episodes_of(self, fresh: Sequence[_Row]) -> dict[_Row, Episode]:
        """Return the episodes of rows not seen before; asks further only when there are any."""
        if not fresh:
            return {}
        if self._config.external_labels is not None:
            outgoing = Outgoing(self._config.external_labels)
        else:
            outgoing = Outgoing.of(text(await self._data("/api/v1/status/config"), "yaml", "/api/v1/status/config"))
        starts = await self._starts_of([row for row in fresh if row.state == "firing"])
        found = {}
        for row in fresh:
            labels = outgoing.labels(dict(row.labels))
            starts_at = starts.get(row, cut(row.active_ns))
            found[row] = Episode(labels, fingerprint(labels), row.active_ns, starts_at, row.state)
        return found

    async def _starts_of(self, firing: Sequence[_Row]) -> dict[_Row, float]:
        """Return startsAt of alerts whose rule has a `for`; of the others it is activeAt."""
        if not firing:
            return {}
        rules = _holds(rows((await self._data(_RULES)).get("groups"), _RULES))
        late = {row: rules[row.labels, row.active_ns] for row in firing if rules.get((row.labels, row.active_ns))}
        series: dict[str, list[Any]] = {}
        if late:
            now = await self.source_time()
            for name in sorted({row.name for row in late}):
                age = max(now - row.active_ns / 1e9 for row in late if row.name == name)
                back = math.ceil(min(age, BACK_S)) + 5
                query = f'ALERTS{{alertname={json.dumps(name, ensure_ascii=False)},alertstate="firing"}}[{back}s]'
                try:
                    series[name] = await asyncio.to_thread(self._queries.ask, query)
                except BadQuery:
                    series[name] = []
        found = {}
        for row, hold_ns in late.items():
            active_at = cut(row.active_ns)
            # Samples from before the look-back are not the first: only an episode that fits in it can be read off.
            fits = now - active_at <= BACK_S
            first = firing_since(series[row.name], dict(row.labels), active_at) if fits else None
            found[row] = first if first is not None else cut(row.active_ns + hold_ns)
        return found


def _precedence(episode: Episode) -> tuple[bool, int | str]:
    return episode.state != "firing", episode.since


def _holds(groups: Sequence[Mapping[str, JSON]]) -> dict[tuple[tuple[tuple[str, str], ...], int], int]:
    """Return, by labels and activeAt of each alert, its rule's `for` rounded up to whole evaluations, in ns."""
    holds = {}
    for group in groups:
        every = group.get("interval")
        for rule in rows(group.get("rules"), _RULES):
            duration = rule.get("duration")
            if not isinstance(duration, int | float) or not isinstance(every, int | float) or every <= 0:
                continue
            hold = math.ceil(round(duration * 1000) / round(every * 1000)) * round(every * 1000) * 1_000_000
            for alert in rows(rule.get("alerts") or [], _RULES):
                row = _Row.of(alert)
                holds[row.labels, row.active_ns] = hold
    return holds


@asynccontextmanager
async def _open(opening: Opening) -> AsyncIterator[Prometheus]:
    # Imported late: the library costs 0.1 s and draws in requests, which no start of the command line needs.
    from expectations._promql import Queries

    config = opening.config
    if not isinstance(config, Config):
        raise TypeError(f"observer {opening.name}: not a prometheus configuration")
    for name, fact in opening.facts.items():
        if fact.kind != "event" and fact.query is None:
            raise ValueError(f"facts.{name}: the prometheus observer {opening.name} needs a query")
    with closing(Queries(config.url, config.auth, opening.secrets)) as queries:
        async with looker(config, opening.secrets) as client:
            yield Prometheus(config, client, queries, opening.facts)


observer = ObserverKind(
    summary="alerts of a Prometheus, and facts by PromQL query",
    config=Config,
    open=_open,
    yields=frozenset({"alert", "state", "gauge"}),
)
