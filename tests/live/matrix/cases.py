"""What is played: one case is one run, how its target behaves, and where and how it is killed; and how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.live.matrix.store import ODD

ROOT = Path(__file__).resolve().parents[3]
ROOM = Path(__file__).parent / "room"

#: How many victims run at a time.
AT_ONCE = 8

#: The lease, and for how long a request may be on its way, seconds: small, so that the matrix is quick.
TTL_S, SETTLE_S = 1.0, 1.0

TARGET = "killstore"

#: In the environment of a run and of all that it starts: the run's folder. So what is in no journal is found, too.
MARK = "KILLROOM_RUN"

PROFILE: dict[str, Any] = {
    "target": TARGET,
    "environment": "sim-test",
    "identity": {"url": "${stack.store}/identity"},
    "doors": {"store": {"url": "${stack.store}"}},
    "observers": {"store": {"kind": "http_state", "url": "${stack.store}/state", "every": 0.1}},
    "facts": {
        "gate": {"kind": "state", "from": "store", "values": ["open", "blocked"]},
        "load": {"kind": "gauge", "from": "store", "worse": "up"},
    },
    "steady_state": "load < 0.5",
    "within": {"effect": 3, "recover": 5},
    "restore": [{"fact": "gate", "url": "${stack.store}/gate", "json": {"gate": "{prior}"}}],
}

#: What a busy machine may add to any wait, seconds.
SLACK_S = 4.0

#: After a kill, a leased fault is gone within this time unaided: its lease, and a request that still landed.
LEASED_S = TTL_S + SETTLE_S + SLACK_S

#: One that only a process can withdraw: start of the watchdog's work, a settle window for each fault, restore.
LOOSE_S = 3 * SETTLE_S + 2 * SLACK_S

#: The longest that a whole case may take, seconds.
CASE_S = 45.0

#: Exit codes of a run that was interrupted.
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGTERM twice": 143, "SIGHUP": 143}

#: From here on all may be seen to be well without another wait: an interrupt finds the run judged, and changes nothing.
OVER = "mark fault.gone 1"

#: Ways to go that leave the runner no time for anything.
DEADLY = ("SIGKILL", "group", "everything")

#: A run with company, and one whose company does not end with its input.
JOINED, DEAF = "store.joined()", "store.joined(deaf=true)"

KILLS = (*CODES, *DEADLY, "watchdog")


@dataclass(frozen=True, slots=True)
class Case:
    """One run: where and how it is killed (`at` a point, or after `after_s`), and how the target behaves."""

    at: str | None = None
    how: str | None = None
    odd: str = ""
    odd_at: str = ""
    after_s: float | None = None
    faults: tuple[str, ...] = ()
    at_once: bool = False
    over: bool = False
    job: dict[str, Any] = field(default_factory=dict)

    @property
    def deaf(self) -> bool:
        """Whether its company ends only when it is made to."""
        return DEAF in self.faults

    def __str__(self) -> str:
        when = f"{self.after_s:.3f} s" if self.after_s is not None else self.at
        odd = f", {self.odd} at {self.odd_at}" if self.odd else ""
        odd += f", {' and '.join(self.faults)}" if self.faults else ""
        return f"{self.how} at {when}{odd}{', recovered at once' if self.at_once else ''}"


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of one case: the points it passed, its exit code, and what the oracle has against it.

    `left` is what stayed in the target, unaided, though it must not; `wrong` is everything else.
    """

    case: Case
    points: tuple[tuple[str, bool], ...]
    code: int
    folder: Path
    space: str
    left: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    took_s: float = 0.0
    alive: bool = True  # whether the runner still ran as it was killed


def told(ended: Iterable[Ended]) -> list[str]:
    """Return one line for each case that did not end as it must."""
    return [
        f"{each.case}: {'; '.join(each.left + each.wrong)} ({each.space})" for each in ended if each.left + each.wrong
    ]


def product(dry: Ended) -> list[Case]:
    """Return every point that a dry run passed, killed in every way that there is something to kill for."""
    names = [point for point, _ in dry.points]
    over = names.index(OVER)
    return [
        Case(at=point, how=how, over=names.index(point) >= over)
        for how in KILLS
        for point, watched in dry.points
        if watched or how != "watchdog"
    ]


#: Steps that a run with company has in common with others, and is killed at all the same.
TOGETHER = ("call apply leased sent", "mark phase observe", "call withdraw leased sent", "mark phase restore")


def accompanied(joined: Ended, dry: Ended) -> list[Case]:
    """Return the points that only a run with company passes, and some of the others, killed in every way."""
    alone = {point for point, _ in dry.points}
    steps = [point for point, _ in joined.points if point not in alone or point in TOGETHER]
    cases = [replace(each, faults=(JOINED,)) for each in product(joined) if each.at in steps]
    deaf = [Case(at="mark phase observe", how=how, faults=(DEAF,)) for how in KILLS]
    return [*cases, *deaf, Case(faults=(DEAF,))]


#: Where a request of an odd target is under way.
UNDER_WAY = {
    "apply": ("call apply leased sent", "call apply loose sent"),
    "withdraw": ("call withdraw loose sent", "call withdraw leased sent"),
}


def oddities() -> list[Case]:
    """Return every odd target, left alone and killed while a request to it is under way."""
    cases = []
    for odd in ODD:
        for where, points in UNDER_WAY.items():
            cases.append(Case(odd=odd, odd_at=where))
            # An apply that is not acknowledged is the last one: the story never comes to the second.
            alone = where == "apply" and odd not in ("double", "forgetting")
            for point in points[:1] if alone else points:
                for how in ("SIGTERM", "SIGKILL", "everything"):
                    cases.append(Case(at=point, how=how, odd=odd, odd_at=where))
                cases.append(Case(at=point, how="everything", odd=odd, odd_at=where, at_once=True))
    return cases
