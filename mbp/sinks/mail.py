"""The e-mail half of the sinks: a small SMTP server on loopback that stores a message before it says 250."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from email import policy
from email.errors import MessageError
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from mbp._asgi import ApiError
from mbp._service import listen_address
from mbp.sinks.store import Message

MAIL_LIMIT = 256 * 1024  # bytes of one message
MAX_RECIPIENTS = 50
_IDLE_S = 30.0
_MAX_SESSIONS = 64

Keep = Callable[[list[Message]], Awaitable[object]]


def readable(raw: bytes, sender: str, recipients: list[str]) -> dict[str, Any]:
    """Return a message as the sinks show it; total: what cannot be decoded is shown with replacement characters."""
    parsed = BytesParser(EmailMessage, policy=policy.default).parsebytes(raw)
    sender, recipients = _text_of(sender), [_text_of(each) for each in recipients]
    headers: dict[str, str] = {}
    for name, value in parsed.raw_items():
        name, shown = _text_of(name), _header(parsed, name, str(value))
        headers[name] = f"{headers[name]}, {shown}" if name in headers else shown
    return {"from": sender, "to": recipients, "headers": headers, "text": _text(parsed, raw)}


def _header(parsed: EmailMessage, name: str, value: str) -> str:
    try:
        decoded = str(parsed.policy.header_fetch_parse(name, value))
    except (MessageError, ValueError, LookupError, IndexError, AttributeError):
        decoded = value  # the header parser trips over some malformed addresses: what was sent is shown then
    return _text_of(decoded)


def _text(parsed: EmailMessage, raw: bytes) -> str:
    part = parsed.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    try:
        content = part.get_content()
    except (LookupError, ValueError, MessageError):
        content = raw.decode("utf-8", "replace")
    text = content if isinstance(content, str) else str(content)
    return _text_of(text)


def _text_of(given: str) -> str:
    """Return what can be shown of a text that may hold bytes which are none, as the mail library keeps them."""
    return given.encode("utf-8", "replace").decode("utf-8")


class _Handler:
    """aiosmtpd's hooks."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Take a recipient, up to a limit."""
        if len(envelope.rcpt_tos) >= MAX_RECIPIENTS:
            return f"452 4.5.3 too many recipients (at most {MAX_RECIPIENTS})"
        if "@" not in address or not address.isprintable():
            return "553 5.1.3 the recipient is not an address"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        """Store the message once per recipient, then accept it; 451 when the store fails, so that it is sent again."""
        raw = envelope.content if isinstance(envelope.content, bytes) else b""
        recipients = [str(each) for each in envelope.rcpt_tos]
        try:
            payload = readable(raw, str(envelope.mail_from or ""), recipients)
        except RecursionError:
            return "554 5.6.0 the message is nested too deeply"
        try:
            await self._keep([Message("email", each.lower(), payload, raw) for each in dict.fromkeys(recipients)])
        except ApiError as error:
            return f"451 4.3.0 {error.code}: try again later"
        return "250 2.0.0 stored"


class _Bounded(SMTP):
    """aiosmtpd's protocol with a limit on how many talk at once."""

    open_sessions = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse a session too many."""
        type(self).open_sessions += 1
        if type(self).open_sessions > _MAX_SESSIONS and isinstance(transport, asyncio.Transport):
            transport.write(b"421 4.3.2 too many sessions\r\n")
            transport.close()
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Make room."""
        type(self).open_sessions -= 1
        super().connection_lost(error)


async def listen(port: int, keep: Keep) -> asyncio.Server:
    """Start the SMTP server (see `listen_address`). Raises `OSError` when the port cannot be had."""
    loop = asyncio.get_running_loop()
    handler = _Handler(keep)

    def protocol() -> SMTP:
        return _Bounded(
            handler, data_size_limit=MAIL_LIMIT, hostname="sinks.mbp.test", ident="mbp sinks", timeout=_IDLE_S,
            loop=loop, enable_SMTPUTF8=True,
        )  # fmt: skip

    return await loop.create_server(protocol, listen_address(), port)
