"""Golden sequences of the pool: a seeded list of operations, checkpoints of the exact state, and a running SHA-256.

`python -m tests.mbp.golden` writes them anew (a change of the pool's arithmetic is a new version, not a new file under
an old name). One file = gzip'ed JSON lines: a header, one line an operation, a checkpoint every 100 operations, a
footer. The hash runs over one text line an operation, result and full state in decimal strings, so that a replay that
differs anywhere differs at the next checkpoint.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).parent
EVERY = 100


@dataclass(frozen=True)
class Recipe:
    """How a sequence is made."""

    name: str
    seed: int
    reserve: str
    count: int
    kinds: tuple[tuple[str, int], ...]  # kind of operation, weight


V1 = Recipe("v1", 20240101, "1000", 1_000, (("buy yes", 3), ("buy no", 3), ("sell yes", 2), ("sell no", 2)))
V2 = Recipe(
    "v2", 20250202, "2500", 12_000,
    (("buy yes", 6), ("buy no", 6), ("sell yes", 5), ("sell no", 5), ("add", 1), ("remove", 1)),
)  # fmt: skip


class Book(Protocol):
    """An implementation of the pool, driven in decimal strings."""

    def do(self, kind: str, amount: str) -> str:
        """Do one operation and return its result as text, or `refused CODE`."""

    def state(self) -> dict[str, str]:
        """Return the whole state in decimal strings."""


def path(recipe: Recipe) -> Path:
    """Return where a sequence is kept."""
    return HERE / f"{recipe.name}.jsonl.gz"


def operations(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield the operations of a recipe: sizes over six orders of magnitude, some too large and some too small."""
    dice = random.Random(recipe.seed)
    kinds, weights = zip(*recipe.kinds, strict=True)
    for _ in range(recipe.count):
        kind = dice.choices(kinds, weights)[0]
        units = int(10 ** dice.uniform(6, 12)) if dice.random() < 0.98 else dice.choice((0, 1, 10**13, 10**18))
        yield kind, f"{units // 10**9}.{units % 10**9:09d}"


def trace(book: Book, ops: Iterator[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file but the header: operations, checkpoints, footer."""
    running, done = hashlib.sha256(), 0
    for kind, amount in ops:
        result = book.do(kind, amount)
        state = book.state()
        running.update(f"{done} {kind} {amount} {result} {json.dumps(state, sort_keys=True)}\n".encode("ascii"))
        done += 1
        yield {"op": kind, "amount": amount}
        if done % EVERY == 0:
            yield {"checkpoint": done, "result": result, "state": state, "sha256": running.hexdigest()}
    yield {"end": done, "sha256": running.hexdigest()}


def write(recipe: Recipe, book: Book) -> None:
    """Write a sequence; the same recipe and arithmetic give the same bytes."""
    header = {"sequence": recipe.name, "seed": recipe.seed, "reserve": recipe.reserve, "count": recipe.count}
    lines = [header, *trace(book, operations(recipe))]
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    with path(recipe).open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
        packed.write(text.encode("ascii"))


def read(recipe: Recipe) -> list[dict[str, Any]]:
    """Return the lines of a kept sequence."""
    with gzip.open(path(recipe), "rt", encoding="ascii") as lines:
        return [json.loads(line) for line in lines]
