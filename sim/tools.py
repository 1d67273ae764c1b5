"""Finds or provides the tools that a stack names. Which tools those are is data (``compose/tools.yaml``).

Searched in this order: PATH, the project's tools folder, the Python package that brings it. Provided by `setup`, in
this order: the Debian package, unpacked without root; a release archive whose digest is known; else an error with the
one line that helps.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from sim.places import Places
from sim.problem import Refusal

_VERSION_TIMEOUT_S = 20.0
_SETUP_LOCK_S = 600.0
_MAX_VERSION_BYTES = 64 << 10

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    if groups != 1:
        raise ValueError("the pattern must have one group: the version")
    return text


class Part(BaseModel):
    """The base of everything in a tools file: frozen, and no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(Part):
    """How a program says what it is: its arguments, and a pattern over what it prints whose group is the version."""

    args: tuple[str, ...]
    pattern: Annotated[str, AfterValidator(_pattern)]


class Archive(Part):
    """A release archive (tar, also compressed) for one system and machine, as `platform` names them in lower case."""

    system: str
    machine: str
    url: str = Field(pattern=r"^https?://")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    member: str = Field(min_length=1, description="the program's path inside the archive")


class Debian(Part):
    """A Debian package. `relocate`: absolute folders compiled into its programs, unpacked with them (see
    `sim.tools_relocate`).
    """

    package: Name
    relocate: tuple[Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._+-]+){2,}$")], ...] = ()


class Wheel(Part):
    """An installed Python package that brings the program: its import name, and the program's path inside it."""

    package: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
    path: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*(/[A-Za-z0-9][A-Za-z0-9._+-]*)*$")]


class Tool(Part):
    """One tool: the names it goes by, how it is told from others of that name, and where it can be had."""

    names: tuple[Name, ...] = Field(min_length=1)
    version: Version
    wheel: Wheel | None = None
    debian: Debian | None = None
    archives: tuple[Archive, ...] = ()
    optional: bool = False
    cure: str = Field("", description="what helps where neither `sim setup` nor a line of hints brings it")


class Tools(Part):
    """A whole tools file."""

    tools: dict[Name, Tool]
    hints: dict[str, str] = {}

    def hint(self) -> str:
        """Return the one line for this system, or an empty text."""
        return next((self.hints[name] for name in system_names() if name in self.hints), "")


class ToolsError(Refusal):
    """A tool is not here and could not be brought; the message says what was tried, and what to do."""

    exit_code = 4


Source = Literal["PATH", "tools folder", "Python package"]


@dataclass(frozen=True, slots=True)
class Found:
    """A tool that is here, and where it was found."""

    tool: str
    path: Path
    version: str
    source: Source


@dataclass(frozen=True, slots=True)
class Missing:
    """A tool that is not here; `notes` say what was found instead."""

    tool: str
    notes: tuple[str, ...]


def load(path: Path | None, places: Places | None = None) -> Tools:
    """Return the tools file at `path`, or where there is none the project's or the shipped ``compose/tools.yaml``.

    Raises `sim.problem.InvalidFile`, and `ToolsError` when there is none at all.
    """
    from sim.places import shipped
    from sim.validation import validate
    from sim.yamlfile import parse_file

    folders = (*(() if places is None else places.compose_dirs), *filter(None, (shipped("compose"),)))
    candidates = [*(() if path is None else (path,)), *(folder / "tools.yaml" for folder in folders)]
    for candidate in candidates:
        if candidate.is_file():
            return validate(parse_file(candidate), Tools)
    raise ToolsError(f"no tools file; looked at: {', '.join(str(candidate) for candidate in candidates)}")


def locate(name: str, folder: Path, tools: Tools) -> Found:
    """Return the tool `name`, from PATH or the tools folder `folder`. Raises `ToolsError` with the cure."""
    tool = tools.tools.get(name)
    if tool is None:
        raise ToolsError(f"no tool {name!r} in the tools file (it has {', '.join(sorted(tools.tools))})")
    found = look(name, tool, folder)
    if isinstance(found, Found):
        return found
    if tool.cure:
        raise ToolsError(f"{name} is not here ({'; '.join(found.notes)}). {tool.cure}")
    hint = tools.hint()
    raise ToolsError(
        f"{name} is not here ({'; '.join(found.notes)}). Run: sim setup" + (f"\n  or by hand: {hint}" if hint else "")
    )


def look(name: str, tool: Tool, folder: Path) -> Found | Missing:
    """Look for one tool on PATH, then in the tools folder `folder`, then in the Python package that brings it."""
    notes = []
    for path, source in _candidates(tool, folder):
        version, note = ask(path, tool.version)
        if version is not None:
            return Found(name, path, version, source)
        notes.append(f"{path} {note}")
    return Missing(name, tuple(notes) or (f"no {' or '.join(tool.names)} on PATH or in {folder}",))


def survey(tools: Tools, folder: Path) -> list[Found | Missing]:
    """Look for every tool of the file."""
    return [look(name, tool, folder) for name, tool in tools.tools.items()]


def _candidates(tool: Tool, folder: Path) -> Iterator[tuple[Path, Source]]:
    for name in tool.names:
        on_path = shutil.which(name)
        if on_path is not None:
            yield Path(os.path.abspath(on_path)), "PATH"  # noqa: PTH100 (a link's name is what the user knows)
    for name in tool.names:
        if (folder / "bin" / name).exists():
            yield folder / "bin" / name, "tools folder"
    inside = _inside(tool.wheel) if tool.wheel is not None else None
    if inside is not None and inside.is_file():
        yield inside, "Python package"


def _inside(wheel: Wheel) -> Path | None:
    """Return where the package would keep the program, None when it is not installed. Nothing of it is imported."""
    found = importlib.util.find_spec(wheel.package)
    folders = found.submodule_search_locations if found is not None else None
    return Path(next(iter(folders))) / wheel.path if folders else None


def ask(path: Path, version: Version) -> tuple[str | None, str]:
    """Return the version that the program at `path` reports, or None and why it is not the program meant."""
    try:
        answer = subprocess.run(
            [str(path), *version.args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"did not answer {' '.join(version.args)} within {_VERSION_TIMEOUT_S:g} s"
    except OSError as error:
        return None, f"cannot be run: {error.strerror}"
    text = answer.stdout[:_MAX_VERSION_BYTES].decode("utf-8", "replace")
    match = re.search(version.pattern, text, re.MULTILINE)
    if match is None:
        first = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")[:80]
        return None, f"is another program (it says {first!r})"
    return match[1], ""


def system_names(release: Path = Path("/etc/os-release")) -> list[str]:
    """Return what this system is called, the most exact name first: ``ubuntu, debian, linux, other``."""
    names: list[str] = []
    if sys.platform == "linux":
        try:
            text = release.read_text(encoding="utf-8")
        except OSError:
            text = ""
        for key in ("ID", "ID_LIKE"):
            match = re.search(rf'^{key}="?([^"\n]*)"?$', text, re.MULTILINE)
            names += match[1].split() if match else []
    return [*names, sys.platform, "other"]


def setup(tools: Tools, places: Places, say: Callable[[str], None]) -> list[Found | Missing]:
    """Provide every required tool that is not here, and return what is here then.

    Two at once wait for each other. Raises `ToolsError` when a required tool cannot be had; nothing half-made stays.
    """
    from sim.stack.state import locked
    from sim.tools_supply import Supply

    folder = places.tools
    try:
        places.make_state()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolsError(f"cannot make the tools folder {folder}: {error.strerror}") from error
    busy = f"another sim setup has been busy in {folder} for {_SETUP_LOCK_S:g} s"
    with locked(folder / ".lock", _SETUP_LOCK_S, busy), Supply(tools, folder, say) as supply:
        lost = []
        for name, tool in tools.tools.items():
            found = look(name, tool, folder)
            if isinstance(found, Missing) and not tool.optional:
                why = supply.bring(name)
                lost += [f"{name}: {'; '.join((*found.notes, *why))}"] if why else []
        if lost:
            hint = tools.hint()
            raise ToolsError("\n".join((*lost, *([f"by hand: {hint}"] if hint else []))))
        return survey(tools, folder)


def machine() -> tuple[str, str]:
    """Return system and machine as archives name them: ``linux``, ``x86_64``."""
    return platform.system().lower(), platform.machine().lower()
