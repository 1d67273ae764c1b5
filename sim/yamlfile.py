"""A strict YAML 1.2 core loader that knows where everything stands.

Built on the event stream of PyYAML's pure-Python SafeLoader (the C loader was measured to crash on 60 kB of ``[``):
size and depth are checked before anything is composed, nothing recurses, and every finding but a syntax error lets the
reading go on, so that one look shows them all. Refused: duplicate keys, keys that are not text, anchors, aliases,
merge keys, tags, directives, a second document, control characters, a byte order mark, more than 64 KiB or 32 levels.
"""

from __future__ import annotations

import stat
from pathlib import Path

from sim.problem import InvalidFile, Problem
from sim.yamlreader import DEPTH_MAX, Loc, Mark, Node, Reader, Source, Value, dotted, forbidden
from sim.yamlscalar import source_indices

__all__ = [
    "BYTES_MAX",
    "DEPTH_MAX",
    "Document",
    "Loc",
    "Mark",
    "Value",
    "dotted",
    "load",
    "loads",
    "parse",
    "parse_file",
]

BYTES_MAX = 64 * 1024


class Document:
    """One YAML document: plain data, and the place of every part of it.

    `problems` are what the reading found and could step over; `load` and `loads` raise them, `parse` leaves them to a
    caller who has more to add (see `sim.validation`).
    """

    def __init__(self, source: Source, root: Node | None, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        self._source = source
        self._root = root or Node(0, 0)

    @property
    def name(self) -> str:
        """The file's name in messages."""
        return self._source.name

    @property
    def data(self) -> Value:
        """The document as plain Python: dict, list, str, int, float, bool, None."""
        return self._root.value

    def has(self, loc: Loc) -> bool:
        """Say whether `loc` is a place of this document."""
        return self._deepest(loc)[1] == len(loc)

    def value(self, loc: Loc) -> Value:
        """Return what stands at `loc`, or at the deepest part of it that exists."""
        return self._deepest(loc)[0].value

    def mark(self, loc: Loc, key: bool = False) -> Mark:
        """Return the place of the value at `loc` (with `key`, of the key that names it).

        Where `loc` goes deeper than the document, the deepest part that exists counts. What is no list stands for the
        list of itself alone, so index 0 of it is the thing itself.
        """
        node, _, name = self._deepest(loc)
        return self._source.span(name if key and name is not None else node)

    def inside(self, loc: Loc, offset: int, length: int = 1) -> Mark:
        """Return the place of `length` characters of the text at `loc`, from its character `offset` (from 0) on.

        Quotes, escapes, folded and indented lines are seen through. Beyond the end of the text is just after it.
        """
        node = self._deepest(loc)[0]
        if not isinstance(node.value, str) or not node.value:
            return self._source.span(node)
        indices = source_indices(self._source.text, node.start, node.end, node.style, node.value)
        first = indices[offset] if 0 <= offset < len(indices) else indices[-1] + 1
        last = indices[min(offset + max(1, length), len(indices)) - 1] if 0 <= offset < len(indices) else first
        return self._source.at(first, max(1, last - first + 1))

    def problem(self, mark: Mark, message: str, where: str = "", hint: str | None = None) -> Problem:
        """Return a problem of this document at `mark`."""
        return self._source.problem(mark, message, where, hint)

    def _deepest(self, loc: Loc) -> tuple[Node, int, Node | None]:
        """Return the deepest node on the way to `loc`, how many parts of `loc` exist, and the key nearest above it."""
        node, name, depth = self._root, None, 0
        for part in loc:
            child = node.children.get(part)
            if child is None:
                if part == 0 and not isinstance(node.value, list):
                    depth += 1
                    continue
                break
            name = node.keys.get(part, name) if isinstance(part, str) else child
            node, depth = child, depth + 1
        return node, depth, name


def load(path: Path, name: str | None = None) -> Document:
    """Return the document in the file at `path`, called `name` in messages. Raises `InvalidFile` with every fault."""
    return _sound(parse_file(path, name))


def loads(text: str, name: str = "<text>") -> Document:
    """Return the document in `text`, called `name` in messages. Raises `InvalidFile` with all its faults."""
    return _sound(parse(text, name))


def parse_file(path: Path, name: str | None = None) -> Document:
    """Return the document in the file at `path`, its `problems` not yet raised. Raises `InvalidFile` if unreadable."""
    name = str(path) if name is None else name
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _whole_file(name, "not a file" if not path.is_dir() else "a folder, not a file")
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise _whole_file(name, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(raw) > BYTES_MAX:
        raise _whole_file(name, f"larger than {BYTES_MAX // 1024} KiB")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _whole_file(name, "not UTF-8 but UTF-16", "save it as UTF-8")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        good = Source(name, raw[: error.start].decode("utf-8") + "\N{REPLACEMENT CHARACTER}")
        place = good.at(len(good.text) - 1)
        message = f"not UTF-8: byte 0x{raw[error.start]:02x}"
        raise InvalidFile([good.problem(place, message, hint="save it as UTF-8")]) from error
    return parse(text, name)


def parse(text: str, name: str = "<text>") -> Document:
    """Return the document in `text`, its `problems` not yet raised. Raises `InvalidFile` when reading cannot go on."""
    if len(text.encode("utf-8", "surrogatepass")) > BYTES_MAX:
        raise _whole_file(name, f"larger than {BYTES_MAX // 1024} KiB")
    source = Source(name, text)
    wrong = list(forbidden(source))
    if wrong:
        raise InvalidFile(wrong)
    reader = Reader(source)
    root = reader.read()
    return Document(source, root, tuple(reader.problems))


def _sound(document: Document) -> Document:
    if document.problems:
        raise InvalidFile(document.problems)
    return document


def _whole_file(name: str, message: str, hint: str | None = None) -> InvalidFile:
    return InvalidFile([Problem(name, 1, 1, message, "", hint)])
