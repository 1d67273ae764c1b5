"""What a report is: a pure function of a finished run's folder.

One module of a reports' room, one value named `report`, its name the module's. A report reads nothing but the folder,
so that it can be made again at any time, by anybody, to the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim import log
from sim.event import Event
from sim.plan import Plan


class NotARun(Exception):
    """The folder is not a finished run: says what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished run as it lies on the disk. `judgement` is the object in ``verdicts.json`` (`sim.judge.verdict`)."""

    name: str
    plan: Plan
    judgement: dict[str, Any]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A way to show a run. `file` is where it goes in the run folder by default."""

    summary: str
    file: str
    render: Callable[[Finished], str]


def read_plan(folder: Path) -> Plan:
    """Return the plan stored in a run folder. Raises `NotARun`."""
    try:
        return Plan.model_validate_json((folder / "plan.json").read_bytes())
    except OSError as error:
        raise NotARun(f"{folder} is not a run folder: no plan.json ({error.strerror})") from error
    except ValueError as error:
        raise NotARun(f"{folder}/plan.json is not a plan that this version of sim reads") from error


def finished(folder: Path) -> Finished:
    """Return the run in `folder`. Raises `NotARun`, `log.BrokenRecord`."""
    plan = read_plan(folder)
    try:
        judgement = json.loads((folder / "verdicts.json").read_bytes())
        events = tuple(log.read(folder / "log.jsonl"))
    except OSError as error:
        missing = Path(str(error.filename)).name
        raise NotARun(f"{folder} has no {missing}: the run was cut short; see `sim recover`") from error
    except ValueError as error:
        raise NotARun(f"{folder}/verdicts.json is not what a run leaves ({error}); use `sim judge`") from error
    return Finished(folder.name, plan, judgement, events)
