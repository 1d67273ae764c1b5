"""A plan and a long record to measure with. Made up, and shaped like a busy run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.exercise import Exercise
from sim.plan import Clause, Fault, Plan, Source
from sim.target import Target, Within

TARGET = Target.model_validate(
    {
        "target": "bench",
        "environment": "bench",
        "observers": {name: {"kind": "none"} for name in ("prom", "hooks", "inbox")},
        "facts": {
            "alert": {"kind": "event", "stage": "detect", "from": "prom"},
            "action": {"kind": "event", "stage": "act", "from": "hooks", "sequence": "+"},
            "gate": {"kind": "state", "stage": "act", "from": "hooks", "values": ["open", "blocked"]},
            "notify": {"kind": "event", "stage": "notify", "from": "inbox"},
            "errors": {"kind": "gauge", "from": "prom", "query": "errors"},
        },
        "owners": {"SRE": {"slack": "#sre"}},
        "hooks": {
            "slow": {
                "alerts": ["TooSlow"],
                "owner": "SRE",
                "channels": ["slack"],
                "actions": [{"name": "block", "effect": "gate=='blocked'"}],
            }
        },
        "steady_state": "errors < 1",
    }
)


def _clause(name: str, stage: Any, kind: Any, text: str, origin: Any = "implied", **more: Any) -> Clause:
    return Clause(id=name, origin=origin, stage=stage, kind=kind, text=text, within_s=60.0, **more)


def plan() -> Plan:
    """Return a plan with one clause of each kind."""
    return Plan(
        sim="bench",
        exercise="bench",
        written=Exercise(inject=("bench.fault()",), expect="action=='block'"),
        target=TARGET,
        faults=(Fault(injector="bench.fault", text="bench.fault()", params={}, lease="none", doors=()),),
        hook_name="slow",
        clauses=(
            _clause("effect", "effect", "effect", "the fault bites"),
            _clause("detect", "detect", "alert", "alert TooSlow fires"),
            _clause("act", "act", "action", "block is done"),
            _clause("notify:slack", "notify", "message", "SRE is told", channel="slack"),
            _clause("only", "only", "only", "nothing else"),
            _clause("recover", "recover", "recover", "all is well again"),
            _clause("expect.1", "act", "event", "action == 'block'", "expect", facts=("action",)),
            _clause("expect.2", "act", "state", "gate == 'blocked'", "expect", facts=("gate",)),
            _clause("expect.3", "recover", "gauge", "errors < 1", "expect", facts=("errors",)),
            _clause("never.1", "notify", "event", "notify == 'FE'", "never", facts=("notify",)),
        ),
        within=Within(effect=60, detect=60, act=60, notify=60, recover=60),
        hold_s=3600,
        hold="witnessed",
        time="live",
        repeat=1,
        variables={},
        steady_state="errors < 1",
        stop_when=None,
        observers={
            name: Source(kind="none", every_s=0.25, cursor=False, yields=yields)
            for name, yields in (
                ("prom", ("alert", "gauge")),
                ("hooks", ("execution", "state")),
                ("inbox", ("message",)),
            )
        },
        uses_baseline=False,
    )


def rows(count: int, wall: float) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (source, kind, data) of a record of `count` events: one fault, one alert, and gauges all along."""
    alert = {"name": "TooSlow", "labels": {"alertname": "TooSlow"}, "fingerprint": "f" * 16, "starts_at": wall + 5}
    story: dict[int, tuple[str, str, dict[str, Any]]] = {
        0: ("sim", "run.opened", {"run": "bench"}),
        1: ("prom", "observer.seeing", {}),
        2: ("hooks", "observer.seeing", {}),
        3: ("inbox", "observer.seeing", {}),
        4: ("hooks", "state", {"fact": "gate", "value": "open"}),
        10: ("sim", "fault.prepared", {"fault": "b-1", "injector": "bench.fault", "text": "", "targets": ["x"]}),
        11: ("sim", "fault.t0", {"hold_s": 3600}),
        12: ("sim", "fault.applied", {"fault": "b-1"}),
        13: ("sim", "fault.effective", {"fault": "b-1", "evidence": {}}),
        20: ("prom", "alert", {**alert, "state": "firing"}),
        count - 20: ("prom", "alert", {**alert, "state": "resolved"}),
        count - 10: ("sim", "fault.withdrawing", {"fault": "b-1"}),
        count - 9: ("sim", "fault.gone", {"fault": "b-1", "evidence": {}}),
        count - 2: ("sim", "restored", {"ok": True, "differs": []}),
        count - 1: ("sim", "run.closed", {}),
    }
    for number in range(count):
        yield story.get(number) or ("prom", "gauge", {"fact": "errors", "value": number % 7 / 10})
