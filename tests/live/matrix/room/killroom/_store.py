"""What both injectors share: HTTP/1.1 by hand, so that "sent and not yet answered" is a point to be killed at."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict

from sim.injector import Company, InjectionError, Injector, Prepared, Probe, Receipt, Site

#: How long an answer may take, seconds.
CLIENT_S = 0.5

#: Told each point that a call passes; the victim puts its own here.
reach: Callable[[str], None] = lambda point: None  # noqa: E731


class Params(BaseModel):
    """A fault of the store takes nothing but its hold time, seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    duration: float = 60.0


class Joined(Params):
    """One that brings company: `deaf` company does not end with its input, and heeds no SIGTERM."""

    deaf: bool = False


async def ask(site: Site, point: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Send one request, passing the points `sent` and `answered`. Raises `InjectionError`."""
    url = urlsplit(site.doors["store"].url)
    sent = json.dumps(body).encode() if body is not None else b""
    head = f"{method} {url.path}{path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
    reach(f"call {point} before")
    try:
        async with asyncio.timeout(CLIENT_S):
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            try:
                writer.write(head.encode() + sent)
                await writer.drain()
                reach(f"call {point} sent")
                answer = await reader.read()
            finally:
                writer.transport.abort()
    except TimeoutError as error:
        raise InjectionError(f"{method} {path}: no answer within {CLIENT_S:g} s") from error
    except OSError as error:
        raise InjectionError(f"{method} {path}: {error}") from error
    reach(f"call {point} answered")
    top, _, rest = answer.partition(b"\r\n\r\n")
    if not top:
        raise InjectionError(f"{method} {path}: the connection was dropped")
    status = int(top.split()[1])
    if status >= 400 and status != 404:
        raise InjectionError(f"{method} {path}: {status}")
    return status, json.loads(rest or b"null")


def made(name: str, lease: Literal["target", "none"], company: str = "") -> Injector:
    """Return the injector called `name`; `company` is the module of a process that goes with it."""

    def path(receipt: Receipt) -> str:
        return f"/faults/{quote(str(receipt['fault']), safe='')}"

    async def prepare(site: Site, params: BaseModel) -> Prepared:
        _, listed = await ask(site, f"prepare {name}", "GET", "/faults")
        return Prepared({"fault": f"{name}-{site.id}"}, ("the store",), listed)

    async def put(site: Site, receipt: Receipt, point: str, renewal: bool) -> None:
        body = {"ttl_s": site.ttl_s if lease == "target" else None, "renewal": renewal}
        await ask(site, f"{point} {name}", "PUT", path(receipt), body)

    async def apply(site: Site, receipt: Receipt) -> None:
        await put(site, receipt, "apply", renewal=False)

    async def renew(site: Site, receipt: Receipt) -> None:
        await put(site, receipt, "renew", renewal=True)

    async def effective(site: Site, receipt: Receipt) -> Probe:
        status, _ = await ask(site, f"effective {name}", "GET", path(receipt))
        return Probe(status == 200, {"status": status})

    async def withdraw(site: Site, receipt: Receipt) -> None:
        await ask(site, f"withdraw {name}", "DELETE", path(receipt))

    async def gone(site: Site, receipt: Receipt) -> Probe:
        status, _ = await ask(site, f"gone {name}", "GET", path(receipt))
        return Probe(status == 404, {"status": status})

    def accompany(_: Site, params: BaseModel) -> Company:
        return Company(company, {"deaf": getattr(params, "deaf", False)}, ready_s=20.0)

    return Injector(
        summary="a fault of the store",
        params=Joined if company else Params,
        doors=("store",),
        lease=lease,
        prepare=prepare,
        apply=apply,
        effective=effective,
        withdraw=withdraw,
        gone=gone,
        signal=lambda _: (),
        duration_s=lambda params: getattr(params, "duration", None),
        renew=renew if lease == "target" else None,
        accompany=accompany if company else None,
    )
