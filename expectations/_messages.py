"""What a notification says: which alerts, firing or resolved.

Read by shape, not by channel, in three qualities: messages with correlation records (fingerprint, startsAt, status and
name of each alert), Alertmanager's own webhook, and the texts of its stock templates, which carry no startsAt and often
no label names. What a message does not carry is null; a payload of no known shape names no alert.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header

from expectations._stamp import epoch, fingerprint
from sim.event import JSON

FIRING, RESOLVED = "firing", "resolved"
#: A body beyond this is not searched for a stock template's text.
_SEARCHED = 256 * 1024

_RECORD = re.compile(r"([0-9a-f]{16}) (\S+) (firing|resolved) (\S+)")
_SUBJECT = re.compile(r"\s*\[(FIRING|RESOLVED)(?::\d+)?\]\s*(\S*)")
_NAME = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_TEXT_LABELS = re.compile(r"^Labels:\s*\n((?: - .*\n)*)", re.MULTILINE)
_TEXT_LABEL = re.compile(r"^ - ([A-Za-z_][A-Za-z0-9_]*) = (.*)$", re.MULTILINE)
_HTML_LABELS = re.compile(r"<strong[^>]*>Labels</strong>(.*?)(?:<strong[^>]*>Annotations</strong>|<a\b|\Z)", re.DOTALL)
_HTML_LABEL = re.compile(r"([A-Za-z_][A-Za-z0-9_]*) = (.*?)<br", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Message:
    """One notification. `status` is None where the payload is of no known shape."""

    status: str | None
    title: str | None
    alerts: tuple[dict[str, JSON], ...]

    def to_json(self) -> dict[str, JSON]:
        """Return the fields of a ``message`` event that come from the payload."""
        return {"status": self.status, "title": self.title, "alerts": list(self.alerts)}


def read(payload: JSON) -> Message:
    """Return what a payload says; total: any JSON has an answer."""
    if not isinstance(payload, dict):
        return Message(None, None, ())
    if isinstance(payload.get("headers"), dict):
        return _email(payload)
    if "event_action" in payload:
        return _pagerduty(payload)
    if isinstance(payload.get("attachments"), list):
        return _slack(payload)
    if isinstance(payload.get("alerts"), list):
        return _webhook(payload)
    if "fingerprint" in payload or "assignee" in payload:
        return _ticket(payload)
    return Message(None, _text(payload.get("text")), ())


def _alert(
    name: str | None, status: str | None, mark: str | None = None, starts: JSON = None, labels: JSON = None
) -> dict[str, JSON]:
    return {"name": name, "labels": labels, "fingerprint": mark, "starts_at": epoch(starts), "status": status}


def _text(value: JSON) -> str | None:
    return value if isinstance(value, str) else None


def _object(value: JSON) -> Mapping[str, JSON]:
    return value if isinstance(value, dict) else {}


def _records(value: JSON) -> tuple[dict[str, JSON], ...]:
    """Return the alerts of correlation records: ``FINGERPRINT STARTS_AT STATUS NAME``, parted by ``; ``."""
    found = []
    for record in (_text(value) or "").split(";"):
        match = _RECORD.fullmatch(" ".join(record.split()))
        if match:
            found.append(_alert(match[4], match[3], match[1], match[2]))
    return tuple(found)


def _of_subject(subject: str | None, status: str | None) -> tuple[str | None, tuple[dict[str, JSON], ...]]:
    """Return status and alert of a stock subject, ``[FIRING:1] NAME (values …)``: the name comes first, unnamed."""
    match = _SUBJECT.match(subject or "")
    if match is None:
        return status, ()
    status = status or match[1].lower()
    return status, (_alert(match[2] if _NAME.fullmatch(match[2]) else None, status),)


def _labelled(labels: dict[str, str], status: str | None) -> dict[str, JSON]:
    """Return the alert with these labels, from which its fingerprint follows."""
    return _alert(labels.get("alertname"), status, fingerprint(labels), None, dict(labels))


def _slack(payload: Mapping[str, JSON]) -> Message:
    attachments = payload.get("attachments")
    first = _object(attachments[0]) if isinstance(attachments, list) and attachments else {}
    fields = first.get("fields")
    by_title = (
        {each.get("title"): each.get("value") for each in fields or [] if isinstance(each, dict)}
        if isinstance(fields, list)
        else {}
    )
    title = _text(first.get("title")) or _text(first.get("fallback")) or _text(payload.get("text"))
    status = _word(by_title.get("status"))
    alerts = _records(by_title.get("alerts"))
    if not alerts:
        status, alerts = _of_subject(title, status)
    return Message(_overall(status, alerts), title, alerts)


def _pagerduty(payload: Mapping[str, JSON]) -> Message:
    inner = _object(payload.get("payload"))
    details = _object(inner.get("custom_details"))
    title = _text(inner.get("summary"))
    action = {"trigger": FIRING, "resolve": RESOLVED}.get(_text(payload.get("event_action")) or "")
    status = _word(details.get("status")) or action
    alerts = _records(details.get("alerts"))
    if not alerts:
        alerts = tuple(
            _labelled(labels, each) for each in (FIRING, RESOLVED) for labels in _text_labels(details.get(each))
        )
    if not alerts:
        _, alerts = _of_subject(title, status)
    return Message(_overall(status, alerts), title, alerts)


def _email(payload: Mapping[str, JSON]) -> Message:
    headers = {name.lower(): _unfold(value) for name, value in _object(payload.get("headers")).items()}
    title = headers.get("subject")
    status = _word(headers.get("x-mbp-status"))
    alerts = _records(headers.get("x-mbp-alerts"))
    if not alerts:
        status, of_subject = _of_subject(title, status)
        body = (_text(payload.get("text")) or _text(payload.get("html")) or "")[:_SEARCHED]
        alerts = tuple(_html_alerts(body)) or of_subject
    return Message(_overall(status, alerts), title, alerts)


def _webhook(payload: Mapping[str, JSON]) -> Message:
    alerts = []
    listed = payload.get("alerts")
    for each in listed if isinstance(listed, list) else []:
        row = _object(each)
        labels = {name: str(value) for name, value in _object(row.get("labels")).items()}
        mark = _text(row.get("fingerprint")) or fingerprint(labels)
        alerts.append(
            _alert(labels.get("alertname"), _word(row.get("status")), mark, row.get("startsAt"), dict(labels))
        )
    return Message(_overall(_word(payload.get("status")), tuple(alerts)), _text(payload.get("groupKey")), tuple(alerts))


def _ticket(payload: Mapping[str, JSON]) -> Message:
    closed = payload.get("state") in ("closed", "resolved", "done")
    status = RESOLVED if closed else FIRING
    mark = _text(payload.get("fingerprint"))
    name = _text(payload.get("alertname")) or _text(payload.get("alert"))
    title = _text(payload.get("title")) or _text(payload.get("summary"))
    if mark is None and name is None:
        return Message(status, title, ())
    return Message(status, title, (_alert(name, status, mark, payload.get("starts_at")),))


def _word(value: JSON) -> str | None:
    return value if value in (FIRING, RESOLVED) and isinstance(value, str) else None


def _overall(status: str | None, alerts: tuple[dict[str, JSON], ...]) -> str | None:
    """Return the message's status: as said, else firing as long as one of its alerts is."""
    if status is not None or not alerts:
        return status
    said = {alert["status"] for alert in alerts}
    return FIRING if FIRING in said else RESOLVED if RESOLVED in said else None


def _text_labels(value: JSON) -> Iterator[dict[str, str]]:
    """Yield the labels of each alert in the stock text list."""
    for block in _TEXT_LABELS.finditer((_text(value) or "")[:_SEARCHED]):
        labels = dict(_TEXT_LABEL.findall(block[1]))
        if labels:
            yield labels


def _html_alerts(body: str) -> Iterator[dict[str, JSON]]:
    """Yield the alerts of the stock e-mail: those under "Firing", then those under "Resolved"."""
    resolved_from = re.search(r"<strong[^>]*>\[\d+\] Resolved</strong>", body)
    for block in _HTML_LABELS.finditer(body):
        labels = {name: html.unescape(value) for name, value in _HTML_LABEL.findall(block[1])}
        if labels:
            ended = resolved_from is not None and block.start() > resolved_from.start()
            yield _labelled(labels, RESOLVED if ended else FIRING)


def _unfold(value: JSON) -> str:
    """Return a header on one line, with its encoded words decoded."""
    line = " ".join((_text(value) or "").split())
    try:
        return str(make_header(decode_header(line)))
    except (HeaderParseError, LookupError, UnicodeError, ValueError):
        return line
