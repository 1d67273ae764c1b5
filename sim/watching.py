"""Keeps observers looking: opens them, polls them, writes what they see to the record, and that they cannot see."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType

from sim.event import JSON
from sim.log import Log
from sim.observation import CannotLook, HasClock, Observation, Observer, ObserverKind, Opening
from sim.target import Fact, ObserverSpec

#: After so many looks in a row that failed, an observer is blind.
MISSES = 3

#: The longest that one look may take.
LOOK_S = 5.0


def opening(
    name: str,
    spec: ObserverSpec,
    kind: ObserverKind,
    facts: Mapping[str, Fact],
    more: Mapping[str, object],
) -> Opening:
    """Return what the observer `name` is opened with; `more` are the fields of `Opening` that belong to the run."""
    keys = spec.model_dump(exclude_unset=True)
    fields = kind.config.model_fields
    wanted = {key: value for key, value in keys.items() if key not in ("kind", "every") or key in fields}
    reads = {fact: each for fact, each in facts.items() if name in each.from_}
    return Opening(name=name, config=kind.config.model_validate(wanted), facts=reads, **more)  # type: ignore[arg-type]


class Watch:
    """One observer at work."""

    def __init__(self, name: str, observer: Observer, every_s: float, log: Log) -> None:
        self.name = name
        self.observer = observer
        self.looked = asyncio.Event()
        self._every_s = every_s
        self._log = log
        self._misses = 0
        self._seeing: bool | None = None
        self._last_start: float | None = None
        self._last_seen: float | None = None
        self._lateness_s = 0.0
        self._polls = 0
        self._missed = 0
        self._why = ""

    async def run(self) -> None:
        """Look again and again until cancelled. An observer that falls over is on the record at once, and blind."""
        while True:
            started = self._log.now()
            try:
                await self._look(started)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin's bug: the outcome is *error*
                why = f"{type(error).__name__}: {error}"
                self._blind(started, why)
                self._log.append("run.error", {"error": f"observer {self.name} fell over: {why}"})
                return
            await asyncio.sleep(max(0.0, self._every_s - (self._log.now() - started)))

    async def _look(self, started: float) -> None:
        self._polls += 1
        try:
            async with asyncio.timeout(LOOK_S):
                seen = await self.observer.poll()
        except (CannotLook, TimeoutError, OSError) as error:
            self._miss(started, str(error) or type(error).__name__)
            return
        if self._last_start is not None:
            self._lateness_s = max(self._lateness_s, self._log.now() - self._last_start)
        self._last_start = started
        self._last_seen = self._log.now()
        self._misses = 0
        for observation in seen:
            self._write(observation)
        if not self._seeing:
            self._seeing = True
            self._log.append("observer.seeing", {}, source=self.name)
        self.looked.set()

    def _miss(self, started: float, why: str) -> None:
        self._misses += 1
        self._missed += 1
        self._why = why
        if self._misses >= MISSES:
            self._blind(started, why)

    def _blind(self, started: float, why: str) -> None:
        self._why = why
        if self._seeing is False:
            return
        self._seeing = False
        since = started if self._last_seen is None else self._last_seen
        self._log.append("observer.blind", {"error": why, "since": round(since, 6)}, source=self.name)

    def _write(self, observation: Observation) -> None:
        self._log.append(observation.kind, observation.data, source=self.name, occurred_at=observation.occurred_at)

    async def measure_clock(self) -> None:
        """Write how far the source's clock is from ours, where the source tells the time."""
        if not isinstance(self.observer, HasClock):
            return
        best: tuple[float, float] | None = None
        for _ in range(3):
            before, wall = self._log.now(), self._log.wall()
            try:
                async with asyncio.timeout(LOOK_S):
                    theirs = await self.observer.source_time()
            except (CannotLook, OSError) as error:
                text = f"the clock of {self.name} could not be read: {str(error) or 'no answer in time'}"
                self._log.append("note", {"text": text})
                return
            took = self._log.now() - before
            if best is None or took < 2 * best[1]:
                best = (theirs - (wall + took / 2), took / 2)
        assert best is not None
        data: dict[str, JSON] = {"offset_s": round(best[0], 6), "error_s": round(best[1] + 0.005, 6)}
        self._log.append("observer.offset", data, source=self.name)

    @property
    def why_blind(self) -> str:
        """The last reason why a look failed."""
        return self._why

    async def last_look(self) -> None:
        """Look once more, now; an observer that cannot is blind since it last saw, however few looks it missed."""
        started = self._log.now()
        try:
            await self._look(started)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as in `run`
            self._misses, self._why = MISSES, f"{type(error).__name__}: {error}"
            self._log.append("run.error", {"error": f"observer {self.name} fell over: {self._why}"})
        if self._misses:
            self._blind(started, self._why)

    def summary(self) -> None:
        """Write how well it looked: the longest time for which a change could have gone unseen."""
        data: dict[str, JSON] = {
            "polls": self._polls,
            "misses": self._missed,
            "lateness_max_s": round(self._lateness_s, 6),
        }
        self._log.append("observer.closed", data, source=self.name)


class Watching:
    """All observers of a run, looking while the context is open."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self.watches: dict[str, Watch] = {}

    async def __aenter__(self) -> Watching:
        await self._stack.__aenter__()
        return self

    async def open(self, kind: ObserverKind, given: Opening, every_s: float) -> Watch:
        """Open one observer and keep it looking. Raises `CannotLook` when it cannot even be opened."""
        observer = await self._stack.enter_async_context(kind.open(given))
        watch = Watch(given.name, observer, every_s, self._log)
        self.watches[given.name] = watch
        self._tasks.append(asyncio.create_task(watch.run(), name=f"watch {given.name}"))
        return watch

    async def last_look(self) -> None:
        """End the looking with one more look by each: whatever is said to have held or not come was looked at."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(watch.last_look() for watch in self.watches.values()))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for watch in self.watches.values():
            watch.summary()
        await self._stack.__aexit__(kind, error, trace)
