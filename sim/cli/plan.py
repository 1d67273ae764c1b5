"""``sim plan``: show what a run would do, in full, and what is expected of it."""

from __future__ import annotations

import json
import sys

import click


@click.command("plan")
@click.argument("selectors", nargs=-1)
@click.option("--tag", "tags", multiple=True, help="Every exercise with this tag.")
@click.option("--all", "all_", is_flag=True, help="Every exercise.")
@click.option("--target", metavar="NAME|FILE", help="The target profile; default: what sim.toml names, else mbp-local.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(selectors: tuple[str, ...], tags: tuple[str, ...], all_: bool, target: str | None, form: str) -> None:
    """Resolve exercises against a target and print their plans. Opens nothing, asks the target nothing."""
    from sim.cli._resolved import asked

    found = asked(selectors, tags, all_, target)
    plans = [each.plan for each in found.exercises if each.plan]
    if form == "json":
        click.echo(json.dumps([{**plan.as_json(), "digest": plan.digest()} for plan in plans], indent=2))
    else:
        click.echo("\n".join(_text(plan) for plan in plans), nl=bool(plans))
    for each in found.exercises:
        for warning in each.warnings:
            click.echo(f"warning: {warning}", err=True)
        for problem in each.problems:
            click.echo(problem.render(), err=True)
    if any(each.problems for each in found.exercises):
        sys.exit(3)


def _text(plan: object) -> str:
    from sim.duration import spell
    from sim.plan import Plan

    assert isinstance(plan, Plan)
    lines = [
        f"{plan.exercise} on {plan.target.target} ({plan.target.environment}), {plan.time}",
        f"  plan       {plan.digest()}",
        *(f"  inject     {each.text}   lease: {each.lease}   doors: {', '.join(each.doors)}" for each in plan.faults),
        f"  hold       {plan.hold}, at most {spell(plan.hold_s)}",
        f"  hook       {plan.hook_name or 'none: everything that begins after t0 counts'}",
        f"  steady     {plan.steady_state}",
        f"  observers  {', '.join(plan.observers)}",
        "  clauses",
    ]
    for clause in plan.clauses:
        since = "gone" if clause.stage == "recover" else "t0"
        lasting = clause.stage == "only" or clause.origin == "never"
        budget = "until close" if lasting else f"within {spell(clause.within_s)} of {since}"
        lines.append(f"    {clause.id:16} {clause.text}   [{budget}]")
    return "\n".join(lines) + "\n"
