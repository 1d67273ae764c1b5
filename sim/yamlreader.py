"""From YAML's event stream to nodes that know where they stand; see `sim.yamlfile`, which is what others use."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

import yaml

from sim.problem import InvalidFile, Problem
from sim.yamlscalar import resolve

DEPTH_MAX = 32

Loc: TypeAlias = "tuple[str | int, ...]"
Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"

_BREAK = re.compile(r"\r\n|\r|\n")
#: What may not stand in a file as it is. U+0085, U+2028 and U+2029 are line breaks to YAML 1.1 and not to 1.2.
_FORBIDDEN = re.compile(
    "[^\\t\\n\\r\\x20-\\x7e\\xa0-\\u2027\\u202a-\\ud7ff\\ue000-\\ufefe\\uff00-\\ufffd\\U00010000-\\U0010ffff]"
)
#: What may not come out of an escape either.
_STEERING = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
_FORBIDDEN_MAX = 20


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file, counted from 1, `col` and `length` in characters."""

    line: int
    col: int
    length: int = 1


@dataclass(slots=True)
class Node:
    """One value of the document, with where it stands."""

    start: int
    end: int
    style: str | None = None
    loc: Loc = ()
    value: Value = None
    children: dict[str | int, Node] = field(default_factory=dict)
    keys: dict[str, Node] = field(default_factory=dict)


class Source:
    """The text of a file under a name, and the way from an index in it to line and column."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self._starts = [0, *(match.end() for match in _BREAK.finditer(text))]

    def at(self, index: int, length: int = 1) -> Mark:
        """Return the mark of `length` characters from `index` on, cut at the end of their line."""
        number = bisect.bisect_right(self._starts, index)
        start = self._starts[number - 1]
        rest = start + len(self.line(number)) - index
        return Mark(number, index - start + 1, max(1, min(length, rest)))

    def span(self, node: Node) -> Mark:
        """Return the mark of `node`."""
        return self.at(node.start, max(1, node.end - node.start))

    def line(self, number: int) -> str:
        """Return line `number`, from 1, without its end; empty beyond the file."""
        if not 1 <= number <= len(self._starts):
            return ""
        end = self._starts[number] if number < len(self._starts) else len(self.text)
        return self.text[self._starts[number - 1] : end].rstrip("\r\n")

    def problem(self, mark: Mark, message: str, where: str = "", hint: str | None = None) -> Problem:
        """Return a problem of this file at `mark`."""
        return Problem(self.name, mark.line, mark.col, message, where, hint, self.line(mark.line), mark.length)


def dotted(loc: Loc) -> str:
    """Return a place in words: ``facts.action.from[0]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def forbidden(source: Source) -> Iterator[Problem]:
    """Yield the characters that may not stand in a file, the first few of them."""
    for count, match in enumerate(_FORBIDDEN.finditer(source.text)):
        if count == _FORBIDDEN_MAX:
            return
        mark = source.at(match.start(), 1)
        if match.start() == 0 and match[0] == "\ufeff":
            yield source.problem(mark, "a byte order mark", hint="save it as UTF-8 without a byte order mark")
        else:
            hint = None if _STEERING.match(match[0]) else f'write it as an escape in quotes: "{_escape(match[0])}"'
            yield source.problem(mark, f"the character U+{ord(match[0]):04X} may not stand in a file", hint=hint)


def _escape(char: str) -> str:
    return f"\\u{ord(char):04X}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08X}"


class Reader:
    """Builds nodes from YAML's events, on a stack of its own."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.root: Node | None = None
        self.stack: list[Node] = []
        #: For each open node: the key that waits for its value; None where the next scalar is a key.
        self.waiting: list[Node | None] = []

    def read(self) -> Node | None:
        """Return the root node. Raises `InvalidFile`, with what was found before, where reading must stop."""
        loader = yaml.SafeLoader(self.source.text)
        documents = 0
        try:
            while loader.check_event():
                event: yaml.Event = loader.get_event()  # type: ignore[no-untyped-call]
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        self._stop(_ends(event)[0], "a second document is not allowed", "one file, one document")
                    if event.version or event.tags:
                        self._add(_ends(event)[0], 1, "a directive is not allowed", "drop the line that starts with %")
                self._take(event)
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except (ValueError, OverflowError):  # what chr() makes of \\UFFFFFFFF
            self._stop(loader.get_mark().index, "an escape that stands for no character", "the last one is \\U0010FFFF")
        finally:
            loader.dispose()
        return self.root

    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._add_event(
                event, "an alias is not allowed", "write the value out; text that starts with * needs quotes"
            )
            self._put(Node(*_ends(event)))
        elif isinstance(event, yaml.ScalarEvent):
            self._refuse_properties(event)
            self._put(self._scalar(event))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._refuse_properties(event)
            start, _ = _ends(event)
            if len(self.stack) >= DEPTH_MAX:
                self._stop(start, f"more than {DEPTH_MAX} levels deep", None, where="")
            node = Node(start, start + 1, value={} if isinstance(event, yaml.MappingStartEvent) else [])
            self._put(node)
            self.stack.append(node)
            self.waiting.append(None)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.stack.pop()
            self.waiting.pop()

    def _refuse_properties(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.anchor is not None:
            self._add_event(
                event,
                f"an anchor (&{event.anchor}) is not allowed",
                "write values out; text that starts with & needs quotes",
            )
        if event.tag is not None:
            self._add_event(event, "a tag is not allowed", "drop it; text that starts with ! needs quotes")

    def _scalar(self, event: yaml.ScalarEvent) -> Node:
        start, end = _ends(event)
        value: Value = event.value
        style = event.style
        if style is None:
            try:
                value = resolve(event.value)
            except ValueError as error:
                self._add(start, end - start, str(error), None)
        found = _STEERING.search(event.value)
        if found:
            self._add(start, end - start, f"the control character U+{ord(found[0]):04X} in a text", None)
        return Node(start, end, style, value=value)

    def _put(self, node: Node) -> None:
        """Hang `node` where it belongs: as root, as list item, as key, or as the value of the waiting key."""
        if not self.stack:
            self.root = node
            return
        parent, key = self.stack[-1], self.waiting[-1]
        if isinstance(parent.value, list):
            node.loc = (*parent.loc, len(parent.value))
            parent.children[len(parent.value)] = node
            parent.value.append(node.value)
        elif key is None:
            self.waiting[-1] = node
        else:
            self.waiting[-1] = None
            node.loc = (*parent.loc, str(key.value))
            self._pair(parent, key, node)

    def _pair(self, parent: Node, key: Node, node: Node) -> None:
        name = key.value
        text = self.source.text[key.start : key.end]
        if not isinstance(name, str):
            what = "a list or a mapping" if isinstance(name, dict | list) else text.strip() or "nothing"
            self._add(
                key.start, key.end - key.start, f"a key must be text, not {what}", "quote it" if text.strip() else None
            )
        elif name == "<<" and key.style is None:
            self._add(key.start, 2, "a merge key (<<) is not allowed", "write the keys out")
        elif name in parent.keys:
            first = self.source.span(parent.keys[name])
            message = f"duplicate key {name!r}, first at line {first.line}, column {first.col}"
            self._add(key.start, key.end - key.start, message, None)
        else:
            assert isinstance(parent.value, dict)
            parent.keys[name] = key
            parent.children[name] = node
            parent.value[name] = node.value

    def _add(self, index: int, length: int, message: str, hint: str | None, where: str | None = None) -> None:
        where = self._where() if where is None else where
        self.problems.append(self.source.problem(self.source.at(index, length), message, where, hint))

    def _where(self) -> str:
        """Return the place that is being read, in words."""
        if not self.stack:
            return ""
        parent, key = self.stack[-1], self.waiting[-1]
        if isinstance(parent.value, list):
            return dotted((*parent.loc, len(parent.value)))
        return dotted(parent.loc if key is None else (*parent.loc, str(key.value)))

    def _add_event(self, event: yaml.Event, message: str, hint: str) -> None:
        self._add(_ends(event)[0], 1, message, hint)

    def _stop(self, index: int, message: str, hint: str | None, where: str | None = None) -> NoReturn:
        self._add(index, 1, message, hint, where)
        raise InvalidFile(self.problems)

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        index = mark.index if mark else 0
        what = ", ".join(filter(None, (error.context, error.problem))) or "not YAML"
        hint = _cure(error.problem or "", self.source.text[index : index + 1])
        begins = error.context_mark
        if hint is None and begins is not None and mark is not None and begins.line != mark.line:
            hint = f"what it belongs to begins at line {begins.line + 1}"
        self._stop(index, f"not YAML: {what}", hint)


def _cure(problem: str, char: str) -> str | None:
    if char == "\t":
        return "indent with spaces, not with tabs"
    if "mapping values are not allowed" in problem:
        return "text with ': ' in it needs quotes; else see the indentation"
    if "cannot start any token" in problem:
        return f"text that starts with {char} needs quotes"
    return None


def _ends(event: yaml.Event) -> tuple[int, int]:
    assert event.start_mark is not None and event.end_mark is not None, "the parser marks every event"
    return event.start_mark.index, event.end_mark.index
