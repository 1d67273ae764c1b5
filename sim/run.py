"""The story of a run, top to bottom: `Run.story`.

    timing -> preflight -> baseline -> inject -> observe -> withdraw -> recover -> restore -> close

Everything that happens is written to the record, and the judge folds after each line; this module only decides when to
go on. Once a fault was intended, withdraw and restore happen whatever else happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets as random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from sim import injection, restore, whereabouts
from sim.around import Around, Stopped
from sim.chain import ChainError, ChainQuestion, Timing
from sim.company import Companions, accompany
from sim.event import JSON
from sim.fill import NotExported, filled, packaged
from sim.guard import Guard
from sim.injection import Injections, finished
from sim.injector import InjectionError
from sim.judge import Judge, Judgement
from sim.log import canonical
from sim.observation import CannotLook
from sim.plan import Plan
from sim.preflight import Preflight, Refused
from sim.record import Record, sealed, write_once
from sim.secret import SecretMissing
from sim.undo import Journal, JournalError
from sim.watching import Watching, opening

#: How many samples of each gauge the baseline takes, and how many with `baseline` in an expression.
SAMPLES, SAMPLES_FOR_BASELINE = 3, 5

#: How long steady state may take to show at baseline, seconds beyond the samples.
BASELINE_S = 30.0


def new_run_id(exercise: str, wall: str) -> str:
    """Return the name of a run folder: when, what, and four hex digits so that no two are the same."""
    return f"{wall}-{exercise}-{random.token_hex(2)}"


async def run(plan: Plan, folder: Path, around: Around) -> Judgement:
    """Run one plan into `folder`, which exists and is empty. What the target does never makes it raise."""
    return await finished(Run(plan, folder, around).story())


class Run:
    """One run under way."""

    def __init__(self, plan: Plan, folder: Path, around: Around) -> None:
        self.plan, self.folder, self.around = plan, folder, around
        self.log = Record(folder / "log.jsonl", around.clock, around.secrets.redact)
        self.judge = Judge(plan)
        self.token = random.token_hex(4)
        self.watching = Watching(self.log)
        self.journal: Journal | None = None
        self.injections: Injections | None = None
        self.restores: list[dict[str, JSON]] = []
        self.sites: list[injection.Injection] = []
        self.companions = Companions((), self.log)
        self.guard = Guard(around, folder, self.log, self.judge)
        self._wake = asyncio.Event()
        around.stop.wake = self._wake.set
        self.log.listen(self._folded)
        if around.on_judge:
            around.on_judge(self.judge)

    def _folded(self, event: Any) -> None:
        self.judge.feed(event)
        self.guard.see(event)
        self._wake.set()
        if self.around.on_event:
            with contextlib.suppress(OSError):  # the terminal is gone; the run is not
                self.around.on_event(event)

    # -- the story ---------------------------------------------------------------------------------------------

    async def story(self) -> Judgement:
        """Tell it from the first line to the last."""
        self._open()
        self.guard.begin()
        try:
            async with self.watching:
                try:
                    await self._until_withdrawal()
                finally:
                    await finished(self._afterwards())
        except Exception as error:  # noqa: BLE001 - our own bug: it goes on the record, and the outcome is *error*
            self._fell_over(error)
        except BaseException:  # ended from outside, with everything withdrawn by now
            await finished(self.guard.end())
            self.log.close()
            raise
        await finished(self.guard.end())
        self._interrupted()
        self.say("close")
        self.log.append("run.closed", {})
        verdicts = self.folder / "verdicts.json"
        return sealed(self.log, self.judge.judgement(), self._clean, lambda text: write_once(verdicts, text))

    async def _until_withdrawal(self) -> None:
        """Timing, preflight, baseline, inject, observe; a refusal or a stop ends it early."""
        try:
            await self._look()
            await self._timing()
            await Preflight(self).check()
            await accompany(self)
            await self._baseline()
            await self._inject()
            await self._observe()
        except Refused as refusal:
            self.log.append(refusal.kind, {"check": refusal.check, "ok": False, "detail": refusal.detail})
        except (InjectionError, JournalError) as error:
            self.log.append("fault.ineffective", {"reason": f"injection failed: {error}"})
        except Stopped:
            self.guard.heed()
        self._interrupted()

    async def _afterwards(self) -> None:
        """Withdraw, recover, restore: always, in this order, to the end; then what went with the faults ends."""
        intended = self.injections is not None and self.injections.any_intended
        if intended:
            await self._put_back()
        if self.journal is None:
            return
        left = not await self.companions.end(self.journal)
        if (intended or self.companions.all) and self._clean and not left:
            with contextlib.suppress(JournalError):  # every record before it says so already
                self.journal.write("closed", by="runner")
        self.journal.close()

    async def _put_back(self) -> None:
        assert self.injections is not None
        self._clean = gone = False
        self.say("withdraw")
        try:
            gone = await self.injections.withdraw()
            if gone:
                self.guard.withdrawn()
            if gone and self._judged:
                await self._recover()
        except Exception as error:  # noqa: BLE001 - whatever went wrong, what actions changed is still put back
            self._fell_over(error)
        self.say("restore")
        self._clean = await self._restore() and gone

    def _interrupted(self) -> None:
        """Put a stop on the record that was asked for where nobody waited: within a call, or while restoring."""
        if self.around.stop.by is not None and not self.guard.heeded:
            self.guard.heed()

    def _fell_over(self, error: Exception) -> None:
        self.log.append("run.error", {"error": f"{type(error).__name__}: {error}"})

    @property
    def _judged(self) -> bool:
        """Whether waiting for recovery can still change the outcome."""
        ledger = self.judge.ledger
        lost = ledger.stopped or ledger.refused or ledger.ineffective or ledger.unheld or ledger.errors
        return not lost

    # -- its parts ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        write_once(self.folder / "plan.json", canonical(self.plan.as_json()) + "\n")
        data: dict[str, JSON] = {
            "run": self.folder.name,
            "exercise": self.plan.exercise,
            "target": self.plan.target.target,
            "plan": self.plan.digest(),
            "sim": self.plan.sim,
            "time": self.plan.time,
            "past": dict(self.around.past) if self.around.past else None,
        }
        self.log.append("run.opened", data)

    def say(self, phase: str, until_s: float | None = None) -> None:
        """Write that a phase begins, and until when (seconds of the record) it may last."""
        self.log.append("phase", {"name": phase, "until_s": None if until_s is None else round(until_s, 3)})

    async def _look(self) -> None:
        """Open the observers that this plan reads."""
        self.say("look")
        ids = tuple(f"{self.token}-{number}" for number, _ in enumerate(self.plan.faults, 1))
        more = {"secrets": self.around.secrets, "run_id": self.folder.name, "injections": ids}
        for name, source in self.plan.observers.items():
            try:
                spec = filled(self.plan.target.observers[name], self.around.exports)
                kind = self.around.names.observer(source.kind)
                given = opening(name, spec, kind, self.plan.target.facts, more)
                await self.watching.open(kind, given, source.every_s)
            except (NotExported, SecretMissing, CannotLook, ValueError) as error:
                raise Refused("preflight", f"observer {name}", str(error)) from error

    async def _timing(self) -> None:
        """Let the chain say between which bounds its links must come."""
        chain = self.plan.target.chain
        if chain is None or self.plan.hook is None:
            return
        question = self.question()
        value = self.around.names.chain(chain.kind)
        timing = await value.live(question)
        try:
            timing = timing or value.declared(question)
        except ChainError as error:
            self.log.append("note", {"text": f"timing: {error}"})
        if timing is not None:
            self.timing = timing
            self.log.append("timing", timing.to_json())

    timing = Timing("files", {}, window_s=0.0, group_interval_s=0.0)

    def question(self) -> ChainQuestion:
        """Return what this run asks of its chain."""
        assert self.plan.hook is not None
        chain = self.plan.target.chain
        return ChainQuestion(
            hook=self.plan.hook,
            observers={
                name: filled(self.plan.target.observers[name], self.around.exports) for name in self.plan.observers
            },
            files=packaged(chain.model_dump(exclude={"kind"})) if chain else None,
            secrets=self.around.secrets,
            base=self.around.base,
            owners=self.plan.target.owners,
            queries=tuple(query for fact in sorted(self._gauges()) if (query := self.plan.target.facts[fact].query)),
        )

    async def _baseline(self) -> None:
        """Steady state holds, and there are samples to compare with."""
        self.say("baseline")
        wanted = SAMPLES_FOR_BASELINE if self.plan.uses_baseline else SAMPLES
        gauges = self._gauges()
        ledger = self.judge.ledger

        def sampled() -> bool:
            return all(len(ledger.baseline.get(fact, ())) >= wanted for fact in gauges)

        slowest = max((source.every_s for source in self.plan.observers.values()), default=1.0)
        await self.until(lambda: sampled() and self.steady() is None, wanted * slowest + BASELINE_S)
        thin = [fact for fact in gauges if len(ledger.baseline.get(fact, ())) < wanted]
        if thin:
            raise Refused("baseline", "baseline", f"no {wanted} samples of {', '.join(sorted(thin))}")
        trouble = self.steady()
        if trouble:
            raise Refused("baseline", "steady state", trouble)
        self.log.append("baseline", {"check": "steady state", "ok": True, "detail": self.plan.steady_state or ""})

    def _gauges(self) -> set[str]:
        from sim import expression

        words = self.plan.vocabulary()
        facts = {fact for clause in self.plan.clauses for fact in clause.facts}
        if self.plan.steady_state:
            facts |= expression.facts_of(expression.parse(self.plan.steady_state), words)
        return {fact for fact in facts if self.plan.target.facts[fact].kind == "gauge"}

    def steady(self) -> str | None:
        """Return why steady state does not hold at this moment; null when it does."""
        from sim import expression
        from sim.judge.ledger import Now

        if not self.plan.steady_state:
            return None
        ledger = self.judge.ledger
        told = expression.evaluate(expression.parse(self.plan.steady_state), Now(ledger), ledger.words)
        if told.truth is expression.Truth.TRUE:
            return None
        return f"{self.plan.steady_state} is {told.truth.name.lower()}: {told.actual}"

    async def _inject(self) -> None:
        """Prepare, journal, t0, apply, and prove that it bites."""
        budget = next(clause.within_s for clause in self.plan.clauses if clause.stage == "effect")
        self.say("inject", self.log.now() + budget)
        Preflight(self).still_quiet()
        journal = self.journalled()
        self.restores = restore.planned(self.judge.ledger, self.around.exports, [each.site.id for each in self.sites])
        for made in self.restores:
            journal.write("restore", **made)
        self.injections = Injections(self.sites, journal, self.log)
        await self.injections.prepare()
        try:
            self.guard.arm()
        except OSError as error:
            raise InjectionError(f"the watchdog cannot be started, so nothing is injected: {error}") from error
        self.injections.intend(self.log.wall() + self.plan.hold_s)
        if self.around.stop.by:
            raise Stopped
        self.guard.held_for(self.plan.hold_s)
        self.log.append("fault.t0", {"hold_s": self.plan.hold_s})
        if self.around.stop.by:  # the stop condition is true, or its metric lost, at this very moment
            raise Stopped
        t0 = self.log.now()
        await self.injections.apply()
        proof = asyncio.create_task(self.injections.prove())
        try:
            proven = await self.until(lambda: "effective" in self.judge.ledger.marks, t0 + budget - self.log.now())
        finally:
            proof.cancel()
            await asyncio.gather(proof, return_exceptions=True)
        if not proven:
            last = "; ".join(self.injections.unproven.values())
            self.log.append("fault.ineffective", {"reason": f"not seen to bite within {budget:g} s ({last})"})

    def journalled(self) -> Journal:
        """Return this run's journal, opened with who runs this. Raises `JournalError`."""
        if self.journal is None:
            pid = os.getpid()
            header: dict[str, JSON] = {
                "run": self.folder.name,
                "target": self.plan.target.target,
                "instance": self.instance,
                "stack": self.around.stack,
                "owner": {"pid": pid, "started": psutil.Process(pid).create_time()},
                "machine": whereabouts.here(),
            }
            self.journal = Journal(self.folder)
            self.journal.write("open", **header)
        return self.journal

    instance = ""
    _clean = True

    async def _observe(self) -> None:
        """Wait until the fault has taught what it can, at most for the hold time."""
        ledger = self.judge.ledger
        if ledger.ineffective:
            return
        end = (ledger.t0 or 0.0) + self.plan.hold_s
        self.say("observe", end)
        if self.plan.hold == "full":
            await self.until(lambda: False, end - self.log.now())
        else:
            await self.until(lambda: self.judge.may_withdraw, end - self.log.now())

    async def _recover(self) -> None:
        """Wait until all is well again, at most for the budget; a stop cuts the waiting short."""
        gone = self.judge.ledger.marks.get("gone", self.log.now())
        end = gone + float(self.plan.within.recover or 0.0) + 0.05
        self.say("recover", end)
        try:
            await self.until(lambda: self.judge.may_close, end - self.log.now())
        except Stopped:
            self.guard.heed()

    async def _restore(self) -> bool:
        """Put back what actions changed and did not undo; tell whether every state fact reads as before."""
        assert self.journal is not None
        around, log, patience = self.around, self.log, restore.Patience()
        told = [
            await restore.again(record, around.names, around.secrets, self.journal, log.append, "runner", patience)
            for record in self.restores
        ]
        differs = [trouble for trouble in told if trouble]
        await self.watching.last_look()
        differs += restore.differing(self.judge.ledger, {str(record["fact"]) for record in self.restores})
        self.log.append("restored", {"ok": not differs, "differs": list(differs)})
        return not differs

    async def until(self, done: Callable[[], bool], within_s: float) -> bool:
        """Wait until `done`, at most so long; settle budgets as they pass. Raises `Stopped` when asked to stop."""
        end = self.log.now() + within_s
        while True:
            self.guard.look()
            if self.companions.ready and self.companions.trouble:
                self.around.stop.ask("company", self.companions.trouble)
            if self.around.stop.by is not None and not self.guard.heeded:
                raise Stopped
            now = self.log.now()
            self.judge.settled_by(now)
            if done():
                return True
            if now >= end:
                return False
            deadline = self.judge.next_deadline(now)
            wait_s = min(end, deadline + 0.001 if deadline is not None else end) - now
            self._wake.clear()
            try:
                async with asyncio.timeout(max(wait_s, 0.001)):
                    await self._wake.wait()
            except TimeoutError:
                continue
