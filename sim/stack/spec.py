"""The stack file: pure data; no tool and no service is known to the kernel.

Two kinds: processes of this machine (``compose/local.yaml``), and a Docker Compose project (``kind: compose``,
``compose/docker.yaml``). What both have is in `Common`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from sim.target import Duration, Scalar
from sim.validation import validate
from sim.yamlfile import parse_file

#: What can stand in ``${stack.NAME}``.
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,64}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Inside = Annotated[str, StringConstraints(pattern=r"^[^/~][^\x00]*$")]


class Part(BaseModel):
    """The base of everything in a stack file: frozen, and no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Render(Part):
    """A file copied into the stack's folder with ``${stack.NAME}`` filled in.

    `from` may hold ``*`` in its last part; then `to` is a folder and at least one file must match.
    """

    from_: str = Field(alias="from", min_length=1)
    to: Inside


class Preferred(Part):
    """A port to have where it is free; where it is not, any free one will do."""

    prefer: Annotated[int, Field(ge=1, le=65535)]


class Ready(Part):
    """When a process counts as started: a URL answers 2xx, or a port accepts."""

    http: str | None = None
    tcp: str | None = None
    timeout: Duration = Field(60.0, gt=0, le=600)

    @model_validator(mode="after")
    def _one(self) -> Ready:
        if (self.http is None) == (self.tcp is None):
            raise ValueError("give one of http and tcp")
        return self


class Process(Part):
    """One supervised process."""

    command: tuple[str, ...] = Field(min_length=1)
    env: dict[str, str] = {}
    ready: Ready | None = None
    after: tuple[Name, ...] = Field((), description="processes that must be ready before this one is started")
    restart: Literal["on-failure", "never"] = "on-failure"


class Once(Part):
    """A command that runs to its end, once, before the stack is ready; `result` is a JSON file that it leaves."""

    command: tuple[str, ...] = Field(min_length=1)
    env: dict[str, str] = {}
    after: tuple[Name, ...] = ()
    timeout: Duration = Field(60.0, gt=0, le=600)
    result: Inside | None = None


class Gate(Part):
    """One condition of readiness, read over HTTP until it holds.

    Without `path` and `sample` a 2xx answer is enough. `path` walks a JSON answer (keys and indexes joined by dots,
    ``*`` = each); `sample` is a series of a Prometheus text page, as written there. Every value found must meet
    `equals` or `at_least`, and at least one must be found; with `absent` none may be found, in a list or mapping that
    is there (what stands before the first ``*``).
    """

    what: str = Field(min_length=1, description="said while it is waited for, and when it never came")
    http: str
    query: dict[str, str] = Field({}, description="parameters of the URL")
    path: str | None = None
    sample: str | None = None
    equals: Scalar | None = None
    at_least: float | None = None
    absent: Literal[True] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Gate:
        if self.path is not None and self.sample is not None:
            raise ValueError("give path (JSON) or sample (Prometheus text), not both")
        wants = [wish for wish in (self.equals, self.at_least, self.absent) if wish is not None]
        if (self.path is not None or self.sample is not None) != bool(wants):
            raise ValueError("path or sample goes with equals, at_least or absent")
        if len(wants) > 1:
            raise ValueError("give one of equals, at_least and absent")
        if self.absent and ".*" not in (self.path or ""):
            raise ValueError("absent goes with a path that has a * for each of a list")
        return self


class Common(Part):
    """What a stack file of any kind has."""

    stack: Name
    timeout: Duration = Field(120.0, gt=0, le=1800, description="the whole start, everything included")
    stop_timeout: Duration = Field(5.0, gt=0, le=60, description="from the polite signal to the other one")
    ports: dict[Key, Literal["auto"] | int | Preferred] = {}
    secrets: dict[Key, Literal["random"]] = {}
    exports: dict[Key, str] = {}
    env: dict[str, str] = Field({}, description="environment of every process and of every once")
    render: tuple[Render, ...] = ()
    ready: tuple[Gate, ...] = ()

    @model_validator(mode="after")
    def _ports(self) -> Self:
        for name, port in self.ports.items():
            if isinstance(port, int) and not 1 <= port <= 65535:
                raise ValueError(f"ports.{name} is {port}; a port is 1 to 65535 or auto")
        fixed = [port for port in self.ports.values() if isinstance(port, int)]
        if len(set(fixed)) < len(fixed):
            raise ValueError("two names in ports have one number")
        return self


class Spec(Common):
    """A stack of processes of this machine."""

    kind: Literal["processes"] = "processes"
    processes: dict[Name, Process] = Field(min_length=1)
    once: dict[Name, Once] = {}

    @model_validator(mode="after")
    def _order(self) -> Spec:
        shared = self.processes.keys() & self.once.keys()
        if shared:
            raise ValueError(f"{sorted(shared)[0]!r} is the name of a process and of a once")
        everything: dict[str, Process | Once] = {**self.processes, **self.once}
        for name, part in everything.items():
            for other in part.after:
                if other not in self.processes:
                    raise ValueError(f"{name} comes after {other!r}, which is not among the processes")
        _refuse_cycle({name: process.after for name, process in self.processes.items()})
        return self


class ComposeSpec(Common):
    """A Docker Compose project, driven through the Compose command line.

    Compose finds in its environment, for the holes of `files`: ``SIM_STACK_DIR`` (the folder of this start),
    ``SIM_INSTANCE``, ``SIM_STACK`` (the stack's name), and ``SIM_PORT_X`` for each of `ports`. Every service should
    publish on 127.0.0.1 only. A once runs on this machine.
    """

    kind: Literal["compose"]
    files: tuple[Inside, ...] = Field(min_length=1, description="Compose files, later over earlier, beside this file")
    inside: dict[Key, str] = Field(
        {}, description="what ${stack.NAME} stands for in rendered files, where the containers see it otherwise"
    )
    once: dict[Name, Once] = {}
    hint: str = Field("", description="said when Compose cannot start it: where its images come from")
    first: tuple[Gate, ...] = Field((), description="what must hold before a once is run")

    @model_validator(mode="after")
    def _alone(self) -> ComposeSpec:
        for name, once in self.once.items():
            if once.after:
                raise ValueError(f"once.{name}: after names processes, and there are none; use first")
        return self


AnySpec = Spec | ComposeSpec


def _refuse_cycle(after: dict[str, tuple[str, ...]]) -> None:
    done: set[str] = set()
    while len(done) < len(after):
        free = {name for name, others in after.items() if name not in done and done.issuperset(others)}
        if not free:
            raise ValueError(f"these processes wait for each other: {', '.join(sorted(after.keys() - done))}")
        done |= free


def load(path: Path) -> tuple[AnySpec, str]:
    """Return the stack file at `path` and the digest of its bytes, and of its Compose files if it names any.

    Raises `InvalidFile` with every fault in it.
    """
    document = parse_file(path)
    spec: AnySpec
    if isinstance(document.data, dict) and document.data.get("kind") == "compose":
        spec = validate(document, ComposeSpec)
    else:
        spec = validate(document, Spec)
    digest = hashlib.sha256(path.read_bytes())
    for each in compose_files(spec, path):
        digest.update(each.read_bytes() if each.is_file() else b"")
    return spec, f"sha256:{digest.hexdigest()}"


def compose_files(spec: AnySpec, path: Path, extra: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Return the Compose files of the stack file at `path`, in the order in which they are laid over each other."""
    own = spec.files if isinstance(spec, ComposeSpec) else ()
    return (*(path.parent / each for each in own), *extra)


def extra_files(text: str, folder: Path) -> tuple[Path, ...]:
    """Return the files of ``SIM_COMPOSE_FILES``: paths joined by ``:``, below `folder` unless they say from where."""
    return tuple(folder / each for each in text.split(":") if each)
