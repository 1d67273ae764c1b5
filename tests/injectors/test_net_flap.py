"""`net.flap` at a small Toxiproxy in this process."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from pydantic import ValidationError

from injectors.net.flap import injector
from sim.injector import InjectionError
from tests.injectors import fake_toxiproxy


def fake_target():
    """Yield what the contract test uses: the door, arguments, and the server's own state."""
    return fake_toxiproxy.fake({"up": "1s", "down": "1s"})


#: `sim proxy` drops the fault by itself.
REAL_LEASE = "target"


def real_target():
    """Yield the same of `sim proxy`."""
    return fake_toxiproxy.served({"up": "1s", "down": "1s"})


def test_a_flapping_link_starts_cut_and_ends_whole():
    """The fault itself is the cut; its lease on `sim proxy` is that of any fault, however long a cut is."""
    prepared, effect, state, gone = fake_toxiproxy.used(injector, {"up": "3s", "down": "10m"}, sim=True)
    assert (state, effect.holds, gone.holds) == (["cut"], True, True)
    own = {name: prepared.receipt[name] for name in ("up_s", "down_s", "ttl_s")}
    assert own == {"up_s": 3.0, "down_s": 600.0, "ttl_s": 6.0}


def test_its_drive_toggles_until_it_is_ended():
    """Enabled after the cut, cut again after that; a withdrawal ends it between two toggles, never within one."""

    async def work(toxiproxy, url):
        receipt = {"link": "db", "up_s": 0.01, "down_s": 0.01, "leased": True, "ttl_s": 6.0}
        task = asyncio.ensure_future(injector.drive(fake_toxiproxy.site(url), receipt))
        async with asyncio.timeout(5):
            while len(toxiproxy.asked) < 4:
                await asyncio.sleep(0.005)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        held = await injector.held(fake_toxiproxy.site(url), receipt)
        assert (held.holds, held.evidence["cuts"] >= 2) == (True, True)
        return toxiproxy.asked[:4]

    on, off = '{"enabled": true}', '{"enabled": false, "ttl_s": 6.0}'
    asked = fake_toxiproxy.against(fake_toxiproxy.Toxiproxy(sim=True), work)
    assert asked == [f"PATCH link {change}" for change in (on, off, on, off)]


def test_a_drive_that_a_toggle_ended_did_not_hold():
    """The server went away in the middle: the link comes and goes no more, and that is told."""

    async def work(toxiproxy, url):
        receipt = {"link": "db", "up_s": 0.01, "down_s": 0.01, "leased": False}
        await toxiproxy.links.pop("db").disable()
        with pytest.raises(InjectionError):
            await injector.drive(fake_toxiproxy.site(url), receipt)
        return [await injector.held(fake_toxiproxy.site(url), receipt) for _ in range(2)]

    ended, undriven = fake_toxiproxy.against(fake_toxiproxy.Toxiproxy(), work)
    assert (ended.holds, ended.evidence["cuts"], "404" in ended.evidence["ended"]) == (False, 1, True)
    assert (undriven.holds, undriven.evidence) == (False, {"reason": "nobody drove it"})


def test_a_renewal_while_the_link_is_whole_is_well():
    """There is no lease then, and none is begun."""

    async def work(toxiproxy, url):
        receipt = {"link": "db", "toxic": None, "leased": True, "driven": True, "ttl_s": 6.0}
        await injector.renew(fake_toxiproxy.site(url), receipt)
        return toxiproxy.asked, toxiproxy.state()

    assert fake_toxiproxy.against(fake_toxiproxy.Toxiproxy(sim=True), work) == (['PATCH link {"ttl_s": 6.0}'], [])


@pytest.mark.parametrize("wrong", [{"up": "1s"}, {"up": "100ms", "down": "1s"}, {"up": "1s", "down": "1h"}])
def test_phases_have_bounds(wrong):
    """Both are given, from half a second to ten minutes."""
    with pytest.raises(ValidationError):
        injector.params.model_validate({"link": "db", **wrong})
