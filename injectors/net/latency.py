"""A slow link: everything on it comes late, in order, and nothing is lost."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from injectors._toxiproxy import Dose, Toxic, Toxified, Wait, milliseconds, of


class Params(Toxified):
    """`latency` is added in one direction, so a round trip takes that much longer."""

    latency: Dose = Field(description="How much later each piece of data comes: 250ms, 180s.")
    jitter: Wait = Field(default=0.0, description="How much sooner or later than that, evenly spread; up to latency.")

    @model_validator(mode="after")
    def _no_time_travel(self) -> Self:
        if self.jitter > self.latency:
            raise ValueError("jitter is at most the latency")
        return self


def _toxic(params: Params) -> Toxic:
    least = params.latency - params.jitter
    return Toxic(
        "latency",
        {"latency": milliseconds(params.latency), "jitter": milliseconds(params.jitter)},
        {"what": "late", "ms": milliseconds(least)} if least > 0 else {},
    )


injector = of(
    "a link is slow: all that it carries in one direction comes late",
    Params,
    _toxic,
    ("link", "latency", "jitter", "stream", "toxicity"),
)
