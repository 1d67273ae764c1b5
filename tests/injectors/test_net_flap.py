"""`net.flap` at a small Toxiproxy in this process."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from pydantic import ValidationError

from injectors.net.flap import injector
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
    """The fault itself is the cut; its lease on `sim proxy` outlives each cut a little."""
    prepared, effect, state, gone = fake_toxiproxy.used(injector, {"up": "3s", "down": "1s"}, sim=True)
    assert (state, effect.holds, gone.holds) == (["cut"], True, True)
    own = {name: prepared.receipt[name] for name in ("up_s", "down_s", "ttl_s")}
    assert own == {"up_s": 3.0, "down_s": 1.0, "ttl_s": 3.0}


def test_its_drive_toggles_until_it_is_ended():
    """Enabled after the cut, cut again after that; a withdrawal ends it between two toggles, never within one."""

    async def work(toxiproxy, url):
        receipt = {"link": "db", "up_s": 0.01, "down_s": 0.01, "leased": True}
        task = asyncio.ensure_future(injector.drive(fake_toxiproxy.site(url), receipt))
        async with asyncio.timeout(5):
            while len(toxiproxy.asked) < 4:
                await asyncio.sleep(0.005)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return toxiproxy.asked[:4]

    on, off = '{"enabled": true}', '{"enabled": false, "ttl_s": 2.01}'
    asked = fake_toxiproxy.against(fake_toxiproxy.Toxiproxy(sim=True), work)
    assert asked == [f"PATCH link {change}" for change in (on, off, on, off)]


@pytest.mark.parametrize("wrong", [{"up": "1s"}, {"up": "100ms", "down": "1s"}, {"up": "1s", "down": "1h"}])
def test_phases_have_bounds(wrong):
    """Both are given, from half a second to ten minutes."""
    with pytest.raises(ValidationError):
        injector.params.model_validate({"link": "db", **wrong})
