"""``sim status``: which stacks there are, and how they are."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sim.places import Places

_EVENTS_SHOWN = 5


@click.command("status")
@click.option("--stack", "name", default=None, help="Only this stack; then the exit code is 4 unless it is ready.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(name: str | None, form: str) -> None:
    """Show the stacks of this project: phase, processes, addresses, what happened last."""
    from sim import stack
    from sim.places import places

    here = places()
    reports = [_report(each, here) for each in ([name] if name is not None else stack.names(here))]
    if form == "json":
        click.echo(json.dumps(reports, indent=1))
    else:
        click.echo("\n\n".join(map(_text, reports)) or "no stack has been up here")
    if name is not None and reports[0]["phase"] != "ready":
        sys.exit(4)


def _report(name: str, here: Places) -> dict[str, Any]:
    """Return what is known of a stack: what its state file says, corrected by what really lives."""
    from sim import stack

    state, supervised = stack.read(name, here)
    if state is None:
        phase = "torn" if supervised else "orphaned" if stack.containers(name, here) else "down"
        return {"stack": name, "phase": phase, "processes": {}, "exports": {}, "events": []}
    processes = {}
    for each, record in state.processes.items():
        process = record.proc()
        alive = process is not None and process.alive()
        processes[each] = {
            "state": record.state,
            "pid": record.pid if alive else None,
            "restarts": record.restarts,
            "exit_code": record.exit_code,
        }
    phase = state.phase
    if not supervised and stack.containers(name, here):  # also where it ended in order, and could not remove them
        phase = "orphaned"
    elif not supervised and phase not in ("down", "failed"):  # its supervisor was killed
        phase = "orphaned" if any(each["pid"] for each in processes.values()) else "dead"
    return {
        "stack": name,
        "kind": state.kind,
        "phase": phase,
        "owned": state.owned and supervised,
        "spec": state.spec,
        "instance": state.instance,
        "supervisor": state.pid if supervised else None,
        "since": state.since,
        "ready_after_s": state.ready_after_s,
        "processes": processes,
        "exports": state.exports if supervised else {},
        "past": state.past,
        "events": [event.model_dump() for event in state.events],
        "error": state.error,
    }


def _text(report: dict[str, Any]) -> str:
    owner = " (goes with the run that brought it up)" if report.get("owned") else ""
    lines = [f"{report['stack']}: {report['phase']}{owner}"]
    if report.get("instance"):
        lines.append(f"  instance {report['instance']}, from {report['spec']}")
    containers = report.get("kind") == "compose"
    for name, process in report["processes"].items():
        pid = f"pid {process['pid']}" if process["pid"] else "container" if containers else "not running"
        restarts = f", restarted {process['restarts']} times" if process["restarts"] else ""
        lines.append(f"  {name:16} {process['state']:10} {pid}{restarts}")
    lines += [f"  {name:18} {value}" for name, value in report["exports"].items()]
    lines += [f"  - {event['what']}" for event in report["events"][-_EVENTS_SHOWN:]]
    if report.get("error"):
        lines.append(f"  error: {report['error']}")
    return "\n".join(lines)
