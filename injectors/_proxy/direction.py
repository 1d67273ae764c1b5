"""One half of a connection: what one side sends, on its way to the other, in one queue ordered by deadline.

With no toxic and nothing queued, data goes straight from one transport to the other. Otherwise each piece carries the
moments at which it enters the first stage and leaves every stage; the last is its deadline. Deadlines never decrease,
so the queue is a plain FIFO with one timer. A change of toxics recalculates the moments that have not come yet.
"""

from __future__ import annotations

import asyncio
import bisect
import math
from collections import deque
from collections.abc import Callable

from injectors._proxy.clock import Clock, Handle
from injectors._proxy.stages import Data, End, Stage
from injectors._proxy.stats import Stats

#: What may wait, bytes: with a toxic that buffers (bandwidth × delay of 250 MB/s × 100 ms), with others, before the
#: upstream is reached. Above, the sender is not read any more, until half of it has gone.
BUFFERED, UNBUFFERED, EARLY = 32 * 1024 * 1024, 512 * 1024, 256 * 1024

#: What may wait in pieces. More are cut only when these have gone.
PIECES = 16384

#: So much is written in one go before everybody else has a turn.
TURN_PIECES, TURN_BYTES = 128, 4 * 1024 * 1024

#: A moment that is this near, seconds, has come.
NEAR = 1e-6


class Item:
    """A piece on its way: ``moments[0]`` is its entry, ``moments[i + 1]`` when it leaves stage i; the last: its due."""

    __slots__ = ("data", "moments")

    def __init__(self, moments: list[float], data: Data) -> None:
        self.moments, self.data = moments, data


class Direction:
    """See the module. `ended` is called once, with how, when the last byte has been handed over or given up."""

    def __init__(self, clock: Clock, stats: Stats, upstream: bool, ended: Callable[[End], None]) -> None:
        self._clock, self._stats, self._upstream, self._ended = clock, stats, upstream, ended
        self.source: asyncio.Transport | None = None
        self.output: asyncio.Transport | None = None
        self.stages: list[Stage] = []
        self.queued = 0  #: bytes that wait
        self.done = False  #: nothing more will be handed over
        self._closing = False  #: the source has ended: nothing more comes
        self._queue: deque[Item] = deque()
        self._intake: deque[tuple[float, Data, int]] = deque()  # arrival, what came, where its rest begins
        self._tails: list[float] = []  # when the last planned piece leaves each stage
        self._sent: list[float] = []  # when the last delivered piece left each stage
        self._blocked = False
        self._freed = 0.0
        self._reading = True
        self._timer: Handle | None = None
        self._timer_at = 0.0

    # -- in ------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take what the source sent."""
        if self.stages or self._queue or self._intake or self.output is None or self._closing:
            self._take(data)
        elif self._upstream:
            self._stats.upstream += len(data)
            self.output.write(data)
        else:
            self._stats.downstream += len(data)
            self.output.write(data)

    def end(self) -> None:
        """Take notice that the source has sent its last byte."""
        if self._closing:
            return
        if self.stages or self._queue or self._intake or self.output is None:
            self._take(End.HALF)
            self._closing = True
        else:
            self._finish(End.HALF)

    def discard(self) -> None:
        """Give up: what waits, and what still comes, is dropped."""
        self.done = self._closing = True
        self._queue.clear()
        self._intake.clear()
        self.queued = 0
        self._stop_timer()
        for stage in self.stages:
            stage.cancel()

    def _take(self, data: Data) -> None:
        if self._closing:
            return
        now, idle = self._clock.time(), not self._queue
        self._intake.append((now, data, 0))
        self.queued += 0 if isinstance(data, End) else len(data)
        if len(self._intake) == 1:
            self._plan()
        if idle and not self._blocked and self._queue and self._queue[0].moments[-1] <= now:
            self._deliver()
        self.regulate()

    def _plan(self) -> None:
        """Run what has come in through the stages, as much as may wait in pieces."""
        slab = min((size for stage in self.stages if (size := stage.slab())), default=0)
        while self._intake and len(self._queue) < PIECES:
            arrival, data, begin = self._intake.popleft()
            if not isinstance(data, End):
                end = begin + slab if slab else len(data)
                if end < len(data):
                    self._intake.appendleft((arrival, data, end))
                if begin or end < len(data):
                    data = data[begin:end]
                self.queued -= len(data)
            self._run(0, Item([arrival], data))
        self._arm()

    def _run(self, first: int, item: Item) -> None:
        """Run `item`, whose last moment is its entry into stage `first`, through the rest, and queue what comes out."""
        batch = [item]
        for index in range(first, len(self.stages)):
            stage, passed = self.stages[index], []
            for each in batch:
                for leaves, data in stage.run(each.moments[-1], self._tails[index], each.data):
                    self._tails[index] = leaves
                    passed.append(Item([*each.moments, leaves], data))
            batch = passed
        for each in batch:
            self._queue.append(each)
            self.queued += 0 if isinstance(each.data, End) else len(each.data)

    # -- out -----------------------------------------------------------------------------------------------------

    def connected(self, output: asyncio.Transport) -> None:
        """Begin to deliver: the other side is there."""
        self.output = output
        self._deliver()

    def pause(self) -> None:
        """The other side does not keep up: deliver no more."""
        self._blocked = True
        self._stop_timer()
        self.regulate()

    def resume(self) -> None:
        """The other side reads again."""
        self._blocked = False
        self._freed = self._clock.time()
        self._arm()
        self.regulate()

    def _arm(self) -> None:
        """Have `_deliver` called when the first piece is due."""
        if self._blocked or not self._queue or self.output is None:
            return
        due = self._queue[0].moments[-1]
        if self._timer is not None:
            if self._timer_at == due:
                return
            self._timer.cancel()
            self._timer = None
        if due < math.inf:
            self._timer_at = due
            self._timer = self._clock.call_at(due, self._deliver)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver(self) -> None:
        """Hand over what is due, through the other side's flow control, and no more than a turn's worth."""
        self._stop_timer()
        if self.output is None or self.done:
            return
        now = self._clock.time()
        pieces = size = 0
        while self._queue and not self._blocked and self._queue[0].moments[-1] <= now + NEAR:
            if pieces >= TURN_PIECES or size >= TURN_BYTES:
                break  # the timer below is due at once: everybody else first
            item = self._queue.popleft()
            pieces += 1
            if isinstance(item.data, End):
                self._finish(item.data)
                return
            size += len(item.data)
            self._hand_over(item, item.data, now)
        if self._intake and len(self._queue) < PIECES // 2:
            self._plan()
        else:
            self._arm()
        self.regulate()

    def _hand_over(self, item: Item, data: bytes, now: float) -> None:
        assert self.output is not None, "delivery begins when the other side is there"
        self.queued -= len(data)
        due, self._sent = item.moments[-1], item.moments[1:]
        if due < self._freed:
            self._stats.held += 1
        elif len(item.moments) > 1:
            self._stats.delivered(max(0.0, now - due))
        if self._upstream:
            self._stats.upstream += len(data)
        else:
            self._stats.downstream += len(data)
        self.output.write(data)

    def _finish(self, how: End) -> None:
        output = self.output
        self.discard()
        if how is End.HALF and output is not None and not output.is_closing():
            output.write_eof()
        self._ended(how)

    def regulate(self) -> None:
        """Read the source, or do not, by how much waits."""
        if self.source is None or self._closing:
            return
        if self.output is None:
            most = EARLY
        elif any(stage.buffers for stage in self.stages):
            most = BUFFERED
        else:
            most = UNBUFFERED
        full = bool(self._intake) or len(self._queue) >= PIECES or (self._blocked and not self.stages)
        if self._reading:
            if full or self.queued >= most:
                self._reading = False
                self.source.pause_reading()
        elif not full and self.queued <= most // 2:
            self._reading = True
            if not self.source.is_closing():
                self.source.resume_reading()

    # -- changes of toxics ---------------------------------------------------------------------------------------

    def insert(self, index: int, stage: Stage) -> None:
        """Put a stage in. It works on all that has not yet got past that place."""
        now = self._clock.time()
        self.stages.insert(index, stage)
        self._sent.insert(index, -math.inf)
        past, rest = self._split(lambda moments: moments[index] <= now)
        for item in past:
            item.moments.insert(index + 1, item.moments[index])
        self._recalculate(past, [(item.moments[index], item) for item in rest], index, counted=index + 1)
        stage.attached()
        self._settle()

    def remove(self, index: int) -> None:
        """Take a stage out. What it was holding goes on at once."""
        now = self._clock.time()
        stage = self.stages.pop(index)
        del self._sent[index]
        past, rest = self._split(lambda moments: moments[index + 1] <= now)
        entries = [(min(item.moments[index + 1], max(item.moments[index], now)), item) for item in rest]
        for item in (*past, *rest):
            del item.moments[index + 1]
        self._recalculate(past, entries, index, counted=index)
        stage.cancel()
        stage.detached()
        self._settle()

    def change(self, index: int) -> None:
        """A stage has new attributes: they hold for all that has not left it."""
        now = self._clock.time()
        stage = self.stages[index]
        past, rest = self._split(lambda moments: moments[index + 1] <= now)
        floor = now if stage.restarts else -math.inf
        self._recalculate(past, [(max(item.moments[index], floor), item) for item in rest], index, counted=index)
        stage.changed()
        self._settle()

    def _split(self, past: Callable[[list[float]], bool]) -> tuple[list[Item], list[Item]]:
        """Return what waits in two: that whose moments are `past`, and that behind it. Moments never decrease."""
        items = list(self._queue)
        first = bisect.bisect_left(items, True, key=lambda item: not past(item.moments))
        return items[:first], items[first:]

    def _recalculate(self, past: list[Item], rest: list[tuple[float, Item]], index: int, counted: int) -> None:
        """Keep `past`; run each of `rest` again from stage `index` on, which it enters at the moment beside it.

        `counted` is the first stage that has had them before.
        """
        self._queue = deque(past)
        self._tails = past[-1].moments[1:] if past else list(self._sent)
        for _, item in rest:
            if not isinstance(item.data, End):
                self.queued -= len(item.data)
                for stage in self.stages[counted:]:
                    stage.again(len(item.data))
        for entry, item in rest:
            self._run(index, Item([*item.moments[:index], entry], item.data))

    def _settle(self) -> None:
        if not self.done:
            self._plan()
            self.regulate()
