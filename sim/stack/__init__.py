"""Brings a target's stack up and down: supervised processes with readiness, free ports, logs, and no orphans.

`up`, `find`, `down`, `names` and `read` are the whole interface; `sim.stack.supervisor` is the process that owns the
children of one stack.
"""

from sim.stack.control import Stack, down, ended, find, names, read, spec_path, up
from sim.stack.errors import StackError

__all__ = ["Stack", "StackError", "down", "ended", "find", "names", "read", "spec_path", "up"]
