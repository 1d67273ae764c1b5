"""What must hold before anything is touched. A check that does not hold refuses the run: inconclusive, nothing done.

A rule, route, hook or owner that is missing or differs live is *not* checked here: finding that is what the exercise
is for. What is checked is whether a verdict could mean anything: the right target, eyes open, nothing already on fire.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sim import expression, machine, past, restore
from sim.duration import spell
from sim.expression import Node, Truth
from sim.expression.pattern import PatternError, compile_pattern
from sim.fill import NotExported, filled
from sim.judge.ledger import Ledger, Now
from sim.observation import CannotLook, SendsCanary
from sim.secret import SecretMissing
from sim.target import Action
from sim.watching import LOOK_S

if TYPE_CHECKING:
    from sim.run import Run

#: How long an observer may take to see for the first time, seconds.
FIRST_LOOK_S = 8.0

#: How long the test message may take to reach a receiver, seconds beyond the chain's group interval.
CANARY_S = 8.0

CANARY = "SimCanary"


#: What production is called in names of targets, environments and hosts.
_PRODUCTION = re.compile(r"(^|[^a-z])(prod|prd|production|live)([^a-z]|$)")


class Refused(Exception):
    """The run may not go on. `kind` is the family of the mark, `check` what did not hold, `detail` why."""

    def __init__(self, kind: str, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.kind, self.check, self.detail = kind, check, detail


class Preflight:
    """The checks of one run, in order."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.plan = run.plan
        self.ledger = run.judge.ledger

    async def check(self) -> None:
        """Make every check. Raises `Refused`."""
        self.run.say("preflight")
        self._halted()
        self._production()
        await self._environment()
        self._past()
        await self._eyes()
        self._foreign()
        await self._quiet()
        self._ready()
        await self._canary()

    def _passed(self, check: str, detail: str) -> None:
        self.run.log.append("preflight", {"check": check, "ok": True, "detail": detail})

    def _refuse(self, check: str, detail: str) -> Refused:
        return Refused("preflight", check, detail)

    def _halted(self) -> None:
        """Nobody has halted this machine."""
        reason = machine.halted()
        if reason is not None:
            raise self._refuse("halt", f"this machine is halted ({reason}); sim halt --release lets runs go on")

    def _production(self) -> None:
        """The target does not look like production, or somebody said by name that it may be broken, and why."""
        target = self.plan.target
        urls = [door.url for door in target.doors.values()] + [call.url for call in target.restore]
        urls += [target.identity.url] if target.identity else []
        said = {target.target, target.environment, *(urlsplit(url).hostname or "" for url in urls)}
        looks = sorted(text for text in said if _PRODUCTION.search(text.lower()))
        reason = self.run.around.allow_target.get(target.target)
        if looks and reason is None:
            name = target.target
            raise self._refuse("target", f"{looks[0]!r} looks like production; --allow-target {name}=REASON goes on")
        if reason is not None:
            self._passed("target", f"{target.target} is allowed by name: {reason}")

    async def _environment(self) -> None:
        """The live target says that it is the one that the profile means."""
        identity = self.plan.target.identity
        assert identity is not None, "the plan refuses a target without identity"
        wanted = self.plan.target.environment
        try:
            where = filled(identity, self.run.around.exports)
            said, instance = await restore.identity(where, self.run.around.secrets)
        except (restore.RestoreError, SecretMissing, NotExported, ValueError) as error:
            raise self._refuse("environment", f"the target does not say what it is: {error}") from error
        if said != wanted:
            raise self._refuse("environment", f"the live target reports {said!r}; this profile is for {wanted!r}")
        self.run.instance = instance
        try:
            self.run.guard.take(self.plan.target.target, instance)
        except machine.Taken as taken:
            raise self._refuse("another runner", str(taken)) from taken
        except machine.MachineError as error:
            raise self._refuse("lock", str(error)) from error
        self._passed("environment", f"{said}, instance {instance or 'not named'}")

    def _past(self) -> None:
        """Windows that reach back before the stack was there are filled by its healthy past, at least by half."""
        if self.plan.time != "seeded":
            return
        told = self.run.around.past
        if told is None:
            raise self._refuse("past", "the exercise reads over a healthy past (time: seeded), and the target has none")
        try:
            known = past.read(told)
        except past.PastError as error:
            raise self._refuse("past", f"what the stack tells of its healthy past cannot be read: {error}") from error
        wall = self.run.log.wall()
        thin = known.thin(self.run.timing.windows, wall)
        if thin:
            raise self._refuse("past", f"less than half of a window is covered: {'; '.join(thin)} ({known})")
        self._passed("past", f"{known}, {spell(round(known.age_s(wall), 1))} ago")

    async def _eyes(self) -> None:
        """Every observer of the plan sees; the clocks of those that tell the time are compared with ours."""
        watches = self.run.watching.watches

        def all_looked() -> bool:
            return all(watch.looked.is_set() for watch in watches.values())

        await self.run.until(all_looked, FIRST_LOOK_S)
        for name, watch in watches.items():
            if not watch.looked.is_set():
                raise self._refuse(f"observer {name}", f"it sees nothing: {watch.why_blind or 'no answer'}")
        for watch in watches.values():
            await watch.measure_clock()
        self._passed("observers", f"{len(watches)} see: {', '.join(watches)}")

    # -- nothing is on fire ------------------------------------------------------------------------------------

    def _foreign(self) -> None:
        """No alert outside the hook fires: nobody experiments in the middle of an incident."""
        hook = self.plan.hook
        mine = set(hook.alerts if hook else ()) | set(self.plan.target.meta_alerts) | {CANARY}
        foreign = sorted(name for name, state in firing(self.ledger).items() if name not in mine and state == "firing")
        allowed = self.run.around.allow_firing
        refused = [name for name in foreign if name not in allowed]
        if refused:
            raise self._refuse(
                "foreign alert", f"{', '.join(refused)} is firing; --allow-firing NAME=REASON goes on all the same"
            )
        for name in foreign:
            self._passed("foreign alert", f"{name} is firing, allowed: {allowed[name]}")

    async def _quiet(self) -> None:
        """Nothing of the expected chain fires, acts or is silenced; wait for quiet, at most for its longest echo."""
        if self.plan.hook is None:
            return
        longest = self.run.timing.window_s + self.run.timing.group_interval_s
        patience = min(longest or self.plan.target.quiet, self.plan.target.quiet)
        if self._loud():
            self.run.say("quiet", self.run.log.now() + patience)
            await self.run.until(lambda: not self._loud(), patience)
        loud = self._loud()
        if loud:
            raise self._refuse("already firing", f"{'; '.join(loud)} (waited {patience:g} s for quiet)")
        self._passed("quiet", "nothing of the chain is firing, acting or silenced")

    def _loud(self) -> list[str]:
        hook = self.plan.hook
        assert hook is not None
        loud = [f"{name} is {state}" for name, state in sorted(firing(self.ledger).items()) if name in hook.alerts]
        actions = {action.name for action in hook.actions}
        loud += [
            f"{execution.action} is {execution.last}"
            for execution in self.ledger.executions.values()
            if execution.action in actions and execution.last in ("accepted", "started", "retry")
        ]
        loud += [f"{alert} is silenced ({why})" for alert, why in silenced(self.ledger, hook.alerts)]
        return loud

    def still_quiet(self) -> None:
        """Look once more right before the fault: what fires by now would be taken for its doing. Raises `Refused`."""
        self._foreign()
        loud = self._loud() if self.plan.hook else []
        if loud:
            raise self._refuse("already firing", f"{'; '.join(loud)}, since the baseline")
        for action in self.plan.actions:
            self._not_in_effect(action)

    def _ready(self) -> None:
        """Each action could still do something: what it would change is not so already."""
        for action in self.plan.actions:
            self._not_in_effect(action)
            if action.ready is None:
                continue
            absent = False
            for part in expression.split_and(expression.parse(action.ready)):
                told = expression.evaluate(part, Now(self.ledger), self.ledger.words)
                if told.truth is not Truth.TRUE and not self._absent(part):
                    detail = f"{action.name} needs {action.ready}, which is {told.truth.name.lower()}: {told.actual}"
                    raise self._refuse("ready", detail)
                absent = absent or told.truth is not Truth.TRUE
            why = ": the subject does not exist yet" if absent else ""
            self._passed("ready", f"{action.name}: {action.ready}{why}")
        for clause in self.plan.clauses:
            if clause.kind == "state" and clause.origin == "expect":
                told = expression.evaluate(expression.parse(clause.text), Now(self.ledger), self.ledger.words)
                if told.truth is Truth.TRUE:
                    raise self._refuse("ready", f"{clause.text} is already true: it would prove nothing")

    def _absent(self, part: Node) -> bool:
        """Whether all that it reads is of a subject that is seen not to exist yet: no action can be in effect on it."""
        facts = expression.facts_of(part, self.ledger.words)
        known = Now(self.ledger)
        return bool(facts) and all(
            self.plan.target.facts[fact].subject is not None
            and (values := known.reading(fact).values)
            and values[0].value is None
            for fact in facts
        )

    def _not_in_effect(self, action: Action) -> None:
        """What an action would bring about is not so already: reading it back would prove nothing."""
        if action.effect is None:
            text = f"{action.name} declares no effect that could be read back: its record alone will count"
            self.run.log.append("note", {"text": text})
            return
        told = expression.evaluate(expression.parse(action.effect), Now(self.ledger), self.ledger.words)
        if told.truth is not Truth.FALSE:
            detail = f"the effect of {action.name}, {action.effect}, is {told.truth.name.lower()} before the fault"
            raise self._refuse("ready", f"{detail}: {told.actual}")

    # -- a message gets through --------------------------------------------------------------------------------

    async def _canary(self) -> None:
        """A harmless test alert reaches a receiver, so that silence later means that nobody spoke."""
        if not self.plan.target.canary or self.plan.owner is None:
            return
        senders = [w.observer for w in self.run.watching.watches.values() if isinstance(w.observer, SendsCanary)]
        if not senders:
            self.run.log.append("note", {"text": "canary: no observer of this target can send one"})
            return
        wanted = set(self.plan.hook.channels if self.plan.hook else ())
        if isinstance(self.plan.target.canary, tuple):
            wanted &= set(self.plan.target.canary)
        if not wanted:
            self.run.log.append("note", {"text": "canary: none can arrive by a channel of the hook, so none is sent"})
            return
        name = self.run.folder.name
        labels = {"alertname": CANARY, "run": name, "owner": self.plan.owner, "severity": "info"}
        try:
            for sender in senders:
                async with asyncio.timeout(LOOK_S):
                    await sender.send_canary(labels, 2.0)
        except (CannotLook, OSError) as error:
            why = str(error) or f"no answer within {LOOK_S:g} s"
            raise self._refuse("canary", f"the alert path does not take a test message: {why}") from error
        await self.run.until(lambda: wanted <= self._canary_channels(name), CANARY_S + self.run.timing.group_interval_s)
        reached = self._canary_channels(name)
        if not reached:
            raise self._refuse("canary", "no receiver got the test message: a missing message would mean nothing")
        for channel in sorted(wanted - reached):
            # Not a reason to refuse: a route that leaves this channel out is what the exercise is there to find.
            self.run.log.append("note", {"text": f"canary: nothing arrived by {channel}"})
        self._passed("canary", f"arrived by {', '.join(sorted(reached))}")

    def _canary_channels(self, run: str) -> set[str]:
        return {
            message.channel
            for message in self.ledger.messages
            if message.alert.name == CANARY
            and message.status == "firing"
            and message.alert.labels.get("run", run) == run
        }


def firing(ledger: Ledger) -> dict[str, str]:
    """Return the alerts that are pending or firing now, by name."""
    last: dict[tuple[object, str], tuple[str, str]] = {}
    for alert in ledger.alerts:
        last[(alert.key, alert.source)] = (alert.name, alert.state)
    burning = [(name, state) for name, state in last.values() if state in ("pending", "firing")]
    return dict(sorted(burning, key=lambda each: each[1] == "firing"))  # of several of one name firing stays


def silenced(ledger: Ledger, alerts: Iterable[str]) -> list[tuple[str, str]]:
    """Return which of these alerts a silence holds back now, and which silence."""
    return [
        (name, f"silence {silence['id']}")
        for silence in ledger.silences.values()
        if silence["state"] == "active"
        for name in alerts
        if all(_matches(matcher, name) for matcher in silence["matchers"])
    ]


def _matches(matcher: dict[str, Any], alert: str) -> bool:
    """Whether a silence's matcher can match an alert of this name. Other labels are not known yet: they match."""
    if matcher["name"] != "alertname":
        return True
    value = str(matcher["value"])
    hit = value == alert
    if matcher.get("is_regex"):
        try:
            hit = compile_pattern(f"^(?:{value})$").search(alert)
        except PatternError:
            return True  # what cannot be read may well match
    return hit is bool(matcher.get("is_equal", True))
