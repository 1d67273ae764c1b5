r"""The patterns of ``matches()``: a subset of RE2, matched in time linear in the text, whatever the pattern.

Python's own engine backtracks, so one short pattern can hold a judge up for hours; this one follows all alternatives
at once and never goes back. A pattern is *searched*: ``^`` and ``$`` tie it to the ends of the text. There are: plain
characters, ``.`` (anything but a newline), ``[a-z]`` and ``[^a-z]``, ``\d \w \s \D \W \S`` (ASCII), ``\n \t`` and an
escaped punctuation mark, ``( )`` and ``(?: )``, ``|``, ``* + ? {m} {m,} {m,n}`` (n at most 100; a ``?`` behind makes
no difference to whether it matches). There are no back-references and no looking around, as in RE2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

_MAX_PATTERN = 256
_MAX_PROGRAM = 1000
_MAX_REPEAT = 100
_MAX_GROUPS = 16
#: Longest text times longest program that is searched.
MAX_COST = 200_000

_Ranges: TypeAlias = tuple[tuple[int, int], ...]
_DIGIT: _Ranges = ((48, 57),)
_WORD: _Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_WHITE: _Ranges = ((9, 10), (12, 13), (32, 32))
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _WHITE}
_REPEAT = re.compile(r"\{(\d{1,4})(,(\d{0,4}))?\}")


class PatternError(ValueError):
    """A pattern that cannot be read, or asks for more than this subset has; or a text too long to search."""


@dataclass(frozen=True, slots=True)
class _Set:
    ranges: _Ranges
    negated: bool = False

    def has(self, code: int) -> bool:
        return any(low <= code <= high for low, high in self.ranges) is not self.negated


@dataclass(frozen=True, slots=True)
class _Edge:
    at_start: bool


@dataclass(frozen=True, slots=True)
class _Row:
    parts: tuple[_Part, ...]


@dataclass(frozen=True, slots=True)
class _Either:
    parts: tuple[_Part, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: _Part
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class _Split:
    to: tuple[int, ...]


_Part: TypeAlias = _Set | _Edge | _Row | _Either | _Repeat
_Step: TypeAlias = _Set | _Edge | _Split | None


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern: a list of steps, the null one being the match."""

    steps: tuple[_Step, ...]

    def cost(self, text: str) -> int:
        """Return the most steps that a search of `text` takes."""
        return (len(text) + 1) * len(self.steps)

    def search(self, text: str) -> bool:
        """Return whether the pattern matches somewhere in `text`. Raises `PatternError` for a text too long."""
        if self.cost(text) > MAX_COST:
            raise PatternError(f"a text of {len(text)} characters is too long for this pattern")
        threads: set[int] = set()
        for at in range(len(text) + 1):
            threads = self._reach({0, *threads}, at == 0, at == len(text))
            if len(self.steps) - 1 in threads:
                return True
            if at < len(text):
                code = ord(text[at])
                threads = {pc + 1 for pc in threads if isinstance(step := self.steps[pc], _Set) and step.has(code)}
        return False

    def _reach(self, starts: set[int], first: bool, last: bool) -> set[int]:
        reached: set[int] = set()
        stack = list(starts)
        while stack:
            pc = stack.pop()
            if pc in reached:
                continue
            reached.add(pc)
            step = self.steps[pc]
            if isinstance(step, _Split):
                stack.extend(step.to)
            elif isinstance(step, _Edge) and (first if step.at_start else last):
                stack.append(pc + 1)
        return reached


@lru_cache(maxsize=128)
def compile_pattern(pattern: str) -> Pattern:
    """Return the compiled `pattern`. Raises `PatternError` that names what is wrong and where."""
    if len(pattern) > _MAX_PATTERN:
        raise PatternError(f"a pattern has at most {_MAX_PATTERN} characters, this one {len(pattern)}")
    reader = _Reader(pattern)
    part = reader.either(0)
    if reader.at < len(pattern):
        reader.refuse("unmatched )")
    emitter = _Emitter()
    emitter.emit(part)
    return Pattern((*emitter.steps, None))


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.at = 0

    def refuse(self, message: str) -> None:
        raise PatternError(f"pattern {self._pattern!r}: {message} at character {self.at + 1}")

    def _next(self) -> str:
        return self._pattern[self.at : self.at + 1]

    def either(self, depth: int) -> _Part:
        if depth > _MAX_GROUPS:
            self.refuse("too many nested groups")
        parts = [self._row(depth)]
        while self._next() == "|":
            self.at += 1
            parts.append(self._row(depth))
        return parts[0] if len(parts) == 1 else _Either(tuple(parts))

    def _row(self, depth: int) -> _Part:
        parts: list[_Part] = []
        while self._next() not in ("", "|", ")"):
            parts.append(self._repeated(self._single(depth)))
        return _Row(tuple(parts))

    def _repeated(self, part: _Part) -> _Part:
        char = self._next()
        if char not in ("*", "+", "?", "{") or not char:
            return part
        if isinstance(part, _Edge):
            self.refuse("nothing to repeat")
        least, most = 1 if char == "+" else 0, 1 if char == "?" else None
        if char == "{":
            match = _REPEAT.match(self._pattern, self.at)
            if match is None:
                self.refuse("a bare { (write \\\\{)")
                raise AssertionError  # refuse() has raised
            least = int(match[1])
            most = least if match[2] is None else int(match[3]) if match[3] else None
            if least > _MAX_REPEAT or (most is not None and not least <= most <= _MAX_REPEAT):
                self.refuse(f"a repetition that is not within 0 to {_MAX_REPEAT}")
            self.at = match.end()
        else:
            self.at += 1
        if self._next() == "?":
            self.at += 1
        if self._next() in ("*", "+", "?", "{") and self._next():
            self.refuse("a repetition of a repetition (put brackets around the first)")
        return _Repeat(part, least, most)

    def _single(self, depth: int) -> _Part:
        char = self._next()
        if char in "*+?{}":
            self.refuse(f"nothing to repeat before {char}" if char != "}" else "a bare } (write \\\\})")
        self.at += 1
        match char:
            case ".":
                return _Set(((10, 10),), negated=True)
            case "^" | "$":
                return _Edge(char == "^")
            case "(":
                return self._group(depth)
            case "[":
                return self._class()
            case "]":
                self.refuse("a bare ] (write \\\\])")
            case "\\":
                return self._escape()
        return _Set(((ord(char), ord(char)),))

    def _group(self, depth: int) -> _Part:
        if self._next() == "?":
            if not self._pattern.startswith("?:", self.at):
                self.refuse("only (?: ) is known after (? (no looking around, names or flags)")
            self.at += 2
        part = self.either(depth + 1)
        if self._next() != ")":
            self.refuse("missing )")
        self.at += 1
        return part

    def _escape(self) -> _Set:
        char = self._next()
        self.at += 1
        if char.lower() in _CLASSES and char:
            return _Set(_CLASSES[char.lower()], negated=char.isupper())
        if char in ("n", "t"):
            code = 10 if char == "n" else 9
            return _Set(((code, code),))
        if not char or char.isalnum():
            self.at -= 1
            what = "back-references are not part of this language" if char.isdigit() else f"\\{char} is not known"
            self.refuse(what)
        return _Set(((ord(char), ord(char)),))

    def _class(self) -> _Set:
        negated = self._next() == "^"
        self.at += negated
        ranges: list[tuple[int, int]] = []
        while self._next() != "]" or not ranges:
            if not self._next():
                self.refuse("missing ]")
            low = self._member()
            if self._next() == "-" and self._pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                high = self._member()
                if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or high[0][0] < low[0][0]:
                    self.refuse("a bad range in [ ]")
                low = ((low[0][0], high[0][1]),)
            ranges.extend(low)
        self.at += 1
        return _Set(tuple(ranges), negated)

    def _member(self) -> _Ranges:
        char = self._next()
        self.at += 1
        if char != "\\":
            if char == "[" and self._next() == ":":
                self.refuse("named classes such as [:alpha:] are not known")
            return ((ord(char), ord(char)),)
        member = self._escape()
        if member.negated:
            self.refuse("a negated class inside [ ]")
        return member.ranges


class _Emitter:
    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self._work = 0

    def emit(self, part: _Part) -> None:
        self._work += 1
        if self._work > 4 * _MAX_PROGRAM or len(self.steps) > _MAX_PROGRAM:
            raise PatternError(f"a pattern of more than {_MAX_PROGRAM} steps (its repetitions are written out)")
        match part:
            case _Set() | _Edge():
                self.steps.append(part)
            case _Row():
                for piece in part.parts:
                    self.emit(piece)
            case _Either():
                self._either(part)
            case _Repeat():
                self._repeat(part)

    def _either(self, part: _Either) -> None:
        fork = self._hole()
        starts, ends = [], []
        for piece in part.parts:
            starts.append(len(self.steps))
            self.emit(piece)
            ends.append(self._hole())
        self.steps[fork] = _Split(tuple(starts))
        for end in ends:
            self.steps[end] = _Split((len(self.steps),))

    def _repeat(self, part: _Repeat) -> None:
        for _ in range(part.least):
            self.emit(part.part)
        if part.most is None:
            fork = self._hole()
            self.emit(part.part)
            self.steps.append(_Split((fork,)))
            self.steps[fork] = _Split((fork + 1, len(self.steps)))
            return
        forks = []
        for _ in range(part.most - part.least):
            forks.append(self._hole())
            self.emit(part.part)
        for fork in forks:
            self.steps[fork] = _Split((fork + 1, len(self.steps)))

    def _hole(self) -> int:
        self.steps.append(None)
        return len(self.steps) - 1
