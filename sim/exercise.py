"""An exercise as written in a file: the seed's two lines (`inject`, `expect`), and everything that may stand beside."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sim.target import Model, Scalar, Within


class Call(Model):
    """A fault spelled as an object, for editors: the same as ``call(with…)`` in one string."""

    call: str
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")


def _many(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class Exercise(Model):
    """One declared drill. What is null comes from the target profile."""

    inject: Annotated[tuple[str | Call, ...], BeforeValidator(_many), Field(min_length=1)]
    expect: str
    title: str | None = None
    hook: str | None = None
    owner: str | None = None
    tags: tuple[str, ...] = ()
    vars: dict[str, Scalar] = Field(default_factory=dict)
    never: str | None = None
    within: Within = Within()
    steady_state: str | None = None
    stop_when: str | None = None
    time: Literal["live", "seeded"] | None = None
    hold: Literal["witnessed", "full"] = "witnessed"
    repeat: int = Field(1, ge=1, le=1000)


class ExerciseFile(Model):
    """A file of exercises, by name."""

    exercises: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")], Exercise] = Field(min_length=1)
