"""What is wrong with a file: where, what, and the cure; shown with the line and a caret under the place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sim.event import JSON
from sim.refusal import Refusal, Usage

__all__ = ["InvalidFile", "Problem", "Refusal", "Usage", "did_you_mean", "in_order", "listing", "visible"]

#: How much of a long line is shown.
_WINDOW = 120


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file.

    `line` and `col` count from 1, `col` in characters; `length` is how many characters of that line are meant.
    `where` is the place in the file's own words (``cdc_lag.inject``), `hint` what would be right.
    """

    file: str
    line: int
    col: int
    message: str
    where: str = ""
    hint: str | None = None
    source: str = ""
    length: int = 1
    severity: Literal["error", "warning"] = "error"

    def headline(self) -> str:
        """Return the one line that editors and CI systems read: ``file:line:col: error: where: message``."""
        where = f"{visible(self.where)}: " if self.where else ""
        return f"{visible(self.file)}:{self.line}:{self.col}: {self.severity}: {where}{visible(self.message)}"

    def render(self) -> str:
        """Return the headline, the line of the file with a caret under the place, and the cure."""
        lines = [self.headline()]
        if self.source.strip():
            number = f"{self.line:5d} | "
            text, caret = _excerpt(self.source, self.col - 1, max(1, self.length))
            lines += [number + text, " " * (len(number) - 2) + "| " + caret]
        if self.hint:
            lines.append("      = " + visible(self.hint))
        return "\n".join(lines)

    def as_json(self) -> dict[str, JSON]:
        """Return the problem for machines."""
        return {
            "file": self.file,
            "line": self.line,
            "col": self.col,
            "length": self.length,
            "severity": self.severity,
            "where": self.where,
            "message": self.message,
            "hint": self.hint,
        }


class InvalidFile(Refusal):
    """A file cannot be used. `problems` holds every reason found, in the order of the file."""

    exit_code = 3

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = in_order(problems)
        assert self.problems, "an invalid file has a reason"
        super().__init__("\n".join(problem.render() for problem in self.problems))


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return `problems` without repetitions, files in the order given, each from top to bottom."""
    unique = list(dict.fromkeys(problems))
    files = {name: index for index, name in enumerate(dict.fromkeys(each.file for each in unique))}
    return tuple(sorted(unique, key=lambda each: (files[each.file], each.line, each.col)))


def did_you_mean(name: object, known: Iterable[str], otherwise: str = "known") -> str | None:
    """Return ``did you mean 'x'?`` for the nearest of `known`, else the list of what is known, else None."""
    import difflib  # only now: --help has no need of it

    names = sorted(set(known))
    if isinstance(name, str) and len(name) <= 64:
        lowered = {each.lower(): each for each in names}
        near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
        if near:
            return f"did you mean {lowered[near[0]]!r}?"
    return listing(names, otherwise)


def listing(names: Sequence[str], label: str = "known", most: int = 20) -> str | None:
    """Return ``label: a, b, c``, cut after `most` names; None when there is none."""
    if not names:
        return None
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return f"{label}: {', '.join(names[:most])}{more}"


def visible(text: str) -> str:
    """Return `text` on one line and without anything that could steer a terminal or reorder what is read."""
    return "".join(
        char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _excerpt(source: str, at: int, length: int) -> tuple[str, str]:
    """Return what is shown of a line, and the carets under it, aligned for tabs and for wide and combining signs."""
    start = max(0, at - _WINDOW // 2) if len(source) > _WINDOW else 0
    end = min(len(source), start + _WINDOW)
    head, tail = "…" if start else "", "…" if end < len(source) else ""
    shown = "".join("\t" if char == "\t" else visible(char) for char in source[start:end])
    before = " " * len(head) + "".join(_blank(char) for char in shown[: at - start])
    marked = shown[at - start : at - start + length]
    return head + shown + tail, before + "^" * max(1, sum(_width(char) for char in marked))


def _width(char: str) -> int:
    if char.isascii():
        return 1
    import unicodedata

    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _blank(char: str) -> str:
    return "\t" if char == "\t" else " " * _width(char)
