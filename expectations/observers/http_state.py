"""Reads facts out of one JSON answer: the state of a release, of a gate, of the market that carries the injection."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import quote

from expectations._episodes import Changes
from expectations._http import HttpConfig, looker
from sim.event import JSON
from sim.observation import CannotLook, Observation, ObserverKind, Opening
from sim.target import Fact
from sim.wire import Client

PLACE = "{injection}"


class Config(HttpConfig):
    """`url` is the whole address of the answer; ``{injection}`` in it stands for the injection's id."""

    kind: Literal["http_state"] = "http_state"


class _Absent(Exception):
    """The answer has no such place."""


class HttpState:
    """The observer. See `sim.observation.Observer`.

    With ``{injection}`` in the URL the subject is what carries the injection's id: a 404 means that it does not exist,
    and so does a run without injections. Of several injections the first whose subject exists is read.
    """

    def __init__(self, client: Client, facts: Mapping[str, Fact], injections: Sequence[str]) -> None:
        self._client, self._facts = client, facts
        by_injection = PLACE in client.base_url
        self._subjects = tuple(quote(each, safe="") for each in injections) if by_injection else (None,)
        self._states = Changes()

    async def poll(self) -> Sequence[Observation]:
        """Look once. Raises `CannotLook`, and then has forgotten nothing."""
        answer = await self._answer()
        states: dict[str, JSON] = {}
        gauges: list[Observation] = []
        for name, fact in self._facts.items():
            path = fact.path or name.rpartition(".")[2]
            if fact.kind == "state":
                states[name] = None if answer is None else self._state(name, answer[0], path)
            elif fact.kind == "gauge":
                gauges.append(_gauge(name, answer, path))
        return [*self._states.turn(states), *gauges]

    async def _answer(self) -> tuple[JSON] | None:
        for subject in self._subjects:
            if subject is None:
                return ((await self._client.ask("GET", "")).json,)
            answer = await self._client.ask("GET", "", fill={PLACE: subject}, accept=(200, 404))
            if answer.status == 200:
                return (answer.json,)
        return None

    def _state(self, name: str, answer: JSON, path: str) -> JSON:
        try:
            value = _at(answer, path)
        except _Absent as error:
            raise CannotLook(f"GET {self._client.base_url}: facts.{name}: {error}") from error
        if isinstance(value, list | dict):
            raise CannotLook(f"GET {self._client.base_url}: facts.{name}: {path!r} is no single value")
        return value


def _gauge(name: str, answer: tuple[JSON] | None, path: str) -> Observation:
    value: JSON = None
    reason = "the subject does not exist"
    if answer is not None:
        try:
            value = _at(answer[0], path)
            reason = f"not a number: {value!r:.60}"
        except _Absent as error:
            reason = str(error)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return Observation("gauge", {"fact": name, "value": value})
    return Observation("gauge", {"fact": name, "value": None, "reason": reason})


def _at(answer: JSON, path: str) -> JSON:
    """Return the value at a dotted path; a number steps into a list. Raises `_Absent`."""
    value = answer
    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise _Absent(f"the answer has nothing at {path!r} (no {step!r})")
    return value


@asynccontextmanager
async def _open(opening: Opening) -> AsyncIterator[HttpState]:
    config = opening.config
    if not isinstance(config, Config):
        raise TypeError(f"observer {opening.name}: not an http_state configuration")
    for name, fact in opening.facts.items():
        if fact.query is not None:
            raise ValueError(f"facts.{name}: the http_state observer {opening.name} reads by path, not by query")
        if fact.kind == "state" and (fact.subject == "injection") != (PLACE in config.url):
            raise ValueError(
                f"facts.{name}: `subject: injection` and {PLACE} in the URL of observer {opening.name} "
                "go together: give both or none"
            )
    async with looker(config, opening.secrets) as client:
        yield HttpState(client, opening.facts, opening.injections)


observer = ObserverKind(
    summary="facts read from one JSON answer over HTTP",
    config=Config,
    open=_open,
    yields=frozenset({"state", "gauge"}),
)
