"""A container may use only so much processor time: it is starved, not stopped.

Proven by the kernel's own counter of the periods in which it was held back: a container that wants no more than it is
given is not starved, and nothing is proven. Memory is not offered: the engine cannot take such a limit back.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from pydantic import Field

from injectors._docker import looks
from injectors._docker.chosen import OnContainers, chosen, duration_s, each, prepared, probed
from injectors._docker.engine import DOOR, Container, Engine
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site

#: The engine's own period where a container names none, microseconds, and what it understands as "no limit".
PERIOD_US, NO_LIMIT = 100_000, -1


class Params(OnContainers):
    """How much is left."""

    cpus: Annotated[float, Field(ge=0.01, le=64)] = Field(
        default=0.1, description="Processors that it may use at most, 0.01 to 64; 0.1 is a tenth of one."
    )


def _limit(container: Container) -> dict[str, int]:
    """Return the limit in the words in which it was set: nano (billionths of a processor), or quota and period."""
    nano, quota = int(container.host.get("NanoCpus") or 0), int(container.host.get("CpuQuota") or 0)
    if nano > 0:
        return {"nano": nano}
    period = int(container.host.get("CpuPeriod") or 0)
    return {"quota": quota if quota > 0 else NO_LIMIT, "period": period}


def _cpus(limit: dict[str, int]) -> float | None:
    """Return a limit in processors; null for none."""
    if "nano" in limit:
        return limit["nano"] / 1e9
    return None if limit["quota"] == NO_LIMIT else limit["quota"] / (limit["period"] or PERIOD_US)


async def _prepare(site: Site, params: Params) -> Prepared:
    async with Engine(site) as engine:
        rows: list[tuple[Container, dict[str, JSON]]] = []
        for one in await chosen(engine, params):
            before = _limit(one)
            now = _cpus(before)
            if now is not None and now <= params.cpus:
                raise InjectionError(f"{one} may use {now:g} processors already, and {params.cpus:g} are asked for")
            if "nano" in before:
                asked = {"nano": round(params.cpus * 1e9)}
            else:
                asked = {"quota": round(params.cpus * (before["period"] or PERIOD_US)), "period": before["period"]}
            periods, held_back = await _throttled(engine, one.id)
            rows.append((one, {"before": {**before}, "asked": {**asked}, "held_back": held_back, "periods": periods}))
        return prepared(site, rows, cpus=params.cpus)


async def _throttled(engine: Engine, container: str) -> tuple[int, int]:
    """Return in how many periods the kernel has counted, and in how many of them the container was held back."""
    what = f"stats of {container[:12]}"
    told = await engine.ask(what, lambda api: api.stats(container, stream=False, one_shot=True))
    data = (told.get("cpu_stats") or {}).get("throttling_data") or {}
    return int(data.get("periods") or 0), int(data.get("throttled_periods") or 0)


async def _set(engine: Engine, victim: dict[str, Any], limit: dict[str, int]) -> None:
    # Sent as it is: docker-py offers no NanoCpus, and a container that has it takes no quota.
    body = {"NanoCpus": limit["nano"]} if "nano" in limit else {"CpuQuota": limit["quota"]}
    what = f"update {victim['name']}"

    def send(api: Any) -> None:
        answer = api.post(f"{api.base_url}/v{api.api_version}/containers/{victim['id']}/update", json=body,
                          timeout=api.timeout)  # fmt: skip
        api._raise_for_status(answer)

    await engine.ask(what, send)


async def _apply(site: Site, receipt: Receipt) -> None:
    async def one(engine: Engine, victim: dict[str, Any]) -> None:
        await _set(engine, victim, victim["asked"])

    await each(site, receipt, one)


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The limit reads back as asked, and the kernel has held the container back since."""

    async def look(engine: Engine, victim: dict[str, Any], found: Container) -> tuple[bool, dict[str, JSON]]:
        limit = _limit(found)
        _, held_back = await _throttled(engine, found.id)
        # Another life has another counter, from zero on.
        since = held_back - (victim["held_back"] if found.started_at == victim["started_at"] else 0)
        evidence: dict[str, JSON] = {"cpus": _cpus(limit), "periods_held_back": since, "status": found.status}
        return limit == victim["asked"] and since > 0, evidence

    return await probed(site, receipt, look, removed=False)


async def _withdraw(site: Site, receipt: Receipt) -> None:
    async def one(engine: Engine, victim: dict[str, Any]) -> None:
        found = await engine.inspect(victim["id"])
        if found is not None and _limit(found) != victim["before"]:
            await _set(engine, victim, victim["before"])

    await each(site, receipt, one)


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """The limit is as before; where there was none, the kernel holds back no more either."""

    async def look(engine: Engine, victim: dict[str, Any], found: Container) -> tuple[bool, dict[str, JSON]]:
        limit = _limit(found)
        evidence: dict[str, JSON] = {"cpus": _cpus(limit), "cpus_before": _cpus(victim["before"])}
        holds = limit == victim["before"]
        if holds and found.running and _cpus(limit) is None:
            _, before = await _throttled(engine, found.id)
            await asyncio.sleep(looks.AGAIN_S)
            _, after = await _throttled(engine, found.id)
            holds, evidence = after == before, {**evidence, "periods_held_back_between_two_looks": after - before}
        return holds, evidence

    return await probed(site, receipt, look, removed=True)


injector = Injector(
    summary="a container may use only so much processor time, and is held back when it wants more",
    params=Params,
    positional=("container", "cpus"),
    doors=(DOOR,),
    lease="none",
    here=True,  # the engine, and a container in it, may outlive the stack that named its address
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=None,
    duration_s=duration_s,
)
