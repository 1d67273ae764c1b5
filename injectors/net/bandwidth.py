"""A narrow link: each connection on it gets so much a second and no more."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from injectors._toxiproxy import Toxic, Toxified, of
from sim.event import JSON


class Params(Toxified):
    """`rate` holds for each connection on its own, in one direction."""

    rate: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        description="The most that one connection carries in one direction, KB (1000 bytes) a second."
    )


def _toxic(params: Params) -> Toxic:
    shown: dict[str, JSON] = {"what": "slow", "kb_s": params.rate} if params.stream == "downstream" else {}
    return Toxic("bandwidth", {"rate": params.rate}, shown)


injector = of("a link is narrow: each connection gets only so much", Params, _toxic, ("link", "rate", "stream"))
