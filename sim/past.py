"""The healthy past of a stack: how far back its series reach, and whether the windows that a run reads are covered.

What a stack tells of it is JSON: `sha256` of what was pushed, `until` (RFC 3339) where it ends and the live series go
on, and `windows`: by metric (or the beginning of its name) for how many seconds before `until` there are samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from sim.duration import spell
from sim.event import JSON

#: A window of which less than this is covered says nothing.
HALF = 0.5


class PastError(Exception):
    """What the stack tells of its past cannot be read."""


class _Window(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    window_s: float = Field(gt=0)


class Past(BaseModel):
    """A healthy past, as far as a run needs to know it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    until: AwareDatetime
    windows: dict[str, _Window]

    def age_s(self, wall: float) -> float:
        """Return how many seconds ago it ended."""
        return wall - self.until.timestamp()

    def covered_s(self, metric: str, wall: float) -> float:
        """Return for how many seconds back there are samples of a metric: the pushed ones, and the live ones since."""
        known = [name for name in self.windows if metric == name or metric.startswith(f"{name}_")]
        pushed = self.windows[max(known, key=len)].window_s if known else 0.0
        return max(self.age_s(wall), 0.0) + pushed

    def thin(self, windows: Mapping[str, float], wall: float) -> list[str]:
        """Return the windows (metric → seconds looked back) of which less than half is covered, in words."""
        return [
            f"{metric} has {spell(round(covered, 1))} of the {spell(window)} looked back over"
            for metric, window in sorted(windows.items())
            if (covered := self.covered_s(metric, wall)) < HALF * window
        ]

    def __str__(self) -> str:
        ended = self.until.astimezone(UTC)
        return f"sha256 {self.sha256[:12]}, ended {datetime.isoformat(ended, timespec='seconds')}"


def read(told: Mapping[str, JSON]) -> Past:
    """Return what a stack tells of its past. Raises `PastError`."""
    try:
        return Past.model_validate(dict(told))
    except ValidationError as error:
        first = error.errors()[0]
        raise PastError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
