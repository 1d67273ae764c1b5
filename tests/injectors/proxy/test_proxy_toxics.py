"""What each toxic does to bytes and connections, by the proxy's own clock."""

from __future__ import annotations

import asyncio

import pytest

from tests.injectors.proxy.world import settle, within


def test_without_toxics_bytes_pass_at_once_both_ways():
    """And half-closes are forwarded: the answer after the client's last byte still comes."""

    async def story(here):
        client, server = await here.pair()
        await client.send(b"ask")
        assert await server.get(3) == b"ask"
        client.writer.write_eof()
        assert await server.rest() == b""
        await server.send(b"answer")
        server.writer.write_eof()
        assert await client.rest() == b"answer"
        await settle()
        assert here.server.registry.proxies["p"].links == set()
        assert here.clock.due() == []
        return await here.stats()

    assert within(story) == {
        "seed": 7,
        "connections": 1,
        "open": 0,
        "refused": 0,
        "cut": 0,
        "bytes": {"upstream": 3, "downstream": 6},
        "impacted": {},
        "lateness_ms": {"count": 0, "p50": 0.0, "p99": 0.0, "max": 0.0},
        "held_by_peer": 0,
    }


def test_latency_delays_each_chunk_from_its_arrival():
    """100 ms each, counted from arrival, not one after the other; several add up; the other way is untouched."""

    async def story(here):
        client, server = await here.pair()
        slow = await here.toxic("latency", latency=100)
        await server.send(b"one")
        await here.moved(0.06)
        await server.send(b"two")
        await client.send(b"up")
        assert await server.get(2) == b"up"
        assert await client.nothing() == b""
        await here.moved(0.04)
        assert await client.nothing() == b"one"
        await here.toxic("latency", "downstream", latency=0)  # refused: the name is taken
        return slow

    with pytest.raises(AssertionError, match="toxic already exists"):
        within(story)

    async def sum_of_two(here):
        client, server = await here.pair()
        await here.toxic("latency", latency=100)
        await here.call("POST", "/proxies/p/toxics", {"type": "latency", "name": "more", "attributes": {"latency": 50}})
        await server.send(b"x")
        await here.moved(0.149)
        assert await client.nothing() == b""
        await here.moved(0.001)
        assert await client.nothing() == b"x"
        return (await here.stats())["impacted"]

    assert within(sum_of_two) == {"latency_downstream": 1, "more": 1}


def test_jitter_keeps_within_its_bounds_and_in_order():
    """A hundred chunks, 50 ± 40 ms: none sooner than 10, none later than 90, in order, and not all the same."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("latency", latency=50, jitter=40)
        spread = []
        for _ in range(100):
            await server.send(b"x")
            [due] = here.clock.due()
            spread.append(round((due - here.clock.now) * 1000, 3))
            await here.moved(0.1)
        assert await client.get(100) == b"x" * 100
        return spread

    spread = within(story)
    assert min(spread) >= 10 and max(spread) <= 90 and len(set(spread)) > 90
    assert spread == within(story), "the same seed gives the same jitter"


def test_bandwidth_gives_every_byte_its_time():
    """1000 B at 10 KB/s takes 100 ms; long chunks come every 100 ms; an idle line owes nothing."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("bandwidth", rate=10)
        await here.moved(5)
        await server.send(bytes(2500))
        arrived = []
        for _ in range(5):
            await here.moved(0.05)
            arrived.append(len(await client.nothing()))
        return arrived

    assert within(story) == [0, 1000, 0, 1000, 500]


def test_a_rate_of_nothing_lets_nothing_pass_until_it_goes():
    """Then all of it comes."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("bandwidth", rate=0)
        await server.send(b"held")
        await here.moved(3600)
        assert await client.nothing() == b""
        await here.call("PATCH", "/proxies/p/toxics/bandwidth_downstream", {"attributes": {"rate": 1}})
        await here.moved(0.004)
        assert await client.nothing() == b"held"
        await here.call("PATCH", "/proxies/p/toxics/bandwidth_downstream", {"attributes": {"rate": 0}})
        await server.send(b"again")
        await here.remove("bandwidth_downstream")
        return await client.get(5)

    assert within(story) == b"again"


def test_slow_close_delays_the_end_and_nothing_else():
    """The last byte at once, the end a second later."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("slow_close", delay=1000)
        await server.send(b"bye")
        server.writer.write_eof()
        assert await client.get(3) == b"bye"
        await here.moved(0.999)
        assert not client.reader.at_eof() and await client.nothing() == b""
        await here.moved(0.001)
        assert await client.rest() == b""
        return (await here.stats())["impacted"]

    assert within(story) == {"slow_close_downstream": 1}


def test_timeout_swallows_and_then_closes():
    """From the connection's opening, or the toxic's addition; an update starts the time anew."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("timeout", timeout=500)
        await server.send(b"lost")
        await here.moved(0.4)
        await here.call("PATCH", "/proxies/p/toxics/timeout_downstream", {"attributes": {"timeout": 300}})
        await here.moved(0.299)
        assert await client.nothing() == b"" and (await here.stats())["open"] == 1
        await here.moved(0.001)
        assert (await client.rest(), await server.rest()) == (b"", b"")
        fresh, _ = await here.pair()
        await here.moved(0.3)
        assert await fresh.rest() == b""
        return (await here.stats())["impacted"]

    assert within(story) == {"timeout_downstream": 2}


def test_a_black_hole_lasts_until_it_is_removed_and_then_closes():
    """Nothing comes in an hour, not even the end; removal closes, since what was swallowed cannot be brought back."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("timeout", "upstream", timeout=0)
        await client.send(b"lost")
        client.writer.write_eof()
        await here.moved(3600)
        assert await server.nothing() == b"" and not server.reader.at_eof()
        await here.remove("timeout_upstream")
        assert (await client.rest(), await server.rest()) == (b"", b"")
        client, server = await here.pair()
        await client.send(b"fine")
        return await server.get(4)

    assert within(story) == b"fine"


def test_reset_peer_resets_also_what_was_open_before():
    """RST to both sides, `timeout` after the first data; connections that say nothing are left."""

    async def story(here):
        client, server = await here.pair()
        quiet, _ = await here.pair()
        await here.toxic("reset_peer", timeout=200)
        await server.send(b"lost")
        await here.moved(0.199)
        assert (await here.stats())["open"] == 2
        await here.moved(0.001)
        assert (await client.rest(), await server.rest()) == ("reset", "reset")
        assert await quiet.nothing() == b"" and (await here.stats())["open"] == 1
        return (await here.stats())["impacted"]

    assert within(story) == {"reset_peer_downstream": 1}


def test_reset_peer_removed_before_it_fires_still_leaves_no_hole_in_the_stream():
    """It has swallowed bytes: the connection is reset at once, not resumed without them."""

    async def story(here):
        client, server = await here.pair()
        quiet, behind = await here.pair()
        await here.toxic("reset_peer", timeout=60_000)
        await server.send(b"lost")
        await here.remove("reset_peer_downstream")
        assert (await client.rest(), await server.rest()) == ("reset", "reset")
        await behind.send(b"fine")
        return await quiet.get(4)

    assert within(story) == b"fine"


def test_slicer_cuts_and_spaces():
    """Pieces of the average size ± the variation, `delay` µs apart, nothing lost."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("slicer", average_size=64, size_variation=16, delay=10_000)
        sent = bytes(i % 251 for i in range(4096))
        await server.send(sent)
        pieces = [await client.nothing()]
        while here.clock.due():
            await here.moved(0.01)
            pieces.append(await client.nothing())
        assert b"".join(pieces) == sent
        return {len(piece) for piece in pieces}

    sizes = within(story)
    assert max(sizes) <= 80 and min(sizes) >= 1 and len(sizes) > 5


def test_limit_data_ends_the_connection_after_so_many_bytes():
    """To the byte; counted for each connection."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("limit_data", bytes=10)
        await server.send(b"12345678")
        assert await client.get(8) == b"12345678"
        await server.send(b"90abc")
        assert await client.rest() == b"90"
        assert await server.rest() == b""
        other, behind = await here.pair()
        await behind.send(b"1234567890")
        assert await other.rest() == b"1234567890"
        return await here.stats()

    stats = within(story)
    assert (stats["impacted"], stats["bytes"]["downstream"], stats["open"]) == ({"limit_data_downstream": 2}, 20, 0)


def test_limit_data_behind_latency_keeps_count_when_the_latency_goes():
    """What waited is counted once."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("latency", latency=1000)
        await here.toxic("limit_data", bytes=6)
        for _ in range(3):
            await server.send(b"abcd")
        await here.remove("latency_downstream")
        return await client.rest()

    assert within(story) == b"abcdab"


def test_hold_connect_keeps_the_upstream_waiting():
    """The client is connected, the upstream sees nothing for so long; 0 is until removed; early data is kept."""

    async def story(here):
        name = await here.toxic("hold_connect", delay=2000)
        client = await here.client()
        await client.send(b"early")
        await here.moved(1.999)
        assert here.accepted.empty()
        await here.moved(0.001)
        assert await (await asyncio.wait_for(here.accepted.get(), 5)).get(5) == b"early"
        await here.call("PATCH", f"/proxies/p/toxics/{name}", {"attributes": {"delay": 0}})
        held = await here.client()
        await here.moved(3600)
        assert here.accepted.empty()
        await here.remove(name)
        server = await asyncio.wait_for(here.accepted.get(), 5)
        await server.send(b"hello")
        assert await held.get(5) == b"hello"
        return (await here.stats())["impacted"]

    assert within(story) == {"hold_connect_downstream": 2}


def test_a_client_that_leaves_while_it_is_held_leaves_nothing():
    """Its dial is given up."""

    async def story(here):
        await here.toxic("hold_connect", delay=0)
        client = await here.client()
        await settle()
        assert (await here.stats())["open"] == 1
        client.reset()
        await settle()
        return (await here.stats())["open"], here.accepted.empty(), here.clock.due()

    assert within(story) == (0, True, [])


def toxicity(share, seed=7, count=60):
    """Return which of `count` connections a latency of that toxicity hit."""

    async def story(here):
        body = {"type": "latency", "toxicity": share, "attributes": {"latency": 50}}
        await here.call("POST", "/proxies/p/toxics", body)
        hits = []
        for _ in range(count):
            client, server = await here.pair()
            await server.send(b"x")
            hits.append(await client.nothing() == b"")
        assert (await here.stats())["impacted"] == {"latency_downstream": sum(hits)}
        return hits

    return within(story, seed=seed)


def test_toxicity_is_rolled_for_each_connection_with_seeded_dice():
    """A share of the connections; the same seed and order give the same ones, another seed others."""
    some = toxicity(0.5)
    assert 15 < sum(some) < 45
    assert some == toxicity(0.5)
    assert some != toxicity(0.5, seed=8)
    assert sum(toxicity(0.0, count=10)) == 0
    fewer = toxicity(0.25)
    assert all(high or not low for low, high in zip(fewer, some, strict=True)), "a lower toxicity hits a part of them"


def test_a_change_of_toxicity_judges_the_same_roll_again():
    """To 0 it lets go what it held, to 1 it takes hold again."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("latency", latency=1000)
        await server.send(b"a")
        await here.call("PATCH", "/proxies/p/toxics/latency_downstream", {"toxicity": 0})
        here.clock.run()
        assert await client.get(1) == b"a"
        await server.send(b"b")
        assert await client.get(1) == b"b"
        await here.call("PATCH", "/proxies/p/toxics/latency_downstream", {"toxicity": 1})
        await server.send(b"c")
        assert await client.nothing() == b""

    within(story)


def test_a_longer_latency_counts_from_arrival():
    """100 ms for what came 60 ms ago, made 150: 90 more. Made 10: at once."""

    async def story(here):
        client, server = await here.pair()
        name = await here.toxic("latency", latency=100)
        there = f"/proxies/p/toxics/{name}"
        await server.send(b"x")
        await here.moved(0.06)
        await here.call("PATCH", there, {"attributes": {"latency": 150}})
        await here.moved(0.089)
        assert await client.nothing() == b""
        await here.moved(0.001)
        assert await client.nothing() == b"x"
        await server.send(b"y")
        await here.moved(0.06)
        await here.call("PATCH", there, {"attributes": {"latency": 10}})
        here.clock.run()
        return await client.get(1)

    assert within(story) == b"y"


def test_what_a_removed_latency_held_still_keeps_to_the_bandwidth_behind_it():
    """10 000 B that waited do not burst: they leave at 100 KB/s from the removal on."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("latency", latency=60_000)
        await here.toxic("bandwidth", rate=100)
        await server.send(bytes(10_000))
        await here.moved(30)
        await here.remove("latency_downstream")
        await here.moved(0.099)
        early = await client.nothing()
        await here.moved(0.001)
        return len(early), len(await client.nothing())

    assert within(story) == (0, 10_000)


def test_lateness_is_told():
    """A loop that was held up for 30 ms delivers 30 ms late, and says so."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("latency", latency=100)
        await server.send(b"x")
        here.clock.now += 0.13
        here.clock.run()
        assert await client.get(1) == b"x"
        return (await here.stats())["lateness_ms"]

    assert within(story) == {"count": 1, "p50": 30.0, "p99": 30.0, "max": 30.0}
