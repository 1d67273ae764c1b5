"""From what a person gave and what the live platform says to all that a first profile needs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import click

from expectations._drafts import Draft
from expectations._platform import OWNER_LABELS, Platform, budget_s, identity_url, look, normal, timing
from expectations._setup import Rule
from sim.chain import Timing
from sim.expression import ExpressionError, parse_call
from sim.problem import Usage, did_you_mean, listing
from sim.secret import Secrets
from sim.target import Auth
from sim.wire import check_url

_REFERENCE = re.compile(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
STEPS = ("start", "verify", "stop", "gone")

#: The hold of a fault whose call says nothing of it, seconds (`sim.resolve.DEFAULT_HOLD_S`).
HOLD_S = 300.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What was given on the command line."""

    name: str | None = None
    environment: str | None = None
    prometheus: str | None = None
    alertmanager: str | None = None
    inbox: str | None = None
    token: str | None = None
    identity: str | None = None
    identity_at: str | None = None
    alert: str | None = None
    owner: str | None = None
    address: str | None = None
    inject: str | None = None
    door_token: str | None = None
    start: str | None = None
    verify: str | None = None
    stop: str | None = None
    gone: str | None = None
    rules: tuple[str, ...] = ()
    doors: Mapping[str, str] = field(default_factory=dict)


class Interview:
    """Asks on a terminal for what is not given; elsewhere collects what is missing, to name it all at once."""

    def __init__(self, asks: bool) -> None:
        self._asks = asks
        self.missing: list[str] = []

    def need(self, flag: str, given: str | None, question: str, default: str | None = None) -> str:
        """Return what was given, else what is answered, else the default; an empty text where it is missing."""
        if given is not None:
            return given
        if self._asks:
            return str(click.prompt(question, default=default, err=True)).strip()
        if default is None:
            self.missing.append(f"{flag} ({question})")
        return default or ""

    def may(self, given: str | None, question: str) -> str | None:
        """Return what was given or answered, None for nothing."""
        if given is not None or not self._asks:
            return given or None
        return str(click.prompt(f"{question} (empty: none)", default="", show_default=False, err=True)).strip() or None

    def choose(self, flag: str, question: str, names: Sequence[str]) -> str:
        """Return the one of `names` that is chosen: the only one where there is but one."""
        if self._asks and names:
            for number, name in enumerate(names, 1):
                click.echo(f"  {number:3} {name}", err=True)
            chosen = click.prompt(question, type=click.IntRange(1, len(names)), default=1, err=True)
            return names[int(chosen) - 1]
        if len(names) == 1:
            return names[0]
        hint = listing(names, "there are") if names else None
        return self.need(flag, None, f"{question}; {hint}" if hint else question)

    def stop_if_missing(self) -> None:
        """Raise `Usage` that names everything that is missing."""
        if self.missing:
            raise Usage("not on a terminal, so nothing is asked; give\n  " + "\n  ".join(self.missing))


async def gathered(given: Answers, asks: bool, suggested: str | None) -> tuple[Draft, list[str]]:
    """Return the draft, and notes for people; `suggested` is a name for the target. Raises `Usage`."""
    ask = Interview(asks)
    name = ask.need("--name", given.name, "what the target is called", suggested if asks else None)
    prometheus = ask.need("--prometheus", given.prometheus, "where Prometheus answers: http://host:port")
    alertmanager = ask.may(given.alertmanager, "where Alertmanager answers")
    inbox = ask.may(given.inbox, "where one can read what the webhook was told")
    token = ask.may(given.token, "bearer token, as env:NAME or file:PATH")
    if name and not _NAME.fullmatch(name):
        raise Usage(f"--name: {name!r} is no name: use a-z, 0-9, dots and dashes, a letter or digit first")
    _reference("--token", token)
    _reference("--door-token", given.door_token)
    for flag, url in (("--prometheus", prometheus), ("--alertmanager", alertmanager), ("--webhook", inbox),
                      ("--identity", given.identity)):  # fmt: skip
        _url(flag, url)
    secrets, auth = Secrets(), Auth(bearer=token) if token else None
    seen = await look(prometheus, alertmanager, auth, secrets) if prometheus else Platform()
    notes = [f"not looked at: {trouble}" for trouble in seen.troubles]
    alert = _alert(ask, given, seen)
    rule = next(iter((seen.rules or {}).get(alert, ())), None)
    environment, identity = _identity(ask, given, seen, prometheus)
    owner = ask.need("--owner", given.owner, "who must be told", _owner(rule))
    address = given.address or seen.receiver(alert) or _slug(owner)
    if asks and inbox:
        address = ask.need("--address", given.address, "the address at which the webhook tells them", address)
    inject, doors, commands = _fault(ask, given)
    ask.stop_if_missing()
    eyes = {"prom": {"kind": "prometheus", "url": prometheus, "auth": token}}
    if alertmanager:
        eyes["alertmanager"] = {"kind": "alertmanager", "url": alertmanager, "auth": token}
    bounds = await timing(alert, owner, eyes, secrets) if seen.rules else None
    usual, value = await normal(prometheus, auth, secrets, rule)
    draft = Draft(
        name=name, environment=environment, prometheus=prometheus, alertmanager=alertmanager, inbox=inbox, auth=token,
        identity=identity | ({"auth": token} if token else {}), alert=alert, owner=owner, address=address,
        inject=inject, normal=usual, within=_within(bounds), ramp_s=bounds.window_s if bounds else 0.0, doors=doors,
        door_auth=given.door_token, commands=commands, rules=given.rules,
    )  # fmt: skip
    draft = _named(draft)
    return draft, notes + _notes(draft, bounds, value)


def _named(draft: Draft) -> Draft:
    """Give commands and their call the exercise's name."""
    if not draft.commands:
        return draft
    (steps,) = draft.commands.values()
    longest = draft.within.get("notify", 0.0) + 30
    more = f", duration='{int(longest)}s'" if longest > HOLD_S else ""
    return replace(draft, commands={draft.exercise: steps}, inject=f"exec.run('{draft.exercise}'{more})")


def _within(bounds: Timing | None) -> dict[str, float]:
    """Return the budgets, from what the live chain needs at worst where that is known; seconds."""
    detect = budget_s(bounds.stages["detect"].worst_s) if bounds else 120.0
    told = bounds.stages.get("notify") if bounds else None
    notify = budget_s(told.worst_s) if told else detect + 60.0
    return {"effect": 30.0, "detect": detect, "act": notify, "notify": notify, "recover": max(300.0, 2 * notify)}


def _notes(draft: Draft, bounds: Timing | None, value: float | None) -> list[str]:
    notes = []
    if bounds is None:
        notes.append("how long the chain takes is not known; the budgets in within: are a guess")
    elif draft.within["notify"] > HOLD_S and not draft.commands:
        need = int(draft.within["notify"] + 30)
        notes.append(f"the chain may need {need} s, a fault is held for {int(HOLD_S)} s: give it duration='{need}s'")
    if value is None:
        notes.append(f"normal is a guess: steady_state is {draft.normal.condition}")
    if draft.inbox is None:
        notes.append("no --webhook: it is not judged whether anybody is told")
    return notes


def _reference(flag: str, value: str | None) -> None:
    """Refuse a literal secret, without repeating it."""
    if value is not None and not _REFERENCE.fullmatch(value):
        raise Usage(f"{flag}: a secret is given only by reference: env:NAME or file:PATH, never as it is")


def _url(flag: str, url: str | None) -> None:
    if url:
        try:
            check_url(url)
        except ValueError as error:
            raise Usage(f"{flag}: {error}") from error


def _alert(ask: Interview, given: Answers, seen: Platform) -> str:
    if seen.rules is None:
        return ask.need("--alert", given.alert, "the alert that must be set off")
    if given.alert is not None:
        if given.alert not in seen.rules:
            hint = did_you_mean(given.alert, seen.rules, "alerts there are") or "no alerting rule is loaded"
            raise Usage(f"--alert: Prometheus has no rule for {given.alert!r}\n  {hint}")
        return given.alert
    return ask.choose("--alert", "the alert that must be set off", sorted(seen.rules))


def _identity(ask: Interview, given: Answers, seen: Platform, prometheus: str) -> tuple[str, dict[str, str]]:
    """Return the environment, and where the live platform reports it: an address given, else a label of its targets."""
    known = {label: values[0] for label, values in (seen.environments or {}).items() if len(values) == 1}
    default = next(iter(known.values()), None) if given.identity is None else None
    question = "what the live platform must report itself to be"
    environment = ask.need("--environment", given.environment, question, default)
    if given.identity is not None:
        return environment, {"url": given.identity} | ({"environment": given.identity_at} if given.identity_at else {})
    label = seen.label_for(environment)
    if label is None and seen.environments is not None and environment:
        found = {name: values for name, values in seen.environments.items() if values}
        told = "; ".join(f"{name} is {', '.join(values)}" for name, values in found.items()) or "they carry none"
        raise Usage(
            f"--environment: the scrape targets in Prometheus do not all say {environment!r} ({told})\n"
            "  label them alike (labels: {environment: …} in scrape_configs), or give --identity URL"
        )
    label = label or "environment"
    return environment, {
        "url": identity_url(prometheus, label),
        "environment": f"data.result.*.metric.{label}",
    }


def _owner(rule: Rule | None) -> str | None:
    labels = rule.labels if rule else {}
    return next((labels[name] for name in OWNER_LABELS if labels.get(name)), None)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "owner"


def _fault(ask: Interview, given: Answers) -> tuple[str, dict[str, str], dict[str, dict[str, list[str]]]]:
    """Return the call, its doors and its commands: a call that was given, else four commands."""
    steps = {step: getattr(given, step) for step in STEPS}
    if given.inject is not None and any(steps.values()):
        raise Usage("give --inject, or --start, --verify, --stop and --gone, not both")
    inject = given.inject
    if inject is None and not any(steps.values()):
        inject = ask.may(None, "the call that breaks it, such as http.fault('checkout', 'error'); else by commands")
    if inject is not None:
        return inject, _opened(ask, inject, dict(given.doors)), {}
    questions = dict(zip(STEPS, (
        "the command that breaks it, or give --inject CALL", "a command that ends with 0 while it is broken",
        "a command that mends it, however often it is called", "a command that ends with 0 when it is mended",
    ), strict=True))  # fmt: skip
    commands = {}
    for step in STEPS:
        text = ask.need(f"--{step}", steps[step], questions[step])
        try:
            commands[step] = shlex.split(text)
        except ValueError as error:
            raise Usage(f"--{step}: {text!r} is no command: {error}") from error
        if text and not commands[step]:
            raise Usage(f"--{step}: an empty command")
    return "", dict(given.doors), {"commands": commands}


def _opened(ask: Interview, inject: str, doors: dict[str, str]) -> dict[str, str]:
    """Return the doors, with those asked for that the call needs and nobody gave."""
    from sim.catalogue import catalogue

    try:
        needs = catalogue().injector(parse_call(inject).name).doors
    except (LookupError, ExpressionError):
        return doors  # told with its place when the files are checked
    for door in needs:
        if door not in doors:
            doors[door] = ask.need(f"--door {door}=URL", None, f"where the door {door!r} of this fault is: http://…")
    return doors
