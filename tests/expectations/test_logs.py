"""The observers with a cursor: the executor's audit and the receivers' inboxes."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from fake_http import serve

from expectations import _pages
from expectations.observers import hook_log, inbox
from sim.observation import CannotLook, Observation, Opening
from sim.secret import Secrets


def opened(kind, fake, **config):
    return kind.observer.open(Opening("log", kind.Config(url=fake.url, **config), {}, Secrets({})))


class Log:
    """A log as the executor and the sinks serve it."""

    def __init__(self, knows_tail=True):
        self.rows, self.knows_tail = [], knows_tail

    def add(self, **row):
        self.rows.append({"seq": len(self.rows) + 1, "at": "2026-11-23T14:00:00.5Z", **row})

    async def serve(self, request):
        last = self.rows[-1]["seq"] if self.rows else 0
        if "tail" in request.query and self.knows_tail:
            return web.json_response({"next": last})
        after, limit = int(request.query.get("after", 0)), min(int(request.query.get("limit", 3)), 3)
        channel = request.query.get("channel")
        rows = [r for r in self.rows if r["seq"] > after and channel in (None, r.get("channel"))][:limit]
        return web.json_response({"rows": rows, "next": rows[-1]["seq"] if rows else after})


def row(event, n=1):
    return {
        "execution_id": f"e{n}",
        "event": event,
        "hook": "amm_invariant_breach",
        "action": "block_release",
        "target": "release",
        "alert": "AmmInvariantBreach",
        "fingerprint": "f6bbd3e7dd4ebe89",
        "starts_at": "2026-11-23T13:56:37.651Z",
        "detail": "x",
        "prev_hash": "",
        "hash": "",
    }


def execution(state, n=1, seq=None, at=1795442400.5):
    data = {
        "id": f"e{n}",
        "hook": "amm_invariant_breach",
        "action": "block_release",
        "target": "release",
        "state": state,
        "fingerprint": "f6bbd3e7dd4ebe89",
        "starts_at": 1795442197.651,
        "alert": "AmmInvariantBreach",
        "audit_seq": seq,
        "detail": "x",
    }
    return Observation("execution", data, at)


@pytest.mark.parametrize("knows_tail", [True, False])
def test_the_first_look_says_what_is_not_finished_and_later_ones_read_every_page(knows_tail):
    """Old rows are not told; then each row is told once, over several pages, but for second deliveries."""

    async def main():
        log = Log(knows_tail)
        for number in range(8):
            log.add(**row("succeeded", number))
        unfinished = {**row("", 9), "state": "running", "at": None}
        del unfinished["event"]

        async def executions(request):
            rows = [unfinished] if request.query["state"] == "running" else []
            return web.json_response({"rows": rows})

        routes = {"GET /v1/audit": log.serve, "GET /v1/executions": executions}
        async with serve(routes) as fake, opened(hook_log, fake) as hooks:
            assert await hooks.poll() == [execution("started", 9, at=None)]
            assert await hooks.poll() == []
            words = ["accepted", "duplicate", "started", "retry", "succeeded", "reverted", "skipped", "dead_letter"]
            for word in words:
                log.add(**row(word))
            routes["GET /v1/audit"] = (503, {})
            with pytest.raises(CannotLook, match="503"):
                await hooks.poll()
            routes["GET /v1/audit"] = log.serve
            told = await hooks.poll()
            assert told == [execution(word, 1, 9 + i) for i, word in enumerate(words) if word != "duplicate"]
            assert await hooks.poll() == []

    asyncio.run(main())


def test_a_log_that_became_shorter_is_blindness():
    """A replaced store has lost what happened: that is said, not read over."""

    async def main():
        async with serve({"GET /received": {"rows": [], "next": 7}}) as fake, opened(inbox, fake) as box:
            await box.poll()
            fake.routes["GET /received"] = {"rows": [], "next": 2}
            await box.poll()

    with pytest.raises(CannotLook, match="asked for what comes after 7, was told that 2 is next"):
        asyncio.run(main())


def test_a_look_reads_no_more_than_its_bound_and_goes_on_at_the_next(monkeypatch):
    """A flood is read in portions, in order, without loss."""
    monkeypatch.setattr(_pages, "PAGES", 2)

    async def main():
        log = Log()
        async with serve({"GET /received": log.serve}) as fake, opened(inbox, fake) as box:
            assert await box.poll() == []
            for _ in range(10):
                log.add(channel="slack", address="#a", payload={})
            looks = [await box.poll() for _ in range(3)]
        return [[int(o.data["id"]) for o in look] for look in looks]

    assert asyncio.run(main()) == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10], []]


def test_an_inbox_tells_its_own_channel_from_the_present_end_on():
    """Only messages of the channel that came after the first look are told, whatever their payload is."""

    async def main():
        log = Log()
        log.add(channel="slack", address="#old", payload={})
        async with serve({"GET /received": log.serve}) as fake:
            config = inbox.Config(url=fake.url, channel="oncall")
            async with inbox.observer.open(Opening("box", config, {}, Secrets({}))) as box:
                assert await box.poll() == []
                log.add(channel="slack", address="#dec-pm", payload={})
                log.add(channel="oncall", address="dec-pm", payload=["odd"])
                return await box.poll()

    data = {"id": "3", "channel": "oncall", "address": "dec-pm", "status": None, "title": None, "alerts": []}
    assert asyncio.run(main()) == [Observation("message", data, 1795442400.5)]
