"""What changed between two looks: pure bookkeeping that turns listings into one event a change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sim.event import JSON
from sim.observation import Observation


@dataclass(frozen=True, slots=True)
class Episode:
    """One alert while it is pending or firing.

    `since` tells one episode of the same labels from the next (epoch ns for Prometheus, the stamp for Alertmanager).
    `starts_at` is Alertmanager's startsAt of a firing alert; of a pending one it is the time from which it is active.
    """

    labels: Mapping[str, str]
    fingerprint: str
    since: int | str
    starts_at: float | None
    state: str

    def seen(self, state: str | None = None) -> Observation:
        """Return the observation that this alert is now in `state` (its own unless given)."""
        state = state or self.state
        return Observation(
            "alert",
            {
                "name": self.labels.get("alertname"),
                "labels": dict(self.labels),
                "fingerprint": self.fingerprint,
                "starts_at": self.starts_at,
                "state": state,
            },
            # When it ended no listing says: it is only gone from it.
            None if state == "resolved" else self.starts_at,
        )


class Episodes:
    """The alerts of the last look."""

    def __init__(self) -> None:
        self.known: Mapping[str, Episode] = {}

    def turn(self, now: Mapping[str, Episode]) -> list[Observation]:
        """Make `now` (by fingerprint) the last look and return what is new: what ended first, then what began."""
        ended, begun = [], []
        for key, before in self.known.items():
            after = now.get(key)
            if after is None or after.since != before.since:
                ended.append(before.seen("resolved"))
        for key, after in now.items():
            before_ = self.known.get(key)
            if before_ is None or (before_.since, before_.state) != (after.since, after.state):
                begun.append(after.seen())
        self.known = dict(now)
        return ended + begun


class Changes:
    """The last value of each state fact."""

    def __init__(self) -> None:
        self._last: dict[str, JSON] = {}

    def turn(self, now: Mapping[str, JSON]) -> list[Observation]:
        """Make `now` the last look and return one ``state`` for each fact that differs (at the first look: each)."""
        # 1 == True in Python, but not to whoever reads the record.
        new = [
            Observation("state", {"fact": fact, "value": value})
            for fact, value in now.items()
            if fact not in self._last or (type(self._last[fact]), self._last[fact]) != (type(value), value)
        ]
        self._last.update(now)
        return new
