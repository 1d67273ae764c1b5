"""Which release serves the next request: smooth weighted round robin, deterministic, so that shares are exact.

Over any 100 requests in a row at fixed weights, each release serves exactly its weight, spread evenly. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping


class Rotation:
    """Picks names by weight; begin anew with :meth:`set` when weights change."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        """Begin with ``weights`` (their sum is more than 0)."""
        self.set(weights)

    def set(self, weights: Mapping[str, int]) -> None:
        """Take new weights and forget what was owed under the old ones; raises ValueError for a sum of 0."""
        if min(weights.values(), default=-1) < 0 or sum(weights.values()) <= 0:
            raise ValueError("weights are 0 or more, and one is more than 0")
        self._weights = dict(weights)
        self._owed = dict.fromkeys(weights, 0)

    @property
    def weights(self) -> dict[str, int]:
        """The weights in use."""
        return dict(self._weights)

    def next(self) -> str:
        """Return who serves the next request; one with weight 0 never does."""
        for name, weight in self._weights.items():
            self._owed[name] += weight
        chosen = max((name for name, weight in self._weights.items() if weight), key=lambda name: self._owed[name])
        self._owed[chosen] -= sum(self._weights.values())
        return chosen
