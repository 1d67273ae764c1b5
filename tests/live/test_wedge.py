"""A server that does not let go of a toxic: one client stopped reading, and the real Toxiproxy holds its lock for it.

The fault is withdrawn all the same, in another process's way (from the receipt alone), and says what it took.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager

import pytest

from injectors.net.latency import injector
from sim.injector import InjectionError, Site
from sim.secret import Secrets
from sim.target import Door
from tests.live import toxiproxies

_ATTEMPTS, _STALL_S = 6, 1.0


def site(url):
    """Return where one fault works."""
    return Site("w1-1", "w1", {"proxy": Door(url=url)}, Secrets({}), ttl_s=10.0)


def made(url, name, upstream):
    """Create a link at a server; return its address."""
    listen = f"127.0.0.1:{toxiproxies.free_port()}"
    form = json.dumps({"name": name, "listen": listen, "upstream": upstream}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/proxies", form, method="POST"), timeout=5) as answer:
        host, port = json.load(answer)["listen"].rsplit(":", 1)
    return host, int(port)


def _full(upstream):
    """Wait until every buffer on the way is full: for a while nobody took another byte."""
    sent, since = 0, time.monotonic()
    while not sent or time.monotonic() - since < _STALL_S:
        if upstream.sent != sent:
            sent, since = upstream.sent, time.monotonic()
        time.sleep(0.05)


@contextmanager
def coming_and_going(address):
    """New connections all the time, as a platform in use makes them: each gets stuck in the server's accept loop."""
    ended = threading.Event()

    def work():
        while not ended.wait(0.05):
            with contextlib.suppress(OSError), socket.create_connection(address, 1) as link:
                link.settimeout(1)
                link.sendall(b"hello")
                link.recv(5)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for each in threads:
        each.start()
    try:
        yield
    finally:
        ended.set()
        for each in threads:
            each.join(5)


async def taken_back(url, receipt):
    """Withdraw and look, as often as the kernel does; return the probe, and what each attempt raised."""
    raised = []
    for _ in range(_ATTEMPTS):
        try:
            async with asyncio.timeout(10):  # the kernel's limit of one call
                await injector.withdraw(site(url), receipt)
            async with asyncio.timeout(10):
                probe = await injector.gone(site(url), receipt)
        except InjectionError as error:
            raised.append(str(error))
            continue
        if probe.holds:
            return probe, raised
    raise AssertionError(f"not withdrawn: {raised}")


def wedged(server, *, owned, busy):
    """Bring the fault in, stop reading, withdraw it; return what it took, what was raised, and all links as listed."""
    with toxiproxies.serving(server, owned=owned) as url, ExitStack() as closing:
        upstream = toxiproxies.Upstream()
        closing.callback(upstream.close)
        address = made(url, "db", upstream.address)
        made(url, "other", upstream.address)
        given = injector.params.model_validate({"link": "db", "latency": "10ms"})
        prepared = asyncio.run(injector.prepare(site(url), given))
        receipt = json.loads(json.dumps(prepared.receipt))
        asyncio.run(injector.apply(site(url), receipt))
        stalled = closing.enter_context(socket.create_connection(address, 5))
        stalled.sendall(b"bulk")
        _full(upstream)
        if busy:
            closing.enter_context(coming_and_going(address))
        probe, raised = asyncio.run(taken_back(url, receipt))
        with urllib.request.urlopen(f"{url}/proxies", timeout=5) as answer:
            links = {name: (each["enabled"], each["toxics"]) for name, each in json.load(answer).items()}
    return [str(each) for each in probe.evidence["did"]], raised, links


WELL = {"db": (True, []), "other": (True, [])}


def test_the_link_is_made_anew_where_nobody_else_uses_it():
    """The real server, not ours: the removal hangs, disabling is not enough, and a new link has no toxic."""
    did, raised, links = wedged("Toxiproxy 2.12", owned=False, busy=False)
    assert "no answer within" in did[0]
    assert "DELETE" in did[0]
    assert (did[-1], raised, links) == ("link created anew", [], WELL)


def test_our_own_server_is_started_again_where_the_link_is_in_use():
    """New connections wait for the same lock, then every rung does: killed, started by its supervisor, filled again."""
    did, raised, links = wedged("Toxiproxy 2.12", owned=True, busy=True)
    assert [each for each in did if each.startswith("server killed")] != []
    assert did[-2:] == ["link db created as before", "link other created as before"]
    assert links == WELL
    late = ("no time is left in this attempt", "not there again yet")
    assert [each for each in raised if not any(word in each for word in late)] == []


@pytest.mark.parametrize("busy", [False, True])
def test_sim_proxy_lets_go_at_once(busy):
    """The same stalled reader, and the first rung is enough."""
    did, raised, links = wedged("sim proxy", owned=False, busy=busy)
    assert (did, raised, links) == (["toxic removed"], [], WELL)
