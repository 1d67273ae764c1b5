"""What one proxy has done, live: connections, bytes, whom its toxics met, and how late its deliveries were."""

from __future__ import annotations

from collections import deque
from typing import Any

#: Lateness is told from the last so many delayed deliveries.
SAMPLES = 4096

#: So many names of toxics are remembered with the connections they met.
NAMES = 256


class Stats:
    """The counters of one proxy. Everything counts from the proxy's creation and moves while connections are open."""

    def __init__(self) -> None:
        self.connections = 0  #: accepted
        self.refused = 0  #: accepted, but the upstream could not be reached in time
        self.cut = 0  #: closed because the proxy was disabled, changed or deleted
        self.upstream = 0  #: bytes given to the upstream
        self.downstream = 0  #: bytes given to clients
        self.impacted: dict[str, int] = {}  #: toxic → connections on which it did something
        self.late = 0  #: deliveries that had a deadline
        self.held = 0  #: of these or others, those that waited for a peer that did not read
        self.latest_s = 0.0
        self._lateness: deque[float] = deque(maxlen=SAMPLES)

    def start_counting(self, toxic: str) -> None:
        """Count the connections that the new toxic called `toxic` meets, from none."""
        self.impacted.pop(toxic, None)
        while len(self.impacted) >= NAMES:
            del self.impacted[next(iter(self.impacted))]
        self.impacted[toxic] = 0

    def impact(self, toxic: str) -> None:
        """Count one more connection on which `toxic` did something."""
        if toxic in self.impacted:
            self.impacted[toxic] += 1

    def delivered(self, lateness_s: float) -> None:
        """Count a delivery so many seconds after its deadline."""
        self.late += 1
        self._lateness.append(lateness_s)
        if lateness_s > self.latest_s:
            self.latest_s = lateness_s

    def as_json(self, seed: int, still_open: int) -> dict[str, Any]:
        """Return the counters as the API shows them. Times in milliseconds."""
        ordered = sorted(self._lateness)
        return {
            "seed": seed,
            "connections": self.connections,
            "open": still_open,
            "refused": self.refused,
            "cut": self.cut,
            "bytes": {"upstream": self.upstream, "downstream": self.downstream},
            "impacted": dict(self.impacted),
            "lateness_ms": {
                "count": self.late,
                "p50": _at(ordered, 0.50),
                "p99": _at(ordered, 0.99),
                "max": round(self.latest_s * 1000, 3),
            },
            "held_by_peer": self.held,
        }


def _at(ordered: list[float], share: float) -> float:
    """Return the value at `share` of a sorted list (nearest rank), in milliseconds; 0 for none."""
    if not ordered:
        return 0.0
    rank = max(0, min(len(ordered) - 1, round(share * len(ordered) + 0.5) - 1))
    return round(ordered[rank] * 1000, 3)
