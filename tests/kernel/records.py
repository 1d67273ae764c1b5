"""Records written by hand, event by event: what the judge makes of a moment is then exactly what stands here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sim.event import JSON, SIM, Event
from sim.judge import Judge, Judgement, Verdict, judge
from sim.plan import Plan
from tests.kernel.scripted import EPOCH, Script, World, planned

#: Where t0 lies in these records, seconds.
T0 = 10.0

FINGERPRINT = "f" * 16

SOURCES = ("prom", "hooks", "slack", "release")


def plan_of(expect: str = "action=='block' && alert.to=='TEAM'", **more: Any) -> Plan:
    """Return a plan on the scripted target."""
    return planned(World(Script()), expect, **more)


class Record:
    """Builds the events of one run; times are seconds of the record."""

    def __init__(self, faults: int = 1) -> None:
        self.events: list[Event] = []
        self.faults = [f"sim-{number}" for number in range(1, faults + 1)]

    def add(self, at: float, kind: str, data: dict[str, JSON] | None = None, source: str = SIM) -> Record:
        """Append one event."""
        self.events.append(
            Event(len(self.events), at, EPOCH + at, None, source, kind, data if data is not None else {}, "")
        )
        return self

    def opened(self, at: float = 0.0, gate: str | None = "open", errors: float = 0.0, **gauges: float) -> Record:
        """Everybody sees, the gate is read, five samples of each gauge are taken at baseline."""
        self.add(at, "run.opened", {})
        if gate is not None:
            self.state(at, "gate", gate)
        self.state(at, "lane", "fast")
        for source in SOURCES:
            self.add(at, "observer.seeing", {}, source)
        self.add(at, "phase", {"name": "baseline", "until_s": None})
        for number in range(5):
            for fact, value in {"errors": errors, **gauges}.items():
                self.gauge(at + 1 + number, fact, value)
        return self

    def injected(self, effective: float | None = T0 + 0.5) -> Record:
        """Every fault is prepared, applied at `T0` and proven."""
        for fault in self.faults:
            self.add(T0, "fault.prepared", {"fault": fault})
        self.add(T0, "fault.t0", {"hold_s": 60})
        for fault in self.faults if effective is not None else ():
            self.add(effective or 0.0, "fault.effective", {"fault": fault, "evidence": {}})
        return self

    def alert(self, at: float, state: str = "firing", starts: float | None = None, **more: Any) -> Record:
        """One change of state of the hook's alert; `starts` is in seconds of the record."""
        data: dict[str, Any] = {
            "name": "Broken",
            "labels": {"alertname": "Broken", "owner": "TEAM"},
            "fingerprint": FINGERPRINT,
            "starts_at": EPOCH + (T0 + 2.0 if starts is None else starts),
            "state": state,
            **more,
        }
        return self.add(at, "alert", data, more.pop("source", "prom"))

    def execution(self, at: float, state: str, action: str = "block", audit: int | None = None, **more: Any) -> Record:
        """One audit row of the hook executor."""
        data: dict[str, Any] = {
            "id": f"{action}-0",
            "hook": "hook",
            "action": action,
            "target": "app",
            "state": state,
            "fingerprint": FINGERPRINT,
            "starts_at": EPOCH + T0 + 2.0,
            "alert": "Broken",
            "audit_seq": len(self.events) if audit is None else audit,
            "detail": "",
            **more,
        }
        return self.add(at, "execution", data, "hooks")

    def done(self, at: float, action: str = "block", **more: Any) -> Record:
        """An execution from accepted to succeeded."""
        for state in ("accepted", "started", "succeeded"):
            self.execution(at, state, action, **more)
        return self

    def message(self, at: float, status: str = "firing", address: str = "#team", **alert: Any) -> Record:
        """One message in the channel slack about the hook's alert."""
        about: dict[str, Any] = {
            "name": "Broken",
            "labels": {"alertname": "Broken", "owner": "TEAM"},
            "fingerprint": FINGERPRINT,
            "starts_at": EPOCH + T0 + 2.0,
            "status": status,
            **alert,
        }
        data: dict[str, Any] = {
            "id": f"m{len(self.events)}",
            "channel": "slack",
            "address": address,
            "status": status,
            "title": "Broken",
            "alerts": [about],
        }
        return self.add(at, "message", data, "slack")

    def state(self, at: float, fact: str, value: JSON) -> Record:
        """A change of one state."""
        return self.add(at, "state", {"fact": fact, "value": value}, "release")

    def gauge(self, at: float, fact: str, value: float | None) -> Record:
        """One sample."""
        return self.add(at, "gauge", {"fact": fact, "value": value}, "prom")

    def samples(self, at: float, fact: str, *values: float | None, every: float = 0.25) -> Record:
        """Samples in a row."""
        for number, value in enumerate(values):
            self.gauge(round(at + number * every, 6), fact, value)
        return self

    def blind(self, at: float, source: str, since: float | None = None) -> Record:
        """From now on `source` is known to see nothing, since `since`."""
        return self.add(at, "observer.blind", {"error": "refused", "since": at if since is None else since}, source)

    def sees(self, at: float, source: str) -> Record:
        """`source` sees again."""
        return self.add(at, "observer.seeing", {}, source)

    def withdrawn(self, at: float) -> Record:
        """Every fault is withdrawn and read back gone."""
        for fault in reversed(self.faults):
            self.add(at, "fault.withdrawing", {"fault": fault})
            self.add(at, "fault.gone", {"fault": fault, "evidence": {}})
        return self

    def well(self, at: float) -> Record:
        """The alert resolves, the gate opens, steady state is sampled."""
        return self.alert(at, "resolved").state(at, "gate", "open").samples(at, "errors", 0.0, 0.0, 0.0)

    def closed(self, at: float, differs: Iterable[str] = ()) -> Record:
        """Put back, and closed."""
        self.add(at, "restored", {"ok": not list(differs), "differs": list(differs)})
        return self.add(at, "run.closed", {})

    def judged(self, plan: Plan) -> Judgement:
        """Return what the judge makes of it."""
        return judge(plan, self.events)

    def verdict(self, plan: Plan, clause: str) -> Verdict:
        """Return one verdict."""
        return next(each for each in self.judged(plan).verdicts if each.clause == clause)

    def folded(self, plan: Plan) -> Judge:
        """Return the judge as it stands after these events."""
        fold = Judge(plan)
        for event in self.events:
            fold.feed(event)
        return fold


def good(faults: int = 1) -> Record:
    """Return a record in which every link holds: alert, action with effect, message, withdrawal, recovery."""
    return (
        Record(faults).opened().injected().alert(T0 + 2).done(T0 + 3).state(T0 + 3.5, "gate", "blocked")
        .message(T0 + 4).withdrawn(T0 + 5).well(T0 + 10).closed(T0 + 12)
    )  # fmt: skip


def until_told(faults: int = 1, **gauges: float) -> Record:
    """Return the good record up to the message; the fault is still there."""
    return (
        Record(faults).opened(**gauges).injected().alert(T0 + 2).done(T0 + 3).state(T0 + 3.5, "gate", "blocked")
        .message(T0 + 4)
    )  # fmt: skip
