"""The only place that applies and withdraws.

Order is everything here: the receipt is on the disk before the effect begins; apply is never repeated; withdraw is
repeated until the fault is read back gone, in reverse order, every fault tried, whatever else goes wrong. What a
runner does at the end of a run, `finish` does from the journal alone in any other process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sim.event import JSON
from sim.fill import filled
from sim.injector import InjectionError, Injector, Probe, Receipt, Site
from sim.log import Log, canonical, scrub
from sim.plan import Fault, Plan
from sim.secret import Secrets
from sim.target import Door
from sim.undo import Journal

if TYPE_CHECKING:
    from sim.around import Around

T = TypeVar("T")

#: The longest that one call of an injector may take.
CALL_S = 10.0

#: How long a request that was sent may still be on its way into the target, or arrive there a second time, seconds.
IN_FLIGHT_S = 4.0

#: How long a call that was cancelled may take to let go, seconds.
LET_GO_S = 1.0

#: Waits between attempts to withdraw, seconds. The last is followed by one more attempt.
BACK_OFF_S = (0.1, 0.3, 1.0, 2.0, 4.0)

#: Between the last two read-backs where a request may still land, seconds.
READ_AGAIN_S = 0.2

#: How often the effect is probed, seconds.
PROBE_S = 0.25


class Say(Protocol):
    """Where steps are reported: the record of a run, or a printer."""

    def __call__(self, kind: str, data: Mapping[str, JSON]) -> Any: ...


@dataclass(slots=True)
class Injection:
    """One use of an injector."""

    fault: Fault
    injector: Injector
    site: Site
    receipt: Receipt = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    prior: JSON = None
    landed_at: float = 0.0  # the loop's second by which all that was sent must have landed
    in_flight_s: float | None = None  # how long that may take; null: IN_FLIGHT_S
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    of_stack: bool = False  # every door is one that the stack itself exports: the fault goes when the stack goes

    @property
    def id(self) -> str:
        """The correlation that travels into the target."""
        return self.site.id


def of(plan: Plan, around: Around, token: str, run_id: str) -> list[Injection]:
    """Return one injection for each fault of the plan; `token` makes their ids. Raises `NotExported`, `LookupError`."""
    made = []
    for number, fault in enumerate(plan.faults, 1):
        site = Site(
            id=f"{token}-{number}",
            run_id=run_id,
            doors={name: filled(plan.target.doors[name], around.exports) for name in fault.doors},
            secrets=around.secrets,
            ttl_s=around.ttl_s,
        )
        of_stack = all(plan.target.doors[name].url.startswith("${stack.") for name in fault.doors)
        made.append(Injection(fault, around.names.injector(fault.injector), site, of_stack=of_stack))
    return made


async def finished(work: Awaitable[T]) -> T:
    """Await `work` to its end even if this task is cancelled meanwhile, then let the cancellation go on."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError from task.exception()
    return task.result()


async def _call(what: str, work: Awaitable[T]) -> T:
    """Await one call of an injector, no longer than `CALL_S` even if it will not be cancelled."""
    task = asyncio.ensure_future(_contained(what, work))
    try:
        await asyncio.wait({task}, timeout=CALL_S)
        if task.cancelled():
            raise InjectionError(f"{what} was cancelled from within")
        if task.done():
            return task.result()
    finally:
        await _ended([task])
    raise InjectionError(f"{what} did not answer within {CALL_S:g} s")


async def _contained(what: str, work: Awaitable[T]) -> T:
    """Await `work`; a plugin that times out or tries to end the process does neither to the runner."""
    try:
        return await work
    except TimeoutError as error:
        raise InjectionError(f"{what} timed out: {str(error) or 'no answer'}") from error
    except SystemExit as error:
        raise RuntimeError(f"{what} tried to end the process (exit {error.code})") from error


async def _ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and give them a moment to end; one that will not is left alone."""
    open_ones = {task for task in tasks if not task.done()}
    for task in open_ones:
        task.cancel()
    if open_ones:
        await asyncio.wait(open_ones, timeout=LET_GO_S)


class Injections:
    """The faults of one run, from prepare to gone."""

    def __init__(self, injections: Sequence[Injection], journal: Journal, log: Log) -> None:
        self._injections = list(injections)
        self._journal = journal
        self._log = log
        self._intended: list[Injection] = []
        self._unwritten: Exception | None = None
        self.unproven: dict[str, str] = {}

    async def prepare(self) -> None:
        """Look at every target, changing nothing. Raises `InjectionError`, also when there is nothing to hit."""
        for injection in self._injections:
            params = injection.injector.params.model_validate(injection.fault.params)
            name = injection.fault.injector
            prepared = await _call(f"prepare of {name}", injection.injector.prepare(injection.site, params))
            if not prepared.targets:
                raise InjectionError(f"{name} found nothing to hit: zero targets is not a success")
            injection.receipt, injection.targets = prepared.receipt, prepared.targets
            injection.prior = prepared.prior
            text, targets = injection.fault.text, list[JSON](prepared.targets)
            self._log.append(
                "fault.prepared", {"fault": injection.id, "injector": name, "text": text, "targets": targets}
            )

    @property
    def any_intended(self) -> bool:
        """Whether an intent was written: without one nothing can have been applied."""
        return bool(self._intended)

    def intend(self, deadline_wall: float) -> None:
        """Write what undoing needs to the disk, before anything is applied. Raises `JournalError`."""
        for injection in self._injections:
            record = intent(injection, deadline_wall)
            try:
                text = canonical([injection.receipt, injection.prior])
            except (ValueError, TypeError, RecursionError) as error:
                raise InjectionError(f"the receipt of {injection.fault.injector} is not plain JSON: {error}") from error
            if injection.site.secrets.redact(text) != text:
                raise InjectionError(f"the receipt of {injection.fault.injector} carries a secret: give a reference")
            self._journal.write("intent", **record)
            self._intended.append(injection)

    async def apply(self) -> None:
        """Apply every fault, once. Raises `InjectionError`: the fault may be there all the same."""
        for injection in self._injections:
            name = injection.fault.injector
            try:
                await _call(f"apply of {name}", injection.injector.apply(injection.site, injection.receipt))
            finally:
                injection.landed_at = _in_flight_until()  # acknowledged or not: a copy of it may be on its way
            self._journal.write("applied", fault=injection.id)
            self._log.append("fault.applied", {"fault": injection.id})
            self._begin(injection)

    def _begin(self, injection: Injection) -> None:
        if injection.injector.drive:
            drive = injection.injector.drive(injection.site, injection.receipt)
            injection.tasks.append(asyncio.create_task(self._guard(injection, "drive", drive)))
        if injection.injector.renew:
            injection.tasks.append(asyncio.create_task(self._guard(injection, "renewal", self._renew(injection))))

    async def _renew(self, injection: Injection) -> None:
        """Renew the lease at a third of it. A failed renewal is tried again; the target drops the fault by itself."""
        assert injection.injector.renew is not None
        loop, ttl_s = asyncio.get_running_loop(), injection.site.ttl_s
        renewed = loop.time()
        while True:
            await asyncio.sleep(ttl_s / 3)
            sent = loop.time()
            if sent - renewed > ttl_s:
                # Renewing now would inject a second time: the target has dropped the fault by itself.
                reason = (
                    f"the lease of {injection.id} was last renewed {sent - renewed:.1f} s ago, and holds {ttl_s:g} s"
                )
                self._log.append("fault.lapsed", {"fault": injection.id, "reason": reason})
                return
            try:
                await _call("renewal", injection.injector.renew(injection.site, injection.receipt))
                if loop.time() - renewed > ttl_s:
                    # This process stood still with the request in hand: it may have injected a second time.
                    self._log.append("fault.lapsed", {"fault": injection.id, "reason": "renewed after it had run out"})
                    return
                renewed = sent
            except asyncio.CancelledError:
                injection.landed_at = _in_flight_until()  # landing behind the withdrawal it would be the fault again
                raise
            except InjectionError as error:
                injection.landed_at = _in_flight_until()
                self._log.append("note", {"text": f"the lease of {injection.id} was not renewed: {error}"})

    async def _guard(self, injection: Injection, what: str, work: Awaitable[None]) -> None:
        try:
            await _contained(what, work)
        except InjectionError as error:
            injection.landed_at = _in_flight_until()  # what it had sent may land behind the withdrawal
            self._log.append("note", {"text": f"{what} of {injection.id} ended: {error}"})
        except Exception as error:  # noqa: BLE001 - a plugin's bug: it goes on the record, and the outcome is *error*
            name = injection.fault.injector
            self._log.append("run.error", {"error": f"{what} of {name} fell over: {type(error).__name__}: {error}"})

    async def prove(self) -> dict[str, str]:
        """Probe each fault until it is seen to bite; to be cancelled when the budget is over.

        `unproven` says what the last look at each fault that is not yet proven gave.
        """
        self.unproven = {injection.id: "not looked at yet" for injection in self._injections}
        while self.unproven:
            for injection in self._injections:
                if injection.id in self.unproven:
                    await self._probe(injection)
            if self.unproven:
                await asyncio.sleep(PROBE_S)
        return self.unproven

    async def _probe(self, injection: Injection) -> None:
        try:
            probe = await _call("effect probe", injection.injector.effective(injection.site, injection.receipt))
        except InjectionError as error:
            self.unproven[injection.id] = str(error)
            return
        except Exception as error:  # noqa: BLE001 - a plugin's bug: it goes on the record, and the outcome is *error*
            self.unproven[injection.id] = why = f"effect probe fell over: {type(error).__name__}: {error}"
            self._log.append("run.error", {"error": f"{injection.fault.injector}: {why}"})
            return
        if probe.holds:
            del self.unproven[injection.id]
            self._log.append("fault.effective", {"fault": injection.id, "evidence": dict(probe.evidence)})
        else:
            self.unproven[injection.id] = _spell(probe.evidence)

    async def withdraw(self) -> bool:
        """Withdraw every fault that was intended, last first, and read each back; tell whether all are gone."""
        gone = True
        for injection in reversed(self._intended):
            await _ended(injection.tasks)
            if not all(task.done() for task in injection.tasks):
                injection.landed_at = _in_flight_until()  # it does not let go of what it is sending
            self._tell("fault.withdrawing", {"fault": injection.id})
            gone &= await take_back(injection, self._journal, self._tell, by="runner")
            await self._look_back(injection)
        if self._unwritten is not None:
            raise self._unwritten  # only now: a record that cannot be written must not keep a fault in place
        return gone

    async def _look_back(self, injection: Injection) -> None:
        """Let a kind of fault that can say whether it held until it was withdrawn say so; no answer is a no."""
        if injection.injector.held is None:
            return
        try:
            probe = await _call("look back", injection.injector.held(injection.site, injection.receipt))
        except Exception as error:  # noqa: BLE001 - whatever went wrong: nobody can say that the fault held
            probe = Probe(False, {"reason": str(error) or type(error).__name__})
        data: dict[str, JSON] = {"fault": injection.id, "evidence": dict(probe.evidence)}
        if probe.holds:
            self._tell("fault.held", data)
        else:
            self._tell("fault.unheld", {**data, "reason": _spell(probe.evidence)})

    def _tell(self, kind: str, data: Mapping[str, JSON]) -> None:
        """Write to the record; remember the first failure for when everything was tried."""
        try:
            self._log.append(kind, data)
        except Exception as error:  # noqa: BLE001 - raised by `withdraw` once every fault was tried
            self._unwritten = self._unwritten or error


def intent(injection: Injection, deadline_wall: float) -> dict[str, JSON]:
    """Return the journal's record of one fault: all that any process needs to undo it. References, never secrets."""
    return {
        "fault": injection.id,
        "injector": injection.fault.injector,
        "receipt": injection.receipt,
        "prior": injection.prior,
        "doors": {name: door.model_dump(mode="json", exclude_none=True) for name, door in injection.site.doors.items()},
        "run": injection.site.run_id,
        "ttl_s": injection.site.ttl_s,
        "lease": injection.fault.lease,
        "of_stack": injection.of_stack,
        "here": injection.injector.here,
        "deadline": round(deadline_wall, 3),
    }


def from_intent(record: Mapping[str, Any], injector: Callable[[str], Injector], secrets: Secrets) -> Injection:
    """Return the injection that a journal's intent describes. Raises `LookupError` when its injector is not there."""
    name = str(record["injector"])
    site = Site(
        id=str(record["fault"]),
        run_id=str(record["run"]),
        doors={key: Door.model_validate(door) for key, door in record["doors"].items()},
        secrets=secrets,
        ttl_s=float(record["ttl_s"]),
    )
    fault = Fault(injector=name, text=name, params={}, lease=record["lease"], doors=tuple(record["doors"]))
    return Injection(fault, injector(name), site, receipt=dict(record["receipt"]), prior=record["prior"])


async def take_back(injection: Injection, journal: Journal, say: Say, by: str) -> bool:
    """Withdraw one fault, with back-off, until it is read back gone; journal and report either way.

    "Gone" counts only after the read-back, and is asked for even when the withdrawal failed: a target that answers "no
    such fault" may still be biting, and one that answers nothing may have done it.
    """
    silent = False
    for wait_s in (*BACK_OFF_S, None):
        trouble = ""
        try:
            trouble = await _sent(injection)
            if silent or trouble:  # it may have hung: what it was sent before is worked off now, and in any order
                injection.landed_at = max(injection.landed_at, _in_flight_until(injection.in_flight_s))
            probe = await _read_back(injection, by)
            if probe.holds:
                evidence = scrub(dict(probe.evidence), injection.site.secrets.redact)
                journal.write("withdrawn", fault=injection.id, by=by, evidence=evidence)
                say("fault.gone", {"fault": injection.id, "evidence": evidence})
                return True
            trouble = trouble or f"still there: {_spell(probe.evidence)}"
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the next attempt and the next fault still follow
            trouble = "; ".join(filter(None, [trouble, str(error) or type(error).__name__]))
            silent = True
        if wait_s is not None:
            await asyncio.sleep(wait_s)
    say("fault.stuck", {"fault": injection.id, "reason": trouble})
    return False


async def _read_back(injection: Injection, by: str) -> Probe:
    """Ask whether the fault is gone; twice more where a request may still land, or the runner's own are not known."""
    waits_s = [0.0]
    settle_s = injection.landed_at - asyncio.get_running_loop().time()
    if settle_s > 0 or by != "runner":
        waits_s += [max(0.0, settle_s), READ_AGAIN_S]
    for wait_s in waits_s:
        await asyncio.sleep(wait_s)
        probe = await _call("read-back", injection.injector.gone(injection.site, injection.receipt))
        if not probe.holds:
            break
    return probe


async def _sent(injection: Injection) -> str:
    """Send one withdrawal; return what went wrong with it."""
    try:
        await _call("withdraw", injection.injector.withdraw(injection.site, injection.receipt))
    except Exception as error:  # noqa: BLE001 - the read-back tells what became of it
        return str(error) or type(error).__name__
    return ""


def _in_flight_until(in_flight_s: float | None = None) -> float:
    return asyncio.get_running_loop().time() + (IN_FLIGHT_S if in_flight_s is None else in_flight_s)


def _spell(evidence: Mapping[str, JSON]) -> str:
    return ", ".join(f"{name} {value}" for name, value in evidence.items()) or "no evidence"
