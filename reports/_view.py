"""What every report shows, read once from a finished run: plain data, no layout.

    Finished -> View -> terminal, json, junit

Verdicts are taken as they stand in ``verdicts.json``; the record is folded again only for what no verdict says
(collateral alerts). Text from the target is foreign: whoever prints it passes it through `plain` first.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sim.event import SIM, Event
from sim.judge import Judge, Outcome
from sim.judge.ledger import Alert, Ledger
from sim.plan import Clause
from sim.report import Finished

#: The links of the chain, in its order.
CHAIN = ("effect", "detect", "act", "notify", "only", "recover")

#: The links whose bounds a chain can compute.
TIMED = ("detect", "act", "notify")

#: The test alert of the preflight: never a finding.
CANARY = "SimCanary"


@dataclass(frozen=True, slots=True)
class Line:
    """One clause with its verdict. `anchor` is what its times count from; `budget_s` is null where nothing runs out."""

    clause: str
    origin: str
    stage: str
    kind: str
    channel: str | None
    text: str
    value: str
    anchor: str
    budget_s: float | None
    took_s: float | None
    from_effective_s: float | None
    late_s: float | None
    expected: str
    actual: str
    reason: str
    because: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FaultView:
    """One fault from prepare to gone; times in seconds of the record, null where it did not get so far."""

    id: str
    injector: str
    text: str
    lease: str | None
    targets: tuple[str, ...]
    applied_at: float | None
    effective_at: float | None
    withdrawing_at: float | None
    gone_at: float | None
    effective: Mapping[str, Any] | None
    gone: Mapping[str, Any] | None
    held: Mapping[str, Any] | None
    unheld: Mapping[str, Any] | None
    stuck: str | None


@dataclass(frozen=True, slots=True)
class StageView:
    """A timed link: when it came, its budget, and the bounds that the chain's own settings imply (seconds from t0).

    `lateness_s` is the longest time for which a change could have gone unseen by those who watch this link.
    """

    stage: str
    took_s: float | None
    from_effective_s: float | None
    budget_s: float
    floor_s: float | None
    expected_s: float | None
    worst_s: float | None
    lateness_s: float | None


@dataclass(frozen=True, slots=True)
class ObserverView:
    """How well one observer looked. `blind` are spans of the record: start, end (null: to the end), why."""

    name: str
    kind: str
    every_s: float
    polls: int | None
    misses: int | None
    lateness_s: float | None
    offset_s: float | None
    offset_error_s: float | None
    blind: tuple[tuple[float, float | None, str], ...]


@dataclass(frozen=True, slots=True)
class Collateral:
    """An alert that began after t0 and is not the fault's. `at_s` counts from t0 to when it was first seen firing."""

    name: str
    labels: Mapping[str, str]
    at_s: float
    source: str
    event: int


class View:
    """A finished run as reports show it. Pure: everything comes from the folder's three files."""

    def __init__(self, finished: Finished) -> None:
        self.run = finished.name
        self.plan = finished.plan
        self.events = finished.events
        judgement = finished.judgement
        self.outcome = Outcome(judgement["outcome"])
        self.exit_code = int(judgement["exit_code"])
        self.link: str | None = judgement["link"]
        self.reasons: tuple[str, ...] = tuple(judgement["reasons"])
        self.marks: dict[str, float] = dict(judgement["marks"])
        self.digest: str = judgement["plan"]
        self._verdicts: list[dict[str, Any]] = list(judgement["verdicts"])

    # -- the run -----------------------------------------------------------------------------------------------

    @property
    def t0(self) -> float | None:
        """When the first apply was about to be sent, seconds of the record."""
        return self.marks.get("t0")

    @property
    def recover_command(self) -> str | None:
        """The command that finishes what this run left undone; null when nothing is."""
        return f"sim recover {shlex.quote(self.run)}" if self.outcome is Outcome.UNSAFE else None

    @cached_property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """The checks that refused the run before anything was touched: name and why."""
        return tuple(
            (str(event.data["check"]), str(event.data["detail"]))
            for event in self.events
            if event.source == SIM and event.kind in ("preflight", "baseline") and event.data.get("ok") is False
        )

    @property
    def not_judged(self) -> str | None:
        """Why no clause of this run means anything; null when they do."""
        if self.refused:
            return "refused before t0"
        if self.outcome is Outcome.INCONCLUSIVE and self.link == "effect" and "effective" not in self.marks:
            return "the effect was never proven"
        return None

    def void(self, line: Line) -> bool:
        """Whether the verdict of this clause means nothing, whatever it is, in a run that could not be judged."""
        return self.not_judged is not None and not (line.stage == "effect" and not self.refused)

    @cached_property
    def ledger(self) -> Ledger:
        """The record, folded again."""
        fold = Judge(self.plan)
        for event in self.events:
            fold.feed(event)
        return fold.ledger

    def of(self, *kinds: str) -> tuple[Event, ...]:
        """Return the runner's own events of these kinds."""
        return tuple(event for event in self.events if event.source == SIM and event.kind in kinds)

    def first(self, kind: str) -> Event | None:
        """Return the first of the runner's own events of this kind."""
        return next(iter(self.of(kind)), None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the runner remarked for people."""
        return tuple(str(event.data["text"]) for event in self.of("note"))

    @property
    def errors(self) -> tuple[str, ...]:
        """Our own bugs, as they went on the record."""
        return tuple(str(event.data["error"]) for event in self.of("run.error"))

    @property
    def duration_s(self) -> float:
        """How long the record is, seconds."""
        return self.events[-1].seen_at - self.events[0].seen_at if self.events else 0.0

    # -- clauses -----------------------------------------------------------------------------------------------

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Every clause with its verdict, in the order of the chain; implied ones before written ones."""
        clauses = {clause.id: clause for clause in self.plan.clauses}
        made = [_line(clauses[verdict["clause"]], verdict) for verdict in self._verdicts]
        return tuple(sorted(made, key=lambda line: CHAIN.index(line.stage)))

    @property
    def loose_reasons(self) -> tuple[str, ...]:
        """The outcome's reasons that no clause line already gives."""
        told = {f"{line.clause}: {line.reason or line.actual}" for line in self.lines}
        told |= {line.reason for line in self.lines if line.reason}
        return tuple(reason for reason in self.reasons if reason not in told)

    # -- links and eyes ----------------------------------------------------------------------------------------

    @property
    def timing(self) -> Mapping[str, Any] | None:
        """What the chain said about its own latency (see `sim.chain.Timing.to_json`)."""
        event = self.first("timing")
        return event.data if event else None

    @cached_property
    def stages(self) -> tuple[StageView, ...]:
        """The timed links that this plan judges. A link told on several channels took as long as its last."""
        bounds = dict((self.timing or {}).get("stages", {}))
        lateness = {observer.name: observer.lateness_s for observer in self.observers}
        made = []
        for stage in TIMED:
            implied = [line for line in self.lines if line.stage == stage and line.origin == "implied"]
            if not implied:
                continue
            took = [line.took_s for line in implied]
            effective = [line.from_effective_s for line in implied]
            late = [s for name in self._watchers(stage) if (s := lateness.get(name)) is not None]
            bound = bounds.get(stage, {})
            made.append(
                StageView(
                    stage=stage,
                    took_s=_last(took),
                    from_effective_s=_last(effective),
                    budget_s=implied[0].budget_s or 0.0,
                    floor_s=bound.get("floor_s"),
                    expected_s=bound.get("expected_s"),
                    worst_s=bound.get("worst_s"),
                    lateness_s=max(late, default=None),
                )
            )
        return tuple(made)

    def _watchers(self, stage: str) -> set[str]:
        """The planned observers behind the facts of one link (an action counts only with its effect read back)."""
        facts = self.plan.target.facts.values()
        kinds = ("event", "state") if stage == "act" else ("event",)
        named = {name for fact in facts if fact.stage == stage and fact.kind in kinds for name in fact.from_}
        return named & set(self.plan.observers)

    @cached_property
    def observers(self) -> tuple[ObserverView, ...]:
        """Every planned observer, and how well it looked."""
        closed = {event.source: event.data for event in self.events if event.kind == "observer.closed"}
        ledger = self.ledger
        made = []
        for name, source in self.plan.observers.items():
            data: Mapping[str, Any] = closed.get(name, {})
            offset, error = ledger.offset.get(name, (None, None))
            looks = (data.get("polls"), data.get("misses"), data.get("lateness_max_s"))
            made.append(ObserverView(name, source.kind, source.every_s, *looks, offset, error, self._blind(name)))
        return tuple(made)

    def _blind(self, observer: str) -> tuple[tuple[float, float | None, str], ...]:
        """The spans in which one observer could not look, each with its own reason."""
        spans: list[tuple[float, float | None, str]] = []
        for event in self.events:
            data: Mapping[str, Any] = event.data
            blind_now = bool(spans) and spans[-1][1] is None
            if event.source == observer and event.kind == "observer.blind" and not blind_now:
                spans.append((float(data.get("since", event.seen_at)), None, str(data.get("error", ""))))
            elif event.source == observer and event.kind == "observer.seeing" and blind_now:
                spans[-1] = (spans[-1][0], event.seen_at, spans[-1][2])
        return tuple(spans)

    # -- what was done -----------------------------------------------------------------------------------------

    @cached_property
    def faults(self) -> tuple[FaultView, ...]:
        """Every fault that was prepared, in order."""
        leases = {fault.injector: fault.lease for fault in self.plan.faults}
        return tuple(self._fault(event, leases) for event in self.of("fault.prepared"))

    def _fault(self, prepared: Event, leases: Mapping[str, str]) -> FaultView:
        data: Mapping[str, Any] = prepared.data
        mine = (event for event in self.events if event.source == SIM and event.data.get("fault") == data["fault"])
        last = {event.kind: event for event in mine}

        def at(kind: str) -> float | None:
            return last[kind].seen_at if kind in last else None

        def evidence(kind: str) -> Mapping[str, Any] | None:
            found: Mapping[str, Any] = last[kind].data if kind in last else {}
            return dict(found["evidence"]) if found.get("evidence") is not None else None

        stuck = last.get("fault.stuck") if "fault.gone" not in last else None
        return FaultView(
            id=data["fault"],
            injector=data["injector"],
            text=data["text"],
            lease=leases.get(data["injector"]),
            targets=tuple(data["targets"]),
            applied_at=at("fault.applied"),
            effective_at=at("fault.effective"),
            withdrawing_at=at("fault.withdrawing"),
            gone_at=at("fault.gone"),
            effective=evidence("fault.effective"),
            gone=evidence("fault.gone"),
            held=evidence("fault.held"),
            unheld=evidence("fault.unheld"),
            stuck=str(stuck.data["reason"]) if stuck else None,
        )

    @property
    def restored(self) -> tuple[str, ...] | None:
        """What still differs from baseline at the end (empty: nothing); null when nothing had to be put back."""
        event = self.first("restored")
        data: Mapping[str, Any] = event.data if event else {}
        return tuple(data["differs"]) if event else None

    @cached_property
    def collateral(self) -> tuple[Collateral, ...]:
        """The alerts that began after t0 and are not the fault's, each once, as first seen firing."""
        ledger = self.ledger
        if self.t0 is None:
            return ()
        found: dict[object, Collateral] = {}
        for alert in ledger.alerts:
            foreign = alert.state == "firing" and alert.name != CANARY and not ledger.belongs(alert)
            if foreign and alert.key not in found and _began_after(ledger, alert):
                at_s = round(alert.at - self.t0, 6)
                found[alert.key] = Collateral(alert.name, dict(alert.labels), at_s, alert.source, alert.seq)
        return tuple(found.values())


def _began_after(ledger: Ledger, alert: Alert) -> bool:
    """Whether an alert began at or after t0, by the clock that stamps alerts."""
    if ledger.t0_wall is None or alert.starts_at is None:
        return False
    seers = (name for name, source in ledger.plan.observers.items() if "alert" in source.yields)
    clocks = [ledger.offset[name] for name in seers if name in ledger.offset]
    offset, error = clocks[0] if clocks else (0.0, 0.05)
    return alert.starts_at - offset >= ledger.t0_wall - error


def _line(clause: Clause, verdict: Mapping[str, Any]) -> Line:
    runs_out = clause.kind != "only" and clause.origin != "never"
    return Line(
        clause=clause.id,
        origin=clause.origin,
        stage=clause.stage,
        kind=clause.kind,
        channel=clause.channel,
        text=clause.text,
        value=verdict["value"],
        anchor="gone" if clause.kind in ("recover", "gauge") and clause.origin != "never" else "t0",
        budget_s=verdict["within_s"] if runs_out else None,
        took_s=verdict["took_s"],
        from_effective_s=verdict["from_effective_s"],
        late_s=verdict["late_s"],
        expected=verdict["expected"],
        actual=verdict["actual"],
        reason=verdict["reason"],
        because=tuple(verdict["because"]),
    )


def _last(times: list[float | None]) -> float | None:
    known = [each for each in times if each is not None]
    return max(known) if len(known) == len(times) else None


def plain(text: str) -> str:
    """Return foreign text with everything invisible spelled out, so that it can neither move a cursor nor break XML.

    A line break becomes ``\\n``; control characters, lone surrogates, bidirectional overrides and what XML 1.0 cannot
    carry become their escape.
    """
    return "".join(char if _shows(ord(char)) else _escape(char) for char in text)


def _shows(code: int) -> bool:
    control = code < 0x20 or 0x7F <= code < 0xA0 or code in (0x2028, 0x2029)
    turns_around = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    not_a_character = 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE
    return not (control or turns_around or not_a_character)


def _escape(char: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    code = ord(char)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
