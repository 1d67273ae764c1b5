"""Ports for what the tests start: none that the system could hand out for an outgoing connection meanwhile."""

from __future__ import annotations

from sim.stack.ports import free_ports
from sim.stack.spec import Spec

_WISH = Spec.model_validate({"stack": "tests", "processes": {"none": {"command": ["true"]}}, "ports": {"one": "auto"}})
_given: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has, and no other test gets before this process ends."""
    while (port := free_ports(_WISH)["one"]) in _given:
        continue
    _given.add(port)
    return port
