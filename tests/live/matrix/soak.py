"""Random plans killed at random times: how often does a fault stay behind?

``python -m tests.live.matrix.soak [--seeds N] [--first SEED] [--write]`` prints the leak rate, and puts it into
docs/leak-rate.md with the command and the date. A seed gives the same plan and the same moment again; what the machine
does meanwhile it cannot repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.live.matrix.bench import Bench
from tests.live.matrix.cases import AT_ONCE, KILLS, LEASED_S, LOOSE_S, ROOT, Case, Ended, told
from tests.live.matrix.every import Drill, Every, Played, installed
from tests.live.matrix.store import ODD

PAGE = ROOT / "docs" / "leak-rate.md"

#: How long a run takes, about, seconds: kills fall anywhere in it.
STORY_S = 1.4

#: How many of the targets behave oddly.
ODDLY = 0.4

#: How many runs are of any one of the installed injectors, against the target that its own test brings.
OTHERS = 0.3

#: How many of those run at a time, beside the others; and how long one takes, about, seconds.
OTHERS_AT_ONCE, OTHERS_S = 4, 2.0


def case(seed: int) -> Case:
    """Return the case of one seed."""
    chance = random.Random(seed)
    faults = tuple(f"store.{chance.choice(('leased', 'loose'))}()" for _ in range(chance.randint(1, 3)))
    odd = chance.choice(ODD) if chance.random() < ODDLY else ""
    how = chance.choice(KILLS)
    return Case(
        how=how,
        odd=odd,
        odd_at=chance.choice(("apply", "withdraw")) if odd else "",
        after_s=chance.uniform(0.0, STORY_S * (2.0 if odd else 1.0)),
        faults=faults,
        at_once=how == "everything" and chance.random() < 0.5,
    )


def other(seed: int, names: Sequence[str]) -> Drill | None:
    """Return the run of one of the installed injectors that this seed stands for; null for the most."""
    chance = random.Random(f"other {seed}")
    if chance.random() >= OTHERS:
        return None
    return Drill(chance.choice(names), how=chance.choice(KILLS), after_s=chance.uniform(0.0, OTHERS_S))


async def soak(seeds: Sequence[int], folder: Path) -> list[Ended | Played]:
    """Run the cases of these seeds."""
    names = installed()
    others = {seed: drill for seed in seeds if (drill := other(seed, names)) is not None}
    async with Bench(folder).open() as bench:
        cases = bench.all([case(seed) for seed in seeds if seed not in others])
        ended, drilled = await asyncio.gather(cases, Every(bench, OTHERS_AT_ONCE).all(list(others.values())))
        return [*ended, *drilled]


def table(ended: Sequence[Ended | Played]) -> str:
    """Return what was left behind, by the way in which the run was killed."""
    rows = [
        "| killed | runs | still alive then | left unaided | left after `sim recover` | anything else wrong |",
        "|---|---|---|---|---|---|",
    ]
    groups = {how: [each for each in ended if each.case.how == how] for how in KILLS}
    for name, group in {**groups, "**all**": list(ended)}.items():
        recovered = [each for each in group if any("after recover" in why for why in each.wrong)]
        other = [each for each in group if each.wrong and each not in recovered]
        left = [each for each in group if each.left]
        counts = (len(group), sum(each.alive for each in group), len(left), len(recovered), len(other))
        rows.append(" | ".join([f"| {name}", *map(str, counts)]) + " |")
    return "\n".join(rows)


def page(shown: str, ended: Sequence[Ended | Played], command: str, took_s: float) -> str:
    """Return the page: how it was measured, where, when, and the table."""
    leaks = sum(bool(each.left) or any("after recover" in why for why in each.wrong) for each in ended)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    when = f"on {time.strftime('%Y-%m-%d')}, {machine}, {AT_ONCE + OTHERS_AT_ONCE} runs at a time, in {took_s:.0f} s"
    others = [each for each in ended if isinstance(each, Played)]
    kinds = len({each.case.injector for each in others})
    return f"""# Leak rate

**{leaks} of {len(ended)}** killed runs left a fault, or a state that it had changed, behind.

Made by `{command}`
{when}.

Each run is the whole story of `sim run`, and is killed at a random moment. {len(others)} are of one of {kinds}
installed injectors, against the target that its own test brings. The others have one to three faults, some with a lease
on the target and some without, against a fault store that in {ODDLY:.0%} of the runs behaves oddly
({", ".join(ODD)}).
Left unaided: still there although it must go by itself: a leased fault after every kill (within {LEASED_S:g} s), one
without a lease, and the state that a fault had changed, after every kill but that of runner and watchdog together
(within {LOOSE_S:g} s). What nobody is left to withdraw is for `sim recover`, which is run after each
kill, after that of everything half the time at once, and must leave nothing.

{shown}
"""


def main(arguments: list[str]) -> int:
    """Soak, print, and return 1 when anything was left behind or is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.live.matrix.soak", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many (500)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--write", action="store_true", help="write docs/leak-rate.md")
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        ended = asyncio.run(soak(range(chosen.first, chosen.first + chosen.seeds), Path(folder)))
    shown = table(ended)
    print("\n".join([*told(ended), shown]))
    if chosen.write:
        words = [word for word in arguments if word != "--write"]
        command = " ".join(["python -m tests.live.matrix.soak", *words, "--write"])
        PAGE.write_text(page(shown, ended, command, time.monotonic() - started), encoding="utf-8")
        print(f"written: {PAGE.relative_to(ROOT)}", file=sys.stderr)
    return int(any(each.left or each.wrong for each in ended))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
