"""A link that ends late: data passes, but the end of a connection comes only after a while."""

from __future__ import annotations

from pydantic import Field

from injectors._toxiproxy import Dose, Toxic, Toxified, milliseconds, of
from sim.event import JSON


class Params(Toxified):
    """`delay` is between the end of a connection on one side and on the other."""

    delay: Dose = Field(description="How much later the other side sees the end of a connection: 5s.")


def _toxic(params: Params) -> Toxic:
    delay_ms = milliseconds(params.delay)
    shown: dict[str, JSON] = {"what": "late_close", "ms": delay_ms} if params.stream == "downstream" else {}
    return Toxic("slow_close", {"delay": delay_ms}, shown)


injector = of("a link tells late that a connection has ended", Params, _toxic, ("link", "delay", "stream"))
