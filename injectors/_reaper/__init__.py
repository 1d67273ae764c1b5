"""Takes the faults out of a stock Toxiproxy when whoever put them in is gone.

Toxiproxy keeps a toxic until somebody removes it. Where it cannot be replaced by a server that holds leases, this
stands beside it: the runner sends heartbeats, each good for a while, and when they stop the whole server is reset. That
is global, so the server must be the stack's own. What `POST /reset` cannot do (it can hang behind a connection that
nobody reads) is tried proxy by proxy, and again until the server reads back clean.
Heartbeats are kept in memory: what stands at the server when the reaper starts is given a while for somebody to beat.

Over HTTP (``python -m injectors._reaper``): ``PUT /heartbeat/{id}`` with ``{"ttl_s": 15}``, ``DELETE /heartbeat/{id}``
(ended in order), ``GET /heartbeats``, ``GET /healthz``.
"""

from injectors._reaper.beats import Beats, Refused
from injectors._reaper.reaper import Proxy, Reaper

__all__ = ["Beats", "Proxy", "Reaper", "Refused"]
