"""The clauses that nobody has to write: effect, and with a bound hook detect, act, notify, only; and recover."""

from __future__ import annotations

from typing import Any

from sim.plan import Clause, Kind, Stage
from sim.target import Hook, Within


def implied(hook: Hook | None, within: Within) -> list[Clause]:
    """Return what is judged of every exercise, and with a hook of its whole chain."""

    def clause(stage: Stage, kind: Kind, text: str, suffix: str = "", **more: Any) -> Clause:
        return Clause(
            id=stage + suffix,
            origin="implied",
            stage=stage,
            kind=kind,
            text=text,
            within_s=budget(within, stage),
            **more,
        )

    clauses = [clause("effect", "effect", "the fault bites")]
    if hook:
        clauses.append(clause("detect", "alert", f"alert {' or '.join(hook.alerts)} fires"))
        if hook.actions:
            names = "+".join(action.name for action in hook.actions)
            clauses.append(clause("act", "action", f"{names} is done and its effect read back"))
        clauses += [
            clause("notify", "message", f"{hook.owner} is told by {channel}", f":{channel}", channel=channel)
            for channel in hook.channels
        ]
        clauses.append(clause("only", "only", "no other action, owner or duplicate"))
    clauses.append(clause("recover", "recover", "all is well again"))
    return clauses


def budget(within: Within, stage: Stage) -> float:
    """Return the seconds that a link may take; `only` is watched until all is well again."""
    key = {"only": "recover"}.get(stage, stage)
    value = getattr(within, key)
    assert isinstance(value, float | int), f"the target profile fills every budget, {key} too"
    return float(value)
