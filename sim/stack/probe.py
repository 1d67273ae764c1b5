"""Asks a service whether a condition of readiness holds. Short, bounded, and never through a proxy."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any
from urllib.parse import urlencode, urlsplit

from sim.stack.spec import Gate
from sim.walk import walk

_MAX_BODY_BYTES = 8 << 20
_MAX_SHOWN = 5
_MAX_FIELDS = 12


class NotYet(Exception):
    """The condition does not hold at this moment; the message says what was seen instead."""


def check(gate: Gate, url: str, timeout_s: float) -> None:
    """Return when `gate` holds at `url`; else raise `NotYet`."""
    body = fetch(f"{url}{'&' if '?' in url else '?'}{urlencode(gate.query)}" if gate.query else url, timeout_s)
    if gate.path is None and gate.sample is None:
        return
    if gate.sample is not None:
        values: list[Any] = samples(body, gate.sample)
    else:
        answer = _json(body)
        values = walk(answer, gate.path or "")
        if gate.absent:
            _is_absent(answer, gate.path or "", values)
            return
    if not values:
        raise NotYet(f"nothing at {gate.sample or gate.path} yet")
    wrong = [value for value in values if not _meets(gate, value)]
    if wrong:
        wish = f"= {gate.equals}" if gate.equals is not None else f">= {gate.at_least:g}"
        raise NotYet(f"{len(wrong)} of {len(values)} at {gate.sample or gate.path} not {wish}: {_shown(wrong)}")


def _is_absent(answer: Any, path: str, values: list[Any]) -> None:
    before = path.partition(".*")[0]
    if not any(isinstance(holder, list | dict) for holder in walk(answer, before)):
        raise NotYet(f"no list at {before}")  # an answer of another shape is not good news
    if values:
        raise NotYet(f"{len(values)} at {path}: {_shown(values)}")


def _shown(values: list[Any]) -> str:
    return ", ".join(_one(value) for value in values[:_MAX_SHOWN])


def _one(value: Any) -> str:
    if isinstance(value, dict):  # such as the labels of a series: which one it is stands in any of them
        inner = ", ".join(f"{name}={str(each)[:60]}" for name, each in list(value.items())[:_MAX_FIELDS])
        return f"{{{inner}}}"
    return str(value)[:60]


def fetch(url: str, timeout_s: float) -> bytes:
    """GET `url` (http) and return its body. Raises `NotYet` for everything but a whole 2xx answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
    try:
        connection.request("GET", f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}")
        answer = connection.getresponse()
        body = answer.read(_MAX_BODY_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise NotYet(f"{parts.netloc}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise NotYet(f"{parts.netloc} answered {answer.status}")
    if len(body) > _MAX_BODY_BYTES:
        raise NotYet(f"{parts.netloc} answered more than {_MAX_BODY_BYTES >> 20} MiB")
    return body


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise NotYet("the answer is not JSON") from error


def samples(body: bytes, series: str) -> list[float]:
    """Return the values of `series`, spelled as on the page (name, or name with labels), of a Prometheus text page."""
    pattern = re.compile(rf"^{re.escape(series)}[ \t]+(\S+)", re.MULTILINE)
    return [_number(value) for value in pattern.findall(body.decode("utf-8", "replace"))]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _meets(gate: Gate, value: Any) -> bool:
    if gate.at_least is not None:
        return _number(value) >= gate.at_least
    if isinstance(gate.equals, int | float) and not isinstance(gate.equals, bool):
        return _number(value) == gate.equals  # Prometheus writes numbers as strings
    return bool(value == gate.equals)
