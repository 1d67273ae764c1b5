"""Brings a target's stack up and down: supervised processes or a Compose project, with readiness, free ports, logs,
and no orphans.

`up`, `find`, `down`, `names` and `read` are the whole interface; `sim.stack.supervisor` is the process that owns one
stack, `sim.stack.processes` and `sim.stack.compose` are the kinds there are.
"""

from sim.stack.control import Stack, containers, down, ended, find, names, read, spec_path, up
from sim.stack.errors import StackError

__all__ = ["Stack", "StackError", "containers", "down", "ended", "find", "names", "read", "spec_path", "up"]
