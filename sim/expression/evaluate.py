"""A tree and what was seen so far, to a truth and why. Pure: the same readings give the same explanation.

On event facts ``==``, ``in`` and the string tests mean *some* event, ``!=`` and ``!`` mean *none*: a match decides at
once, its absence only when the reading is settled, and then only if the source was seeing. States and gauges are
compared by their current value. What cannot be worked out is unknown with its reason, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sim.expression import values
from sim.expression.found import Found, joined, listed, read, steps_in, undecided, while_growing
from sim.expression.tree import (
    Binary,
    CallNode,
    Conditional,
    ListNode,
    Literal,
    Name,
    Node,
    Scalar,
    Temporal,
    Unary,
    Value,
    spell,
    split_and,
    split_or,
    unparse,
)
from sim.expression.truth import Environment, Explanation, Reading, Truth, Witness, and_, not_, or_
from sim.expression.values import FLIPPED, STRING_TESTS, Fault
from sim.expression.vocabulary import BASELINE, Vocabulary, gauges_of

#: Most steps of one evaluation (a node, a value compared, a character of a pattern); beyond, it is unknown.
MAX_STEPS = 500_000


def evaluate(node: Node, env: Environment, vocabulary: Vocabulary) -> Explanation:
    """Return what `node` comes to in `env`, and why. Never raises for what was seen, however odd."""
    return _Evaluator(env, vocabulary).truth(node)


class _Evaluator:
    def __init__(self, env: Environment, vocabulary: Vocabulary) -> None:
        self._env = env
        self._vocabulary = vocabulary
        self._steps = 0

    def _step(self, count: int = 1) -> None:
        self._steps += count
        if self._steps > MAX_STEPS:
            raise Fault(f"given up after {MAX_STEPS} steps")

    # truths

    def truth(self, node: Node) -> Explanation:
        """Explain `node` as a condition."""
        try:
            self._step()
            match node:
                case Unary() if node.op == "!":
                    inner = self.truth(node.operand)
                    truth, expected = not_(inner.truth), f"not {inner.expected}"
                    return Explanation(unparse(node), truth, expected, inner.actual, inner.at, inner.because, (inner,))
                case Binary() if node.op in ("&&", "||"):
                    return self._junction(node)
                case Conditional():
                    return self._conditional(node)
                case Temporal():
                    inner = self.truth(node.operand)
                    verdict = self._env.temporal(node)
                    when = "at every sample" if node.word == "always" else "at close"
                    return Explanation(
                        unparse(node), verdict, f"{when}: {inner.expected}", f"now {inner.actual}", inner.at,
                        inner.because, (inner,),
                    )  # fmt: skip
                case Binary() if node.op == "in" or node.op in FLIPPED:
                    return self._relation(node)
                case CallNode() if node.function == "has":
                    return self._has(node)
                case CallNode() if node.function in STRING_TESTS:
                    return self._string_test(node)
            return self._bare(node)
        except Fault as fault:
            return Explanation(unparse(node), Truth.UNKNOWN, "a result", str(fault))

    def _junction(self, node: Binary) -> Explanation:
        both = node.op == "&&"
        parts = tuple(self.truth(part) for part in (split_and(node) if both else split_or(node)))
        truth = (and_ if both else or_)(*(part.truth for part in parts))
        deciding = [part for part in parts if part.truth is truth]
        times = [part.at for part in deciding if part.at is not None]
        early = truth is (Truth.FALSE if both else Truth.TRUE)
        at = (min if early else max)(times) if times else None
        because = tuple(sorted({seq for part in deciding for seq in part.because}))
        actual = "; ".join(f"{part.text}: {part.actual}" for part in deciding)
        return Explanation(unparse(node), truth, "all of them" if both else "one of them", actual, at, because, parts)

    def _conditional(self, node: Conditional) -> Explanation:
        condition = self.truth(node.condition)
        if condition.truth not in (Truth.TRUE, Truth.FALSE):
            return Explanation(
                unparse(node), condition.truth, condition.expected, condition.actual, condition.at, condition.because,
                (condition,),
            )  # fmt: skip
        chosen = self.truth(node.then if condition.truth is Truth.TRUE else node.otherwise)
        because = tuple(sorted({*condition.because, *chosen.because}))
        return Explanation(
            unparse(node), chosen.truth, chosen.expected, chosen.actual, chosen.at, because, (condition, chosen)
        )

    def _bare(self, node: Node) -> Explanation:
        got = self._value(node, None)
        if got.lack is None and got.value is not None and not isinstance(got.value, bool):
            raise Fault(f"expected a truth value, not {values.describe(got.value)}")
        truth = got.lack or (Truth.TRUE if got.value is True else Truth.FALSE)
        return Explanation(unparse(node), truth, "true", got.shown(), got.at, got.because)

    def _relation(self, node: Binary) -> Explanation:
        event, op, other = node.left, node.op, node.right
        if not self._vocabulary.is_event(event) and op != "in":
            event, op, other = node.right, FLIPPED[op], node.left
        if not self._vocabulary.is_event(event):
            return self._compare(node)
        assert isinstance(event, Name)
        if op not in ("==", "!=", "in"):
            raise Fault(f"{event.path} is an event fact: it has no order")
        wanted = self._value(other, None)
        expected = f"{'no event ==' if op == '!=' else 'an event ' + op} {wanted.shown()}"
        if wanted.lack is not None or wanted.value is None:
            return Explanation(unparse(node), wanted.lack or Truth.FALSE, expected, wanted.shown())
        options = wanted.value if op == "in" else (wanted.value,)
        if not isinstance(options, tuple):
            raise Fault(f"'in' needs a list on its right, not {values.describe(options)}")
        found = self._some_equal(event.path, options)
        return self._event(node, event.path, found, expected, negated=op == "!=")

    def _compare(self, node: Binary) -> Explanation:
        gauges = gauges_of((node.left, node.right), self._vocabulary)
        gauge = gauges[0] if len(gauges) == 1 else None
        left, right = self._value(node.left, gauge), self._value(node.right, gauge)
        truth, reason = self._compared(node.op, left, right)
        because, at = joined((left, right))
        on_right = not left.because and bool(right.because) and node.op in FLIPPED
        bound, op, got = (left, FLIPPED[node.op], right) if on_right else (right, node.op, left)
        return Explanation(unparse(node), truth, f"{op} {bound.shown()}", reason or got.shown(), at, because)

    def _compared(self, op: str, left: Found, right: Found) -> tuple[Truth, str]:
        lacks = [side for side in (left, right) if side.lack is not None]
        for truth in (Truth.UNKNOWN, Truth.PENDING):
            if reasons := [side.reason for side in lacks if side.lack is truth]:
                return truth, "; ".join(reasons)
        if left.value is None or right.value is None:
            return (Truth.TRUE if op == "!=" else Truth.FALSE), ""
        self._step(len(right.value) if isinstance(right.value, tuple) else 1)
        try:
            holds = values.is_in(left.value, right.value) if op == "in" else values.compare(op, left.value, right.value)
        except Fault as fault:
            return Truth.UNKNOWN, str(fault)
        truth = Truth.TRUE if holds else Truth.FALSE
        if left.grows or right.grows:
            return while_growing(op, left, right, truth), ""
        return truth, ""

    def _has(self, node: CallNode) -> Explanation:
        name = node.args[0] if len(node.args) == 1 else None
        info = self._vocabulary.fact(name) if name is not None else None
        if info is None or not isinstance(name, Name):
            raise Fault("has() needs the name of a fact")
        reading = self._env.reading(name.path)
        seen = [witness for witness in reading.values if witness.value is not None]
        if info.kind == "event":
            return self._event(node, name.path, seen[:1], "an event", reading=reading)
        if seen:
            got = seen[-1]
            return Explanation(unparse(node), Truth.TRUE, "a value", values.clip(spell(got.value)), got.at, (got.seq,))
        nothing = read(reading, info)
        truth = Truth.FALSE if reading.values and (reading.seeing or info.subject) else nothing.lack or Truth.FALSE
        return Explanation(unparse(node), truth, "a value", nothing.shown(), nothing.at, nothing.because)

    def _string_test(self, node: CallNode) -> Explanation:
        if len(node.args) != 2:
            raise Fault(f"{node.function}() needs two texts")
        subject, argument = node.args
        wanted = self._value(argument, None)
        expected = f"{node.function}({wanted.shown()})"
        if self._vocabulary.is_event(subject) and wanted.lack is None and wanted.value is not None:
            assert isinstance(subject, Name)
            pattern = wanted.value
            found = self._some(subject.path, lambda value: self._tested(node.function, value, pattern))
            return self._event(node, subject.path, found, f"an event that {expected}")
        got = self._value(subject, None)
        because, at = joined((got, wanted))
        truth = Truth.FALSE
        for lack in (Truth.PENDING, Truth.UNKNOWN):
            truth = lack if lack in (got.lack, wanted.lack) else truth
        if got.lack is None and wanted.lack is None and got.value is not None and wanted.value is not None:
            truth = Truth.TRUE if self._tested(node.function, got.value, wanted.value) else Truth.FALSE
        return Explanation(unparse(node), truth, expected, got.shown(), at, because)

    def _tested(self, function: str, value: Value, wanted: Value) -> bool:
        self._step(values.steps_of(function, value, wanted))
        return values.string_test(function, value, wanted)

    # events

    def _some(self, fact: str, test: Callable[[Scalar], bool]) -> list[Witness] | Fault:
        """Return the first event that passes `test`, none, or the fault that kept one from being tested."""
        misfit: Fault | None = None
        for witness in self._env.reading(fact).values:
            self._step()
            try:
                if witness.value is not None and test(witness.value):
                    return [witness]
            except Fault as fault:
                misfit = fault
        return misfit if misfit is not None else []

    def _some_equal(self, fact: str, options: Sequence[Value]) -> list[Witness] | Fault:
        joint = self._vocabulary.facts[fact].sequence
        misfit: Fault | None = None
        for option in options:
            if joint is not None and isinstance(option, str) and joint in option:
                found: list[Witness] | Fault = self._in_order(fact, steps_in(option, joint), joint)
            else:
                found = self._some(fact, partial(_is, option=option, joint=joint))
            if isinstance(found, Fault):
                misfit = found
            elif found:
                return found
        return misfit if misfit is not None else []

    def _in_order(self, fact: str, wanted: Sequence[str], joint: str) -> list[Witness]:
        found: list[Witness] = []
        for witness in self._env.reading(fact).values:
            for step in steps_in(witness.value, joint) if isinstance(witness.value, str) else ():
                self._step()
                if step == wanted[len(found)]:
                    found.append(witness)
                    if len(found) == len(wanted):
                        return found
        return []

    def _event(
        self,
        node: Node,
        fact: str,
        found: list[Witness] | Fault,
        expected: str,
        *,
        negated: bool = False,
        reading: Reading | None = None,
    ) -> Explanation:
        reading = reading or self._env.reading(fact)
        actual = listed(reading)
        if isinstance(found, Fault):
            return Explanation(unparse(node), Truth.UNKNOWN, expected, str(found))
        if found:
            truth, at = Truth.TRUE, max(witness.at for witness in found)
            because = tuple(sorted({witness.seq for witness in found}))
        else:
            truth, at, because = undecided(reading) or Truth.FALSE, None, ()
        return Explanation(unparse(node), not_(truth) if negated else truth, expected, actual, at, because)

    # values

    def _value(self, node: Node, gauge: str | None) -> Found:
        """Work `node` out as a value; `gauge` is the one that ``baseline`` means here."""
        self._step()
        match node:
            case Literal():
                return Found(node.value)
            case Name():
                return self._name(node, gauge)
            case ListNode():
                return self._combine(lambda *items: tuple(items), [self._value(item, gauge) for item in node.items])
            case Unary() if node.op == "-":
                return self._combine(values.negate, [self._value(node.operand, gauge)])
            case Binary() if node.op in ("+", "-", "*", "/", "%"):
                sides = [self._value(node.left, gauge), self._value(node.right, gauge)]
                return self._combine(lambda left, right: values.arithmetic(node.op, left, right), sides)
            case CallNode() if node.function == "size" and len(node.args) == 1:
                if self._vocabulary.is_event(node.args[0]) and isinstance(node.args[0], Name):
                    return self._count(node.args[0].path)
                return self._combine(values.size, [self._value(node.args[0], gauge)])
            case CallNode() if node.function == "duration" and len(node.args) == 1:
                return self._combine(values.duration, [self._value(node.args[0], gauge)])
            case CallNode() if node.function not in ("has", *STRING_TESTS):
                raise Fault(f"there is no function {node.function}() of {len(node.args)} arguments")
            case Conditional():
                condition = self.truth(node.condition)
                if condition.truth in (Truth.PENDING, Truth.UNKNOWN):
                    return Found(lack=condition.truth, reason=condition.actual)
                return self._value(node.then if condition.truth is Truth.TRUE else node.otherwise, gauge)
        found = self.truth(node)
        if found.truth in (Truth.PENDING, Truth.UNKNOWN):
            return Found(lack=found.truth, reason=found.actual)
        return Found(found.truth is Truth.TRUE, because=found.because, at=found.at)

    def _name(self, node: Name, gauge: str | None) -> Found:
        info = self._vocabulary.fact(node)
        if node.path == BASELINE:
            return self._baseline(gauge)
        if info is not None and info.kind == "event":
            raise Fault(f"{node.path} is an event fact: it has no one value")
        if info is not None:
            return read(self._env.reading(node.path), info)
        if node.path in self._vocabulary.variables:
            return Found(self._env.variable(node.path))
        raise Fault(f"nothing is called {node.path!r} here")

    def _baseline(self, gauge: str | None) -> Found:
        if gauge is None:
            raise Fault("baseline needs exactly one gauge in its comparison")
        found = self._env.baseline(gauge)
        if found is None or found.value is None:
            return Found(lack=Truth.UNKNOWN, reason=f"no baseline of {gauge}")
        return Found(found.value, because=(found.seq,), at=found.at)

    def _count(self, fact: str) -> Found:
        reading = self._env.reading(fact)
        seqs = tuple(sorted({witness.seq for witness in reading.values}))
        at = max((witness.at for witness in reading.values), default=None)
        return Found(len(reading.values), because=seqs, at=at, grows=undecided(reading))

    def _combine(self, operation: Callable[..., Value], parts: Sequence[Found]) -> Found:
        because, at = joined(parts)
        for lack in (Truth.UNKNOWN, Truth.PENDING):
            for part in parts:
                if part.lack is lack or (part.lack is None and part.grows is lack):
                    return Found(lack=lack, reason=part.reason or "still being counted", because=because, at=at)
        if any(part.value is None for part in parts):
            return Found(lack=Truth.UNKNOWN, reason="its subject is absent", because=because, at=at)
        return Found(operation(*(part.value for part in parts)), because=because, at=at)


def _is(value: Scalar, option: Value, joint: str | None) -> bool:
    if joint is not None and isinstance(value, str) and joint in value:
        return option in steps_in(value, joint)
    return values.compare("==", value, option)
