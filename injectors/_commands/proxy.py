"""``sim proxy``: break the network between two programs, with a server that Toxiproxy's clients can drive."""

from __future__ import annotations

from injectors._proxy.command import command

__all__ = ["command"]
