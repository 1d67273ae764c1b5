"""Which stack file a target means."""

from __future__ import annotations

from pathlib import Path

from sim.places import Places


def stack_file(target: str | None, places: Places) -> Path:
    """Return the stack file of a target (a name or a file; None: the default). Raises `Refusal` when it has none."""
    from sim import stack
    from sim.loading import load_target
    from sim.problem import Usage

    profile = load_target(target, places)
    if profile.stack is None:
        raise Usage(f"the target {profile.target} has no stack: it is a platform that already runs")
    return stack.spec_path(profile.stack, places)
