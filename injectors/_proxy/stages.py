"""What each toxic does to one half of one connection.

A stage is a function of time: given when a piece of data enters it and when the piece before left it, it says when the
piece leaves, perhaps cut up, perhaps not at all. So a whole chain of toxics is known when data arrives, one queue
ordered by deadline serves them all, and a change of the chain is a recalculation, never a wait.
Semantics are Toxiproxy's (its ``toxics/*.go``) unless a docstring says otherwise.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Callable, Iterable
from random import Random
from typing import Protocol

from injectors._proxy.clock import Clock, Handle
from injectors._proxy.stats import Stats
from injectors._proxy.toxics import Toxic


class End(enum.Enum):
    """What follows the last byte: the sender shut down its side, or a toxic ends the connection here."""

    HALF = "half"
    CUT = "cut"


Data = bytes | End
Pieces = Iterable[tuple[float, Data]]


class Host(Protocol):
    """The connection that a stage works on."""

    clock: Clock
    stats: Stats

    def close(self) -> None:
        """Close both sides at once, with what is queued dropped."""

    def reset(self) -> None:
        """Reset both sides (RST)."""


class Dice:
    """The seeded generator of one toxic on one half of one connection; made only when something is rolled.

    The first roll decides toxicity, so it depends on nothing but the seed, the proxy's name, the connection's index,
    the toxic's name and how many of that name came before; not on traffic, and not on neighbours.
    """

    __slots__ = ("_generator", "_hit", "_key")

    def __init__(self, key: str) -> None:
        self._key = key
        self._generator: Random | None = None
        self._hit = 0.0

    def generator(self) -> Random:
        """Return the generator, its first roll spent."""
        if self._generator is None:
            self._generator = Random(self._key)  # noqa: S311 (repeatable dice, not a secret)
            self._hit = self._generator.random()
        return self._generator

    def hits(self, toxicity: float) -> bool:
        """Return whether the toxic works here: one roll, compared with the toxicity of the moment."""
        if toxicity >= 1:
            return True
        self.generator()
        return self._hit < toxicity


class Stage:
    """A toxic at work on one half of one connection. This one changes nothing."""

    __slots__ = ("_used", "dice", "host", "toxic")

    #: May hold up to the whole queue (upstream: a toxic with a buffer), so that throughput survives its delay.
    buffers = False
    #: After a change, what has not left yet starts anew, rather than counting from its own arrival.
    restarts = False

    def __init__(self, toxic: Toxic, host: Host, dice: Dice) -> None:
        self.toxic, self.host, self.dice = toxic, host, dice
        self._used = False

    def note(self) -> None:
        """Count this connection as met by the toxic, once."""
        if not self._used:
            self._used = True
            self.host.stats.impact(self.toxic.name)

    def run(self, entry: float, before: float, data: Data) -> Pieces:
        """Return when which piece leaves. `entry` is when `data` comes in, `before` when the last piece left."""
        return ((max(entry, before), data),)

    def slab(self) -> int:
        """Return how many bytes it may be given at once without making too many pieces; 0 for any number."""
        return 0

    def attached(self) -> None:
        """Begin: the connection opened, or the toxic was added to it."""

    def changed(self) -> None:
        """Take notice of new attributes."""

    def again(self, size: int) -> None:
        """Forget `size` bytes: they will be run again."""

    def detached(self) -> None:
        """End: the toxic was removed from a connection that lives on."""

    def cancel(self) -> None:
        """Stop timers: the connection is gone."""


class Latency(Stage):
    """Each chunk leaves `latency` ± `jitter` ms after it came (uniform), never before the one ahead of it."""

    __slots__ = ()
    buffers = True

    def run(self, entry: float, before: float, data: Data) -> Pieces:
        """See `Stage.run`. The end of the stream is not delayed beyond the last chunk."""
        if isinstance(data, End):
            return ((max(entry, before), data),)
        self.note()
        delay = float(self.toxic.attributes["latency"])
        if jitter := self.toxic.attributes["jitter"]:
            delay = max(0.0, delay + self.dice.generator().uniform(-jitter, jitter))
        return ((max(before, entry + delay / 1000), data),)


class Bandwidth(Stage):
    """`rate` KB/s (1 KB = 1000 B): a chunk leaves when its last byte would have; long ones every 100 ms.

    The rate 0 lets nothing pass until the toxic is changed or removed.
    """

    __slots__ = ()
    restarts = True

    def run(self, entry: float, before: float, data: Data) -> Pieces:
        """See `Stage.run`."""
        if isinstance(data, End):
            return ((max(entry, before), data),)
        self.note()
        rate = self.toxic.attributes["rate"] * 1000
        if rate == 0:
            return ((math.inf, data),)
        step = rate // 10
        at = max(entry, before)
        if len(data) <= step:
            return ((at + len(data) / rate, data),)
        return [
            (at + min(first + step, len(data)) / rate, data[first : first + step])
            for first in range(0, len(data), step)
        ]

    def slab(self) -> int:
        """See `Stage.slab`."""
        return self.toxic.attributes["rate"] * 100 * _PIECES


class SlowClose(Stage):
    """Data passes; the end of the stream leaves `delay` ms late."""

    __slots__ = ()

    def run(self, entry: float, before: float, data: Data) -> Pieces:
        """See `Stage.run`."""
        if not isinstance(data, End):
            return ((max(entry, before), data),)
        self.note()
        return ((max(entry, before) + self.toxic.attributes["delay"] / 1000, data),)


#: The most pieces that one call of `Stage.run` should make: more would hold up everybody else.
_PIECES = 512


class Slicer(Stage):
    """Cuts chunks in halves until they are `average_size` ± `size_variation` bytes; `delay` µs between pieces.

    An average size of 0 (on which Toxiproxy never comes to an end) does not cut.
    """

    __slots__ = ()
    restarts = True

    def run(self, entry: float, before: float, data: Data) -> Pieces:
        """See `Stage.run`."""
        if isinstance(data, End):
            return ((max(entry, before), data),)
        delay = self.toxic.attributes["delay"] / 1_000_000
        cuts = self._cuts(len(data))
        if len(cuts) > 2 or delay:
            self.note()
        at = max(entry, before + delay)
        return [(at + i * delay, data[first:last]) for i, (first, last) in enumerate(itertools.pairwise(cuts))]

    def slab(self) -> int:
        """See `Stage.slab`."""
        return self.toxic.attributes["average_size"] * _PIECES

    def _cuts(self, size: int) -> list[int]:
        """Return where to cut, from 0 to `size`."""
        average = self.toxic.attributes["average_size"]
        variation = min(self.toxic.attributes["size_variation"], max(0, average - 1))
        cuts, todo = [0], [(0, size)]
        while todo:
            first, last = todo.pop()
            if average < 1 or last - first - average <= variation or last - first < 2:
                cuts.append(last)
                continue
            middle = first + (last - first) // 2
            if variation:
                middle += self.dice.generator().randrange(-variation, variation)
            middle = min(max(middle, first + 1), last - 1)
            todo += [(middle, last), (first, middle)]
        return cuts


class LimitData(Stage):
    """Ends the connection after `bytes` bytes, counted from the toxic's addition or the connection's opening."""

    __slots__ = ("_ended", "_passed")

    def __init__(self, toxic: Toxic, host: Host, dice: Dice) -> None:
        super().__init__(toxic, host, dice)
        self._passed, self._ended = 0, False

    def run(self, entry: float, before: float, data: Data) -> Pieces:
        """See `Stage.run`."""
        at = max(entry, before)
        if isinstance(data, End):
            return ((at, data),)
        if self._ended:
            return ()
        left = self.toxic.attributes["bytes"] - self._passed
        piece = data[: max(0, left)]
        self._passed += len(piece)
        pieces: list[tuple[float, Data]] = [(at, piece)] if piece else []
        if left <= len(data):
            self.note()
            self._ended = True
            pieces.append((at, End.CUT))
        return pieces

    def again(self, size: int) -> None:
        """See `Stage.again`."""
        self._passed -= size
        self._ended = False


class Timeout(Stage):
    """Nothing passes. After `timeout` ms the connection is closed; with 0 it stays until the toxic is removed.

    Removing the toxic closes the connection, as in Toxiproxy: what was swallowed cannot be brought back. The time
    counts from the connection's opening or the toxic's addition (in Toxiproxy each chunk starts it anew).
    """

    __slots__ = ("_timer",)

    def __init__(self, toxic: Toxic, host: Host, dice: Dice) -> None:
        super().__init__(toxic, host, dice)
        self._timer: Handle | None = None

    def run(self, entry: float, before: float, data: Data) -> Pieces:
        """See `Stage.run`."""
        self.note()
        return ()

    def attached(self) -> None:
        """See `Stage.attached`."""
        self.changed()

    def changed(self) -> None:
        """See `Stage.changed`: the time starts anew."""
        self.cancel()
        if after := self.toxic.attributes["timeout"]:
            self._timer = self.host.clock.call_at(self.host.clock.time() + after / 1000, self._close)

    def detached(self) -> None:
        """See `Stage.detached`."""
        self._close()

    def cancel(self) -> None:
        """See `Stage.cancel`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self.note()
        self.host.close()


class ResetPeer(Stage):
    """Resets the connection (RST to both sides) `timeout` ms after the first data, or end, that comes; passes nothing.

    Unlike Toxiproxy's it resets connections that were open before, too. Removed while a reset is due, it resets now.
    """

    __slots__ = ("_due_from", "_timer")

    def __init__(self, toxic: Toxic, host: Host, dice: Dice) -> None:
        super().__init__(toxic, host, dice)
        self._timer: Handle | None = None
        self._due_from: float | None = None

    def run(self, entry: float, before: float, data: Data) -> Pieces:
        """See `Stage.run`."""
        if self._due_from is None:
            self._due_from = max(entry, before)
            self.changed()
        return ()

    def changed(self) -> None:
        """See `Stage.changed`."""
        self.cancel()
        if self._due_from is not None:
            at = self._due_from + self.toxic.attributes["timeout"] / 1000
            self._timer = self.host.clock.call_at(at, self._reset)

    def detached(self) -> None:
        """See `Stage.detached`."""
        if self._due_from is not None:
            self._reset()

    def cancel(self) -> None:
        """See `Stage.cancel`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _reset(self) -> None:
        self.note()
        self.host.reset()


#: Kind → what it does. `noop` does nothing, and `hold_connect` works on the dial (see `link`).
STAGES: dict[str, Callable[[Toxic, Host, Dice], Stage]] = {
    "latency": Latency,
    "bandwidth": Bandwidth,
    "slow_close": SlowClose,
    "timeout": Timeout,
    "reset_peer": ResetPeer,
    "slicer": Slicer,
    "limit_data": LimitData,
}
