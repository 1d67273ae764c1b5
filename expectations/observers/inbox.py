"""Reads what receivers got: the messages in a Slack channel, on call, by e-mail or as tickets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from expectations import _messages
from expectations._http import HttpConfig, looker, number, text
from expectations._pages import Cursor
from expectations._stamp import epoch
from sim.event import JSON
from sim.observation import Observation, ObserverKind, Opening
from sim.wire import Client

_RECEIVED = "/received"


class Config(HttpConfig):
    """`channel` is a key of the profile's owner entries, such as ``slack``; without it all channels are read."""

    kind: Literal["inbox"] = "inbox"
    channel: str | None = None


class Inbox:
    """The observer. See `sim.observation.Observer`."""

    def __init__(self, client: Client, channel: str | None) -> None:
        self._cursor = Cursor(client, _RECEIVED, {} if channel is None else {"channel": channel})

    async def poll(self) -> Sequence[Observation]:
        """Look once; the first look only goes to the end. Raises `CannotLook`, and then has forgotten nothing."""
        if self._cursor.after is None:
            await self._cursor.to_end()
            return []
        read, after = await self._cursor.read()
        seen = [_message(row) for row in read]
        self._cursor.after = after
        return seen


def _message(row: Mapping[str, JSON]) -> Observation:
    return Observation(
        "message",
        {
            "id": str(number(row, "seq", _RECEIVED)),
            "channel": text(row, "channel", _RECEIVED),
            "address": row.get("address"),
            **_messages.read(row.get("payload")).to_json(),
        },
        epoch(row.get("at")),
    )


@asynccontextmanager
async def _open(opening: Opening) -> AsyncIterator[Inbox]:
    config = opening.config
    if not isinstance(config, Config):
        raise TypeError(f"observer {opening.name}: not an inbox configuration")
    async with looker(config, opening.secrets) as client:
        yield Inbox(client, config.channel)


observer = ObserverKind(
    summary="messages as their receivers got them",
    config=Config,
    open=_open,
    yields=frozenset({"message"}),
    cursor=True,
)
