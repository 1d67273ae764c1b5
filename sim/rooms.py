"""The packages beside `sim`, found without importing what is in them.

Light enough for ``--help``: no regular expressions, pathlib or dataclasses, each of which costs as much as the work.
"""

# ruff: noqa: PTH113, PTH118, PTH119, PTH120, PTH123

from __future__ import annotations

import os
import os.path
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from typing import NamedTuple

from sim.refusal import Refusal

#: The packages that are installed together, and are only right together.
TOGETHER = ("sim", "injectors", "expectations", "reports")


class RoomMissing(LookupError):
    """A package is not where an entry point says it is."""


class Shadowed(Refusal):
    """Another distribution's package stands in the way of one of ours."""

    exit_code = 2


class Room(NamedTuple):
    """A package that an entry point names, and the distribution that brought it."""

    package: str
    owner: str


def folders(package: str) -> tuple[str, ...]:
    """Return the folders of `package`, importing nothing. Raises `RoomMissing`."""
    search: Iterable[str] | None = None
    done: list[str] = []
    for part in package.split("."):
        done.append(part)
        spec = PathFinder.find_spec(".".join(done), None if search is None else list(search))
        if spec is None:
            raise RoomMissing(f"there is no package {'.'.join(done)}")
        if spec.submodule_search_locations is None:
            raise RoomMissing(f"{'.'.join(done)} is a module, not a package")
        search = spec.submodule_search_locations
    return tuple(search or ())


def modules(package: str) -> dict[str, str]:
    """Return the public modules of `package`: dotted path below it → file, sorted. Raises `RoomMissing`."""
    found: dict[str, str] = {}
    for folder in folders(package):
        for name, file in _walk(folder, ""):
            found.setdefault(name, file)
    return dict(sorted(found.items()))


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, str]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise RoomMissing(f"{folder} cannot be read: {error.strerror}") from error
    for entry in entries:
        name, dot, suffix = entry.name.partition(".")
        if name.startswith("_") or not (name.isascii() and name.isidentifier()):
            continue
        if suffix == "py" and entry.is_file():
            yield prefix + name, entry.path
        elif not dot and entry.is_dir() and os.path.isfile(os.path.join(entry.path, "__init__.py")):
            yield from _walk(entry.path, f"{prefix}{name}.")


def named_in(group: str, path: Iterable[str] | None = None) -> tuple[Room, ...]:
    """Return the rooms that installed distributions bring to an entry-point group.

    Does what `importlib.metadata` does, for one group: its import alone costs as much as all of ``sim --help`` may.
    The first distribution of a name on the path hides later ones of that name.
    """
    rooms: dict[Room, None] = {}
    seen: set[str] = set()
    for folder in sys.path if path is None else path:
        try:
            entries = sorted(entry.path for entry in os.scandir(folder or ".") if entry.name.endswith(".dist-info"))
        except OSError:
            continue  # an entry of sys.path need not exist
        for entry in entries:
            owner = os.path.basename(entry).removesuffix(".dist-info").rpartition("-")[0]
            if owner in seen:
                continue
            seen.add(owner)
            rooms.update(dict.fromkeys(_points(entry, group, owner)))
    return tuple(rooms)


def _points(dist_info: str, group: str, owner: str) -> Iterator[Room]:
    try:
        with open(os.path.join(dist_info, "entry_points.txt"), encoding="utf-8") as file:
            text = file.read()
    except OSError:
        return  # most distributions bring none
    inside = False
    for line in text.splitlines() if f"[{group}]" in text else ():
        if line.startswith("["):
            inside = line.strip() == f"[{group}]"
        elif inside and "=" in line and not line.startswith("#"):
            yield Room(line.partition("=")[2].strip(), owner.replace("_", "-"))


def stand_together(packages: Iterable[str] = TOGETHER) -> None:
    """Refuse to work when one of our packages is found elsewhere than beside `sim`. Raises `Shadowed`.

    A public distribution called ``reports`` was measured to overwrite ours in silence. A room that is not installed at
    all is fine: the kernel can stand alone.
    """
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    for package in packages:
        try:
            found = [os.path.realpath(folder) for folder in folders(package)]
        except RoomMissing:
            continue
        if os.path.join(home, package) not in found:
            where = os.path.dirname(found[0]) if found else "no folder"
            raise Shadowed(
                f"the package {package!r} is found in {where}, and sim stands in {home}: another distribution has a "
                f"package of that name. Install sim in an environment of its own."
            )
