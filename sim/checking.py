"""Whether files mean something: form, then names and types against a target and what is installed. All at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sim import expression
from sim.budgets import held_against
from sim.catalogue import Catalogue
from sim.exercise import ExerciseFile
from sim.expression import ExpressionError, Vocabulary
from sim.loading import TARGETS, Selected, TargetFile, shown
from sim.plan import Plan, vocabulary
from sim.problem import InvalidFile, Problem, did_you_mean, in_order
from sim.resolve import Unresolvable, resolve
from sim.target import ObserverSpec, Target
from sim.validation import check as check_form
from sim.validation import findings
from sim.yamlfile import Document, Loc, dotted, parse_file


@dataclass(frozen=True, slots=True)
class Checked:
    """What one file turned out to be: its findings, and how many exercises it holds (0 for a target profile)."""

    file: Path
    exercises: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Resolved:
    """One selected exercise: its plan, or every reason why there is none. `warnings` keep nothing from running."""

    selected: Selected
    plan: Plan | None
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...] = ()


def check_file(
    file: Path,
    target: Target | None,
    names: Catalogue,
    resolver: Callable[..., Any] = resolve,
    base: Path = Path(),
) -> Checked:
    """Check one file of exercises, or one target profile, and return what was found.

    With `target` None only the form of exercises is checked. A fault in the form keeps the names from being looked at.
    Relative paths of the profile's ``chain:`` are taken from `base`.
    """
    try:
        document = parse_file(file, shown(file))
    except InvalidFile as error:
        return Checked(file, 0, error.problems)
    if is_profile(document, file):
        profile, found = check_form(document, Target)
        more = [] if profile is None or found else check_profile(TargetFile(file, profile, document), names)
        return Checked(file, 0, in_order([*found, *more]))
    read, found = check_form(document, ExerciseFile, under="exercises")
    if read is None or found:
        held = document.value(("exercises",))
        return Checked(file, len(held) if isinstance(held, dict) else 0, in_order(found))
    problems: list[Problem] = []
    for name, exercise in read.exercises.items() if target else ():
        assert target is not None
        problems += resolved(Selected(file, name, exercise, document), target, names, base, resolver).problems
    return Checked(file, len(read.exercises), in_order(problems))


def is_profile(document: Document, file: Path) -> bool:
    """Say whether a file is meant as a target profile: it says ``target:``, or stands in a folder of them."""
    data = document.data
    if isinstance(data, dict) and ("target" in data) != ("exercises" in data):
        return "target" in data
    return file.resolve().parent.name == TARGETS or (isinstance(data, dict) and "target" in data)


def resolved(
    selected: Selected, target: Target, names: Catalogue, base: Path, resolver: Callable[..., Any] = resolve
) -> Resolved:
    """Resolve one exercise and hold its budgets against the declared chain; each problem has its place in the file."""
    try:
        plan = resolver(selected.name, selected.exercise, target, names)
    except Unresolvable as error:
        where = selected.problem
        found = tuple(where(each.loc, each.message, each.offset, each.length, each.hint) for each in error.problems)
        return Resolved(selected, None, found)
    errors, warnings = held_against(plan, names, base)
    problems = tuple(
        selected.problem(("within", stage) if stage else ("within",), message, 0, 0, None) for stage, message in errors
    )
    return Resolved(selected, None if problems else plan, problems, tuple(warnings))


def check_profile(profile: TargetFile, names: Catalogue) -> list[Problem]:
    """Return what is wrong with a profile beyond its form: kinds of observer and chain, their keys, expressions."""
    problems: list[Problem] = []
    target, document = profile.target, profile.document
    for name, spec in target.observers.items():
        problems += _kind(document, ("observers", name), spec, names.observer)
    if target.chain is not None:
        problems += _kind(document, ("chain",), target.chain, names.chain)
    problems += _expressions(document, target, names.injectors)
    for name, binding in target.exercises.items():
        if binding.hook is not None and binding.hook not in target.hooks:
            loc: Loc = ("exercises", name, "hook")
            hint = did_you_mean(binding.hook, target.hooks, "hooks there are")
            problems.append(document.problem(document.mark(loc), f"unknown hook {binding.hook!r}", dotted(loc), hint))
    return problems


def _kind(document: Document, loc: Loc, spec: Any, find: Callable[[str], Any]) -> list[Problem]:
    """Check the kind of an observer or chain, and what is written beside it against the kind's own model."""
    try:
        kind = find(spec.kind)
    except LookupError as error:
        place = (*loc, "kind")
        hint = getattr(error, "hint", None)
        return [document.problem(document.mark(place), str(error.args[0]), dotted(place), hint)]
    model = getattr(kind, "config", None)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    own = {"kind"} | (set(type(spec).model_fields) if isinstance(spec, ObserverSpec) else set())
    written = document.value(loc)
    data = {key: value for key, value in written.items() if key not in own} if isinstance(written, dict) else {}
    return findings(document, model, loc, data)


def _expressions(document: Document, target: Target, injectors: Sequence[str]) -> list[Problem]:
    """Check every expression of a profile, save those of hooks whose faults nothing installed can make."""
    texts: list[tuple[Loc, str]] = []
    for key in ("steady_state", "stop_when"):
        if (text := getattr(target, key)) is not None:
            texts.append(((key,), text))
    for name, binding in target.exercises.items():
        for key in ("steady_state", "stop_when", "never"):
            if (text := getattr(binding, key)) is not None:
                texts.append((("exercises", name, key), text))
    for name, hook in target.hooks.items():
        if hook.faults and not set(hook.faults) & set(injectors):
            continue
        for index, action in enumerate(hook.actions):
            for key in ("effect", "ready"):
                if (text := getattr(action, key)) is not None:
                    texts.append((("hooks", name, "actions", index, key), text))
    words = vocabulary(target, target.vars)
    problems = []
    for loc, text in texts:
        for each in _wrong(text, words, loc[-1] == "never"):
            mark = document.inside(loc, each.offset, each.length)
            problems.append(document.problem(mark, each.message, dotted(loc), each.hint))
    return problems


def _wrong(text: str, words: Vocabulary, clauses: bool) -> list[ExpressionError]:
    try:
        node = expression.parse(text)
    except ExpressionError as error:
        return [error]
    if not clauses:
        return expression.check(node, words, where="condition")
    return [each for part in expression.split_or(node) for each in expression.check(part, words, where="clause")]
