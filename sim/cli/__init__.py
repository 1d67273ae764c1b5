"""The command line: one file a verb, each with a value `command`, imported when it is used and not before.

What a room brings of its own (``sim.commands`` entry points) is a verb like any other. The one-line help of a verb is
the first line of its module's docstring, read from the file, so that ``sim --help`` imports no verb and no tool.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import click

from sim import __version__


class Verbs(click.Group):
    """The group of all verbs: finds them by their files, and gives every ending its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all verbs, sorted."""
        return sorted(_verbs())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the verb called `cmd_name`, imported now, or None."""
        found = _verbs().get(cmd_name)
        if found is None:
            return None
        command = getattr(importlib.import_module(found[0]), "command", None)
        if not isinstance(command, click.Command):
            raise click.ClickException(f"the verb {cmd_name!r} is broken: {found[0]} has no value named 'command'")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb that `args` begin with; say which one was meant where there is none."""
        if args and not args[0].startswith("-") and args[0] not in _verbs():
            from sim.problem import did_you_mean

            raise click.UsageError(f"there is no verb {args[0]!r}; {did_you_mean(args[0], _verbs(), 'verbs')}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing one."""
        rows = [(name, _summary(file)) for name, (_, file) in sorted(_verbs().items())]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb. A `Refusal` ends with its own exit code, an interrupt with 130, a bug of ours with 7."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise click.exceptions.Exit(130) from None
        except Exception as error:
            code = _tell(error)
            raise click.exceptions.Exit(code) from error


def _tell(error: Exception) -> int:
    """Tell the user why the verb ended, and return the exit code."""
    import traceback

    from sim.problem import InvalidFile, Refusal

    if isinstance(error, InvalidFile):
        click.echo(str(error), err=True)
        return error.exit_code
    if isinstance(error, Refusal):
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    click.echo("".join(traceback.format_exception(error)).rstrip(), err=True)
    click.echo("error: this is a bug of sim itself, not of your files", err=True)
    return 7


def _verbs() -> dict[str, tuple[str, str]]:
    """Return the verbs: name → (module, file). Raises `click.ClickException` where two packages bring one name."""
    found: dict[str, tuple[str, str]] = {}
    for name, module, file in _modules():
        other = found.setdefault(name, (module, file))
        if other[0] != module:
            raise click.ClickException(f"two packages bring the verb {name!r}: {other[0]} and {module}")
    return found


def _modules() -> Iterator[tuple[str, str, str]]:
    from sim.rooms import RoomMissing, modules, named_in

    packages = ["sim.cli", *(room.package for room in named_in("sim.commands"))]
    for package in dict.fromkeys(packages):
        try:
            found = modules(package)
        except RoomMissing as error:
            click.echo(f"warning: verbs of {package} are missing: {error}", err=True)
            continue
        for name, file in found.items():
            yield name.replace(".", "-").replace("_", "-"), f"{package}.{name}", file


def _summary(file: str) -> str:
    """Return the first line of a module's docstring, without importing the module, less a leading ``sim verb``:."""
    with open(file, encoding="utf-8") as source:  # noqa: PTH123 (pathlib is not needed for --help)
        text = source.readline().strip().strip('"').rstrip(".")
    if text.startswith("``sim "):
        text = text.partition("``: ")[2]
    return text[:1].upper() + text[1:]


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="sim", message="%(prog)s %(version)s")
def cli() -> None:
    """Break something on purpose, and prove that it was seen, acted on, told, and put right.

    Exit codes: 0 passed, 1 failed, 2 usage, 3 invalid file, 4 inconclusive or aborted, 5 nothing selected, 6 unsafe (a
    fault may still be there), 7 a bug of sim, 8 evidence does not verify, 130/143 interrupted, after withdrawing.
    """


def main() -> None:
    """Run the command line: what the `sim` script calls."""
    from sim.refusal import Refusal
    from sim.rooms import stand_together

    try:
        stand_together()
    except Refusal as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from error
    cli(prog_name="sim")
