"""What the record says so far, sorted by what it is and by whether it belongs to the fault. Pure bookkeeping.

*Belongs*: an alert that began at or after t0 on its source's clock and carries an injection's id in a label, or is
one of the bound hook's alerts; an execution or a message that names such an alert. With no hook bound: everything that
began after t0. Anything else begun after t0 is collateral.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sim import expression
from sim.event import SIM, Event
from sim.expression import Node, Truth, Vocabulary, Witness
from sim.judge.present import Now as Now  # the ledger's own view of itself, asked for here by everybody
from sim.plan import Plan

#: What an address that stands in no `owners:` entry is called. No owner can bear this name.
UNKNOWN_OWNER = "(nobody in owners)"


@dataclass(frozen=True, slots=True)
class Alert:
    """One change of state of one alert, as one observer saw it."""

    seq: int
    at: float
    source: str
    name: str
    labels: Mapping[str, str]
    fingerprint: str | None
    starts_at: float | None
    state: str

    @property
    def key(self) -> tuple[str | None, str, tuple[tuple[str, str], ...]]:
        """What makes two sightings the same alert."""
        return (self.fingerprint, self.name, () if self.fingerprint else tuple(sorted(self.labels.items())))


@dataclass(slots=True)
class Execution:
    """One execution of one action, from its audit rows."""

    id: str
    action: str
    target: str
    alert: Alert
    hook: str = ""
    started: int | None = None
    started_at: float | None = None
    started_event: int | None = None
    succeeded: int | None = None
    succeeded_event: int | None = None
    effective_at: float | None = None
    because: list[int] = field(default_factory=list)
    last: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One alert within one message to one address."""

    seq: int
    at: float
    source: str
    channel: str
    address: str
    owner: str
    status: str
    alert: Alert


class Ledger:
    """Folds events into what clauses read. Times are the record's seconds; walls are epoch seconds."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.words: Vocabulary = plan.vocabulary()
        self.marks: dict[str, float] = {}
        self.t0_wall: float | None = None
        self.injections: list[str] = []
        self.effective: set[str] = set()
        self.gone: set[str] = set()
        self.stuck: dict[str, str] = {}
        self.alerts: list[Alert] = []
        self.executions: dict[str, Execution] = {}
        self.messages: list[Message] = []
        self.silences: dict[str, Mapping[str, Any]] = {}
        self.states: dict[str, Witness] = {}
        self.prior: dict[str, Witness] = {}
        self.gauges: dict[str, Witness] = {}
        self.sampled: dict[str, int] = {}
        self.baseline: dict[str, list[Witness]] = {}
        self.seeing: dict[str, bool] = {}
        self.blind_spans: dict[str, list[tuple[float, float | None]]] = {}
        self.blind_why: dict[str, str] = {}
        self.offset: dict[str, tuple[float, float]] = {}
        self.refused: list[tuple[str, str]] = []
        self.ineffective: str | None = None
        self.unheld: dict[str, str] = {}
        self.stopped: Mapping[str, Any] | None = None
        self.errors: list[str] = []
        self.differs: list[str] | None = None
        self._effects: dict[str, Node] = {
            action.name: expression.parse(action.effect) for action in plan.actions if action.effect
        }

    # -- folding -----------------------------------------------------------------------------------------------

    @property
    def t0(self) -> float | None:
        """When the first apply was about to be sent."""
        return self.marks.get("t0")

    def feed(self, event: Event) -> None:
        """Take in one event."""
        if event.source == SIM:
            self._mark(event)
        elif event.kind.startswith("observer."):
            self._looking(event)
        else:
            self._seen(event)

    def _mark(self, event: Event) -> None:
        data: Mapping[str, Any] = event.data
        match event.kind:
            case "phase" if data["name"] == "baseline":
                self.baseline.clear()
            case "fault.prepared":
                self.injections.append(data["fault"])
            case "fault.t0":
                self.marks["t0"] = event.seen_at
                self.t0_wall = event.wall
                self.prior = dict(self.states)
            case "fault.effective":
                self.effective.add(data["fault"])
                if self.effective >= set(self.injections):
                    self.marks.setdefault("effective", event.seen_at)
            case "fault.ineffective":
                self.ineffective = data["reason"]
            case "fault.unheld":
                self.unheld[data["fault"]] = data["reason"]
            case "fault.withdrawing":
                self.marks.setdefault("withdrawing", event.seen_at)
            case "fault.gone":
                self.gone.add(data["fault"])
                self.stuck.pop(data["fault"], None)
                if self.gone >= set(self.injections):
                    self.marks["gone"] = event.seen_at
            case "fault.stuck":
                self.stuck[data["fault"]] = data["reason"]
            case "preflight" | "baseline" if data["ok"] is False:
                self.refused.append((data["check"], data["detail"]))
            case "stopped":
                self.stopped = data
                self.marks.setdefault("stopped", event.seen_at)
            case "restored":
                self.differs = list(data["differs"])
            case "run.error":
                self.errors.append(data["error"])
            case "run.closed":
                self.marks["closed"] = event.seen_at
            case _:
                pass  # other marks are for people

    def _looking(self, event: Event) -> None:
        name = event.source
        match event.kind:
            case "observer.seeing":
                self.seeing[name] = True
                spans = self.blind_spans.get(name, [])
                if spans and spans[-1][1] is None:
                    spans[-1] = (spans[-1][0], event.seen_at)
                self._note_effects(event)  # what changed meanwhile was written before its source was seeing again
            case "observer.blind":
                since = float(event.data.get("since", event.seen_at))  # type: ignore[arg-type]
                self.seeing[name] = False
                self.blind_why[name] = str(event.data.get("error", ""))
                spans = self.blind_spans.setdefault(name, [])
                if not spans or spans[-1][1] is not None:
                    spans.append((since, None))
            case "observer.offset":
                self.offset[name] = (float(event.data["offset_s"]), float(event.data["error_s"]))  # type: ignore[arg-type]
            case _:
                pass

    def _seen(self, event: Event) -> None:
        data: Mapping[str, Any] = event.data
        match event.kind:
            case "alert":
                self.alerts.append(_alert(event, data))
            case "execution":
                self._execution(event, data)
            case "message":
                self._message(event, data)
            case "silence":
                self.silences[data["id"]] = data
            case "state":
                self.states[data["fact"]] = Witness(data["value"], event.seq, event.seen_at)
            case "gauge" if data["value"] is not None:
                witness = Witness(data["value"], event.seq, event.seen_at)
                self.gauges[data["fact"]] = witness
                if self.t0 is None:
                    self.baseline.setdefault(data["fact"], []).append(witness)
            case "gauge":
                self.gauges.pop(data["fact"], None)
            case _:
                pass
        if event.kind == "gauge":
            self.sampled[data["fact"]] = event.seq
        if event.kind in ("state", "execution"):
            self._note_effects(event)

    def _execution(self, event: Event, data: Mapping[str, Any]) -> None:
        found = self.executions.get(data["id"])
        if found is None:
            alert = _alert(event, {**data, "name": data["alert"], "labels": {}, "state": "firing"})
            found = Execution(data["id"], data["action"], data["target"], alert, data.get("hook") or "")
            self.executions[data["id"]] = found
        state = data["state"]
        found.last, found.detail = state, str(data.get("detail") or found.detail)
        if state == "started" and found.started is None:
            found.started, found.started_at, found.started_event = data.get("audit_seq"), event.seen_at, event.seq
        if state == "succeeded" and found.succeeded is None:
            found.succeeded, found.succeeded_event = data.get("audit_seq"), event.seq

    def _message(self, event: Event, data: Mapping[str, Any]) -> None:
        channel, address = data["channel"], data["address"]
        owner = next(
            (name for name, ways in self.plan.target.owners.items() if ways.get(channel) == address), UNKNOWN_OWNER
        )
        for each in data["alerts"]:
            alert = _alert(event, {**each, "state": each.get("status") or data["status"]})
            status = each.get("status") or data["status"]
            seen = Message(event.seq, event.seen_at, event.source, channel, address, owner, status, alert)
            self.messages.append(seen)

    def _note_effects(self, event: Event) -> None:
        for execution in self.executions.values():
            if execution.succeeded_event is None or execution.effective_at is not None:
                continue
            effect = self._effects.get(execution.action)
            seqs: tuple[int, ...] = ()
            if effect is not None:
                told = expression.evaluate(effect, Now(self), self.words)
                if told.truth is not Truth.TRUE:
                    continue
                seqs = told.because
            execution.effective_at = event.seen_at
            execution.because = [execution.succeeded_event, *seqs]

    # -- asking ------------------------------------------------------------------------------------------------

    def belongs(self, alert: Alert) -> bool:
        """Whether this sighting belongs to the fault."""
        if self.t0_wall is None or alert.starts_at is None:
            return False if self.t0_wall is None else self._names_known(alert)
        offset, error = self._clock_of_alerts()
        if alert.starts_at - offset < self.t0_wall - error:
            return False
        if self.plan.hook is None or self._expected(alert):
            return True
        named = alert.fingerprint
        return named is not None and any(a.fingerprint == named and self._expected(a) for a in self.alerts)

    def _expected(self, alert: Alert) -> bool:
        """Whether the alert is one of the hook's, or carries the id of an injection."""
        hook = self.plan.hook
        carried = any(injection in value for injection in self.injections for value in alert.labels.values())
        return carried or (hook is not None and alert.name in hook.alerts)

    def _names_known(self, alert: Alert) -> bool:
        """A message of a stock template: it belongs when an alert that belongs has its name and all its labels.

        It must have come at or after that alert's startsAt; whether our look at the alert came first is chance.
        """
        offset, error = self._clock_of_alerts()
        came = (self.t0_wall or 0.0) + (alert.at - (self.t0 or 0.0)) + error
        return any(
            (known.fingerprint == alert.fingerprint if alert.fingerprint else known.name == alert.name)
            and alert.labels.items() <= known.labels.items()
            and known.starts_at is not None
            and known.starts_at - offset <= came
            and self.belongs(known)
            for known in self.alerts
        )

    def _clock_of_alerts(self) -> tuple[float, float]:
        """Return offset and error (s) of the clock that stamps alerts."""
        for name, source in self.plan.observers.items():
            if "alert" in source.yields and name in self.offset:
                return self.offset[name]
        return 0.0, 0.05

    def reads(self, fact: str) -> object:
        """Return what a state fact reads now; null when it was never read or its subject does not exist."""
        found = self.states.get(fact)
        return found.value if found else None

    def read_before(self, fact: str) -> object:
        """Return what a state fact read at t0."""
        found = self.prior.get(fact)
        return found.value if found else None

    def back(self, fact: str) -> bool:
        """Whether a state fact reads as it did at t0.

        What the fault brought with it did not exist then: it is back when it is gone, or no action that the target
        knows, of this hook or another, is in effect on it.
        """
        now, before = self.reads(fact), self.read_before(fact)
        if before is not None or fact not in self.prior or self.plan.target.facts[fact].subject is None:
            return now == before
        texts = {a.effect for hook in self.plan.target.hooks.values() for a in hook.actions if a.effect}
        effects = [expression.parse(text) for text in sorted(texts) if fact in text]
        told = [expression.evaluate(effect, Now(self), self.words).truth for effect in effects]
        return now is None or all(truth is Truth.FALSE for truth in told)

    def ours(self, alerts: Iterable[Alert]) -> list[Alert]:
        """Return the sightings that belong to the fault."""
        return [alert for alert in alerts if self.belongs(alert)]

    def our_executions(self) -> list[Execution]:
        """Return the executions that belong to the fault, in the executor's order."""
        ours = [execution for execution in self.executions.values() if self.belongs(execution.alert)]
        return sorted(ours, key=lambda execution: (execution.started or 0, execution.alert.seq))

    def our_messages(self, status: str = "firing") -> list[Message]:
        """Return the messages of that status that belong to the fault."""
        return [message for message in self.messages if message.status == status and self.belongs(message.alert)]

    def renewals(self, alert: Alert) -> int:
        """How often Prometheus showed this alert inactive and then firing again since it first fired.

        Each source is read by itself: two that see the same resolution at different times saw one.
        """
        seen: dict[str, list[bool]] = {}
        for each in self.alerts:
            if each.key[:2] == alert.key[:2] and each.source in self.detectors() and self.belongs(each):
                seen.setdefault(each.source, []).append(each.state == "firing")
        return max([0, *(sum(firing for firing, _ in groupby(states)) - 1 for states in seen.values())])

    def detectors(self) -> frozenset[str]:
        """The observers behind facts of the stage detect."""
        return self.sources("detect")

    def sources(self, *stages: str) -> frozenset[str]:
        """The planned observers behind the event facts of these stages."""
        facts = self.plan.target.facts.values()
        named = {name for fact in facts if fact.kind == "event" and fact.stage in stages for name in fact.from_}
        return frozenset(named & set(self.plan.observers))

    def effect_sources(self) -> frozenset[str]:
        """The planned observers by which the effect of each of the hook's actions is read back."""
        facts = {fact for effect in self._effects.values() for fact in expression.facts_of(effect, self.words)}
        named = {name for fact in facts for name in self.plan.target.facts[fact].from_}
        return frozenset(named & set(self.plan.observers))

    def blind(self, observers: Iterable[str], since: float, until: float) -> str | None:
        """Say which of `observers` was not looking in that span and why; null when all were.

        A source with a cursor is blind only while its gap is not read back; a polled one lost what came and went.
        """
        for name in sorted(observers):
            source = self.plan.observers.get(name)
            if name not in self.seeing:
                return f"{name} never answered"
            for start, end in self.blind_spans.get(name, ()):
                open_end = end is None or end > until
                touches = start <= until and (end is None or end >= since)
                if touches and (open_end or not (source and source.cursor)):
                    return f"{name} was blind from {start:+.1f} s: {self.blind_why.get(name, '')}"
        return None


def _alert(event: Event, data: Mapping[str, Any]) -> Alert:
    return Alert(
        seq=event.seq,
        at=event.seen_at,
        source=event.source,
        name=data.get("name") or "",
        labels=data.get("labels") or {},
        fingerprint=data.get("fingerprint"),
        starts_at=data.get("starts_at"),
        state=data["state"],
    )
