"""A fault that can be named, checked and planned; nothing applies it."""

from pydantic import BaseModel, ConfigDict

from sim.injector import InjectionError, Injector


class Params(BaseModel):
    """Its arguments."""

    model_config = ConfigDict(extra="forbid")

    share: float
    duration: str = "1m"


async def _refuse(*_):
    raise InjectionError("the toy room injects nothing")


injector = Injector(
    summary="Makes the toy slow.",
    params=Params,
    doors=(),
    lease="target",
    prepare=_refuse,
    apply=_refuse,
    effective=_refuse,
    withdraw=_refuse,
    gone=_refuse,
    signal=lambda _: (),
    positional=("share",),
)
