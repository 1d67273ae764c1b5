"""The queue itself: whatever the chunks and the toxics, what goes in comes out, whole and in order."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from injectors._proxy import direction
from injectors._proxy.direction import Direction
from injectors._proxy.stages import STAGES, Dice, End
from injectors._proxy.stats import Stats
from injectors._proxy.toxics import KINDS, Toxic
from tests.injectors.proxy.world import FakeClock


class Output:
    """A transport that takes bytes, and says stop after so many until it is drained."""

    def __init__(self, room):
        self.room, self.taken, self.ended, self.filled = room, bytearray(), False, 0
        self.half = None

    def write(self, data):
        """Take bytes."""
        assert not self.ended and data
        self.taken += data
        self.filled += len(data)
        if self.filled > self.room:
            self.half.pause()

    def drain(self):
        """Make room again."""
        if self.filled > self.room:
            self.filled = 0
            self.half.resume()

    def write_eof(self):
        """Take the end."""
        assert not self.ended
        self.ended = True

    def is_closing(self):
        """Stay open."""
        return False


class Source:
    """A transport that is read, or not."""

    def __init__(self):
        self.reading = True

    def pause_reading(self):
        """Stop."""
        assert self.reading
        self.reading = False

    def resume_reading(self):
        """Go on."""
        assert not self.reading
        self.reading = True

    def is_closing(self):
        """Stay open."""
        return False


class Host:
    """The connection that stages belong to."""

    def __init__(self, clock, stats):
        self.clock, self.stats = clock, stats


SMALL = st.integers(0, 50)
KINDS_THAT_KEEP = st.one_of(
    st.tuples(st.just("latency"), SMALL, SMALL),
    st.tuples(st.just("bandwidth"), st.integers(0, 3)),
    st.tuples(st.just("slicer"), st.integers(0, 9), st.integers(0, 12), st.integers(0, 2000)),
    st.tuples(st.just("slow_close"), SMALL),
)
STEPS = st.one_of(
    st.tuples(st.just("feed"), st.binary(min_size=1, max_size=300)),
    st.tuples(st.just("add"), st.integers(0, 9), KINDS_THAT_KEEP),
    st.tuples(st.just("change"), st.integers(0, 9), KINDS_THAT_KEEP),
    st.tuples(st.just("remove"), st.integers(0, 9), st.none()),
    st.tuples(st.just("pass"), st.integers(0, 100)),
    st.tuples(st.just("connect")),
    st.tuples(st.just("drain")),
)


def stage_of(made, host):
    """Return a stage of (kind, attributes …)."""
    kind, *values = made
    toxic = Toxic(kind, kind, "downstream", 1.0, dict(zip(KINDS[kind], values, strict=True)))
    return STAGES[kind](toxic, host, Dice("7"))


def take(half, host, step):
    """Do one step to a half."""
    what, *rest = step
    if what == "add":
        half.insert(rest[0] % (len(half.stages) + 1), stage_of(rest[1], host))
    elif what == "remove" and half.stages:
        half.remove(rest[0] % len(half.stages))
    elif what == "change" and half.stages:
        index = rest[0] % len(half.stages)
        stage = half.stages[index]
        if stage.toxic.kind == rest[1][0]:
            stage.toxic.attributes = dict(zip(KINDS[rest[1][0]], rest[1][1:], strict=True))
            half.change(index)
    elif what == "pass":
        host.clock.advance(rest[0] / 1000)


@given(st.lists(STEPS, max_size=40), st.integers(0, 600))
def test_what_goes_in_comes_out_whole_and_in_order(steps, room):
    """For any chunks, any coming and going of toxics, any pauses of the reader; nothing before its time is lost."""
    clock, stats, sent, ends = FakeClock(), Stats(), bytearray(), []
    half = Direction(clock, stats, False, ends.append)
    host, output, half.source = Host(clock, stats), Output(room), Source()
    output.half = half
    for step in steps:
        if step[0] == "feed":
            if half.source.reading:
                sent += step[1]
                half.feed(step[1])
        elif step[0] == "connect":
            if half.output is None:
                half.connected(output)
        elif step[0] == "drain":
            output.drain()
        else:
            take(half, host, step)
        assert sent.startswith(output.taken)
        assert half.queued == len(sent) - len(output.taken)
    if half.output is None:
        half.connected(output)
    half.end()
    while half.stages:
        half.remove(0)
    for _ in range(10_000):
        if ends:
            break
        clock.advance(0.001)
        output.drain()
    assert (bytes(output.taken), output.ended, ends) == (bytes(sent), True, [End.HALF])
    assert (half.queued, clock.due(), stats.downstream) == (0, [], len(sent))


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30), st.integers(1, 20), st.integers(0, 40))
def test_a_rate_and_a_latency_are_never_beaten(gaps, rate, latency):
    """However chunks come: by any moment no more has gone out than rate and latency allow."""
    clock, stats = FakeClock(), Stats()
    half = Direction(clock, stats, False, lambda how: None)
    host, output = Host(clock, stats), Output(1 << 30)
    output.half = half
    half.connected(output)
    half.insert(0, stage_of(("latency", latency, 0), host))
    half.insert(1, stage_of(("bandwidth", rate), host))
    began = clock.now
    for gap in gaps:
        half.feed(bytes(100))
        clock.advance(gap / 1000)
        passed_s = max(0.0, clock.now - began - latency / 1000)
        assert len(output.taken) <= passed_s * rate * 1000 + 1e-3
    clock.advance(latency / 1000 + len(gaps) * 100 / (rate * 1000) + 0.001)
    assert len(output.taken) == 100 * len(gaps)


def test_many_single_bytes_do_not_stop_the_others(monkeypatch):
    """A slicer of one byte: never more than a bounded number of pieces is made or written in one go."""
    monkeypatch.setattr(direction, "PIECES", 1024)
    clock, stats = FakeClock(), Stats()
    half = Direction(clock, stats, False, lambda how: None)
    host, output = Host(clock, stats), Output(1 << 30)
    output.half, half.source = half, Source()
    half.connected(output)
    half.insert(0, stage_of(("slicer", 1, 0, 0), host))
    total = 1 << 16
    half.feed(bytes(total))
    assert len(half._queue) <= 1024 + 512 and not half.source.reading
    turns, longest, before = 0, 0, len(output.taken)
    while len(output.taken) < total:
        assert clock.turn()
        longest, before = max(longest, len(output.taken) - before), len(output.taken)
        turns += 1
    assert (longest <= 128, turns >= total / 128 - 1, half.source.reading) == (True, True, True)


def test_an_event_loop_is_a_clock():
    """What the tests put in the place of the loop has what the loop has."""

    async def main():
        loop, seen = asyncio.get_running_loop(), asyncio.Event()
        handle = loop.call_at(loop.time() + 60, seen.set)
        handle.cancel()
        loop.call_at(loop.time(), seen.set)
        await asyncio.wait_for(seen.wait(), 5)
        return seen.is_set()

    assert asyncio.run(main())
