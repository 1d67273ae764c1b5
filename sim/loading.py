"""From names to files: finds exercises and target profiles, loads them, and picks what a command line asks for.

Names are looked for in ``scenarios/`` and ``scenarios/targets/`` of the project's own folder, then in the shipped copy;
what stands in the nearer one hides what is called the same in the farther.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sim.exercise import Exercise, ExerciseFile
from sim.places import MARKER
from sim.problem import InvalidFile, Problem, Refusal, Usage, did_you_mean, listing
from sim.target import Target
from sim.validation import validate
from sim.yamlfile import Document, parse_file

if TYPE_CHECKING:
    from sim.places import Places

#: The target of a project whose ``sim.toml`` names none.
DEFAULT_TARGET = "mbp-local"
TARGETS = "targets"
_SUFFIXES = (".yaml", ".yml")


class NothingSelected(Refusal):
    """No exercise fits what was asked for. Its text says what there is."""

    exit_code = 5


@dataclass(frozen=True, slots=True)
class TargetFile:
    """A target profile, and the document that knows where its parts stand."""

    file: Path
    target: Target
    document: Document


@dataclass(frozen=True, slots=True)
class Scenario:
    """A file of exercises, and the document that knows where its parts stand."""

    file: Path
    exercises: dict[str, Exercise]
    document: Document


@dataclass(frozen=True, slots=True)
class Selected:
    """One exercise that was picked."""

    file: Path
    name: str
    exercise: Exercise
    document: Document

    def problem(self, loc: tuple[str | int, ...], message: str, offset: int, length: int, hint: str | None) -> Problem:
        """Return what is wrong at `loc` of this exercise as a problem of its file.

        `offset` and `length` are characters of the text at `loc`; with length 0 the whole of it is meant. What the
        exercise does not spell out itself (it comes from the profile) is shown at the exercise's name.
        """
        place = ("exercises", self.name, *loc)
        if not loc or not self.document.has(place):
            mark = self.document.mark(place, key=True)
        elif length:
            mark = self.document.inside(place, offset, length)
        else:
            mark = self.document.mark(place)
        where = ".".join([self.name, *(part for part in loc if isinstance(part, str))])
        return self.document.problem(mark, message, where, hint)


def load_scenario(file: Path) -> Scenario:
    """Return the exercises of `file`. Raises `InvalidFile` with everything wrong with its form."""
    document = parse_file(file, shown(file))
    return Scenario(file, dict(validate(document, ExerciseFile, under="exercises").exercises), document)


def default_target(places: Places) -> str:
    """Return the target that the project's ``sim.toml`` names (``target = "shop"``), else ours. Raises `Usage`."""
    file = places.root / MARKER
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8")).get("target", DEFAULT_TARGET)
    except FileNotFoundError:
        return DEFAULT_TARGET
    except (OSError, ValueError) as error:
        raise Usage(f"{shown(file)}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(told, str) or not told:
        raise Usage(f'{shown(file)}: target is the name of a target: target = "shop"')
    return told


def load_target_file(name_or_file: str | None, places: Places) -> TargetFile:
    """Return the profile called `name_or_file`, or in that file; None: the default. Raises `Usage`, `InvalidFile`."""
    name_or_file = name_or_file or default_target(places)
    file = _target_path(name_or_file, places)
    document = parse_file(file, shown(file))
    target = validate(document, Target)
    if not _is_file_name(name_or_file) and target.target != name_or_file:
        message = f"the profile in {file.name} calls itself {target.target!r}"
        hint = f"name it {name_or_file!r}, or the file {target.target}.yaml"
        raise InvalidFile([document.problem(document.mark(("target",)), message, "target", hint)])
    return TargetFile(file, target, document)


def load_target(name_or_file: str | None, places: Places) -> Target:
    """Return the target called `name_or_file`, or in that file; None: the default. Raises `Usage`, `InvalidFile`."""
    return load_target_file(name_or_file, places).target


def target_files(places: Places) -> dict[str, Path]:
    """Return the profiles that can be chosen by name."""
    found: dict[str, Path] = {}
    for folder in places.scenario_dirs:
        for file in _yaml_files(folder / TARGETS):
            found.setdefault(file.stem, file)
    return found


def scenario_files(places: Places) -> list[Path]:
    """Return every file of exercises, the nearer folder first."""
    return [file for folder in places.scenario_dirs for file in _below(folder)]


def tags_of(name: str, exercise: Exercise, target: Target | None) -> tuple[str, ...]:
    """Return the tags of an exercise: its own, then those that the profile gives it."""
    binding = target.exercises.get(name) if target else None
    return tuple(dict.fromkeys([*exercise.tags, *(binding.tags if binding else ())]))


def select(
    selectors: Sequence[str], tags: Sequence[str], all_: bool, places: Places, target: Target | None
) -> list[Selected]:
    """Return the exercises that are asked for, in the order asked, each once.

    A selector is ``NAME``, ``FILE`` or ``FILE::NAME``; `all_` is every exercise that can be found by name. `tags`
    narrow that (without selectors: everything) to what carries one of them: a tag never adds a fault to a run that
    named its exercises. Raises `NothingSelected`, and `InvalidFile` where a file that is needed is faulty.
    """
    if all_ and selectors:
        raise Usage(f"--all is every exercise: leave out {selectors[0]!r}, or --all")
    shelf = _Shelf(places)
    if all_ or (tags and not selectors):
        found = shelf.everything()
    else:
        found = [each for selector in selectors for each in shelf.find(selector)]
    unique = list({(each.file.resolve(), each.name): each for each in found}.values())
    if tags:
        wanted = set(tags)
        every = {tag for each in unique for tag in tags_of(each.name, each.exercise, target)}
        # Exercises that were named may do without one of the tags; of all there are, a tag that none has is misspelt.
        if (missing := [tag for tag in tags if tag not in every]) and not (selectors and wanted & every):
            hint = listing(sorted(every), "tags there are")
            raise _nothing(f"no exercise has the tag {' or '.join(map(repr, missing))}", hint)
        unique = [each for each in unique if wanted & set(tags_of(each.name, each.exercise, target))]
    if not unique:
        hint = listing(sorted(shelf.by_name()), "exercises there are")
        raise _nothing("nothing selected: give NAME, FILE, FILE::NAME, --tag TAG or --all", hint)
    return unique


def shown(file: Path) -> str:
    """Return a file as the user would type it: relative where it is below the current folder."""
    try:
        return str(file.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(file)


class _Shelf:
    """The exercises within reach, each file loaded once, a faulty one kept with its faults."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.loaded: dict[Path, Scenario | InvalidFile] = {}

    def scenario(self, file: Path) -> Scenario | InvalidFile:
        if file not in self.loaded:
            try:
                self.loaded[file] = load_scenario(file)
            except InvalidFile as error:
                self.loaded[file] = error
        return self.loaded[file]

    def by_name(self) -> dict[str, list[Selected]]:
        """Return the exercises of all sound files by name; several only where one folder has a name twice."""
        found: dict[str, list[Selected]] = {}
        for folder in self.places.scenario_dirs:
            here: dict[str, list[Selected]] = {}
            for file in _below(folder):
                scenario = self.scenario(file)
                for each in _of(scenario) if isinstance(scenario, Scenario) else ():
                    here.setdefault(each.name, []).append(each)
            for name, several in here.items():
                found.setdefault(name, several)
        return found

    def faults(self, name: str | None = None) -> list[Problem]:
        """Return what is wrong with the files within reach (with `name`: with those in which that name is written)."""
        wrong: list[Problem] = []
        for file in scenario_files(self.places):
            scenario = self.scenario(file)
            if isinstance(scenario, InvalidFile) and (name is None or name in _text(file)):
                wrong += scenario.problems
        return wrong

    def everything(self) -> list[Selected]:
        faults = self.faults()
        if faults:
            raise InvalidFile(faults)
        return [self.only(name, several) for name, several in self.by_name().items()]

    def find(self, selector: str) -> list[Selected]:
        file, separator, name = selector.rpartition("::") if "::" in selector else ("", "", selector)
        if not separator and _is_file_name(selector):
            return _of(self.sound(self.path(selector)))
        if not separator:
            return [self.named(name)]
        exercises = {each.name: each for each in _of(self.sound(self.path(file)))}
        if name not in exercises:
            raise _nothing(f"{file} has no exercise {name!r}", did_you_mean(name, exercises, "it has"))
        return [exercises[name]]

    def named(self, name: str) -> Selected:
        known = self.by_name()
        if name in known:
            return self.only(name, known[name])
        faults = self.faults(name)
        if faults:
            raise InvalidFile(faults)
        raise _nothing(f"no exercise is called {name!r}", did_you_mean(name, known, "exercises there are"))

    def only(self, name: str, several: Sequence[Selected]) -> Selected:
        if len(several) > 1:
            files = " or ".join(f"{shown(each.file)}::{name}" for each in several)
            raise Usage(f"the name {name!r} stands in {len(several)} files: write {files}")
        return several[0]

    def sound(self, file: Path) -> Scenario:
        scenario = self.scenario(file)
        if isinstance(scenario, InvalidFile):
            raise scenario
        return scenario

    def path(self, text: str) -> Path:
        for file in (Path(text), *(folder / text for folder in self.places.scenario_dirs)):
            if file.is_file():
                return file
        there = [shown(file) for file in scenario_files(self.places)]
        raise _nothing(f"there is no file {text!r}", did_you_mean(text, there, "files there are"))


def _nothing(message: str, hint: str | None) -> NothingSelected:
    return NothingSelected(f"{message}\n  {hint}" if hint else message)


def _of(scenario: Scenario) -> list[Selected]:
    return [Selected(scenario.file, name, each, scenario.document) for name, each in scenario.exercises.items()]


def _text(file: Path) -> str:
    try:
        return file.read_bytes()[:65536].decode("utf-8", "replace")
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _is_file_name(text: str) -> bool:
    return text.endswith(_SUFFIXES) or "/" in text or "\\" in text


def _target_path(name_or_file: str, places: Places) -> Path:
    if _is_file_name(name_or_file):
        for file in (Path(name_or_file), *(folder / TARGETS / name_or_file for folder in places.scenario_dirs)):
            if file.is_file():
                return file
        raise Usage(f"there is no target profile {name_or_file!r}")
    known = target_files(places)
    if name_or_file not in known:
        folders = ", ".join(shown(folder / TARGETS) for folder in places.scenario_dirs)
        hint = did_you_mean(name_or_file, known, "targets there are") or f"no profile was found in {folders}"
        raise Usage(f"no target is called {name_or_file!r}\n  {hint}")
    return known[name_or_file]


def _below(folder: Path) -> Iterator[Path]:
    """Yield the exercise files of a scenario folder and of its subfolders, in order, but for the profiles."""
    yield from _yaml_files(folder)
    for below in _sorted(folder):
        if below.is_dir() and below.name != TARGETS and not below.name.startswith((".", "_")):
            yield from _yaml_files(below)


def _yaml_files(folder: Path) -> Iterator[Path]:
    for file in _sorted(folder):
        if file.suffix in _SUFFIXES and not file.name.startswith(".") and file.is_file():
            yield file


def _sorted(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()
