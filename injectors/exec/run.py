"""A fault that programs of this machine bring: Pumba, netem, a cloud's command line, a script of one's own.

The profile's door names sets of four commands, each an argument list that is run as it stands, without a shell::

    doors:
      exec:
        commands:
          slow_queue:
            start: [pumba-in-background, --name, 'sim-{injection}', netem, --duration, 1h, delay, --time, '100', queue]
            verify: [check-delay, queue, --at-least, 80ms]
            stop: [pumba-stop, 'sim-{injection}']
            gone: [check-delay, queue, --below, 20ms]
            env: {QUEUE_TOKEN: 'env:QUEUE_TOKEN'}

An exercise gives only the name of a set. So what runs is what the profile says, and undoing works from the journal,
which keeps the profile's door, in another process too: when the runner is killed, the watchdog runs `stop` and `gone`.

- `start` brings the fault in and ends with 0 within 8 s. What it leaves running in the background is the fault. A
  program that takes longer or ends with another code has failed; `stop` runs all the same. When the runner is killed
  before `start` has ended, `start` and all that it has called is killed too, before the watchdog runs `stop`.
- `verify` ends with 0 while the fault is seen to bite, and with another code while it is not.
- `stop` takes the fault away and ends with 0, within 8 s, however often it is called, also where there is no fault.
- `gone` ends with 0 when the fault is seen to be away. `verify` and `gone` change nothing, and take at most 4 s each.

`{injection}` and `{run}` in an argument stand for the ids of this use and of its run; other braces are left alone. The
programs see PATH, HOME and LANG, `SIM_INJECTION` and `SIM_RUN`, and the variables that `env` names, by reference. They
have no input, and run in the folder in which `sim` was started. The last 500 characters that they say are kept, without
the secrets. A program that is past its time is ended, with all that is still in its process group; so is what `verify`
and `gone` leave behind.

Sets for `tc`, Pumba and a cloud's command line stand in `docs/write-a-fault.md`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from injectors._programs import Ended, Room, run
from sim.event import JSON
from sim.injector import InjectionError, Injector, Prepared, Probe, Receipt, Site
from sim.problem import did_you_mean
from sim.secret import SecretMissing
from sim.target import Commands, Door, Duration, Model

#: How long a command that acts may take, and one that looks, seconds: of both, two lookers, with what it takes to end
#: them, stay below the 10 s that the runner grants one call.
ACT_S, LOOK_S = 8.0, 4.0
LIMITS_S: Mapping[str, float] = {"start": ACT_S, "verify": LOOK_S, "stop": ACT_S, "gone": LOOK_S}

#: What the programs find in their environment of that of `sim`.
PASSED = ("HOME", "LANG")


class Params(Model):
    """`commands` is a name, never a command: what is run stands in the profile."""

    commands: Annotated[str, Field(min_length=1)] = Field(
        description="The set of commands, by its name in the profile's doors.exec.commands."
    )
    duration: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="How long the fault is held at most, seconds or 90s, 10m."
    )


def _lacking(doors: Mapping[str, Door], name: JSON) -> str | None:
    """Return what the profile lacks for these commands, or null."""
    sets = doors["exec"].commands if "exec" in doors else {}
    if not sets:
        return "the profile's doors.exec has no commands: add doors.exec.commands.NAME"
    if name not in sets:
        return f"the profile's doors.exec has no commands {name!r}; {did_you_mean(str(name), sets, 'it has')}"
    return None


def _unfit(params: Params, doors: Mapping[str, Door]) -> str | None:
    return _lacking(doors, params.commands) if "exec" in doors else None  # a door that is not there is told already


def _set(site: Site, name: JSON) -> Commands:
    lacking = _lacking(site.doors, name)
    if lacking is not None:
        raise InjectionError(lacking)
    return site.doors["exec"].commands[str(name)]


def _argv(site: Site, receipt: Receipt, step: str) -> tuple[str, ...]:
    """Return a command as it is run. The argument lists are the profile's; the receipt says only which and where."""
    written: tuple[str, ...] = getattr(_set(site, receipt["commands"]), step)
    ids = (("{injection}", str(receipt["fault"])), ("{run}", str(receipt["run"])))
    for word, value in ids:
        written = tuple(item.replace(word, value) for item in written)
    return written


def _room(site: Site, receipt: Receipt) -> Room:
    env = {name: os.environ[name] for name in PASSED if name in os.environ}
    try:
        env |= {name: site.secrets.resolve(ref) for name, ref in _set(site, receipt["commands"]).env.items()}
    except (SecretMissing, ValueError) as error:
        raise InjectionError(f"doors.exec.commands.{receipt['commands']}.env: {error}") from error
    env |= {"PATH": str(receipt["path"]), "SIM_INJECTION": str(receipt["fault"]), "SIM_RUN": str(receipt["run"])}
    return Room(str(receipt["cwd"]), env, site.secrets.redact)


async def _step(site: Site, receipt: Receipt, step: str) -> Ended:
    """Run one of the four; raises `InjectionError` naming it."""
    argv, room = _argv(site, receipt, step), _room(site, receipt)
    try:
        return await run(argv, room, LIMITS_S[step], leaves=step in ("start", "stop"))
    except InjectionError as error:
        raise InjectionError(f"{step} of {receipt['commands']}: {error}") from error


def _shown(ended: Ended) -> dict[str, JSON]:
    return {"exit": ended.code, "said": ended.said}


async def _acted(site: Site, receipt: Receipt, step: str) -> None:
    ended = await _step(site, receipt, step)
    if ended.code != 0:
        said = f": {ended.said}" if ended.said else ""
        raise InjectionError(f"{step} of {receipt['commands']} ended with {ended.code}{said}")


def _missing(site: Site, receipt: Receipt) -> list[str]:
    argvs = {step: _argv(site, receipt, step) for step in LIMITS_S}
    return [
        f"{step}: {argv[0]}" for step, argv in argvs.items() if not shutil.which(argv[0], path=str(receipt["path"]))
    ]


async def _prepare(site: Site, params: Params) -> Prepared:
    """Look for the four programs, and have the two that look say that nothing is there yet."""
    name = params.commands
    receipt: Receipt = {
        "fault": site.id,
        "run": site.run_id,
        "commands": name,
        "cwd": str(Path.cwd()),
        "path": os.environ.get("PATH", os.defpath),  # the same programs wherever it is undone
    }
    missing = _missing(site, receipt)
    if missing:
        raise InjectionError(
            f"doors.exec.commands.{name}: no such program: {', '.join(missing)} (install it, or fix PATH)"
        )
    gone = await _step(site, receipt, "gone")
    if gone.code != 0:
        raise InjectionError(f"gone of {name} ended with {gone.code} before anything was injected: {gone.said}")
    verify = await _step(site, receipt, "verify")
    if verify.code == 0:
        raise InjectionError(f"verify of {name} ended with 0 before anything was injected: it would prove nothing")
    return Prepared(receipt, (f"what the commands {name} hit",), {"gone": _shown(gone), "verify": _shown(verify)})


async def _apply(site: Site, receipt: Receipt) -> None:
    await _acted(site, receipt, "start")


async def _effective(site: Site, receipt: Receipt) -> Probe:
    """`verify` ends with 0. Before anything was injected it ended with another code, or nothing is injected at all."""
    verify = await _step(site, receipt, "verify")
    return Probe(verify.code == 0, {"verify": _shown(verify)})


async def _withdraw(site: Site, receipt: Receipt) -> None:
    await _acted(site, receipt, "stop")


async def _gone(site: Site, receipt: Receipt) -> Probe:
    """`gone` ends with 0, and `verify`, run after it, with another code: both say that the fault is away."""
    gone = await _step(site, receipt, "gone")
    if gone.code != 0:
        return Probe(False, {"gone": _shown(gone)})
    verify = await _step(site, receipt, "verify")
    return Probe(verify.code != 0, {"gone": _shown(gone), "verify": _shown(verify)})


injector = Injector(
    summary="whatever programs of this machine can break: four commands of the profile start it, stop it, and look",
    params=Params,
    positional=("commands",),
    doors=("exec",),
    lease="none",
    prepare=_prepare,  # type: ignore[arg-type]  # called with an instance of `params` only
    apply=_apply,
    effective=_effective,
    withdraw=_withdraw,
    gone=_gone,
    signal=None,  # the kernel cannot know what a stranger's program does to a metric
    duration_s=lambda params: params.duration if isinstance(params, Params) else None,
    here=True,
    unfit=_unfit,  # type: ignore[arg-type]  # called with an instance of `params` only
)
