"""Fills in a stack file: ``${port.X}``, ``${secret.X}``, ``${stack.X}``, ``${package:X}``, ``${tool:X}``,
``${python}`` and ``${instance}``; for a Compose project also ``${compose.engine}`` (the engine's address) and
``${compose.project}``. Unknown names are errors; nothing else is looked at.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sim.stack.errors import StackError
from sim.stack.ports import free_ports
from sim.stack.spec import Common, Render

_ANY = re.compile(r"\$\{([^{}]*)\}")
_STACK = re.compile(r"\$\{stack\.([^{}]*)\}")
_MAX_FILE_BYTES = 4 << 20


@dataclass(frozen=True)
class Refs:
    """Everything a reference can name, of one start of one stack."""

    folder: Path
    instance: str
    ports: Mapping[str, int]
    secrets: Mapping[str, Path]
    tool: Callable[[str], str]
    exports: dict[str, str] = field(default_factory=dict)
    compose: Mapping[str, str] = field(default_factory=dict)

    def text(self, text: str, where: str) -> str:
        """Return `text` with every reference filled in; `where` says in an error whose text it was."""
        return _ANY.sub(lambda match: self._one(match[1], where), text)

    def template(self, text: str, where: str) -> str:
        """Return `text` with only ``${stack.X}`` filled in: a rendered file's other dollars are its own."""
        return _STACK.sub(lambda match: self._one(f"stack.{match[1]}", where), text)

    def _one(self, name: str, where: str) -> str:
        if name == "python":
            return sys.executable
        if name == "instance":
            return self.instance
        kind, mark, rest = _split(name)
        if mark == ":" and kind == "package":
            return package_folder(rest, where)
        if mark == ":" and kind == "tool":
            return self.tool(rest)
        if mark == "." and kind == "stack" and rest == "dir":
            return self.exports.get("dir", str(self.folder))  # rendered files may know it by another name
        known: dict[str, Mapping[str, object]] = {"port": self.ports, "secret": self.secrets, "stack": self.exports}
        known |= {"compose": self.compose} if self.compose else {}
        if mark == "." and kind in known:
            if rest in known[kind]:
                return str(known[kind][rest])
            have = ", ".join(sorted(known[kind])) or "none"
            raise StackError(f"{where}: ${{{name}}} names no {kind} of this stack (there are: {have})")
        raise StackError(
            f"{where}: ${{{name}}} is not understood; use ${{port.X}}, ${{secret.X}}, ${{stack.X}}, ${{package:X}}, "
            "${tool:X}, ${python} or ${instance}"
        )


def _split(name: str) -> tuple[str, str, str]:
    for at, char in enumerate(name):
        if char in ".:":
            return name[:at], char, name[at + 1 :]
    return name, "", ""


def package_folder(name: str, where: str) -> str:
    """Return the folder of the installed top-level Python package `name`, without importing it."""
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise StackError(f"{where}: ${{package:{name}}} is not an installed Python package")
    return str(Path(next(iter(found.submodule_search_locations))).resolve())


def resolve(
    spec: Common,
    folder: Path,
    instance: str,
    tool: Callable[[str], str],
    source: str,
    compose: Mapping[str, str] | None = None,
) -> Refs:
    """Make the stack's ports and secrets and return all references, exports included. `source` names the file."""
    secrets_of = make_secrets(spec, folder / "secrets")
    refs = Refs(folder, instance, free_ports(spec), secrets_of, tool, compose=compose or {})
    for name, text in spec.exports.items():  # in the order written: a later one may use an earlier one
        refs.exports[name] = refs.text(text, f"{source}: exports.{name}")
    refs.exports.setdefault("dir", str(folder))
    refs.exports.setdefault("instance", instance)
    return refs


def make_secrets(spec: Common, folder: Path) -> dict[str, Path]:
    """Write a fresh random value for each secret of `spec` (0600, in a 0700 folder) and return the files."""
    if not spec.secrets:
        return {}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = {}
    for name in spec.secrets:
        files[name] = folder / name
        files[name].unlink(missing_ok=True)
        handle = os.open(files[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(32))
    return files


def render(items: tuple[Render, ...], refs: Refs, source: str) -> None:
    """Write every file of `items` into the stack's folder. Raises `StackError` with file and line of a bad name."""
    for number, item in enumerate(items):
        where = f"{source}: render.{number}"
        pattern = Path(refs.text(item.from_, where))
        matches = sorted(pattern.parent.glob(pattern.name)) if "*" in pattern.name else [pattern]
        if not matches or not matches[0].is_file():
            raise StackError(f"{where}: no file {pattern}")
        for match in matches:
            target = refs.folder / item.to / (match.name if "*" in pattern.name else "")
            _render_one(match, target.resolve(), refs, where)


def _render_one(source: Path, target: Path, refs: Refs, where: str) -> None:
    if not target.is_relative_to(refs.folder.resolve()):
        raise StackError(f"{where}: {target} is outside the stack's folder")
    if source.stat().st_size > _MAX_FILE_BYTES:
        raise StackError(f"{where}: {source} is larger than {_MAX_FILE_BYTES >> 20} MiB")
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(refs.template(line, f"{source}:{number}") for number, line in enumerate(lines, 1))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
