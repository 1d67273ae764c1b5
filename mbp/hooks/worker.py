"""Does what the store says is to be done: woken by each delivery, a few jobs at a time, one at a time per target."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from mbp._asgi import ApiError
from mbp.hooks._http import Desk
from mbp.hooks.endpoint import Endpoints, TargetError, TargetRefused
from mbp.hooks.store import Job, Store
from mbp.hooks.table import Action, Operation, Table

log = logging.getLogger(__name__)

CONCURRENT = 8
LEASE_S = 15.0  # the longest that one attempt may take, all its calls together
_STORE_REST_S = 0.5

T = TypeVar("T")


def rest_s(attempt: int) -> float:
    """Return how long to wait after a failed attempt: 0.25 s after the first, then three times as long each."""
    return 0.25 * float(3 ** (attempt - 1))


class Watch(Protocol):
    """Is told how long an action took, and when numbers may have changed."""

    def took(self, action: str, seconds: float) -> None:
        """An action was done, `seconds` after it was claimed."""
        ...

    def changed(self, counts: dict[str, int]) -> None:
        """There are so many executions by state now."""
        ...


class Workers:
    """The workers of one executor; `run` them, `wake` them after each delivery."""

    def __init__(self, store: Store, desk: Desk, table: Table, endpoints: Endpoints, watch: Watch,
                 pretend: Collection[str] = (), rest: Callable[[int], float] = rest_s) -> None:  # fmt: skip
        """`pretend` names actions to record as done without doing them; `rest` maps attempt to seconds of waiting."""
        self._store, self._desk, self._table, self._endpoints, self._watch = store, desk, table, endpoints, watch
        self._pretend, self._rest = frozenset(pretend), rest
        self._something = asyncio.Event()
        self._resting: set[int] = set()
        self._busy: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Say that there may be something to do."""
        self._something.set()

    async def run(self) -> None:
        """Work until cancelled; what is begun then has half a second to end, the rest is done after the next start."""
        self.wake()
        try:
            while True:
                await self._something.wait()
                self._something.clear()
                await self._take_all()
        finally:
            if self._busy:
                await asyncio.wait(self._busy, timeout=0.5)
            for task in self._busy:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)

    async def _take_all(self) -> None:
        while len(self._busy) < CONCURRENT:
            try:
                job = await self._desk.do(lambda: self._store.claim(self._resting))
            except ApiError:
                asyncio.get_running_loop().call_later(_STORE_REST_S, self.wake)
                return
            if job is None:
                return
            task = asyncio.create_task(self._work(job))
            self._busy.add(task)
            task.add_done_callback(self._free)

    def _free(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        self.wake()

    async def _change(self, change: Callable[[], T]) -> T:
        """Make a change that must not be lost: a store that fails is asked again until it works."""
        while True:
            try:
                result, counts = await self._desk.do(lambda: (change(), self._store.counts()))
            except ApiError:
                await asyncio.sleep(_STORE_REST_S)
                continue
            self._watch.changed(counts)
            return result

    async def _work(self, job: Job) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(LEASE_S):
                detail = await self._attempt(job)
        except TargetRefused as error:
            why = str(error)
            await self._change(lambda: self._store.give_up(job, why))
        except (TargetError, TimeoutError) as error:
            await self._try_again(job, str(error) or f"the attempt took longer than {LEASE_S:g} s")
        except Exception as error:
            log.exception("execution %s (%s)", job.id, job.action)
            await self._try_again(job, f"{type(error).__name__}: {error}")
        else:
            if detail is not None:
                await self._change(lambda: self._store.succeed(job, detail))
                self._watch.took(job.action, time.monotonic() - began)

    async def _try_again(self, job: Job, why: str) -> None:
        self._resting.add(job.id)  # before it can be claimed anew
        if await self._change(lambda: self._store.again(job, why)):
            asyncio.get_running_loop().call_later(self._rest(job.attempt), self._rested, job.id)
        else:
            self._resting.discard(job.id)

    def _rested(self, number: int) -> None:
        self._resting.discard(number)
        self.wake()

    async def _attempt(self, job: Job) -> str | None:
        """Do or undo the job and read it back; return how it was seen, None when there was nothing to do."""
        action = next(each for each in self._table.hooks[job.hook].actions if each.name == job.action)
        operation = self._table.operation_of(action)
        if operation is None:
            raise TargetRefused(f"{job.action}: the table no longer says how to do it")
        if job.action in self._pretend:
            begun = await self._change(lambda: self._store.begin(job, None))
            return "pretended: MBP_EXECUTOR_PRETEND names this action" if begun else None
        # A target that was called before is not asked first: the effect that it shows may be ours.
        ask = job.kind == "undo" or not job.sent
        in_effect = await self._in_effect(operation, job) if ask else None
        if not await self._change(lambda: self._store.begin(job, in_effect)):
            return None
        if job.kind == "undo":
            return await self._undo(operation, job, in_effect is False)
        notes = [await self._step(step, action, job) for step in action.with_]
        await self._endpoints.call(operation.endpoint, operation.do, job.subject, _reason(job), job.key)
        if not await self._in_effect(operation, job):
            raise TargetError(f"{_reading(operation)} does not show it although the call was answered well")
        return "; ".join([f"read back: {_reading(operation)}", *notes])

    async def _undo(self, operation: Operation, job: Job, gone: bool) -> str:
        if gone:
            return f"found put back: {_reading(operation)} no longer"
        if operation.undo is None:
            raise TargetRefused(f"{job.action}: the table no longer says how to undo it")
        await self._endpoints.call(operation.endpoint, operation.undo, job.subject, _reason(job), job.key)
        if await self._in_effect(operation, job):
            raise TargetError(f"{_reading(operation)} still, although the call was answered well")
        return f"read back: {_reading(operation)} no longer"

    async def _in_effect(self, operation: Operation, job: Job) -> bool:
        return await self._endpoints.in_effect(operation.endpoint, operation.read, job.subject)

    async def _step(self, step: str, action: Action, job: Job) -> str:
        """Do one of the steps that may fail, and say how it went."""
        operation = self._table.operation_of(action.model_copy(update={"name": step}))
        if operation is None:
            return f"without {step}: no endpoint for it yet"
        try:
            await self._endpoints.call(operation.endpoint, operation.do, job.subject, _reason(job), f"{job.key}-{step}")
        except (TargetError, TargetRefused) as error:
            return f"without {step}: {error}"
        return f"with {step}"


def _reason(job: Job) -> str:
    verb = "resolved" if job.kind == "undo" else "firing"
    return f"{job.hook}: {job.alert} {verb} ({job.fingerprint})"


def _reading(operation: Operation) -> str:
    return f"{operation.endpoint}{operation.read.path} {operation.read.field} == {operation.read.equals!r}"
