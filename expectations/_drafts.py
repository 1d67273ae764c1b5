"""The first profile and the first exercise of a platform, as text with comments that a person goes on from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from expectations._platform import Normal
from sim.duration import spell
from sim.expression.tree import quote

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./:@*+-]*|\d+(?:ms|s|m|h)")
#: What may stand bare as a whole line's value.
_LINE = re.compile(r"[A-Za-z][^#\n\r\t:]*(?<! )")
#: A text without quotes that YAML 1.1 or 1.2 would take for something else.
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"})


@dataclass(frozen=True, slots=True)
class Draft:
    """All that the two files say. `doors` are addresses by name, `commands` the four of one fault by its name."""

    name: str
    environment: str
    prometheus: str
    alertmanager: str | None
    inbox: str | None
    auth: str | None
    identity: Mapping[str, str]
    alert: str
    owner: str
    address: str
    inject: str
    normal: Normal
    within: Mapping[str, float]
    ramp_s: float
    doors: Mapping[str, str] = field(default_factory=dict)
    door_auth: str | None = None
    commands: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    rules: tuple[str, ...] = ()

    @property
    def exercise(self) -> str:
        """The name of the hook and of the exercise: the alert's, in small letters."""
        parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", self.alert)
        name = "_".join(part.lower() for part in parts)
        return name if re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name) else f"{self.name.replace('.', '_')}_first"


def q(text: str, line: bool = False) -> str:
    """Return a text as YAML: bare where nobody can misread it, else in quotes. `line`: it is a line's whole value."""
    if (_LINE if line else _PLAIN).fullmatch(text) and text.lower() not in _WORDS and not text.endswith(":"):
        return text
    bare = text.isprintable() and "'" not in text and "\\" not in text
    return f"'{text}'" if bare else json.dumps(text, ensure_ascii=not text.isprintable())


def _map(pairs: Iterable[tuple[str, str | None]]) -> str:
    return "{" + ", ".join(f"{name}: {q(value)}" for name, value in pairs if value is not None) + "}"


def profile(draft: Draft) -> str:
    """Return the target profile."""
    eyes = [f"  prom: {_map(_eye('prometheus', draft.prometheus, draft))}"]
    if draft.alertmanager:
        eyes.append(f"  alertmanager: {_map(_eye('alertmanager', draft.alertmanager, draft))}")
    if draft.inbox:
        eyes.append(f"  webhook: {_map([*_eye('inbox', draft.inbox, draft), ('channel', 'webhook')])}")
    normal = draft.normal
    gauge = f"{{kind: gauge, from: prom, query: {q(normal.query)}, worse: {normal.worse}}}"
    lines = [
        f"# What may be broken and what is read of {draft.name}; docs/your-platform.md explains each part.",
        f"target: {draft.name}",
        "# The live platform must report exactly this before anything is broken.",
        f"environment: {q(draft.environment)}",
        "identity:",
        *(f"  {name}: {q(value)}" for name, value in draft.identity.items()),
        "",
        "# The ways in by which a fault reaches the platform.",
        *_doors(draft),
        "observers:",
        *eyes,
        "",
        "facts:",
        "  alert: {kind: event, stage: detect, from: prom}",
        *(["  alert.to: {kind: event, stage: notify, from: webhook}"] if draft.inbox else []),
        f"  {normal.fact}: {gauge}",
        "",
        "# Who looks after what, and the address at which each is told.",
        "owners:",
        f"  {q(draft.owner)}: {_map([('webhook', draft.address)]) if draft.inbox else '{}'}",
        "",
        "hooks:",
        f"  {draft.exercise}:",
        f"    alerts: [{q(draft.alert)}]",
        f"    owner: {q(draft.owner)}",
        f"    channels: [{'webhook' if draft.inbox else ''}]",
        *([f"    ramp: {{least: 0s, most: {spell(draft.ramp_s)}}}"] if draft.ramp_s else []),
        "    # Times from the fault on; recover counts from when it is gone.",
        f"    within: {{{', '.join(f'{name}: {spell(value)}' for name, value in draft.within.items())}}}",
        "",
        "# What normal is. A run begins only when it holds, and ends well only when it holds again.",
        f"steady_state: {normal.condition}",
        f"chain: {{kind: prometheus{_rules(draft)}}}",
    ]
    return "\n".join(lines) + "\n"


def _eye(kind: str, url: str, draft: Draft) -> list[tuple[str, str | None]]:
    return [("kind", kind), ("url", url), ("auth", draft.auth), ("every", "500ms")]


def _rules(draft: Draft) -> str:
    return f", rules: [{', '.join(map(q, draft.rules))}]" if draft.rules else ""


def _doors(draft: Draft) -> list[str]:
    lines = [f"  {name}: {_map([('url', url), ('auth', draft.door_auth)])}" for name, url in draft.doors.items()]
    if draft.commands:
        lines += ["  exec:", "    commands:"]
        for name, steps in draft.commands.items():
            lines.append(f"      {name}:")
            lines += [f"        {step}: [{', '.join(map(q, argv))}]" for step, argv in steps.items()]
    return ["doors:", *lines, ""] if lines else []


def scenario(draft: Draft) -> str:
    """Return the file with the first exercise."""
    told = f", and {draft.owner} is told" if draft.inbox else ""
    expect = f"alert.to=={quote(draft.owner)}" if draft.inbox else f"alert=={quote(draft.alert)}"
    lines = [
        "exercises:",
        f"  {draft.exercise}:",
        f"    title: {q(f'{draft.alert} fires{told}', line=True)}",
        f"    hook: {draft.exercise}",
        f"    inject: {q(draft.inject, line=True)}",
        f"    expect: {q(expect, line=True)}",
    ]
    return "\n".join(lines) + "\n"
