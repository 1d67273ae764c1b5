"""A link that breaks off: each connection is closed after so many bytes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from injectors._toxiproxy import Toxic, Toxified, of
from sim.event import JSON


class Params(Toxified):
    """`bytes` counts for each connection on its own, in one direction."""

    bytes: Annotated[int, Field(ge=0, le=2**53)] = Field(description="After how many bytes a connection is closed.")


def _toxic(params: Params) -> Toxic:
    shown: dict[str, JSON] = {"what": "short", "bytes": params.bytes} if params.stream == "downstream" else {}
    return Toxic("limit_data", {"bytes": params.bytes}, shown)


injector = of("a link breaks off each connection after so much data", Params, _toxic, ("link", "bytes", "stream"))
