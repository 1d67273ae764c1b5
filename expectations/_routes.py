"""Alertmanager's routing tree: which receivers an alert goes to, and how long its groups wait."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expectations._promtext import duration

_MATCHER = re.compile(
    r"""\s*(?:"((?:\\.|[^"\\])*)"|([^\s{}!=~,\\"'`]+))\s*(=~|!~|!=|=)\s*(?:"((?:\\.|[^"\\])*)"|([^,}"]*))\s*"""
)
_UNESCAPED = re.compile(r"\\(.)")
GROUP_WAIT_S, GROUP_INTERVAL_S = 30.0, 300.0
_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label; a label that an alert has not is the empty string."""

    name: str
    operator: str
    value: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels meet this condition; regular expressions match whole values."""
        found = labels.get(self.name, "")
        if self.operator in ("=", "!="):
            return (found == self.value) == (self.operator == "=")
        return (re.fullmatch(self.value, found) is not None) == (self.operator == "=~")


@dataclass(frozen=True, slots=True)
class Route:
    """A node of the tree, with what it inherits filled in. Times in seconds."""

    receiver: str
    matchers: tuple[Matcher, ...]
    goes_on: bool
    group_wait_s: float
    group_interval_s: float
    group_by: tuple[str, ...]
    routes: tuple[Route, ...]

    def match(self, labels: Mapping[str, str]) -> list[Route]:
        """Return the routes that an alert takes, in order; none when this one does not take it."""
        if not all(matcher.matches(labels) for matcher in self.matchers):
            return []
        taken: list[Route] = []
        for route in self.routes:
            deeper = route.match(labels)
            taken += deeper
            if deeper and not route.goes_on:
                break
        return taken or [self]


def read_matchers(text: str) -> tuple[Matcher, ...]:
    """Return the matchers in ``a="b"`` or ``{a="b", c=~"d|e"}``. Raises `ValueError`."""
    rest = text.strip()
    if rest.startswith("{") and rest.endswith("}"):
        rest = rest[1:-1]
    found, at = [], 0
    while at < len(rest):
        match = _MATCHER.match(rest, at)
        if match is None or (match.end() < len(rest) and rest[match.end()] != ","):
            raise ValueError(f'not a matcher: {text!r:.100} (write name="value")')
        name = _unescape(match[1]) if match[1] is not None else match[2]
        value = _unescape(match[4]) if match[4] is not None else match[5].strip()
        found.append(_checked(name, match[3], value))
        at = match.end() + 1
    return tuple(found)


def _unescape(text: str) -> str:
    return _UNESCAPED.sub(lambda match: "\n" if match[1] == "n" else match[1], text)


def _checked(name: str, operator: str, value: str) -> Matcher:
    if operator in ("=~", "!~"):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {value!r:.100} ({error})") from error
    return Matcher(name, operator, value)


def read_route(node: Any, above: Route | None = None, depth: int = 0) -> Route:
    """Return the tree below a ``route:`` node as loaded from YAML. Raises `ValueError` naming what is wrong."""
    if not isinstance(node, Mapping) or depth > _DEPTH:
        raise ValueError(f"not a route: {node!r:.100}")
    matchers: list[Matcher] = []
    listed = node.get("matchers") or []
    for text in [listed] if isinstance(listed, str) else listed:
        matchers += read_matchers(str(text))
    matchers += [Matcher(str(k), "=", str(v)) for k, v in (node.get("match") or {}).items()]
    matchers += [_checked(str(k), "=~", str(v)) for k, v in (node.get("match_re") or {}).items()]
    receiver = node.get("receiver") or (above.receiver if above else None)
    if not receiver:
        raise ValueError("the root route names no receiver")
    itself = Route(
        receiver=str(receiver),
        matchers=tuple(matchers),
        goes_on=node.get("continue") is True,
        group_wait_s=_wait(node, "group_wait", above.group_wait_s if above else GROUP_WAIT_S),
        group_interval_s=_wait(node, "group_interval", above.group_interval_s if above else GROUP_INTERVAL_S),
        group_by=tuple(map(str, node["group_by"])) if node.get("group_by") else above.group_by if above else (),
        routes=(),
    )
    below = node.get("routes") or []
    if not isinstance(below, Sequence) or isinstance(below, str):
        raise ValueError(f"routes: expected a list, got {below!r:.60}")  # noqa: TRY004 (callers know ValueError)
    children = tuple(read_route(child, itself, depth + 1) for child in below)
    return Route(
        itself.receiver,
        itself.matchers,
        itself.goes_on,
        itself.group_wait_s,
        itself.group_interval_s,
        itself.group_by,
        children,
    )


def _wait(node: Mapping[str, Any], key: str, inherited: float) -> float:
    return inherited if node.get(key) is None else duration(node[key])


def addresses(receiver: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return the addresses of a receiver by channel; what the server shows as ``<secret>`` is not among them."""
    found: dict[str, set[str]] = {"slack": set(), "email": set(), "oncall": set()}
    for kind, channel, keys in (
        ("slack_configs", "slack", ("channel",)),
        ("email_configs", "email", ("to",)),
        ("pagerduty_configs", "oncall", ("routing_key", "service_key")),
    ):
        for each in receiver.get(kind) or []:
            for key in keys:
                value = each.get(key) if isinstance(each, Mapping) else None
                if isinstance(value, str) and value and value != "<secret>":
                    found[channel] |= {part.strip() for part in value.split(",")} if channel == "email" else {value}
    return found
