"""What a load generator wrote down, and what it may be believed for. Pure: it reads files and a clock's numbers only.

The generator incriminates itself. What it was asked for and did not send on time, what it dropped, what it queued
inside itself, and what it cannot account for makes its load *not held*: then nothing that was measured under it counts.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sim.event import JSON

#: Sent over asked, overall and in each window.
RATE_LEAST, RATE_MOST = 0.99, 1.01
#: How late arrivals may leave, seconds at p99; and as a share of the limit that is asserted.
LAG_S, LAG_SHARE = 0.010, 0.05
#: What is judged by itself besides the whole, seconds of schedule.
WINDOW_S = 30.0
_WIDTH = 4


class Unusable(Exception):
    """What the generator wrote cannot be read; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One arrival: when it was due, sent and answered (inf: never), in monotonic seconds, and the status (0: none)."""

    due: float
    sent: float
    done: float
    status: int

    @property
    def lag(self) -> float:
        """Seconds between due and sent: the generator's own lateness."""
        return self.sent - self.due

    @property
    def seconds(self) -> float:
        """Seconds from when it was *due* to its answer: what a user who came on time would have waited."""
        return self.done - self.due


@dataclass(frozen=True, slots=True)
class Told:
    """What one generator (or several, merged) wrote: answered arrivals, those in flight, and its counts."""

    rps: float
    t0: float
    at: float
    asked: int
    sent: int
    dropped: int
    flying_most: int
    concurrency: int
    final: str | None
    samples: Sequence[Sample]
    flying: Sequence[Sample] = field(default=())

    @property
    def arrivals(self) -> list[Sample]:
        """Every arrival that was sent, answered or not, in the order of the schedule."""
        return sorted([*self.samples, *self.flying], key=lambda sample: sample.due)


def read(folder: Path, rps: float) -> Told:
    """Read what a generator has written so far. Raises :class:`Unusable`.

    The state is read first: samples that it does not know yet are left out.
    """
    try:
        state = json.loads((folder / "state.json").read_text(encoding="ascii"))
        raw = (folder / "samples.bin").read_bytes()
        flat = array("d", raw[: len(raw) - len(raw) % (8 * _WIDTH)])
        t0 = state["t0"]
        rows = (flat[i : i + _WIDTH] for i in range(0, len(flat), _WIDTH))
        samples = [Sample(row[0], row[1], row[2], int(row[3])) for row in rows if row[0] <= state["at"]]
        final = state["final"]
        flying = [] if final else [Sample(due, sent, math.inf, 0) for due, sent in state["open"]]
        known = {sample.due for sample in flying}
        return Told(
            rps=rps,
            t0=float("nan") if t0 is None else float(t0),
            at=float(state["at"]),
            asked=int(state["asked"]),
            sent=int(state["sent"]),
            dropped=int(state["dropped"]),
            flying_most=int(state["flying_most"]),
            concurrency=int(state["concurrency"]),
            final=None if final is None else str(final),
            samples=[sample for sample in samples if sample.due not in known],
            flying=flying,
        )
    except FileNotFoundError as error:
        raise Unusable(f"the generator has written no {Path(str(error.filename)).name}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unusable(f"what the generator wrote cannot be read: {type(error).__name__}: {error}") from error


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that at least `share` of `values` do not pass (nearest rank); nan of nothing."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def not_held(told: Told, limit_s: float | None = None, *, so_far: bool = False) -> list[str]:
    """Return why the load does not count as held; nothing when it does. `limit_s` is the limit asserted under it.

    `so_far`: the load goes on, so nothing is final yet.
    """
    found: list[str] = []
    if not so_far and told.final is None:
        found.append("the generator ended without writing its last samples")
    if told.asked == 0:
        return [*found, "no arrival was due yet"]
    known = len(told.samples) + len(told.flying) + told.dropped
    # One arrival may be due in the instant between the count and the stop.
    if abs(told.asked - known) > 1 and not so_far:
        found.append(f"{told.asked} arrivals were due, {known} are accounted for")
    if told.dropped:
        found.append(f"{told.dropped} arrivals were dropped: no room for them in the generator")
    if told.flying_most >= told.concurrency:
        found.append(f"{told.flying_most} requests were in flight at once, as many as the client can hold")
    lag_s = LAG_S if limit_s is None else min(LAG_S, LAG_SHARE * limit_s)
    for name, asked, sent in _windows(told):
        ratio = len(sent) / asked
        if abs(asked - len(sent)) > 1 and not RATE_LEAST <= ratio <= RATE_MOST:
            found.append(f"{name}: {len(sent)} of {asked} arrivals were sent on time ({ratio:.1%})")
        late = percentile([sample.lag for sample in sent], 0.99)
        if late > lag_s:
            found.append(f"{name}: schedule lag p99 {late * 1000:.1f} ms (limit {lag_s * 1000:g} ms)")
    return found


def _windows(told: Told) -> list[tuple[str, int, list[Sample]]]:
    """Return (name, arrivals asked for, arrivals sent) of the whole and of each full window of the schedule."""
    arrivals = told.arrivals
    end = told.t0 + told.asked / told.rps
    made = [("overall", told.asked, arrivals)]
    if end - told.t0 < 2 * WINDOW_S:
        return made
    for number in range(int((end - told.t0) / WINDOW_S)):
        start, stop = number * WINDOW_S, (number + 1) * WINDOW_S
        asked = math.ceil(stop * told.rps - 1e-6) - math.ceil(start * told.rps - 1e-6)
        sent = [s for s in arrivals if start <= s.due - told.t0 + 1e-9 < stop]
        made.append((f"{start:g}-{stop:g} s", asked, sent))
    return made


def summary(told: Told) -> dict[str, JSON]:
    """Return the figures for people: both series (from due, from sent), all answers and the good ones."""
    arrivals = told.arrivals
    answered = [sample for sample in arrivals if sample.done != math.inf]
    good = [sample for sample in answered if 200 <= sample.status < 400]
    due = [sample.seconds for sample in arrivals]
    span = told.asked / told.rps
    return {
        "asked": told.asked,
        "sent": len(arrivals),
        "dropped": told.dropped,
        "in_flight": len(arrivals) - len(answered),
        "in_flight_most": told.flying_most,
        "achieved_rps": _number(len(arrivals) / span if span else math.nan),
        "lag_p99_ms": _ms(percentile([sample.lag for sample in arrivals], 0.99)),
        "statuses": {str(code): n for code, n in sorted(_statuses(answered).items())},
        "error_ratio": _number(1 - len(good) / len(arrivals) if arrivals else math.nan),
        "p50_ms": _ms(percentile(due, 0.50)),
        "p95_ms": _ms(percentile(due, 0.95)),
        "p99_ms": _ms(percentile(due, 0.99)),
        "p95_from_send_ms": _ms(percentile([s.done - s.sent for s in arrivals], 0.95)),
        "p95_good_ms": _ms(percentile([s.seconds for s in good], 0.95)),
    }


def _statuses(samples: Sequence[Sample]) -> dict[int, int]:
    found: dict[int, int] = {}
    for sample in samples:
        found[sample.status] = found.get(sample.status, 0) + 1
    return found


def _ms(seconds: float) -> JSON:
    return _number(seconds * 1000)


def _number(value: float) -> JSON:
    """Return a number for people; what has no value (of nothing, or without end) is null."""
    return round(value, 3) if math.isfinite(value) else None


def merged(parts: Sequence[Told]) -> Told:
    """Return what several generators of one schedule wrote, as one. Raises :class:`Unusable` when one is missing."""
    if not parts:
        raise Unusable("no generator wrote anything")
    finals = [part.final for part in parts]
    return Told(
        rps=parts[0].rps,
        t0=min(part.t0 for part in parts),
        at=max(part.at for part in parts),
        asked=sum(part.asked for part in parts),
        sent=sum(part.sent for part in parts),
        dropped=sum(part.dropped for part in parts),
        flying_most=max(part.flying_most for part in parts),
        concurrency=min(part.concurrency for part in parts),
        final=None if None in finals else finals[0],
        samples=[sample for part in parts for sample in part.samples],
        flying=[sample for part in parts for sample in part.flying],
    )
