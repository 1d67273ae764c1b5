"""A link whose connections are reset: opened, and torn down without a goodbye."""

from __future__ import annotations

from pydantic import Field

from injectors._toxiproxy import Toxic, Toxified, Wait, milliseconds, of


class Params(Toxified):
    """`after` counts from when a connection is opened; a real Toxiproxy resets only those opened under the fault."""

    after: Wait = Field(default=0.0, le=5, description="How long a connection lives until it is reset; at most 5s.")


def _toxic(params: Params) -> Toxic:
    after_ms = milliseconds(params.after)
    return Toxic("reset_peer", {"timeout": after_ms}, {"what": "reset", "ms": after_ms})


injector = of("a link resets its connections", Params, _toxic, ("link", "after", "stream"))
