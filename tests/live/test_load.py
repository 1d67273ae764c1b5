"""The load generator against the truth: servers of the test that log each arrival, and generators that are harmed.

What is judged by real time is judged against the server's own log of the same run, never against a wall clock; where
the machine itself did not let the generator hold its rate, the generator says so, and then nothing else is judged.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from injectors.apm import _load_child as child
from injectors.apm._load_samples import merged, not_held, percentile, read, summary
from injectors.apm.loadtest import injector
from sim.injector import InjectionError, Site
from sim.secret import Secrets
from sim.target import Door
from tests.live import load

pytestmark = [pytest.mark.live, pytest.mark.alone]

BASE_S = 0.02


class Server:
    """Answers after 20 ms, stalls once for a while, and logs when each request came and was answered."""

    def __init__(self, stall=(math.inf, 0.0)):
        self.stall, self.log, self.first = stall, {}, None

    async def answer(self, request):
        came = time.perf_counter()
        await request.read()
        self.first = self.first or came
        start, seconds = self.stall
        wait_s = BASE_S
        if start <= came - self.first < start + seconds:
            wait_s += start + seconds - (came - self.first)
        await asyncio.sleep(wait_s)
        self.log[request.headers.get("X-Request-Id", "")] = (came, time.perf_counter())
        return web.json_response({})

    async def counted(self, _):
        return web.Response(text=f'release_requests_total{{class="2xx",release="candidate"}} {len(self.log)}.0\n')


@asynccontextmanager
async def serving(server):
    """Serve on loopback; give the base URL."""
    app = web.Application()
    app.router.add_get("/metrics", server.counted)
    app.router.add_route("*", "/{any:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
def folder(tmp_path):
    """A folder for the generators, cleared of all that runs in it."""
    made = tmp_path / "load"
    yield made
    for process in child.running(made):
        process.kill()
    child.clear(made)


def config(url, rps, seconds, **more):
    """Return what a generator is told."""
    given = {
        "id": "t", "url": url, "rps": rps, "count": round(rps * seconds), "cap": 1000, "headers": {}, "timeout_s": 5.0,
        "drain_s": 5.0, "ttl_s": 30.0, "mix": [{"method": "POST", "path": "/v1/quotes", "json": {"a": "b"}}],
    }  # fmt: skip
    return {**given, **more}


async def ended(folder, rps, within_s):
    """Wait until no generator of the folder runs, and return what they told."""
    for _ in range(int(within_s / 0.1)):
        if not child.running(folder):
            return merged([read(part, rps) for part in sorted(folder.glob("[0-9]*"))])
        await asyncio.sleep(0.1)
    pytest.fail(f"the generator did not end: {child.last_words(folder)}")


async def started(folder, rps, asked):
    """Wait until the generators have so many arrivals behind them."""
    for _ in range(300):
        await asyncio.sleep(0.1)
        try:
            if merged([read(part, rps) for part in sorted(folder.glob("[0-9]*"))]).asked >= asked:
                return
        except Exception:  # noqa: BLE001 - it has not written yet
            continue
    pytest.fail(f"the generator did not begin: {child.last_words(folder)}")


def frozen_run(folder, rps, seconds):
    """Load a server that stalls for 1 s at two thirds; return what the generator told, and the server's own p99."""
    server = Server(stall=(seconds * 2 / 3, 1.0))

    async def go():
        async with serving(server) as url:
            child.start(folder, config(url, rps, seconds), seconds + 5, None)
            return await ended(folder, rps, 60)

    told = asyncio.run(go())
    child.clear(folder)
    count = round(rps * seconds)
    assert len(server.log) == count
    # What the server took from the instant at which each arrival was due there.
    return told, percentile([server.log[f"t-{i}"][1] - (told.t0 + i / rps) for i in range(count)], 0.99)


def test_a_frozen_server_shows_in_p99_and_every_arrival_is_accounted_for(folder):
    """120 rps, the server stalled for 1 s: p99 from due within 3 % of the server's own log, and no arrival missing."""
    rps, seconds = 120.0, 12.0
    for _ in range(3):
        told, truth = frozen_run(folder, rps, seconds)
        count = round(rps * seconds)
        assert (told.asked, len(told.samples), told.dropped, told.final) == (count, count, 0, "end of the schedule")
        if not not_held(told):
            break
    else:
        pytest.skip(f"this machine is too busy to hold {rps:g} requests a second: {not_held(told)}")
    seen = percentile([sample.seconds for sample in told.samples], 0.99)
    assert abs(seen / truth - 1) <= 0.03, (seen, truth)
    assert seen > 0.8


def frozen_generator(folder):
    """Stop the generator for a second, then let it go on."""
    for process in child.running(folder):
        process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    for process in child.running(folder):
        process.send_signal(signal.SIGCONT)


def told_to_stop(folder):
    """End it as a withdrawal does."""
    for process in child.running(folder):
        os.killpg(process.pid, signal.SIGTERM)


def killed(folder):
    """End it with nothing written."""
    for process in child.running(folder):
        process.kill()


def one_killed(folder):
    """Kill one generator of two."""
    child.running(folder)[0].kill()


def lease_taken(folder):
    """Take the lease away, and signal nobody."""
    for lease in folder.glob("*/lease"):
        lease.unlink()


RPS, SECONDS = 60.0, 3.0
#: (what is done to a generator of 60 rps for 3 s, its configuration, workers, what its record must say)
HARM = [
    ("left alone", None, {}, 1, ()),
    ("two workers", None, {}, 2, ()),
    ("generator stopped 1 s", frozen_generator, {}, 1, ("schedule lag p99",)),
    ("cap 4 with drops", None, {"cap": 1}, 1, ("were dropped", "as many as the client can hold")),
    ("SIGTERM", told_to_stop, {}, 1, ()),
    ("SIGKILL", killed, {}, 1, ("without writing its last samples",)),
    ("two workers, one killed", one_killed, {}, 2, ("without writing its last samples",)),
    ("the lease is taken", lease_taken, {}, 1, ()),
    ("the lease runs out", None, {"ttl_s": 1.5}, 1, ()),
    ("dead port", None, {"timeout_s": 1.0}, 1, ()),
]


@pytest.mark.parametrize(("what", "harm", "more", "workers", "against"), HARM, ids=[row[0] for row in HARM])
def test_a_generator_that_is_harmed_says_so(folder, what, harm, more, workers, against):
    """Each harm is in its record, and nothing else is but what a busy machine does to a schedule."""

    async def go():
        async with serving(Server()) as url:
            where = "http://127.0.0.1:1" if what == "dead port" else url
            child.start(folder, config(where, RPS, SECONDS, **more), 10, None, workers)
            if harm is not None:
                await started(folder, RPS, RPS / 2)
                await asyncio.to_thread(harm, folder)
            return await ended(folder, RPS, 20)

    told = asyncio.run(go())
    reasons = not_held(told)
    for wanted in against:
        assert any(wanted in reason for reason in reasons), (wanted, reasons)
    busy = ("schedule lag", "arrivals were sent on time", "are accounted for")
    assert [r for r in reasons if not any(word in r for word in (*against, *busy))] == []
    if what in ("SIGTERM", "the lease is taken", "the lease runs out"):
        assert told.final in ("stopped", "the lease was taken away", "the lease ran out")
        assert RPS / 2 <= told.asked < SECONDS * RPS
    if what in ("left alone", "two workers", "dead port"):
        assert (told.asked, len(told.samples)) == (180, 180)
        assert summary(told)["statuses"] == ({"0": 180} if what == "dead port" else {"200": 180})


def test_the_injector_loads_and_leaves_nothing(monkeypatch, tmp_path):
    """From prepare to held: proven from both sides; another process ends it from the receipt; nothing stays."""
    monkeypatch.setattr("injectors.apm.loadtest.FIRST_S", 1.5)
    server = Server()

    async def go():
        async with serving(server) as url:
            site = Site("live-1", "run", {"api": Door(url=url)}, Secrets({}), ttl_s=10.0)
            prepared = await injector.prepare(site, injector.params(rps=50, duration="1m"))
            folder = Path(str(prepared.receipt["folder"]))
            await injector.apply(site, prepared.receipt)
            try:
                assert folder.stat().st_mode & 0o777 == 0o700
                probe = None
                for _ in range(100):
                    await asyncio.sleep(0.1)
                    await injector.renew(site, prepared.receipt)
                    try:
                        probe = await injector.effective(site, prepared.receipt)
                    except InjectionError:
                        continue
                    if probe.holds:
                        break
                assert not (await injector.gone(site, prepared.receipt)).holds
                pids = [process.pid for process in child.running(folder)]
            finally:
                await injector.withdraw(site, prepared.receipt)
            assert (await injector.gone(site, prepared.receipt)).holds
            await injector.withdraw(site, prepared.receipt)
            return probe, await injector.held(site, prepared.receipt), folder, pids

    probe, held, folder, pids = asyncio.run(go())
    assert probe.holds or probe.evidence["not_held"]
    assert not probe.holds or probe.evidence["platform_counted"] >= 75
    assert (len(pids), folder.exists(), [pid for pid in pids if psutil.pid_exists(pid)]) == (1, False, [])
    assert held.evidence["sent"] + held.evidence["dropped"] == pytest.approx(held.evidence["asked"], abs=1)
    assert held.holds == (held.evidence["not_held"] == [])


def test_a_load_that_never_began_can_be_ended(tmp_path):
    """The receipt is written before the folder: withdrawing what was never applied finds nothing, and that is gone."""
    receipt = {"folder": str(tmp_path / "sim-load-never-0123456789abcdef"), "rps": 1}
    site = Site("live-2", "run", {"api": Door(url="http://127.0.0.1:1")}, Secrets({}), ttl_s=10.0)
    asyncio.run(injector.withdraw(site, receipt))
    assert asyncio.run(injector.gone(site, receipt)).holds


def test_a_generator_whose_lease_went_before_it_began_sends_nothing(folder):
    """Withdrawn between its start and its first look: it ends by itself, unasked."""
    server = Server()

    async def go():
        async with serving(server) as url:
            child.start(folder, config(url, RPS, 4.0), 10, None)
            (folder / "0" / "lease").unlink()
            for _ in range(200):
                if not child.running(folder):
                    return
                await asyncio.sleep(0.1)
            pytest.fail("it runs on")

    asyncio.run(go())
    assert server.log == {}


def test_the_checks_of_make_load_each_fail_alone():
    """What `make load` judges: each thing that is wrong fails one check, by name."""
    from tests.injectors.test_apm_loadtest import told

    still = {"5xx": 3.0, "received": 10.0, "invariant": 0.0}
    grown = {"5xx": 3.0, "received": 1010.0, "invariant": 0.0}

    def failing(seen=None, after=grown, trouble=()):
        return [each.name for each in load.checks(seen or told(), 1000, still, after, trouble) if not each.ok]

    assert failing() == []
    assert failing(told(took=lambda i: 0.9 if i % 10 == 0 else 0.1)) == ["p95"]
    assert failing(told(status=lambda i: 503 if i == 7 else 200)) == ["5xx"]
    assert failing(told(without=[3], dropped=1)) == ["arrivals"]
    assert failing(after={**grown, "5xx": 4.0}) == ["5xx"]
    assert failing(after={**grown, "received": 1009.0}) == ["received"]
    assert failing(after={**grown, "invariant": 1.0}) == ["invariant errors"]
    assert failing(trouble=["an alert fires"]) == ["orchestration errors"]
