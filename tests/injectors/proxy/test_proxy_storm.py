"""Clients and upstreams that come, leave and die in all ways, while toxics come and go: nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from tests.injectors.proxy.world import settle, within

KINDS = {
    "latency": {"latency": 20, "jitter": 5},
    "bandwidth": {"rate": 100},
    "slicer": {"average_size": 500, "size_variation": 100, "delay": 10},
    "limit_data": {"bytes": 100_000},
    "timeout": {"timeout": 50},
    "reset_peer": {"timeout": 10},
    "slow_close": {"delay": 30},
    "hold_connect": {"delay": 20},
}


async def visit(here, dice):
    """Be a client: send, perhaps read, and leave in one of four ways."""
    with contextlib.suppress(OSError):
        client = await here.client()
        for _ in range(dice.randrange(5)):
            client.writer.write(bytes(dice.randrange(1, 100_000)))
            if dice.random() < 0.5:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(client.reader.read(100_000), 0.002)
        leave = dice.randrange(4)
        if leave == 0:
            client.writer.write_eof()
        elif leave == 1:
            client.reset()
        elif leave == 2:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.reader.read(), 0.01)
        client.writer.close()


async def answer(peer, dice):
    """Be an upstream: echo, and now and then die."""
    with contextlib.suppress(OSError, RuntimeError):
        while data := await peer.reader.read(65536):
            peer.writer.write(data)
            if dice.random() < 0.1:
                peer.reset()
                return
        peer.writer.write_eof()
    peer.writer.close()


async def meddle(here, dice):
    """Change something about the proxy."""
    kind, stream, chance = dice.choice(list(KINDS)), dice.choice(["upstream", "downstream"]), dice.random()
    there = f"/proxies/p/toxics/{kind}_{stream}"
    if chance < 0.4:
        body = {"type": kind, "stream": stream, "toxicity": dice.choice([0.5, 1]), "attributes": KINDS[kind]}
        await here.call("POST", "/proxies/p/toxics", body)
    elif chance < 0.7:
        await here.call("DELETE", there)
    elif chance < 0.8:
        twice = {key: value * 2 for key, value in KINDS[kind].items()}
        await here.call("PATCH", there, {"toxicity": dice.random(), "attributes": twice})
    elif chance < 0.83:
        await here.call("PATCH", "/proxies/p", {"enabled": False, "ttl_s": 0.1})
    elif chance < 0.86:
        await here.call("POST", "/reset")


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_left_of_a_storm(seed):
    """No connection, no timer, and no error in the event loop."""

    async def story(here):
        dice, errors, running = random.Random(seed), [], []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

        async def behind():
            while True:
                running.append(asyncio.create_task(answer(await here.accepted.get(), dice)))

        async def ticking():
            while True:
                here.clock.advance(0.01)
                await asyncio.sleep(0)

        running += [asyncio.create_task(behind()), asyncio.create_task(ticking())]
        visits = []
        for _ in range(80):
            visits.append(asyncio.create_task(visit(here, dice)))
            await meddle(here, dice)
        await asyncio.gather(*visits)
        assert await here.call("POST", "/reset") == (204, "")
        for _ in range(500):
            if not here.server.registry.proxies["p"].links:
                break
            await settle(50)
        stats = await here.stats()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return stats["open"], stats["connections"] > 20, here.clock.due(), errors

    assert within(story) == (0, True, [], [])
