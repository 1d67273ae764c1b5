"""One connection through a proxy: a client, an upstream that is dialled, and the two halves between them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from injectors._proxy.clock import Clock, Handle
from injectors._proxy.direction import Direction
from injectors._proxy.stages import STAGES, Dice, End, Stage
from injectors._proxy.stats import Stats
from injectors._proxy.toxics import Toxic

#: Closing a socket set so sends RST and drops what was not sent (socket(7), SO_LINGER with a time of 0).
_NO_LINGER = struct.pack("ii", 1, 0)


class Side(asyncio.Protocol):
    """One of the two sockets: feeds the half that begins here, and is the output of the other half."""

    def __init__(self, link: Link, begins: Direction, ends: Direction) -> None:
        self.link, self.begins, self.ends = link, begins, ends
        self.transport: asyncio.Transport | None = None
        self.data_received = begins.feed  # type: ignore[method-assign]  # one call less for each chunk
        self.pause_writing = ends.pause  # type: ignore[method-assign]
        self.resume_writing = ends.resume  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self.link.made(self, self.transport)

    def eof_received(self) -> bool:
        """The peer shut down its side: pass that on, and keep the other half."""
        self.begins.end()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.transport = None
        self.link.lost(self)


class Link:
    """See the module. `gone` is called once, when nothing of the connection is left."""

    def __init__(self, clock: Clock, stats: Stats, key: str, toxics: list[Toxic], gone: Callable[[Link], None]) -> None:
        self.clock, self.stats = clock, stats
        self._key, self._toxics, self._gone = key, toxics, gone
        self.up = Direction(clock, stats, True, self._half_ended)
        self.down = Direction(clock, stats, False, self._half_ended)
        self.client = Side(self, self.up, self.down)
        self.server = Side(self, self.down, self.up)
        self.dial: asyncio.Task[None] | None = None
        self.closed = False
        self._began = clock.time()
        self._waiting: asyncio.Future[None] | None = None
        self._wake: Handle | None = None
        self._held_by: set[tuple[str, int]] = set()
        self._sides = 0  # sockets that are open
        for toxic in toxics:
            self.attach(toxic)

    # -- life ----------------------------------------------------------------------------------------------------

    def made(self, side: Side, transport: asyncio.Transport) -> None:
        """A socket is open: the client's first, then the upstream's."""
        self._sides += 1
        if self.closed:
            transport.abort()
            return
        side.begins.source = transport
        side.ends.connected(transport)
        side.begins.regulate()

    def lost(self, side: Side) -> None:
        """A socket is gone: what it sent still goes on its way, what was meant for it is given up."""
        self._sides -= 1
        side.begins.source = None
        side.ends.discard()
        side.begins.end()
        if self.dial is not None and not self.dial.done():
            self.close()
        if side.begins.done:
            self._finish()
        self._check()

    def close(self) -> None:
        """Close both sides at once (FIN), with what is queued dropped."""
        if self.closed:
            return
        self.closed = True
        self.up.discard()
        self.down.discard()
        self._release()
        if self.dial is not None:
            self.dial.cancel()
        for side in (self.client, self.server):
            if side.transport is not None:
                side.transport.abort()
        self._check()

    def reset(self) -> None:
        """Reset both sides (RST), whenever they were opened."""
        for side in (self.client, self.server):
            if side.transport is not None:
                _no_linger(side.transport)
        self.close()

    def dialled(self) -> None:
        """Take notice that the dial is over, well or badly."""
        self.dial = None
        if self.server.transport is None:
            self.close()
        self._check()

    def _half_ended(self, how: End) -> None:
        if how is End.CUT or (self.up.done and self.down.done):
            self._finish()

    def _finish(self) -> None:
        """Close both sides when what is written has gone out."""
        self.up.discard()
        self.down.discard()
        for side in (self.client, self.server):
            if side.transport is not None:
                side.transport.close()

    def _check(self) -> None:
        if self._sides == 0 and (self.dial is None or self.dial.done()):
            self.closed = True
            self._gone(self)

    # -- toxics --------------------------------------------------------------------------------------------------

    def attach(self, toxic: Toxic) -> None:
        """Put a toxic to work here, if its dice say so."""
        if toxic.kind == "hold_connect":
            self._rearm()
            return
        if toxic.kind not in STAGES:
            return
        dice = self._dice(toxic)
        if dice.hits(toxic.toxicity):
            half = self._half(toxic)
            half.insert(self._place(half, toxic), STAGES[toxic.kind](toxic, self, dice))

    def detach(self, toxic: Toxic) -> None:
        """Take a toxic away. Never waits."""
        if toxic.kind == "hold_connect":
            self._rearm()
            return
        half = self._half(toxic)
        index = _index(half, toxic)
        if index is not None:
            half.remove(index)

    def changed(self, toxic: Toxic) -> None:
        """A toxic has new attributes, or a new toxicity, by which the same roll is judged again."""
        if toxic.kind == "hold_connect":
            self._rearm()
            return
        half = self._half(toxic)
        index = _index(half, toxic)
        hit = self._dice(toxic).hits(toxic.toxicity)
        if index is None:
            if hit:
                self.attach(toxic)
        elif hit:
            half.change(index)
        else:
            half.remove(index)

    def _half(self, toxic: Toxic) -> Direction:
        return self.up if toxic.upstream else self.down

    def _dice(self, toxic: Toxic) -> Dice:
        return Dice(f"{self._key}/{'up' if toxic.upstream else 'down'}/{toxic.name}/{toxic.serial}")

    def _place(self, half: Direction, toxic: Toxic) -> int:
        """Return where among the stages `toxic` belongs: in the order in which toxics were added."""
        at_work: dict[int, Stage] = {id(stage.toxic): stage for stage in half.stages}
        before = self._toxics[: self._toxics.index(toxic)]
        return sum(id(each) in at_work for each in before)

    # -- the dial ------------------------------------------------------------------------------------------------

    async def held(self) -> None:
        """Wait while a `hold_connect` toxic says so."""
        while (until := self._held_until()) > self.clock.time():
            self._waiting = asyncio.get_running_loop().create_future()
            self._rearm(until)
            await self._waiting
        self._waiting = None

    def _held_until(self) -> float:
        """Return when the dial may begin; infinity while it must not."""
        until = self._began
        for toxic in self._toxics:
            if toxic.kind == "hold_connect" and self._dice(toxic).hits(toxic.toxicity):
                delay = toxic.attributes["delay"]
                until = max(until, self._began + delay / 1000 if delay else float("inf"))
                self._note_hold(toxic)
        return until

    def _note_hold(self, toxic: Toxic) -> None:
        if (key := (toxic.name, toxic.serial)) not in self._held_by:
            self._held_by.add(key)
            self.stats.impact(toxic.name)

    def _rearm(self, until: float | None = None) -> None:
        """Wake the dial at `until`, or now, to look again."""
        if self._waiting is None:
            return
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if until is None:
            self._release()
        elif until < float("inf"):
            self._wake = self.clock.call_at(until, self._release)

    def _release(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _index(half: Direction, toxic: Toxic) -> int | None:
    return next((index for index, stage in enumerate(half.stages) if stage.toxic is toxic), None)


def _no_linger(transport: asyncio.Transport) -> None:
    """Have the closing of this socket send RST. Works on a copy of the descriptor: options belong to the socket."""
    found = transport.get_extra_info("socket")
    if found is None:
        return
    with socket.socket(fileno=socket.dup(found.fileno())) as copy:
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
