"""Exercise + target + catalogue → plan. Pure: nothing is opened, nothing is asked of the target.

Every problem is collected, each with its place inside the exercise, so that one look shows them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ValidationError

from sim import __version__, expression
from sim.exercise import Call, Exercise
from sim.expression import ExpressionError, Name, Node
from sim.expression.tree import spell
from sim.implied import budget, implied
from sim.injector import Injector
from sim.observation import ObserverKind
from sim.plan import Clause, Fault, Plan, Source, Stage, vocabulary
from sim.target import Hook, Scalar, Target, Within

#: How long a fault is held when nothing says so, seconds.
DEFAULT_HOLD_S = 300.0

#: What an event fact of each stage is filled with.
_SEEN_AS = {"detect": "alert", "act": "execution", "notify": "message"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an exercise cannot be resolved: where inside it, from which character of that text, and the cure."""

    loc: tuple[str | int, ...]
    message: str
    offset: int = 0
    length: int = 0
    hint: str | None = None


class Unresolvable(Exception):
    """The exercise does not fit this target or this installation; lists every reason."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problem.message for problem in self.problems))


class Names(Protocol):
    """What the plan asks of a catalogue. Both raise `LookupError` with a message for people."""

    def injector(self, name: str) -> Injector: ...

    def observer(self, name: str) -> ObserverKind: ...


def resolve(name: str, exercise: Exercise, target: Target, names: Names) -> Plan:
    """Return the plan of one exercise on one target. Raises `Unresolvable` with every problem at once."""
    return _Resolver(name, exercise, target, names).plan()


class _Resolver:
    """Collects problems while it resolves, so that one look shows them all."""

    def __init__(self, name: str, exercise: Exercise, target: Target, names: Names) -> None:
        self.name, self.exercise, self.target, self.names = name, exercise, target, names
        self.problems: list[Problem] = []
        self.binding = target.exercises.get(name)
        self.variables: dict[str, Scalar] = {**target.vars, **exercise.vars}
        self.words = vocabulary(target, self.variables)

    def plan(self) -> Plan:
        faults, holds = self._faults()
        hook_name = self._hook_name(faults)
        hook = self.target.hooks.get(hook_name) if hook_name else None
        within = self._within(hook)
        clauses = [*implied(hook, within), *self._expect(within), *self._never(within)]
        steady = self._condition("steady_state")
        stop = self._condition("stop_when")
        self._effects(hook_name, hook)
        self._seen(hook_name, hook)
        observers = self._observers(clauses, hook, (steady, stop))
        hold_s = max(holds, default=DEFAULT_HOLD_S)
        if hold_s > self.target.hold_max:
            self._problem(
                ("inject",), f"asks for a hold of {hold_s:g} s; this target allows {self.target.hold_max:g} s"
            )
        if not self.target.identity:
            self._problem((), f"target {self.target.target} has no `identity:`, so its environment cannot be checked")
        if self.problems:
            raise Unresolvable(self.problems)
        texts = [clause.text for clause in clauses if clause.origin != "implied"]
        return Plan(
            sim=__version__,
            exercise=self.name,
            written=self.exercise,
            target=self.target,
            faults=tuple(faults),
            hook_name=hook_name,
            clauses=tuple(clauses),
            within=within,
            hold_s=hold_s,
            hold=self.exercise.hold,
            time=self.exercise.time or (hook.time if hook else "live"),
            repeat=self.exercise.repeat,
            variables=self.variables,
            steady_state=steady,
            stop_when=stop,
            observers=observers,
            uses_baseline=any(_uses_baseline(expression.parse(text)) for text in texts),
        )

    def _problem(self, loc: tuple[str | int, ...], message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(loc, message, hint=hint))

    def _wrong(self, loc: tuple[str | int, ...], error: ExpressionError, shift: int = 0) -> None:
        self.problems.append(Problem(loc, error.message, error.offset + shift, error.length, error.hint))

    # -- inject ------------------------------------------------------------------------------------------------

    def _faults(self) -> tuple[list[Fault], list[float]]:
        faults: list[Fault] = []
        holds: list[float] = []
        for index, written in enumerate(self.exercise.inject):
            found = self._fault(("inject", index), written)
            if found is not None:
                fault, hold = found
                faults.append(fault)
                holds.append(DEFAULT_HOLD_S if hold is None else hold)
        return faults, holds

    def _fault(self, loc: tuple[str | int, ...], written: str | Call) -> tuple[Fault, float | None] | None:
        if isinstance(written, Call):
            name, given, text = written.call, dict(written.with_), written.call
            spans: dict[str, tuple[int, int]] = {}
            offset = length = 0
        else:
            try:
                call = expression.parse_call(written)
            except ExpressionError as error:
                self._wrong(loc, error)
                return None
            name, text = call.name, written
            offset, length = call.name_span[0], call.name_span[1] - call.name_span[0]
        try:
            injector = self.names.injector(name)
        except LookupError as error:
            hint = getattr(error, "hint", None)
            self.problems.append(Problem(loc, str(error.args[0] if error.args else error), offset, length, hint))
            return None
        if not isinstance(written, Call):
            bound = self._bind(loc, injector, call)
            if bound is None:
                return None
            given, spans = bound
        params = self._params(loc, injector, given, spans)
        if params is None:
            return None
        for door in injector.doors:
            if door not in self.target.doors:
                self._problem(loc, f"{name} needs the door {door!r}, and target {self.target.target} has none")
        unfit = injector.unfit(params, self.target.doors)
        if unfit is not None:
            self._problem(loc, unfit)
        fault = Fault(
            injector=name,
            text=text,
            params=params.model_dump(mode="json"),
            lease=injector.lease,
            doors=(*injector.doors, *(door for door in injector.doors_if if door in self.target.doors)),
        )
        return fault, injector.duration_s(params)

    def _bind(
        self, loc: tuple[str | int, ...], injector: Injector, call: Any
    ) -> tuple[dict[str, Any], dict[str, tuple[int, int]]] | None:
        given: dict[str, Any] = {}
        spans: dict[str, tuple[int, int]] = {}
        before = len(self.problems)
        for position, argument in enumerate(call.args):
            key = argument.name
            if key is None:
                if position >= len(injector.positional):
                    takes = ", ".join(injector.params.model_fields)
                    self._at(loc, argument.span, f"{call.name} takes no argument in place {position + 1}", takes)
                    continue
                key = injector.positional[position]
            if key in given:
                self._at(loc, argument.span, f"{key} is given twice")
                continue
            try:
                given[key] = expression.constant(argument.node, self.variables)
                spans[key] = argument.span
            except ExpressionError as error:
                self._wrong(loc, error)
        return (given, spans) if len(self.problems) == before else None

    def _at(self, loc: tuple[str | int, ...], span: tuple[int, int], message: str, hint: str | None = None) -> None:
        self.problems.append(Problem(loc, message, span[0], span[1] - span[0], hint))

    def _params(
        self, loc: tuple[str | int, ...], injector: Injector, given: dict[str, Any], spans: dict[str, tuple[int, int]]
    ) -> BaseModel | None:
        try:
            return injector.params.model_validate(given)
        except ValidationError as error:
            for each in error.errors():
                key = str(each["loc"][0]) if each["loc"] else ""
                start, end = spans.get(key, (0, 0))
                self._at(loc, (start, end), *_plainly(key, each, injector))
            return None

    # -- what is bound -----------------------------------------------------------------------------------------

    def _hook_name(self, faults: list[Fault]) -> str | None:
        named = self.exercise.hook or (self.binding.hook if self.binding else None)
        if named is not None:
            if named not in self.target.hooks:
                known = ", ".join(sorted(self.target.hooks)) or "none"
                self._problem(("hook",), f"target {self.target.target} has no hook {named!r}", f"it has: {known}")
                return None
            return named
        used = {fault.injector for fault in faults}
        fitting = [name for name, hook in self.target.hooks.items() if used & set(hook.faults)]
        return fitting[0] if len(fitting) == 1 else None

    def _within(self, hook: Hook | None) -> Within:
        within: Within = Target.model_fields["within"].default
        own = self.target.within  # a profile may give only some
        for nearer in (own, hook.within if hook else None, self.binding.within if self.binding else None):
            within = nearer.over(within) if nearer else within
        return self.exercise.within.over(within)

    def _condition(self, key: Literal["steady_state", "stop_when"]) -> str | None:
        given = (getattr(each, key) for each in (self.exercise, self.binding, self.target) if each)
        text: str | None = next((each for each in given if each), None)
        if text is not None:
            self._parsed((key,), text, "condition")
        elif key == "steady_state":
            self._problem((key,), "no steady state: neither the exercise nor the target profile says what normal is")
        return text

    def _parsed(self, loc: tuple[str | int, ...], text: str, where: Literal["clause", "condition"]) -> Node | None:
        try:
            node = expression.parse(text)
        except ExpressionError as error:
            self._wrong(loc, error)
            return None
        wrong = expression.check(node, self.words, where=where)
        for each in wrong:
            self._wrong(loc, each)
        return None if wrong else node

    # -- expect and never --------------------------------------------------------------------------------------

    def _expect(self, within: Within) -> list[Clause]:
        return self._written(("expect",), self.exercise.expect, "expect", expression.split_and, within)

    def _never(self, within: Within) -> list[Clause]:
        text = self.exercise.never or (self.binding.never if self.binding else None)
        return self._written(("never",), text, "never", expression.split_or, within) if text else []

    def _written(
        self,
        loc: tuple[str | int, ...],
        text: str,
        origin: Literal["expect", "never"],
        split: Callable[[Node], tuple[Node, ...]],
        within: Within,
    ) -> list[Clause]:
        try:
            node = expression.parse(text)
        except ExpressionError as error:
            self._wrong(loc, error)
            return []
        clauses = []
        for number, part in enumerate(split(node), 1):
            wrong = expression.check(part, self.words, where="clause")
            for each in wrong:
                self._wrong(loc, each)
            if wrong:
                continue
            facts = tuple(sorted(expression.facts_of(part, self.words)))
            kind = expression.clause_kind(part, self.words)
            stage = self._stage(kind, facts)
            clauses.append(
                Clause(
                    id=f"{origin}.{number}",
                    origin=origin,
                    stage=stage,
                    kind=kind,
                    text=expression.unparse(part),
                    within_s=budget(within, stage),
                    facts=facts,
                )
            )
        return clauses

    def _stage(self, kind: str, facts: tuple[str, ...]) -> Stage:
        if kind == "gauge":
            return "recover"
        order: tuple[Stage, ...] = ("detect", "act", "notify")
        stages = {self.target.facts[fact].stage or "act" for fact in facts}
        return max(stages, key=order.index)

    def _effects(self, hook_name: str | None, hook: Hook | None) -> None:
        for action in hook.actions if hook else ():
            for key, text in (("effect", action.effect), ("ready", action.ready)):
                if text is None:
                    continue
                try:
                    wrong = expression.check(expression.parse(text), self.words, where="condition")
                except ExpressionError as error:
                    wrong = [error]
                for each in wrong:
                    text = f"hooks.{hook_name}: {key} of {action.name}: {each.message}"
                    self._problem(("hook",), text, each.hint)

    def _seen(self, hook_name: str | None, hook: Hook | None) -> None:
        """Each link of a bound hook has a fact that sees it: else "nobody saw it" would be judged as "it was not"."""
        if hook is None:
            return
        links = {
            "detect": "alerts",
            "act": "actions" if hook.actions else "",
            "notify": "channels" if hook.channels else "",
        }
        there = {fact.stage for fact in self.target.facts.values() if fact.kind == "event"}
        for stage, what in links.items():
            if what and stage not in there:
                text = f"nothing would see the {what} of hook {hook_name}: no fact of kind event has stage {stage}"
                cure = f"add facts.NAME: {{kind: event, stage: {stage}, from: OBSERVER}}"
                self._problem(("hook",), text, cure)

    def _observers(
        self, clauses: list[Clause], hook: Hook | None, conditions: tuple[str | None, ...]
    ) -> dict[str, Source]:
        """Return the observers that must be seeing: those behind every fact and link that is read."""
        facts = {fact for clause in clauses for fact in clause.facts}
        texts = [text for text in conditions if text]
        texts += [text for action in (hook.actions if hook else ()) for text in (action.effect, action.ready) if text]
        for text in texts:
            try:
                facts |= expression.facts_of(expression.parse(text), self.words)
            except ExpressionError:
                continue  # already listed where it stands
        facts |= {name for name, fact in self.target.facts.items() if fact.kind == "state"}  # all must read as before
        if hook:
            facts |= {name for name, fact in self.target.facts.items() if fact.kind == "event"}
        read = {observer for fact in facts for observer in self.target.facts[fact].from_}
        sources: dict[str, Source] = {}
        for name, spec in self.target.observers.items():
            try:
                kind = self.names.observer(spec.kind)
            except LookupError as error:
                if name in read:
                    self._problem((), f"observers.{name}: {error.args[0] if error.args else error}")
                continue
            self._fills(name, spec.kind, kind, facts)
            if name in read or kind.yields & {"alert", "silence"}:  # an alert of others refuses any run
                sources[name] = Source(
                    kind=spec.kind, every_s=spec.every, cursor=kind.cursor, yields=tuple(sorted(kind.yields))
                )
        return sources

    def _fills(self, name: str, kind_name: str, kind: ObserverKind, facts: Iterable[str]) -> None:
        """A fact that is read must be one that its observer can see at all: else every verdict on it is empty."""
        for each in sorted(facts):
            fact = self.target.facts[each]
            needs = _SEEN_AS.get(fact.stage or "", fact.kind) if fact.kind == "event" else fact.kind
            if name in fact.from_ and kind.yields and needs not in kind.yields:
                sees = ", ".join(sorted(kind.yields))
                self._problem((), f"facts.{each} needs {needs} observations, and {name} ({kind_name}) makes: {sees}")


def _uses_baseline(node: Node) -> bool:
    return any(isinstance(each, Name) and each.path == "baseline" for each in expression.walk(node))


def _plainly(key: str, error: Any, injector: Injector) -> tuple[str, str | None]:
    """Return a validation error of an injector's parameters in plain words, with the cure."""
    takes = "it takes: " + ", ".join(injector.params.model_fields)
    match error["type"]:
        case "missing":
            return f"argument {key!r} is missing", takes
        case "extra_forbidden":
            return f"unknown argument {key!r}", takes
        case "value_error":
            return f"{key}: {error['ctx']['error']}", None
        case _:
            given = error["input"]
            shown = spell(given) if isinstance(given, bool | int | float | str | tuple) else repr(given)
            return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}, not {shown}", None
