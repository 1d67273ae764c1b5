"""Names → injectors, observers, chains and reports: a pure function of the installed packages.

A room is a package that an entry point names; what it holds is found by walking its modules, and a name is the
module's path below the package: ``injectors/engine/swap_sequence.py`` is ``engine.swap_sequence``. Modules and
packages that start with an underscore are private. Nothing is imported before it is asked for by name, so a list of
names costs no tool its import, and a module that cannot be imported says so under the name that was asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sim.problem import Refusal, did_you_mean
from sim.rooms import Room, RoomMissing, modules

if TYPE_CHECKING:
    from sim.injector import Injector
    from sim.observation import ObserverKind

#: entry-point group → (what a module of it is, the attribute that holds its value)
GROUPS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "sim.injectors": ("injector", "injector"),
        "sim.observers": ("observer", "observer"),
        "sim.chains": ("chain", "chain"),
        "sim.reports": ("report", "report"),
    }
)


class UnknownName(LookupError):
    """No installed room has a module of that name. `hint` is the nearest name, or those there are."""

    def __init__(self, message: str, hint: str | None) -> None:
        super().__init__(message)
        self.hint = hint


class CannotLoad(LookupError):
    """The module behind a name is there and cannot be used; says why."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class NameClash(Refusal):
    """Two installed rooms claim one name; names both owners."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What is installed. `broken` are the rooms that an entry point names and that cannot be found, with the reason."""

    entries: Mapping[str, Mapping[str, Room]]
    broken: tuple[str, ...] = ()
    load: Callable[[str], Any] = field(default=importlib.import_module, repr=False)

    @property
    def injectors(self) -> tuple[str, ...]:
        """The names of all injectors, sorted."""
        return tuple(sorted(self.entries["sim.injectors"]))

    @property
    def observers(self) -> tuple[str, ...]:
        """The names of all kinds of observer, sorted."""
        return tuple(sorted(self.entries["sim.observers"]))

    @property
    def chains(self) -> tuple[str, ...]:
        """The names of all kinds of detection chain, sorted."""
        return tuple(sorted(self.entries["sim.chains"]))

    @property
    def reports(self) -> tuple[str, ...]:
        """The names of all reports, sorted."""
        return tuple(sorted(self.entries["sim.reports"]))

    def injector(self, name: str) -> Injector:
        """Return the injector called `name`. Raises `UnknownName`, `CannotLoad` (both `LookupError`)."""
        from sim.injector import Injector

        value = self._value("sim.injectors", name)
        if not isinstance(value, Injector):
            raise CannotLoad(f"injector {name!r} is a {type(value).__name__}, not a sim.injector.Injector")
        return value

    def observer(self, name: str) -> ObserverKind:
        """Return the kind of observer called `name`. Raises `UnknownName`, `CannotLoad` (both `LookupError`)."""
        from sim.observation import ObserverKind

        value = self._value("sim.observers", name)
        if not isinstance(value, ObserverKind):
            raise CannotLoad(f"observer {name!r} is a {type(value).__name__}, not a sim.observation.ObserverKind")
        return value

    def chain(self, name: str) -> Any:
        """Return the kind of detection chain called `name`. Raises `UnknownName`, `CannotLoad`."""
        return self._value("sim.chains", name)

    def report(self, name: str) -> Any:
        """Return the report called `name`. Raises `UnknownName`, `CannotLoad`."""
        return self._value("sim.reports", name)

    def _value(self, group: str, name: str) -> Any:
        what, attribute = GROUPS[group]
        entries = self.entries[group]
        room = entries.get(name)
        if room is None:
            hint = did_you_mean(name, entries, f"installed {what}s") or f"no {what} is installed"
            raise UnknownName(f"unknown {what} {name!r}", "; ".join([hint, *self.broken]))
        module = f"{room.package}.{name}"
        try:
            value = getattr(self.load(module), attribute, None)
        except Exception as error:  # a stranger's module may raise anything; it is told, not lost
            reason = f"{type(error).__name__}: {error}"
            raise CannotLoad(f"{what} {name!r} of {room.owner} cannot be imported: {reason}") from error
        if value is None:
            raise CannotLoad(f"{what} {name!r} of {room.owner}: module {module} has no value named {attribute!r}")
        return value


def catalogue(entry_points: Iterable[importlib.metadata.EntryPoint] | None = None) -> Catalogue:
    """Return what `entry_points` (default: those of all installed distributions) bring. Raises `NameClash`."""
    points = entry_points
    if points is None:
        points = [point for group in GROUPS for point in importlib.metadata.entry_points(group=group)]
    found: dict[str, dict[str, Room]] = {group: {} for group in GROUPS}
    broken: list[str] = []
    rooms = dict.fromkeys((point.group, Room(point.value, _owner(point))) for point in points if point.group in GROUPS)
    for group, room in sorted(rooms, key=lambda each: (each[0], each[1].package, each[1].owner)):
        try:
            names = modules(room.package)
        except RoomMissing as error:
            broken.append(f"{group} of {room.owner}: {error}")
            continue
        for name in names:
            other = found[group].setdefault(name, room)
            if other.package != room.package:
                what = GROUPS[group][0]
                raise NameClash(f"two packages bring the {what} {name!r}: {_named(other)} and {_named(room)}")
    frozen = {group: MappingProxyType(entries) for group, entries in found.items()}
    return Catalogue(MappingProxyType(frozen), tuple(broken))


def _owner(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _named(room: Room) -> str:
    return f"{room.package} (of {room.owner})"
