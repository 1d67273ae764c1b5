"""Whom a fault of containers hits: found and refused at `prepare`, known by id ever after."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from injectors._docker.engine import Container, Engine
from sim.event import JSON
from sim.injector import InjectionError, Prepared, Probe, Receipt, Site
from sim.target import Duration, Model

T = TypeVar("T")

#: What every container must carry that may be hit: who labels it so means it for exercises.
LABEL = "sim.environment"

#: By this label, which Compose sets, a container is also found by the name of its service.
SERVICE = "com.docker.compose.service"

#: The most containers that one fault hits.
MOST = 16


class OnContainers(Model):
    """What every fault of containers takes."""

    container: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9][^\s]*$")] = Field(
        description="The container's name, or label=value[,label=value] for every running container that has them; "
        "where the door is narrowed by labels, also the name of its Compose service."
    )
    unlabelled: bool = Field(default=False, description="Hit it even if it has no label sim.environment.")
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long the fault is held, seconds or 90s, 5m, 24h."
    )


def duration_s(params: Any) -> float | None:
    """Return the hold time that the parameters ask for."""
    return params.duration if isinstance(params, OnContainers) else None


async def chosen(engine: Engine, params: OnContainers) -> list[Container]:
    """Return the running containers that are meant, in the order of their names. Raises `InjectionError`.

    Refused: none at all, one without the label (unless so asked), one that does not run or is paused already, and the
    one that this process runs in.
    """
    meant = await _meant(engine, params.container)
    found = [each for name in meant if (each := await engine.inspect(name)) is not None]
    if not found:
        raise InjectionError(f"no container {params.container!r} on {engine.url}{await _others(engine)}")
    if len(found) > MOST:
        raise InjectionError(f"{params.container!r} means {len(found)} containers; one fault hits at most {MOST}")
    for each in found:
        _refuse(each, params)
    engine_id = await engine.identity()
    return sorted((replace(each, engine=engine_id) for each in found), key=lambda each: each.name)


async def _meant(engine: Engine, text: str) -> list[str]:
    """Return the ids of what the text means: by labels those that run, by name the one that has it."""
    if "=" in text:
        labels = [*engine.scope, *text.split(",")]
        listed = await engine.ask("list", lambda api: api.containers(filters={"label": labels}))
        return [str(each["Id"]) for each in listed]
    everything = await _visible(engine)
    named = [each for each in everything if f"/{text}" in (each.get("Names") or ())]
    if not named and engine.scope:
        named = [each for each in everything if (each.get("Labels") or {}).get(SERVICE) == text]
    return [str(each["Id"]) for each in named]


async def _visible(engine: Engine) -> list[dict[str, Any]]:
    return await engine.ask("list", lambda api: api.containers(all=True, filters={"label": list(engine.scope)}))


async def _others(engine: Engine) -> str:
    names = sorted(str(each["Names"][0]).lstrip("/") for each in await _visible(engine) if each.get("Names"))
    where = f" with {', '.join(engine.scope)}" if engine.scope else ""
    return f"{where} (there: {', '.join(names[:12]) or 'none'})"


def _refuse(container: Container, params: OnContainers) -> None:
    if not params.unlabelled and LABEL not in container.labels:
        raise InjectionError(f"{container} has no label {LABEL}: label what may be hit, or say unlabelled=true")
    if container.paused:
        raise InjectionError(f"{container} is already paused, and not by us")
    if not container.running:
        raise InjectionError(f"{container} is {container.status}: only one that runs can be hit")
    if _is_ours(container.id):
        raise InjectionError(f"{container} is the one that sim itself runs in")


def _is_ours(container: str, own: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether this process runs in that container: the engine mounts its hostname from a folder of that id."""
    try:
        return f"/containers/{container}/" in own.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # no such file on this system, where no process runs in a container of its own either


def prepared(site: Site, found: Sequence[tuple[Container, dict[str, JSON]]], /, **own: JSON) -> Prepared:
    """Return what `prepare` gives: each container by id and name, with what is its kind's own, and how it stood."""
    listed: list[JSON] = [
        {
            "engine": each.engine,
            "id": each.id,
            "name": each.name,
            "started_at": each.started_at,
            "health": each.health,
            **more,
        }
        for each, more in found
    ]
    prior: list[JSON] = [
        {"name": each.name, "status": each.status, "health": each.health, "started_at": each.started_at, **more}
        for each, more in found
    ]
    return Prepared({"fault": site.id, **own, "containers": listed}, tuple(str(each) for each, _ in found), prior)


async def each(site: Site, receipt: Receipt, work: Callable[[Engine, dict[str, Any]], Awaitable[T]]) -> dict[str, T]:
    """Do the same for every container of a receipt, side by side; return what came of it, by name.

    All are tried whatever becomes of one; then the first error is raised, with the others told in it.
    """
    victims: list[dict[str, Any]] = [dict(one) for one in receipt["containers"] if isinstance(one, dict)]  # type: ignore[union-attr]
    async with Engine(site) as engine:
        came = await asyncio.gather(*(work(engine, one) for one in victims), return_exceptions=True)
    wrong = [error for error in came if isinstance(error, BaseException)]
    for error in wrong:
        if not isinstance(error, InjectionError):
            raise error
    if wrong:
        raise InjectionError("; ".join(str(error) for error in wrong))
    return {str(one["name"]): result for one, result in zip(victims, came, strict=True)}  # type: ignore[misc]


Look = Callable[[Engine, dict[str, Any], Container], Awaitable[tuple[bool, dict[str, JSON]]]]


async def probed(site: Site, receipt: Receipt, look: Look, *, removed: bool) -> Probe:
    """Look at every container of a receipt; the probe holds when it holds of all.

    `removed` is what holds of one that is not there any more; of one that another engine does not know nothing holds:
    that is an `InjectionError`. Another container of its name is no victim of ours: the evidence names it, and it is
    not looked at.
    """

    async def one(engine: Engine, victim: dict[str, Any]) -> tuple[bool, dict[str, JSON]]:
        found = await engine.inspect(victim["id"])
        if found is not None:
            return await look(engine, victim, found)
        await _same(engine, victim)
        heir = await engine.inspect(victim["name"])
        return removed, {"removed": True, "recreated_as": heir.id[:12] if heir is not None else None}

    came = await each(site, receipt, one)
    return Probe(all(holds for holds, _ in came.values()), {name: dict(found) for name, (_, found) in came.items()})


async def _same(engine: Engine, victim: dict[str, Any]) -> None:
    """Raise `InjectionError` where another engine answers at the door's address than the one that had the container."""
    before = str(victim.get("engine") or "")
    now = await engine.identity() if before else ""
    if before and now != before:
        raise InjectionError(
            f"{engine.url} is another engine ({now or 'without an id'}) than the one that container {victim['name']} "
            f"is of ({before}): start that one there again, then sim recover"
        )
