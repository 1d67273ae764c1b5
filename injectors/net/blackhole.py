"""A link that swallows: it opens, and nothing that is sent arrives, until it is closed or the fault is gone."""

from __future__ import annotations

from pydantic import Field

from injectors._toxiproxy import Toxic, Toxified, Wait, milliseconds, of


class Params(Toxified):
    """`after` is when a connection that it swallowed is closed."""

    after: Wait = Field(default=0.0, description="How long until each connection is closed; 0: not before it is over.")


def _toxic(params: Params) -> Toxic:
    return Toxic("timeout", {"timeout": milliseconds(params.after)}, {"what": "silence"})


injector = of("a link swallows all that it is given in one direction", Params, _toxic, ("link", "after", "stream"))
