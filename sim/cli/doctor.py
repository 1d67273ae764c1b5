"""``sim doctor``: what was found where, or whether a target can be judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sim.places import Places
    from sim.tools import Found, Missing, Tools

_FORMATS = click.Choice(["text", "json"])


def file_of(tools_file: str | None) -> Path | None:
    """Return the tools file that the user named, or None. Raises `Usage` when it does not exist."""
    from sim.problem import Usage

    if tools_file is not None and not Path(tools_file).is_file():
        raise Usage(f"no tools file {tools_file}")
    return None if tools_file is None else Path(tools_file)


def line(found: Found | Missing) -> str:
    """Return one line about a tool."""
    from sim.tools import Found

    if isinstance(found, Found):
        return f"{found.tool:14} {found.version:20} {found.source:13} {found.path}"
    return f"{found.tool:14} {'-':20} {'not here':13} {'; '.join(found.notes)}"


@click.command("doctor")
@click.option("--tools", "tools_file", type=click.Path(dir_okay=False), help="Tools file; default: compose/tools.yaml.")
@click.option("--target", metavar="NAME|FILE", help="Examine this target instead, by real calls that change nothing.")
@click.option("--stack", default="default", show_default=True, help="Which of several stacks of the target.")
@click.option("--format", "form", type=_FORMATS, default="text", show_default=True)
def command(tools_file: str | None, target: str | None, stack: str, form: str) -> None:
    """Show which tools and folders were found where; exits 4 when a required tool is not here.

    With --target: ask everything that the profile names what a run would ask before its fault (who the target is,
    whether each observer sees, whether the rules are loaded, who is at each door, whether each fault finds something to
    hit). Exits 4 unless all that its exercises need is seeing, 3 when the profile is invalid. Nothing is changed.
    """
    from sim import tools
    from sim.places import places

    if target is not None:
        from sim.cli._health import told

        sys.exit(0 if told(target, stack, form) else 4)
    here = places()
    known = tools.load(file_of(tools_file), here)
    findings = tools.survey(known, here.tools)
    lost = [each.tool for each in findings if isinstance(each, tools.Missing) and not known.tools[each.tool].optional]
    if form == "json":
        click.echo(json.dumps(_report(here, known, findings, lost), indent=1))
    else:
        click.echo("\n".join(_text(here, findings)))
    if lost:
        click.echo(f"{', '.join(lost)}: not here; run: sim setup", err=True)
        if known.hint():
            click.echo(f"or by hand: {known.hint()}", err=True)
        sys.exit(4)


def _folders(here: Places) -> list[tuple[str, str]]:
    lists = (("scenarios", here.scenario_dirs), ("compose", here.compose_dirs))
    return [
        ("project", str(here.root)),
        ("state", str(here.state)),
        ("runs", str(here.runs)),
        *((name, ", ".join(str(path) for path in folders)) for name, folders in lists),
    ]


def _text(here: Places, findings: list[Found | Missing]) -> list[str]:
    python = f"{'python':14} {sys.version.split()[0]:20} {'':13} {sys.executable}"
    return [python, *map(line, findings), "", *(f"{name:14} {value}" for name, value in _folders(here))]


def _report(here: Places, known: Tools, findings: list[Found | Missing], lost: list[str]) -> dict[str, Any]:
    from sim.tools import Found

    return {
        "ok": not lost,
        "python": {"version": sys.version.split()[0], "path": sys.executable},
        "folders": dict(_folders(here)),
        "tools": [
            {
                "tool": each.tool,
                "optional": known.tools[each.tool].optional,
                "version": each.version if isinstance(each, Found) else None,
                "source": each.source if isinstance(each, Found) else None,
                "path": str(each.path) if isinstance(each, Found) else None,
                "notes": [] if isinstance(each, Found) else list(each.notes),
            }
            for each in findings
        ],
        "hint": known.hint(),
    }
