"""What the faults that end a container's life share: it must be up again, and as healthy as before."""

from __future__ import annotations

import asyncio
from typing import Any

from injectors._docker.chosen import each, probed
from injectors._docker.engine import Container, Engine, settled
from sim.event import JSON
from sim.injector import InjectionError, Probe, Receipt, Site

#: How long one withdrawal waits for a health check, seconds, and how often it looks.
HEALTHY_S, LOOK_S = 7.0, 0.25


def refuse_brittle(container: Container) -> None:
    """Refuse a container that could not come back. Raises `InjectionError`."""
    if container.host.get("AutoRemove"):
        raise InjectionError(f"{container} is removed when it ends (--rm): nothing could bring it back")


def well(victim: dict[str, Any], found: Container) -> bool:
    """Whether a container runs, and is healthy if it was before."""
    return found.running and not found.paused and (victim["health"] != "healthy" or found.health == "healthy")


def shown(victim: dict[str, Any], found: Container) -> dict[str, JSON]:
    """Return how a container stands beside how it stood, for the evidence."""
    state = found.state
    return {
        "status": found.status,
        "health": found.health,
        "exit_code": state.get("ExitCode"),
        "restarts": found.raw.get("RestartCount"),
        "started_at": found.started_at,
        "started_before": victim["started_at"],
    }


async def ended(site: Site, receipt: Receipt) -> Probe:
    """Probe that each container's life is over, be it that another has begun: a restart policy may be quicker."""

    async def look(_: Engine, victim: dict[str, Any], found: Container) -> tuple[bool, dict[str, JSON]]:
        another = found.started_at != victim["started_at"]
        return another or not found.running, {**shown(victim, found), "started_again": another}

    return await probed(site, receipt, look, removed=True)


async def begun(site: Site, receipt: Receipt) -> None:
    """Start each container that does not run, and give its health check a while; one that runs is left alone."""

    async def one(engine: Engine, victim: dict[str, Any]) -> None:
        found = await engine.inspect(victim["id"])
        if found is not None and not found.state.get("Running"):
            what = f"start {victim['name']}"
            await settled(
                engine,
                victim["id"],
                lambda: engine.ask(what, lambda api: api.start(victim["id"])),
                lambda now: bool(now.state.get("Running")),
            )
        for _ in range(max(1, round(HEALTHY_S / LOOK_S))):
            found = await engine.inspect(victim["id"])
            if found is None or not found.running or well(victim, found) or found.health == "unhealthy":
                return
            await asyncio.sleep(LOOK_S)

    await each(site, receipt, one)


async def up(site: Site, receipt: Receipt) -> Probe:
    """Probe that each container runs as before, and is as healthy; one that was removed is nobody's to start."""

    async def look(_: Engine, victim: dict[str, Any], found: Container) -> tuple[bool, dict[str, JSON]]:
        return well(victim, found), shown(victim, found)

    return await probed(site, receipt, look, removed=True)
