"""A link that carries crumbs: data comes in small pieces, with a pause after each."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from injectors._toxiproxy import Toxic, Toxified, Wait, of


class Params(Toxified):
    """Pieces of about `average_size` bytes, `size_variation` more or less."""

    average_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(description="The usual size of a piece, bytes.")
    size_variation: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0, description="How much larger or smaller a piece may be, bytes; less than the usual size."
    )
    delay: Wait = Field(default=0.0, le=1, description="The pause after each piece: 1ms, at most 1s.")

    @model_validator(mode="after")
    def _pieces_have_a_size(self) -> Self:
        if self.size_variation >= self.average_size:
            raise ValueError("size_variation is less than average_size")
        return self


def _toxic(params: Params) -> Toxic:
    delay_us = round(params.delay * 1_000_000)  # the one attribute in microseconds
    sizes = {"average_size": params.average_size, "size_variation": params.size_variation}
    return Toxic("slicer", {**sizes, "delay": delay_us})


injector = of(
    "a link carries crumbs: small pieces, with a pause after each",
    Params,
    _toxic,
    ("link", "average_size", "size_variation", "delay", "stream"),
)
