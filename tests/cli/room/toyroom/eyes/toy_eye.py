"""An observer that sees nothing."""

from pydantic import BaseModel, ConfigDict

from sim.observation import ObserverKind


class Config(BaseModel):
    """Its keys in a profile."""

    model_config = ConfigDict(extra="forbid")

    url: str
    tries: int = 1


def _open(opening):
    raise AssertionError("no script opens an observer")


observer = ObserverKind(
    summary="Looks at the toy.", config=Config, open=_open, yields=frozenset(["alert", "execution", "gauge", "message"])
)
