"""Listeners, connections, leases: what begins, what ends, and that neither waits for a peer."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from injectors._proxy import direction
from tests.injectors.proxy.world import settle, within


def test_down_refuses_what_is_new_and_closes_what_is_open():
    """Open ones see the end, new ones are refused; and up again on the same port."""

    async def story(here):
        client, server = await here.pair()
        status, off = await here.call("PATCH", "/proxies/p", {"enabled": False})
        assert (status, off["enabled"], off["stats"]["cut"]) == (200, False, 1)
        assert (await client.rest(), await server.rest()) == (b"", b"")
        with pytest.raises(ConnectionRefusedError):
            await here.client()
        await here.call("PATCH", "/proxies/p", {"enabled": True})
        client, server = await here.pair()
        await client.send(b"x")
        assert await server.get(1) == b"x"
        return (await here.stats())["connections"]

    assert within(story) == 2


def test_a_lease_on_a_toxic_runs_out_unless_renewed():
    """ttl_s is shown with what is left of it; an update renews; one without ttl_s does not; null makes it last."""

    async def story(here):
        made = {"type": "latency", "ttl_s": 10, "attributes": {"latency": 5}}
        _, shown = await here.call("POST", "/proxies/p/toxics", made)
        assert (shown["ttl_s"], shown["expires_in_s"]) == (10, 10)
        there = "/proxies/p/toxics/latency_downstream"
        await here.moved(9)
        _, shown = await here.call("PATCH", there, {"attributes": {"latency": 6}})
        assert (shown["ttl_s"], shown["expires_in_s"]) == (10, 1)
        _, shown = await here.call("PATCH", there, {"ttl_s": 4})
        assert (shown["ttl_s"], shown["expires_in_s"]) == (4, 4)
        await here.moved(3.9)
        assert len((await here.call("GET", "/proxies/p/toxics"))[1]) == 1
        await here.moved(0.1)
        assert (await here.call("GET", there))[0] == 404
        assert here.told == ["proxy p: the lease of toxic latency_downstream ran out: removing it"]
        await here.call("POST", "/proxies/p/toxics", made)
        _, shown = await here.call("PATCH", there, {"ttl_s": None})
        assert "ttl_s" not in shown and here.clock.due() == []

    within(story)


def test_the_lease_of_a_removed_toxic_does_not_touch_its_namesake():
    """It was the other one's."""

    async def story(here):
        body = {"type": "noop", "ttl_s": 5}
        await here.call("POST", "/proxies/p/toxics", body)
        await here.remove("noop_downstream")
        await here.toxic("noop")
        await here.moved(60)
        return len((await here.call("GET", "/proxies/p/toxics"))[1])

    assert within(story) == 1


def test_a_lease_on_being_disabled():
    """Enabled again by itself; renewed by the same call; ended by enabling, or by disabling for good."""

    async def story(here):
        off = {"enabled": False, "ttl_s": 5}
        _, shown = await here.call("PATCH", "/proxies/p", off)
        assert (shown["enabled"], shown["ttl_s"], shown["expires_in_s"]) == (False, 5, 5)
        await here.moved(4)
        await here.call("PATCH", "/proxies/p", off)
        await here.moved(4)
        assert (await here.call("PATCH", "/proxies/p", {"ttl_s": 5}))[1]["expires_in_s"] == 5
        await here.moved(4)
        assert (await here.call("GET", "/proxies/p"))[1]["enabled"] is False
        await here.moved(1)
        status, _ = await here.call("PATCH", "/proxies/p", {"ttl_s": 5})
        _, shown = await here.call("GET", "/proxies/p")
        assert (status, shown["enabled"], "ttl_s" in shown) == (400, True, False)
        await here.pair()
        for last in ({"enabled": True}, {"enabled": False}):
            await here.call("PATCH", "/proxies/p", off)
            await here.call("PATCH", "/proxies/p", last)
            assert here.clock.due() == []

    within(story)


def test_a_lease_runs_out_though_nobody_can_be_told():
    """Whoever started the proxy is dead, and its stderr with it: the fault goes all the same."""

    def gone(text):
        raise BrokenPipeError(text)

    async def story(here):
        await here.call("POST", "/proxies/p/toxics", {"type": "latency", "ttl_s": 5, "attributes": {"latency": 5}})
        await here.call("PATCH", "/proxies/p", {"enabled": False, "ttl_s": 5})
        await here.moved(5)
        _, shown = await here.call("GET", "/proxies/p")
        return shown["enabled"], shown["toxics"]

    assert within(story, tell=gone) == (True, [])


def test_a_lease_that_cannot_be_honoured_yet_is_tried_again():
    """The port was taken meanwhile."""

    async def story(here):
        port = int(here.server.registry.proxies["p"].listen.rpartition(":")[2])
        await here.call("PATCH", "/proxies/p", {"enabled": False, "ttl_s": 5})
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", port))
            thief.listen()
            await here.moved(5)
            assert (await here.call("PATCH", "/proxies/p", {"ttl_s": 60}))[0] == 400  # it has run out: no renewing
            assert (await here.call("GET", "/proxies/p"))[1]["enabled"] is False
        await here.moved(1)
        return (await here.call("GET", "/proxies/p"))[1]["enabled"]

    assert within(story)


def test_toxics_at_creation_work_from_the_first_connection():
    """No moment without them, though the client connects as soon as it can."""

    async def story(here):
        slow = {"type": "latency", "attributes": {"latency": 100}}
        await here.call("POST", "/proxies", {"name": "q", "upstream": here.upstream, "toxics": [slow]})
        client, server = await here.pair("q")
        await server.send(b"x")
        assert await client.nothing() == b""
        await here.moved(0.1)
        return await client.get(1)

    assert within(story) == b"x"


def test_an_upstream_that_is_not_there_closes_the_client():
    """And is counted; so is one whose address is none."""

    async def story(here):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            nobody = f"127.0.0.1:{free.getsockname()[1]}"
        for name, upstream in (("q", nobody), ("r", "no port")):
            await here.call("POST", "/proxies", {"name": name, "upstream": upstream})
            client = await here.client(name)
            assert await client.rest() == b""
            assert ((await here.stats(name))["refused"], (await here.stats(name))["open"]) == (1, 0)

    within(story)


def test_a_black_holed_upstream_stops_nobody_else():
    """Each dial is its own: with one that hangs, others go on, and the hanging one ends with its time-out."""

    async def story(here):
        with socket.socket() as deaf:  # its queue is full, so that a further connection is not answered
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            port = deaf.getsockname()[1]
            crowd = [socket.socket() for _ in range(3)]
            for each in crowd:
                each.setblocking(False)
                each.connect_ex(("127.0.0.1", port))
            try:
                await here.call("POST", "/proxies", {"name": "q", "upstream": f"127.0.0.1:{port}"})
                hanging = await here.client("q")
                await settle()
                assert (await here.stats("q"))["open"] == 1
                await here.call("PATCH", "/proxies/q", {"enabled": True})
                client, server = await here.pair()
                await client.send(b"x")
                assert await server.get(1) == b"x"
                assert await hanging.rest() == b""
                return (await here.stats("q"))["refused"]
            finally:
                for each in crowd:
                    each.close()

    assert within(story, dial_s=0.2) == 1


async def stalled(here, size):
    """Return a client that reads nothing, while its upstream has sent `size` bytes; and the upstream."""
    client, server = await here.pair()
    client.writer.transport.pause_reading()
    server.writer.write(bytes(size))
    await settle(2000)
    return client, server


def test_removing_a_toxic_does_not_wait_for_a_reader_that_stands_still():
    """The wedge of Toxiproxy: DELETE is answered at once, so is everything else; and no byte is lost in the end."""

    async def story(here):
        await here.toxic("latency", latency=10)
        size = 16 * 1024 * 1024
        client, server = await stalled(here, size)
        await here.moved(1)
        began = time.perf_counter()
        await here.remove("latency_downstream")
        assert (await here.call("GET", "/proxies"))[0] == 200
        await here.toxic("latency", latency=20)
        await here.remove("latency_downstream")
        took = time.perf_counter() - began
        client.writer.transport.resume_reading()
        server.writer.write_eof()
        got, left = 0, await asyncio.wait_for(client.reader.readexactly(1), 5)
        while left:
            got += len(left)
            here.clock.advance(0.001)
            left = await asyncio.wait_for(client.reader.read(1 << 20), 10)
        return got == size, took < 5

    assert within(story) == (True, True)


def test_a_full_queue_stops_the_reading_and_resumes_it(monkeypatch):
    """With a long latency: so much is taken and no more; when half of it has gone, the rest comes in."""
    monkeypatch.setattr(direction, "BUFFERED", 1 << 20)

    async def story(here):
        client, server = await here.pair()
        await here.toxic("latency", latency=1000)
        total = 16 * 1024 * 1024
        server.writer.write(bytes(total))
        await settle(2000)
        [link] = here.server.registry.proxies["p"].links
        assert (1 << 20) <= link.down.queued < (1 << 20) + 256 * 1024
        assert server.writer.transport.get_write_buffer_size() > 0
        got, most = 0, 0
        while got < total:
            here.clock.advance(1.0)
            await settle(5)
            most = max(most, link.down.queued)
            got += len(await asyncio.wait_for(client.reader.read(1 << 22), 10))
        return got, most < (1 << 20) + 256 * 1024

    assert within(story) == (16 * 1024 * 1024, True)


def test_a_slow_link_pushes_back_on_the_sender():
    """With a bandwidth toxic little is buffered: the sender feels the rate."""

    async def story(here):
        _, server = await here.pair()
        await here.toxic("bandwidth", rate=10)
        server.writer.write(bytes(16 * 1024 * 1024))
        await settle(2000)
        [link] = here.server.registry.proxies["p"].links
        return link.down.queued < 1 << 20, server.writer.transport.get_write_buffer_size() > 0

    assert within(story) == (True, True)


def test_a_peer_that_resets_lets_the_other_side_have_what_was_sent():
    """The upstream sends, and dies; the client, behind a latency, gets it all and then the end."""

    async def story(here):
        client, server = await here.pair()
        await here.toxic("latency", latency=100)
        await server.send(b"last words")
        server.reset()
        await settle()
        await here.moved(0.1)
        assert await client.rest() == b"last words"
        await settle()
        return (await here.stats())["open"], here.clock.due()

    assert within(story) == (0, [])


def test_a_client_that_dies_ends_its_upstream():
    """Nothing is left of the connection."""

    async def story(here):
        client, server = await here.pair()
        client.reset()
        assert await server.rest() == b""
        server.writer.close()
        await settle()
        return (await here.stats())["open"]

    assert within(story) == 0


def test_deleting_a_proxy_closes_its_connections_and_its_listener():
    """And forgets its leases."""

    async def story(here):
        await here.call("POST", "/proxies/p/toxics", {"type": "noop", "ttl_s": 5})
        client, _ = await here.pair()
        listen = here.server.registry.proxies["p"].listen
        assert await here.call("DELETE", "/proxies/p") == (204, "")
        assert await client.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*listen.split(":"))
        return here.clock.due()

    assert within(story) == []
