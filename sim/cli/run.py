"""``sim run``: run exercises and say what held."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sim.around import Around, Stop
    from sim.cli._many import Ran, Summary
    from sim.cli._resolved import Asked
    from sim.judge import Judgement
    from sim.plan import Plan
    from sim.stack import Stack
    from sim.undo import Open


@dataclass(frozen=True, slots=True)
class Options:
    """How to run, from the command line."""

    stack: str
    keep_up: bool
    runs: Path | None
    form: str
    recover_first: bool
    allow_firing: Mapping[str, str]
    allow_target: Mapping[str, str]
    reports: Mapping[str, str]
    summary: str | None
    junit: str | None
    many: bool = False


#: What a finished run always leaves beside its record.
REPORTS = ("terminal", "json", "junit", "markdown")


@click.command("run")
@click.argument("selectors", nargs=-1)
@click.option("--tag", "tags", multiple=True, help="Every exercise with this tag.")
@click.option("--all", "all_", is_flag=True, help="Every exercise.")
@click.option("--target", metavar="NAME|FILE", help="The target profile; default: what sim.toml names, else mbp-local.")
@click.option("--stack", default="default", show_default=True, help="Which of several stacks of the target.")
@click.option("--keep-up", is_flag=True, help="Leave the stack up that this run brought up.")
@click.option("--allow-firing", multiple=True, metavar="NAME=REASON", help="Go on although this alert fires.")
@click.option("--allow-target", multiple=True, metavar="NAME=REASON", help="Go on although it looks like production.")
@click.option("--recover-first", is_flag=True, help="Finish what an earlier run left on this target, then run.")
@click.option("--report", "extra", multiple=True, metavar="NAME=PATH", help="Also write this report there.")
@click.option("--summary", metavar="FILE.md", help="Write what all runs came to there, as Markdown.")
@click.option("--junit", metavar="FILE.xml", help="Write all runs there, as one JUnit document.")
@click.option("--runs", type=click.Path(file_okay=False, path_type=Path), help="Where run folders go.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    selectors: tuple[str, ...],
    tags: tuple[str, ...],
    all_: bool,
    target: str | None,
    stack: str,
    keep_up: bool,
    allow_firing: tuple[str, ...],
    allow_target: tuple[str, ...],
    recover_first: bool,
    extra: tuple[str, ...],
    summary: str | None,
    junit: str | None,
    runs: Path | None,
    form: str,
) -> None:
    """Run exercises: SELECTORS are NAME, FILE or FILE::NAME.

    A stack that the target names is brought up when it is not, and taken down again unless --keep-up. Several exercises
    run one after the other, in the order of their files, and end with one summary.
    """
    from sim.cli._resolved import asked

    options = Options(
        stack=stack,
        keep_up=keep_up,
        runs=runs,
        form=form,
        recover_first=recover_first,
        allow_firing=dict(_pair(text, "--allow-firing") for text in allow_firing),
        allow_target=dict(_pair(text, "--allow-target") for text in allow_target),
        reports=dict(_pair(text, "--report") for text in extra),
        summary=summary,
        junit=junit,
    )
    found = asked(selectors, tags, all_, target)
    _known_reports(found, options.reports)
    for option, path in (("--summary", summary), ("--junit", junit)):
        _fits(option, path)
    sys.exit(_all(found, options))


def _all(found: Asked, options: Options) -> int:
    """Run what can run, sum up, and return the exit code."""
    from sim.cli._many import Ran, Summary, with_the_rest
    from sim.judge import worst_exit
    from sim.refusal import Refusal

    begun = time.monotonic()
    invalid = []
    for each in found.exercises:
        for warning in each.warnings:
            click.echo(f"warning: {warning}", err=True)
        if each.problems:
            click.echo("\n".join(problem.render() for problem in each.problems), err=True)
            reasons = tuple(str(problem.message) for problem in each.problems)
            invalid.append(Ran(each.selected.name, "invalid", 3, reasons=reasons))
    plans = [each.plan for each in found.exercises if each.plan]
    options = replace(options, many=len(found.exercises) > 1 or any(plan.repeat > 1 for plan in plans))
    ran: list[Ran] = []
    trouble: Exception | None = None
    refused = 0
    try:
        refused = _on_stack(found, plans, options, ran) if plans else 0
    except Exception as error:  # noqa: BLE001 - raised again below: what ran until then is summed up all the same
        trouble, refused = error, error.exit_code if isinstance(error, Refusal) else 7
    code = worst_exit([refused, *(each.exit_code for each in [*invalid, *ran])])
    wanted = [(each.selected.name, each.plan.repeat if each.plan else 1) for each in found.exercises]
    why = (str(trouble) or type(trouble).__name__,) if trouble else ()
    whole = with_the_rest(wanted, [*invalid, *ran], code, why)
    _sum_up(found, Summary(whole, code, time.monotonic() - begun), options)
    if trouble is not None:
        raise trouble
    return code


def _sum_up(found: Asked, summary: Summary, options: Options) -> None:
    """Print the summary of several runs, and write it where it was asked for."""
    from sim.cli import _many

    def reports(name: str) -> list[tuple[Ran, str]]:
        made = found.catalogue.report(name).file
        ran = [each for each in summary.runs if each.folder and (each.folder / made).is_file()]
        return [(each, (each.folder / made).read_text(encoding="utf-8")) for each in ran if each.folder]

    if options.summary:
        _written("the summary", options.summary, _many.markdown(summary, reports("markdown")))
    if options.junit:
        _written("the JUnit document", options.junit, _many.junit(summary, reports("junit")))
    if options.many:
        _printed(_many.as_json(summary) if options.form == "json" else "\n" + _many.text(summary))


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise click.UsageError(f"{option} takes NAME=VALUE, not {text!r}")
    return name, value


def _known_reports(found: Asked, reports: Mapping[str, str]) -> None:
    unknown = sorted(set(reports) - set(found.catalogue.reports))
    if unknown:
        raise click.UsageError(f"no report {unknown[0]!r}; there are: {', '.join(found.catalogue.reports)}")
    for name, path in reports.items():
        _fits(f"--report {name}=", path)


def _fits(option: str, path: str | None) -> None:
    """Refuse a place that cannot be written before hours are spent on what should go there."""
    if path is not None and (not Path(path).parent.is_dir() or Path(path).is_dir()):
        word = option if option.endswith("=") else f"{option} "
        raise click.UsageError(f"{word}{path}: {Path(path).parent} must be a folder, {path} a file in it")


def _unfinished(found: Asked, into: Path, made: Stack | None, first: bool) -> int:
    """Start nothing over faults that an earlier run may have left on the same target; 0 when nothing is left."""
    from sim import recover
    from sim.undo import JournalError

    try:
        folders = dict.fromkeys([into.resolve(), found.places.runs.resolve()])
        for journal in [each for folder in folders for each in recover.unfinished(folder)]:
            folder = journal.path.parent
            if journal.header.get("target") != found.target.target or recover.owner_alive(journal.header):
                continue
            if made is not None and journal.header.get("stack") not in (None, str(made.state_path.parent)):
                continue  # another stack of this target, with a life of its own
            ended = recover.ended_with_its_stack(journal)
            if (not ended and not first) or _recovered(found, journal, ended):
                click.echo(f"error: {folder.name} was cut short; first: {recover.line(folder)}", err=True)
                return 6
    except JournalError as error:
        click.echo(f"error: {error}", err=True)
        return 6
    return 0


def _recovered(found: Asked, journal: Open, ended: bool) -> int:
    """Finish one earlier run, or what it left here if its stack has ended; return 0 when nothing of it is left.

    Not while its watchdog, or another recovery, is at work on that target.
    """
    from sim import machine, recover
    from sim.secret import Secrets

    folder, secrets = journal.path.parent, Secrets()

    def say(kind: str, data: Mapping[str, Any]) -> None:
        click.echo(f"  {kind} {data.get('fault') or data.get('fact')}", err=True)

    try:
        hold = machine.hold(str(journal.header.get("target")), str(journal.header.get("instance")), folder.name)
    except machine.Taken as taken:
        click.echo(f"{folder.name}: {taken}; wait for it, or stop it first", err=True)
        return 6
    try:
        if ended:
            left = asyncio.run(recover.finish_here(journal, found.catalogue, secrets, say, "run"))
        else:
            left = asyncio.run(recover.recover(folder, found.catalogue, secrets, say))
    finally:
        hold.release()
    for reason in left.reasons:
        click.echo(f"{folder.name}: {reason}", err=True)
    return 6 if left.reasons else 0


def _on_stack(found: Asked, plans: list[Plan], options: Options, ran: list[Ran]) -> int:
    """Bring the stack up where there is one, run every plan, and take down what was brought up.

    What each came to is added to `ran`. Return the exit code of a refusal to run any, else 0.
    """
    from sim import stack

    into = options.runs or found.places.runs
    made: Stack | None = None
    if found.target.stack:
        file = stack.spec_path(found.target.stack, found.places)
        made = stack.up(file, options.stack, found.places, owned=not options.keep_up, on_progress=_told)
    try:
        refused = _unfinished(found, into, made, options.recover_first)
        if refused:
            return refused
        for plan in plans:
            for _ in range(plan.repeat):
                one, go_on = _one(found, plan, into, made, options)
                ran.append(one)
                if not go_on:
                    return 0
    finally:
        if made is not None:
            made.close()
    return 0


def _one(found: Asked, plan: Plan, into: Path, made: Stack | None, options: Options) -> tuple[Ran, bool]:
    """Run one plan once; return what it came to, and whether another run may follow."""
    from sim.around import Around
    from sim.cli._many import Ran
    from sim.cli._progress import Progress
    from sim.run import new_run_id
    from sim.secret import Secrets

    folder = into / new_run_id(plan.exercise, time.strftime("%Y%m%d-%H%M%S"))
    begun = time.monotonic()
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        return _no_disk(plan, folder, error)
    progress = Progress()
    around = Around(
        names=found.catalogue,
        secrets=Secrets(),
        exports=made.exports if made else {},
        base=found.base,
        allow_firing=options.allow_firing,
        allow_target=options.allow_target,
        past=dict(made.past) if made and made.past else None,
        owner_fd=made.owner_fd if made else None,
        stack=str(made.state_path.parent) if made else None,
        on_event=progress.event,
        on_judge=progress.judging,
    )
    click.echo(f"{plan.exercise} on {plan.target.target}: {_near(folder)}", err=True)
    try:
        with _listening(around.stop):
            judgement = asyncio.run(_handled(plan, folder, around))
    except OSError as error:  # before the first line of the record: later ones do not raise
        if (folder / "undo.jsonl").exists():
            raise
        return _no_disk(plan, folder, error)
    finally:
        with contextlib.suppress(OSError):  # the terminal may be gone
            progress.close()
    if (folder / "verdicts.json").exists():
        _render(found, folder, options)
    else:
        for reason in judgement.reasons:
            click.echo(f"{judgement.outcome}: {reason}", err=True)
    if judgement.exit_code == 6:
        from sim.recover import line

        click.echo(f"UNSAFE: finish it with: {line(folder)}", err=True)
    took_s = time.monotonic() - begun
    outcome, code, link, reasons = judgement.outcome, judgement.exit_code, judgement.link, judgement.reasons
    one = Ran(plan.exercise, str(outcome), code, link, reasons, folder, took_s)
    return one, code != 6 and around.stop.by not in ("signal", "halt")


def _no_disk(plan: Plan, folder: Path, error: OSError) -> tuple[Ran, bool]:
    from sim.cli._many import Ran

    why = f"{_near(folder)} cannot be written: {error.strerror or error}; nothing was injected"
    click.echo(f"error: {why}", err=True)
    return Ran(plan.exercise, "inconclusive", 4, reasons=(why,)), False


async def _handled(plan: Plan, folder: Path, around: Around) -> Judgement:
    """Run with signals turned into a flag: a handler that raised could skip the withdrawal."""
    import signal

    from sim.run import run

    loop = asyncio.get_running_loop()
    caught = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    for each in caught:
        loop.add_signal_handler(each, around.stop.ask, "signal", f"{each.name} received", each.name)
    try:
        return await run(plan, folder, around)
    finally:
        for each in caught:
            loop.remove_signal_handler(each)


@contextlib.contextmanager
def _listening(stop: Stop) -> Iterator[None]:
    """Take signals until the loop does: asyncio's own handler would end the story by force."""
    import signal

    def heard(number: int, _: object) -> None:
        name = signal.Signals(number).name
        stop.ask("signal", f"{name} received", name)

    before = {each: signal.signal(each, heard) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _render(found: Asked, folder: Path, options: Options) -> None:
    """Write the reports into the run folder, and print one; of several as JSON only the summary is printed."""
    from sim.report import finished

    run = finished(folder)
    shown: dict[str, Any] = {}
    for name in dict.fromkeys([*REPORTS, *options.reports]):
        report = found.catalogue.report(name)
        shown[name] = report.render(run)
        if not _written(f"the report {name}", str(folder / report.file), shown[name]):
            with contextlib.suppress(OSError):  # half a report would be read as a whole one
                (folder / report.file).unlink()
    for name, path in options.reports.items():
        _written(f"the report {name}", path, shown[name])
    if options.form == "text" or not options.many:
        _printed(shown["json" if options.form == "json" else "terminal"], f"it is in {_near(folder)}")


def _written(what: str, path: str, text: str) -> bool:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        click.echo(f"{what} could not be written to {path}: {error.strerror}", err=True)
        return False
    return True


def _printed(text: str, instead: str = "the runs lie in their folders") -> None:
    try:
        click.echo(text, nl=False)
        sys.stdout.flush()
    except OSError as error:  # a full or closed standard output costs the print, not the result
        click.echo(f"the report could not be printed ({error.strerror}); {instead}", err=True)


def _told(what: str) -> None:
    click.echo(f"  {what}", err=True)


def _near(folder: Path) -> str:
    try:
        return os.path.relpath(folder)
    except ValueError:
        return str(folder)
