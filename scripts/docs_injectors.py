"""Writes docs/injectors: one page per injector and their index, from nothing but what the injectors declare.

``python -m scripts.docs_injectors`` writes, ``--check`` only tells what is not as it would be written (exit 1). What
stands on a page comes from the module (docstring), the value in it (summary, arguments, doors, lease), the docstrings
of its probes, the bundled target profiles (doors, hooks) and the bundled exercises.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from sim import expression
from sim.around import TTL_S
from sim.catalogue import catalogue
from sim.duration import seconds, spell
from sim.injector import Injector
from sim.judge import Outcome
from sim.loading import DEFAULT_TARGET, load_scenario

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "injectors"
ROOM = "injectors"
AGAIN = "python -m scripts.docs_injectors"
INDEX = "README.md"

Profiles = Mapping[str, Mapping[str, Any]]
#: injector → (exercise, file below the project, how it is called)
Uses = Mapping[str, list[tuple[str, str, str]]]


# -- what there is ---------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """Return the names of the injectors that this project brings."""
    return sorted(name for name, room in catalogue().entries["sim.injectors"].items() if room.package == ROOM)


def profiles(root: Path = ROOT) -> Profiles:
    """Return the bundled target profiles as they are written, by name, the default one first."""
    files = sorted(
        (root / "scenarios" / "targets").glob("*.yaml"), key=lambda file: (file.stem != DEFAULT_TARGET, file)
    )
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}


def uses(root: Path = ROOT) -> Uses:
    """Return which bundled exercises use which injector."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for file in sorted((root / "scenarios").glob("*.yaml")):
        for exercise, written in load_scenario(file).exercises.items():
            for each in written.inject:
                name = expression.parse_call(each).name if isinstance(each, str) else each.call
                text = each if isinstance(each, str) else f"{each.call}, in the long form"
                found.setdefault(name, []).append((exercise, file.relative_to(root).as_posix(), text))
    return found


# -- arguments -------------------------------------------------------------------------------------------------------

_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "none"}


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for each in metadata:
        if isinstance(each, FieldInfo):
            yield from _flat(each.metadata)
        else:
            yield each


def kind_of(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return in words what an argument may be: its type, and the bounds that stand beside it."""
    known = list(_flat(metadata))
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind_of(inner[0], [*_flat(inner[1:]), *known])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind_of(each) for each in inner if each is not type(None))
    lasting = any(isinstance(each, BeforeValidator) and each.func is seconds for each in known)
    return ", ".join([_type_of(annotation, lasting), *_bounds(known, lasting)])


def _type_of(annotation: Any, lasting: bool) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if lasting:
        return "duration (`90s`, `5m`, or seconds)"
    if origin is typing.Literal:
        return " or ".join(f"`{each!r}`" for each in inner)
    if origin in (list, tuple, set, frozenset):
        return f"list of {kind_of(inner[0])}" if inner else "list"
    if origin is dict:
        return f"map of names to {kind_of(inner[1])}"
    name = getattr(annotation, "__name__", str(annotation))
    return _PLAIN.get(annotation) or {"JsonValue": "JSON", "Decimal": "exact number"}.get(name, name)


def _bounds(metadata: Iterable[Any], lasting: bool) -> Iterator[str]:
    said: dict[str, Any] = {}
    for each in metadata:
        for key in ("gt", "ge", "lt", "le", "min_length", "max_length", "pattern", "multiple_of"):
            value = getattr(each, key, None)
            if value is not None:
                said[key] = value
    if "gt" in said and said.get("ge", said["gt"]) <= said["gt"]:
        said.pop("ge", None)
    if said.get("lt") == 2**63:
        del said["lt"]  # what fits a target's integer: nothing that a person would come near
    if said.get("min_length") == 1:
        del said["min_length"]
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "multiple_of": "a multiple of",
             "min_length": "no shorter than", "max_length": "no longer than", "pattern": "matching"}  # fmt: skip
    for key, word in words.items():
        if key in said:
            value = said[key]
            shown = spell(value) if lasting else f"`{value}`" if key == "pattern" else f"{value}"
            yield f"{word} {shown}"


def default_of(field: FieldInfo) -> str:
    """Return how an argument reads when it is not given."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, BaseModel):
        return f"`{value.model_dump(mode='json')}`"
    return f"`{list(value)!r}`" if isinstance(value, tuple | set | frozenset) else f"`{value!r}`"


def _arguments(injector: Injector) -> Iterator[str]:
    fields = injector.params.model_fields
    if not fields:
        yield "It takes no arguments."
        return
    yield "| argument | is | default | means |"
    yield "|---|---|---|---|"
    for name in [*injector.positional, *(name for name in fields if name not in injector.positional)]:
        field = fields[name]
        cells = (f"`{name}`", kind_of(field.annotation, field.metadata), default_of(field), field.description or "")
        yield f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"
    if injector.positional:
        *most, last = (f"`{name}`" for name in injector.positional)
        given = f"{', '.join(most)} and {last}" if most else last
        bare = "its name" if len(injector.positional) == 1 else "their names, in this order"
        yield ""
        yield f"{given} may be given without {bare}."


def signature(name: str, injector: Injector) -> str:
    """Return the call as one writes it."""
    fields = injector.params.model_fields
    named = [each for each in fields if each not in injector.positional]
    words = [*injector.positional, *(f"{each}=…" for each in named)]
    return f"{name}({', '.join(words)})"


# -- the rest of a page ----------------------------------------------------------------------------------------------


def as_markdown(docstring: str) -> str:
    """Return a docstring as Markdown: indented blocks behind `::` are fenced, double backticks become single."""
    lines, out = inspect.cleandoc(docstring).replace("``", "`").splitlines(), list[str]()
    while lines:
        line = lines.pop(0)
        if not line.endswith("::"):
            out.append(line)
            continue
        out.append(line[:-1])
        block: list[str] = []
        while lines and (not lines[0] or lines[0].startswith("    ")):
            block.append(lines.pop(0).removeprefix("    "))
        code = "\n".join(block).strip("\n")
        language = "yaml" if re.match(r"[\w.-]+:", code) else "text"
        out += ["", f"```{language}", code, "```", ""]
    return "\n".join(out).strip()


def _says(function: Callable[..., Any] | None) -> str:
    """Return what a function's docstring says, in one paragraph."""
    while isinstance(function, functools.partial):
        function = function.func
    return " ".join((inspect.getdoc(function) or "").replace("``", "`").split()) if function is not None else ""


def _doors(injector: Injector, known: Profiles, text: str) -> Iterator[str]:
    opened: dict[str, list[str]] = {}
    for door in injector.doors:
        where = next((name for name, profile in known.items() if door in (profile.get("doors") or {})), "")
        opened.setdefault(where, []).append(door)
    for where, doors in opened.items():
        called = ", ".join(f"`{door}`" for door in doors)
        if where:
            shown = {"doors": {door: known[where]["doors"][door] for door in doors}}
            written = yaml.safe_dump(shown, default_flow_style=None, sort_keys=False, width=1000, allow_unicode=True)
            yield f"{called}, as the profile `{where}` opens {'it' if len(doors) == 1 else 'them'}:"
            yield f"```yaml\n{written.strip()}\n```"
        elif all(f"{door}:" in text for door in doors):
            yield f"{called}, as it stands above. No bundled profile opens it."
        else:
            yield f"{called}. No bundled profile opens it; yours does with `doors.{doors[0]}`."


def lease_of(injector: Injector) -> str:
    """Return what the lease means after a kill."""
    if injector.lease == "target":
        text = (
            f"`target`. The target itself holds the fault for {spell(TTL_S)} at a time, and the runner renews it. When "
            "the runner is killed, its watchdog withdraws the fault; when everything is killed, the target drops it by "
            "itself as soon as the lease runs out."
        )
    else:
        text = (
            "`none`. The fault stays until it is withdrawn. When the runner is killed, its watchdog withdraws it; when "
            "the watchdog is killed as well, it stays until `sim recover`, and no run starts on this target before."
        )
        if injector.renew is not None:
            text += " A target that can hold a lease is given one, which the runner renews."
    if injector.here:
        text += " It is on this machine: it is withdrawn also when the stack is down already."
    return text


def _life(injector: Injector) -> Iterator[str]:
    inconclusive, unsafe = Outcome("inconclusive"), Outcome("unsafe")
    yield f"- **Effect.** {_says(injector.effective) or 'As said above.'}"
    yield (
        f"- **No effect** within the budget `within: {{effect: …}}`: the fault is withdrawn, and the run is "
        f"*{inconclusive.value}*, exit {inconclusive.exit_code}; never passed, never failed."
    )
    if injector.held is not None:
        yield f"- **Held.** {_says(injector.held) or 'As said above.'} If not, the run is *{inconclusive.value}*."
    gone = _says(injector.gone) or "As said above."
    yield f"- **Gone.** {gone} Else the run is *{unsafe.value}*, exit {unsafe.exit_code}."
    yield f"- **Lease.** {lease_of(injector)}"
    if injector.drive is not None:
        yield "- **Traffic** of its own runs beside the fault until it is withdrawn."
    if injector.accompany is not None:
        yield "- **Company**: traffic in a process of its own, from before the baseline until recovery is over."
    if injector.signal is not None:
        yield "- **In virtual time** it declares what the fault looks like to a rule engine."
    else:
        yield "- **In virtual time** it cannot be shown: what it does to the target's metrics is the target's own."


def _used(name: str, known: Profiles, used: Uses) -> Iterator[str]:
    for exercise, file, text in used.get(name, []):
        yield f"- `{exercise}` in [{file}](../../{file}): `{text}`"
    for profile, written in known.items():
        hooks = sorted(
            hook for hook, each in (written.get("hooks") or {}).items() if name in (each.get("faults") or [])
        )
        if hooks:
            yield f"- In the profile `{profile}` it is a fault of the hook {', '.join(f'`{hook}`' for hook in hooks)}."


def page(name: str, injector: Injector, docstring: str, known: Profiles, used: Uses) -> str:
    """Return the page of one injector."""
    file = f"{ROOM}/{name.replace('.', '/')}.py"
    text = as_markdown(docstring)
    parts = [
        f"<!-- Generated from {file} by `{AGAIN}`: change it there. -->",
        f"# `{name}`: {injector.summary}",
        text,
        f"## Arguments\n\n`{signature(name, injector)}`",
        "\n".join(_arguments(injector)),
        "## Door" + "s" * (len(injector.doors) > 1),
        *_doors(injector, known, text),
        "## From effect to gone",
        "\n".join(_life(injector)),
        "## Used by",
        "\n".join(_used(name, known, used)) or "No bundled exercise uses it.",
    ]
    return "\n\n".join(parts) + "\n"


def index(found: Mapping[str, Injector], used: Uses) -> str:
    """Return the page that lists all."""
    lines = [
        f"<!-- Generated by `{AGAIN}` from the injectors themselves. -->",
        "# What can be broken",
        "",
        "One page per injector. `lease` says who ends the fault when everything is killed: its `target`, or `none` but "
        "`sim recover`. To add one, see [write a fault](../write-a-fault.md).",
        "",
        "| injector | breaks | doors | lease | exercises |",
        "|---|---|---|---|---|",
    ]
    for name, injector in found.items():
        doors = ", ".join(f"`{door}`" for door in injector.doors)
        drills = ", ".join(dict.fromkeys(f"`{exercise}`" for exercise, _, _ in used.get(name, []))) or "none"
        breaks = injector.summary.replace("|", "\\|")
        lines.append(f"| [`{name}`]({name}.md) | {breaks} | {doors} | {injector.lease} | {drills} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return all that stands in docs/injectors, by file name."""
    names_, known, used = names(), profiles(), uses()
    found = {name: catalogue().injector(name) for name in names_}
    docstrings = {name: sys.modules[f"{ROOM}.{name}"].__doc__ or "" for name in names_}
    made = {f"{name}.md": page(name, each, docstrings[name], known, used) for name, each in found.items()}
    return {INDEX: index(found, used), **made}


def differences(wanted: Mapping[str, str], folder: Path) -> list[str]:
    """Return what is not as it would be written."""
    there = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.md")}
    missing = [f"{name} is missing" for name in wanted if name not in there]
    stale = [f"{name} belongs to no injector" for name in there if name not in wanted]
    other = [
        f"{name} is not what its injector declares" for name in wanted if there.get(name, wanted[name]) != wanted[name]
    ]
    return sorted(missing + stale + other)


def main(words: list[str], folder: Path = FOLDER) -> int:
    """Write the pages, or with ``--check`` say what differs."""
    wanted = pages()
    if words == ["--check"]:
        found = differences(wanted, folder)
        for each in found:
            print(f"docs/injectors/{each}: run {AGAIN}")
        return 1 if found else 0
    if words:
        print(f"usage: {AGAIN} [--check]")
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.md"):
        if file.name not in wanted:
            file.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
