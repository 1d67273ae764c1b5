"""Finished runs made by hand: one that passed, and what makes others of it. Nothing here comes from a real run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sim.event import Event
from sim.exercise import Exercise
from sim.judge.verdict import Outcome, Verdict
from sim.plan import Clause, Fault, Plan, Source
from sim.report import Finished
from sim.target import Target, Within

WALL = 1_700_000_000.0

TARGET = Target.model_validate(
    {
        "target": "shop",
        "environment": "lab",
        "identity": {"url": "http://127.0.0.1:1/identity"},
        "observers": {
            "prom": {"kind": "prometheus", "every": 0.25},
            "hooks": {"kind": "hook_log", "every": 0.25},
            "inbox": {"kind": "inbox", "every": 0.5},
        },
        "facts": {
            "alert": {"kind": "event", "stage": "detect", "from": "prom"},
            "action": {"kind": "event", "stage": "act", "from": "hooks", "sequence": "+"},
            "gate": {"kind": "state", "stage": "act", "from": "hooks", "values": ["open", "blocked"]},
            "notify": {"kind": "event", "stage": "notify", "from": "inbox"},
            "errors": {"kind": "gauge", "from": "prom", "query": "errors"},
        },
        "owners": {"SRE": {"slack": "#sre"}, "FE": {"slack": "#fe"}},
        "hooks": {
            "slow": {
                "alerts": ["TooSlow"],
                "owner": "SRE",
                "channels": ["slack"],
                "actions": [{"name": "block", "effect": "gate=='blocked'", "reversal": "on_resolved"}],
            }
        },
        "steady_state": "errors < 1",
    }
)


def _clause(
    id_: str, stage: Any, kind: Any, text: str, within_s: float, origin: Any = "implied", **more: Any
) -> Clause:
    return Clause(id=id_, origin=origin, stage=stage, kind=kind, text=text, within_s=within_s, **more)


CLAUSES = (
    _clause("effect", "effect", "effect", "the fault bites", 10),
    _clause("detect", "detect", "alert", "alert TooSlow fires", 15),
    _clause("act", "act", "action", "block is done and its effect read back", 20),
    _clause("notify:slack", "notify", "message", "SRE is told by slack", 25, channel="slack"),
    _clause("only", "only", "only", "no other action, owner or duplicate", 180),
    _clause("recover", "recover", "recover", "all is well again", 180),
    _clause("expect.1", "act", "event", "action == 'block'", 20, "expect", facts=("action",)),
    _clause("never.1", "notify", "event", "notify == 'FE'", 25, "never", facts=("notify",)),
)

PLAN = Plan(
    sim="0.1.0",
    exercise="slow_answers",
    written=Exercise(inject=("net.delay('+1s')",), expect="action=='block'", never="notify=='FE'"),
    target=TARGET,
    faults=(Fault(injector="net.delay", text="net.delay('+1s')", params={"by": 1.0}, lease="target", doors=()),),
    hook_name="slow",
    clauses=CLAUSES,
    within=Within(effect=10, detect=15, act=20, notify=25, recover=180),
    hold_s=300,
    hold="witnessed",
    time="live",
    repeat=1,
    variables={},
    steady_state="errors < 1",
    stop_when=None,
    observers={
        "prom": Source(kind="prometheus", every_s=0.25, cursor=False, yields=("alert", "gauge")),
        "hooks": Source(kind="hook_log", every_s=0.25, cursor=True, yields=("execution", "state")),
        "inbox": Source(kind="inbox", every_s=0.5, cursor=True, yields=("message",)),
    },
    uses_baseline=False,
)

TIMING = {
    "source": "live",
    "stages": {
        "detect": {"floor_s": 1.0, "expected_s": 2.5, "worst_s": 4.0},
        "act": {"floor_s": 1.0, "expected_s": 3.0, "worst_s": 5.0},
        "notify": {"floor_s": 1.0, "expected_s": 3.0, "worst_s": 5.0},
    },
    "window_s": 60.0,
    "group_interval_s": 1.0,
    "notes": ["live for: 0s, declared 0s"],
    "missing": [],
}

Row = tuple[float, str, str, Mapping[str, Any]]


def firing(at: float, name: str, state: str = "firing", began: float | None = None, **labels: str) -> Row:
    """Return the row of an alert seen at `at` (s of the record); it began then unless `began` says otherwise."""
    starts_at = WALL + (at if began is None else began)
    data = {"name": name, "labels": {"alertname": name, **labels}, "fingerprint": f"{name:0<16.16}".lower()}
    return (at, "prom", "alert", {**data, "starts_at": starts_at, "state": state})


def closing(late_s: float = 0.31) -> list[Row]:
    """Return how well the observers looked, and the end of the record."""
    looked = {"polls": 200, "misses": 0, "lateness_max_s": late_s}
    rows: list[Row] = [(40.0, name, "observer.closed", looked) for name in ("prom", "hooks")]
    return [*rows, (40.0, "inbox", "observer.closed", {**looked, "polls": 100}), (40.0, "sim", "run.closed", {})]


def opening() -> list[Row]:
    """Return the record up to the last look before the injection."""
    opened = {"run": "r-1", "exercise": "slow_answers", "target": "shop", "plan": "", "sim": "0.1.0", "time": "live"}
    rows: list[Row] = [(0.0, "sim", "run.opened", {**opened, "past": None})]
    rows += [(0.2, name, "observer.seeing", {}) for name in ("prom", "hooks", "inbox")]
    return [
        *rows,
        (0.3, "sim", "timing", TIMING),
        (0.4, "prom", "observer.offset", {"offset_s": 0.002, "error_s": 0.006}),
        (0.5, "sim", "preflight", {"check": "environment", "ok": True, "detail": "lab, instance a1"}),
        (0.6, "hooks", "state", {"fact": "gate", "value": "open"}),
    ]


def injected() -> list[Row]:
    """Return the record from prepare until the fault was proven to bite; t0 is second 10."""
    prepared = {"fault": "ab-1", "injector": "net.delay", "text": "net.delay('+1s')", "targets": ["edge", "core"]}
    return [
        (9.9, "sim", "fault.prepared", prepared),
        (10.0, "sim", "fault.t0", {"hold_s": 300}),
        (10.1, "sim", "fault.applied", {"fault": "ab-1"}),
        (11.2, "sim", "fault.effective", {"fault": "ab-1", "evidence": {"delay_s": 1.01, "open": True}}),
    ]


def withdrawn() -> list[Row]:
    """Return the record of a withdrawal that was read back, and of a target that needed one call to be as before."""
    return [
        (20.0, "sim", "fault.withdrawing", {"fault": "ab-1"}),
        (20.5, "sim", "fault.gone", {"fault": "ab-1", "evidence": {"open": False}}),
        (38.0, "sim", "restore.called", {"fact": "gate", "reads": "blocked", "prior": "open", "by": "runner"}),
        (39.0, "sim", "restored", {"ok": True, "differs": []}),
    ]


def events(rows: Iterable[Row]) -> tuple[Event, ...]:
    """Return rows of (second, source, kind, data) as the events of a record."""
    return tuple(
        Event(seq, at, WALL + at, None, source, kind, data, "") for seq, (at, source, kind, data) in enumerate(rows)
    )


def verdict(clause: str, value: Any, **more: Any) -> dict[str, Any]:
    """Return one verdict as it stands in the file."""
    of = next(each for each in CLAUSES if each.id == clause)
    made = Verdict(of.id, of.origin, of.stage, of.text, value, of.within_s, expected=of.text, **more)
    return made.as_json()


def all_met() -> dict[str, dict[str, Any]]:
    """Return every clause met, by its name."""
    made = [
        verdict("effect", "met", took_s=1.2, actual="proven by the injector's own probe"),
        verdict("detect", "met", took_s=3.4, from_effective_s=2.2, actual="TooSlow is firing", because=(14,)),
        verdict("act", "met", took_s=4.1, from_effective_s=2.9, actual="done and read back", because=(15, 16)),
        verdict("notify:slack", "met", took_s=4.5, from_effective_s=3.3, actual="received at #sre", because=(17,)),
        verdict("only", "met"),
        verdict("recover", "met", took_s=12.0, actual="steady state, alerts resolved, actions reversed"),
        verdict("expect.1", "met", took_s=4.1, from_effective_s=2.9, actual="action was 'block'", because=(15,)),
        verdict("never.1", "met", actual="no notify"),
    ]
    return {each["clause"]: each for each in made}


MARKS = {"t0": 10.0, "effective": 11.2, "withdrawing": 20.0, "gone": 20.5, "closed": 40.0}


def finished(
    rows: Iterable[Row] | None = None,
    verdicts: Mapping[str, Mapping[str, Any]] | None = None,
    outcome: Outcome = Outcome.PASSED,
    link: str | None = None,
    reasons: tuple[str, ...] = (),
    marks: Mapping[str, float] | None = None,
    name: str = "r-1",
) -> Finished:
    """Return a finished run: by default one that passed; `verdicts` replace those of the clauses that they name."""
    story = [*opening(), *injected(), firing(13.4, "TooSlow"), *withdrawn(), *closing()]
    judgement = {
        "format": 1,
        "outcome": str(outcome),
        "exit_code": outcome.exit_code,
        "link": link,
        "reasons": list(reasons),
        "verdicts": list({**all_met(), **(verdicts or {})}.values()),
        "plan": "d" * 64,
        "marks": dict(MARKS if marks is None else marks),
    }
    return Finished(name, PLAN, judgement, events(story if rows is None else rows))


def none_judged(reason: str) -> dict[str, dict[str, Any]]:
    """Return every clause unknown for the same reason."""
    return {clause.id: verdict(clause.id, "unknown", reason=reason) for clause in CLAUSES}


def passed() -> Finished:
    """Return a run that passed."""
    return finished()


def failed() -> Finished:
    """Return a run that failed at *act*: nothing was blocked in time, and somebody else's alert began meanwhile."""
    rows = [
        *opening(),
        *injected(),
        firing(12.5, "DiskFull", disk="sda"),
        firing(12.7, "OldTrouble", began=5.0),
        firing(13.0, "Pending", state="pending"),
        firing(13.4, "TooSlow"),
        *withdrawn(),
        *closing(),
    ]
    missed = verdict("act", "missed", actual="block was not done", reason="block was not done", late_s=14.0)
    never = verdict(
        "never.1", "missed", actual="FE was told", reason="it came true: FE was told", because=(19,), took_s=5.0
    )
    blind = verdict("recover", "unknown", reason="prom was blind from +30.1 s: refused")
    return finished(
        rows,
        {"act": missed, "never.1": never, "recover": blind},
        Outcome.FAILED,
        "act",
        ("act: block was not done", "never.1: it came true: FE was told"),
    )


def refused() -> Finished:
    """Return a run that was refused before anything was touched."""
    check = {"check": "foreign alert", "ok": False, "detail": "DiskFull is firing; --allow-firing goes on all the same"}
    reason = f"foreign alert: {check['detail']}"
    rows = [*opening(), (1.0, "sim", "preflight", check), *closing()]
    unknown = none_judged("the run ended before this could be settled")
    return finished(rows, unknown, Outcome.INCONCLUSIVE, "foreign alert", (reason,), {"closed": 40.0})


def ineffective() -> Finished:
    """Return a run whose fault was never seen to bite; the clauses behind it ran out of time meanwhile."""
    rows = [
        *opening(),
        *[row for row in injected() if row[2] != "fault.effective"],
        (20.0, "sim", "fault.ineffective", {"reason": "not seen to bite within 10 s (delay_s 0)"}),
        *withdrawn(),
        *closing(),
    ]
    verdicts = {clause.id: verdict(clause.id, "missed", reason="nothing came") for clause in CLAUSES}
    reason = "the fault never bit: not seen to bite within 10 s (delay_s 0)"
    verdicts["effect"] = verdict("effect", "unknown", reason=reason)
    marks = {name: at for name, at in MARKS.items() if name != "effective"}
    return finished(rows, verdicts, Outcome.INCONCLUSIVE, "effect", (reason,), marks)


def unsafe() -> Finished:
    """Return a run whose fault is not proven gone, from a folder with a blank in its name."""
    rows = [
        *opening(),
        *injected(),
        (20.0, "sim", "fault.withdrawing", {"fault": "ab-1"}),
        (28.0, "sim", "fault.stuck", {"fault": "ab-1", "reason": "still there: open True"}),
        (29.0, "sim", "restored", {"ok": False, "differs": ["gate reads 'blocked', was 'open'"]}),
        *closing(),
    ]
    verdicts = {"recover": verdict("recover", "unknown", reason="the run ended before this could be settled")}
    marks = {name: at for name, at in MARKS.items() if name != "gone"}
    reasons = ("ab-1 is not proven gone: still there: open True",)
    return finished(rows, verdicts, Outcome.UNSAFE, "withdraw", reasons, marks, name="r 1")


def broken() -> Finished:
    """Return a run that our own bug ended, with every clause met all the same."""
    rows = [*opening(), *injected(), *withdrawn(), (39.5, "sim", "run.error", {"error": "KeyError: 'x'"}), *closing()]
    return finished(rows, None, Outcome.ERROR, None, ("KeyError: 'x'",))


def aborted() -> Finished:
    """Return a run that a stop condition ended."""
    stopped = {"by": "condition", "reason": "errors > 5 is true: errors is 9", "signal": None}
    rows = [*opening(), *injected(), (11.3, "sim", "stopped", stopped), *withdrawn(), *closing()]
    unknown = {clause.id: verdict(clause.id, "unknown", reason="stopped at +1.3 s") for clause in CLAUSES[1:]}
    marks = {**MARKS, "stopped": 11.3}
    return finished(rows, unknown, Outcome.ABORTED, None, (str(stopped["reason"]),), marks)


ALL = {
    "passed": passed,
    "failed": failed,
    "refused": refused,
    "ineffective": ineffective,
    "unsafe": unsafe,
    "broken": broken,
    "aborted": aborted,
}
