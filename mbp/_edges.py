"""The histogram edges of the platform, in one place: the service that counts and the seeded past must use the same."""

from __future__ import annotations

# Seconds. 0.8 is the objective's own limit: burn is read from that bucket, so it must be an edge.
DEC_SECONDS: tuple[float, ...] = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.2,
    0.25,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    1.0,
    1.25,
    1.5,
    2.0,
    2.5,
    3.0,
    5.0,
    10.0,
)

# Milliseconds. The browser's Event Timing rounds to 8 ms: one bucket per step where the verdict falls (80 to 320),
# wider outside; 200 (good) and 500 (poor) are edges.
INP_MS: tuple[float, ...] = (
    *(float(edge) for edge in (16, 24, 32, 40, 48, 64, 80)),
    *(float(edge) for edge in range(88, 321, 8)),
    *(float(edge) for edge in (400, 500, 640, 800, 1000, 1600)),
)


def le_text(edge: float) -> str:
    """Spell a bucket edge as Prometheus 3 stores it: ``200.0``, not ``200``; infinity is ``+Inf``."""
    return "+Inf" if edge == float("inf") else repr(float(edge))
