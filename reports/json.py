"""Everything that a machine may want to know about a run, in one JSON object.

Times of clauses count from t0 or from *gone*, as `anchor` says; times of faults, marks and blind spans are seconds of
the record. The output is ASCII with a fixed order of keys: the same run gives the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from reports._view import View
from sim.report import Finished, Report


def render(finished: Finished) -> str:
    """Return the run as one JSON object, with a newline at its end."""
    return json.dumps(_object(View(finished)), indent=2, allow_nan=False) + "\n"


def _object(view: View) -> dict[str, Any]:
    plan = view.plan
    opened = view.first("run.opened")
    t0 = view.first("fault.t0")
    return {
        "format": 1,
        "run": view.run,
        "outcome": str(view.outcome),
        "exit_code": view.exit_code,
        "link": view.link,
        "reasons": list(view.reasons),
        "recover_command": view.recover_command,
        "exercise": plan.exercise,
        "title": plan.written.title,
        "target": plan.target.target,
        "plan": view.digest,
        "sim": plan.sim,
        "hook": plan.hook_name,
        "owner": plan.owner,
        "time": plan.time,
        "n": 1,
        "opened_wall": opened.wall if opened else None,
        "t0_wall": t0.wall if t0 else None,
        "duration_s": round(view.duration_s, 6),
        "marks": view.marks,
        "environment": _environment(view),
        "past": opened.data.get("past") if opened else None,
        "clauses": [asdict(line) for line in view.lines],
        "stages": [asdict(stage) for stage in view.stages],
        "timing": view.timing,
        "observers": [_observer(each) for each in view.observers],
        "faults": [asdict(fault) for fault in view.faults],
        "restore": {
            "called": [dict(event.data) for event in view.of("restore.called")],
            "differs": None if view.restored is None else list(view.restored),
        },
        "checks": [dict(event.data) for event in view.of("preflight", "baseline")],
        "collateral": [asdict(each) for each in view.collateral],
        "stopped": [dict(event.data) for event in view.of("stopped")],
        "notes": list(view.notes),
        "errors": list(view.errors),
    }


def _environment(view: View) -> dict[str, Any]:
    """Return the label that the profile demands, and what the live target said of itself (null: it was not asked)."""
    said = next((e.data for e in view.of("preflight") if e.data.get("check") == "environment"), None)
    return {"expected": view.plan.target.environment, "said": said["detail"] if said and said["ok"] else None}


def _observer(observer: Any) -> dict[str, Any]:
    made = asdict(observer)
    made["blind"] = [{"from_s": start, "to_s": end, "error": why} for start, end, why in observer.blind]
    return made


report = Report(summary="everything about the run as one JSON object", file="report.json", render=render)
