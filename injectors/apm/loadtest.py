"""Load at a fixed rate of arrivals, whatever the answers take: an open model, driven by Locust in a process of its own.

The load has arrived when the generator's own record says that every arrival left on time, and the platform's entry has
counted at least as many requests as the generator had answers. The generator incriminates itself: a rate that was not
held to the end makes the run inconclusive, whatever was seen under it (`held`).
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets as random
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from injectors._http import through
from injectors.apm import _load_child as child
from injectors.apm._load_samples import Told, Unusable, merged, not_held, read, summary
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Signal, Site
from sim.target import Duration, Model
from sim.wire import header

#: The schedule that must have been held before the load counts as there, seconds.
FIRST_S = 5.0
HOLD_S = 300.0
#: The generator may hold so many seconds' worth of arrivals in flight; more are dropped, and that is the end of it.
ROOM_S = 5.0
TIMEOUT_S = 15.0
#: The one end by which a load is over that nobody withdrew: as the generator calls it.
COMPLETE = "end of the schedule"
#: What the folder of a load is called. What a journal names otherwise is nobody's to remove.
_NAME = re.compile(r"sim-load-[A-Za-z0-9._-]+-[0-9a-f]{16}")
_PASSED = re.compile(r"^release_requests_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)

Journey = Literal["mixed", "quote", "swap"]


class Params(Model):
    """`rps` arrivals a second, for `duration`; `journey` says what each of them asks for."""

    rps: Annotated[float, Field(gt=0, le=5000)] = Field(description="Arrivals a second.")
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long at most, seconds or 90s, 5m, 24h."
    )
    journey: Journey = Field(
        default="mixed", description="What is asked for: quote, swap, or mixed (three quotes to a swap)."
    )
    market: str = Field(
        default="resident", pattern=r"^[A-Za-z0-9._:-]{1,80}$", description="The market that is quoted and traded in."
    )


def mix(journey: str, market: str) -> list[JSON]:
    """Return the requests that are sent in turn. Yes and no are bought by the same amount: the price stays even."""
    made: list[JSON] = []
    for turn in range(8):
        side = "no" if turn % 2 else "yes"
        body: dict[str, JSON] = {"market": market, "side": side, "action": "buy", "amount": "1"}
        swap = journey == "swap" or (journey == "mixed" and turn in (3, 6))
        made.append({"method": "POST", "path": "/v1/swaps" if swap else "/v1/quotes", "json": body})
    return made


async def _prepare(site: Site, params: Params) -> Prepared:
    child.check_installed()
    async with through(site, "api") as api:
        found = await api.ask("GET", f"/v1/markets/{params.market}", accept=(200, 404))
        if found.status == 404:
            raise InjectionError(f"{api.base_url}: there is no market {params.market!r} to quote and trade in")
        passed = await _passed(site)
    duration_s = params.duration if params.duration is not None else HOLD_S
    receipt: Receipt = {
        "folder": str(Path(tempfile.gettempdir()) / f"sim-load-{site.id}-{random.token_hex(8)}"),
        "rps": params.rps,
        "duration_s": duration_s,
        "journey": params.journey,
        "market": params.market,
        "passed": passed,
        "ttl_s": site.ttl_s,
    }
    return Prepared(receipt, (f"{params.rps:g} requests a second to {site.doors['api'].url}",), {"passed": passed})


async def _passed(site: Site) -> float:
    """Return how many requests the platform's entry has counted."""
    async with through(site, "api") as api:
        text = await api.text("/metrics")
    counts = _PASSED.findall(text)
    if not counts:
        raise InjectionError(f"GET {site.doors['api'].url}/metrics: no release_requests_total: who counts the load?")
    return math.fsum(map(float, counts))


def _folder(receipt: Receipt) -> Path:
    """Return the folder of the load. Raises `InjectionError` for a receipt that names what no load of ours has made.

    It is emptied, and whoever works in it is ended: that must never happen to another folder, whatever a journal says.
    """
    folder = Path(str(receipt["folder"]))
    if not folder.is_absolute() or ".." in folder.parts or _NAME.fullmatch(folder.name) is None or folder.is_symlink():
        raise InjectionError(f"the receipt names {str(folder)!r}, which is no folder of a load: look at it by hand")
    return folder


async def _apply(site: Site, receipt: Receipt) -> None:
    door = site.doors["api"]
    rps, duration_s = float(str(receipt["rps"])), float(str(receipt["duration_s"]))
    config: dict[str, JSON] = {
        "id": site.id,
        "url": door.url,
        "rps": rps,
        "count": max(1, math.floor(rps * duration_s)),
        "cap": max(64, math.ceil(rps * ROOM_S)),
        "mix": mix(str(receipt["journey"]), str(receipt["market"])),
        "headers": {},
        "timeout_s": TIMEOUT_S,
        "drain_s": TIMEOUT_S,
        "ttl_s": receipt["ttl_s"],
    }
    authorization = header(door.auth, site.secrets).get("Authorization")
    child.start(_folder(receipt), config, duration_s + TIMEOUT_S, authorization)


async def _renew(_: Site, receipt: Receipt) -> None:
    child.renew(_folder(receipt))


def _told(receipt: Receipt) -> Told:
    """Return what the generators wrote. Raises `InjectionError`, with what they printed."""
    folder = _folder(receipt)
    try:
        return merged([read(part, float(str(receipt["rps"]))) for part in sorted(folder.glob("[0-9]*"))])
    except Unusable as error:
        raise InjectionError(f"{error} ({child.last_words(folder) or 'it printed nothing'})") from error


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """The rate was held so far, the platform counted no fewer requests than were answered, and few were refusals."""
    told = _told(receipt)
    evidence = summary(told)
    enough = told.asked >= float(str(receipt["rps"])) * FIRST_S
    wrong = not_held(told, so_far=True)
    answered = sum(sample.status != 0 for sample in told.samples)
    received = await _passed(site) - float(str(receipt["passed"])) if enough and not wrong else 0.0
    if enough and not wrong and received < answered:
        wrong.append(f"the platform counted {received:g} requests, the generator has {answered} answers")
    if not answered:
        wrong.append("nothing was answered yet")
    refused = sum(400 <= sample.status < 500 for sample in told.samples)
    if refused > answered / 2:
        wrong.append(f"{refused} of {answered} answers were refusals (4xx): what is turned away at the door is no load")
    evidence |= {"platform_counted": received, "not_held": list[JSON](wrong)}
    return Probe(enough and not wrong, evidence)


#: What became of a load that was ended in this process, and what had ended it before, by its folder.
_ended: dict[str, Probe] = {}
_before: dict[str, str | None] = {}


async def _withdraw(_: Site, receipt: Receipt) -> None:
    folder = _folder(receipt)
    before = _before.setdefault(str(folder), _over(receipt))  # a second attempt would find the end that the first made
    await child.stop(folder)
    if folder.is_dir():
        _ended[str(folder)] = _accounted(receipt, before)
        child.clear(folder)


def _over(receipt: Receipt) -> str | None:
    """Return what ended the load ahead of its schedule although nobody withdrew it; null when it goes on."""
    try:
        final = _told(receipt).final
    except InjectionError:
        return None  # what it wrote cannot be read: that is said when it is accounted for
    return None if final in (None, COMPLETE) else final


def _accounted(receipt: Receipt, before: str | None) -> Probe:
    """Say whether the load was held until it was withdrawn, with the digest of the samples that show it."""
    try:
        told = _told(receipt)
    except InjectionError as error:
        return Probe(False, {"not_held": [str(error)]})
    digest = hashlib.sha256()
    for part in sorted(_folder(receipt).glob("[0-9]*/samples.bin")):
        digest.update(part.read_bytes())
    wrong = not_held(told)
    if before is not None:
        wrong.append(f"the load ended before it was withdrawn: {before}")
    return Probe(not wrong, {**summary(told), "samples_sha256": digest.hexdigest(), "not_held": list[JSON](wrong)})


async def _gone(_: Site, receipt: Receipt) -> Probe:
    """No generator runs on this machine any more, and its folder is away."""
    running = child.running(_folder(receipt))
    left = _folder(receipt).exists()
    return Probe(not running and not left, {"running": [each.pid for each in running], "folder_left": left})


async def _held(_: Site, receipt: Receipt) -> Probe:
    """Look back: was the rate held from the first arrival to the last?"""
    _before.pop(str(receipt["folder"]), None)
    found = _ended.pop(str(receipt["folder"]), None)
    return found or Probe(False, {"not_held": ["this process did not see the load end"]})


def _signal(params: Params) -> tuple[Signal, ...]:
    """Return the histogram of a release that cannot serve the rate: from the queue's filling on, nothing is in time."""
    hold_s = params.duration if params.duration is not None else HOLD_S
    growing = tuple((float(second), round(second * params.rps, 6)) for second in range(int(hold_s) + 1))
    flat = tuple((at, 0.0) for at, _ in growing)
    labels = {"release": "candidate", "route": "/v1/swaps"}
    return (
        Signal("dec_request_seconds_bucket", {**labels, "le": "0.8"}, flat),
        Signal("dec_request_seconds_bucket", {**labels, "le": "1.6"}, growing),
        Signal("dec_request_seconds_bucket", {**labels, "le": "+Inf"}, growing),
        Signal("dec_request_seconds_count", labels, growing),
        Signal("dec_requests_total", {**labels, "class": "2xx"}, growing),
    )


def _duration_s(params: Any) -> float | None:
    return params.duration if isinstance(params, Params) else None


injector = Injector(
    summary="a fixed rate of arrivals at the platform's entry, however long the answers take",
    params=Params,
    positional=("rps", "duration", "journey"),
    doors=("api",),
    lease="target",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=_signal,  # type: ignore[arg-type]
    duration_s=_duration_s,
    renew=_renew,
    held=_held,
    here=True,
)
