"""`docker.cut` against an engine in memory."""

from __future__ import annotations

import pytest

from injectors._docker import looks
from injectors.docker.cut import injector
from tests.injectors import fake_engine
from tests.injectors.fake_engine import BACK, NETWORK, Box, Engine, against, place, refused, story


def box(**more):
    """Return a container with all that a disconnect loses."""
    settings = {"Links": ["db:database"], "DriverOpts": {"com.example": "1"}}
    return Box("web", networks={"front": place("api", "776562776562", ipv4="172.30.0.5", **settings)}, **more)


def fake_target():
    """Yield what the contract test uses."""
    return fake_engine.fake(Engine(box()), {"container": "web"})


def real_target():
    """Yield the same of a container at a real engine."""
    return fake_engine.real({})


PLACE = {
    "id": NETWORK,
    "aliases": ["api"],
    "ipv4": "172.30.0.5",
    "links": ["db:database"],
    "options": {"com.example": "1"},
}


@pytest.mark.parametrize("network", [None, "front"])
def test_there_and_back_with_all_that_it_had(network):
    """Aliases, the fixed address, links and options are given back, and compared."""
    engine = Engine(web := box())
    before = dict(web.networks["front"])
    assert against(engine, lambda site: story(injector, site, container="web", network=network)) == [
        (True, {"web": {"cut_from": ["front"], "still_in": [], "member_of": [],
                        "interfaces_before": None, "interfaces": None}}),
        (False, {"web": {"status": "running", "networks": {}, "addresses": {}, "interfaces": None, "ports": {}}}),
        (True, {"web": {"status": "running", "networks": {"front": PLACE}, "addresses": {"front": "172.30.0.5"},
                        "interfaces": None, "ports": {}}}),
    ]  # fmt: skip
    assert engine.asked == ["disconnect eeee", "connect eeee"]
    assert web.networks["front"] == before


def test_the_last_part_of_a_compose_network_s_name_is_enough_where_only_one_has_it():
    """Compose puts the project before it; of two nobody guesses."""
    web = box()
    web.networks = {"shop_front": place(), "mall_front": place(), "shop_back": place()}

    async def work(site):
        told = [await refused(injector, site, container="web", network=name) for name in ("front", "nowhere")]
        prepared = await injector.prepare(site, injector.params(container="web", network="back"))
        return told, list(prepared.receipt["containers"][0]["networks"])

    there = "(it is in: mall_front, shop_back, shop_front)"
    assert against(Engine(web), work) == (
        [f"container web (776562776562) is not in one network {name!r} {there}" for name in ("front", "nowhere")],
        ["shop_back"],
    )


@pytest.mark.parametrize("mode", ["host", "none", "container:" + "a" * 64])
def test_a_container_without_a_network_of_its_own_is_refused(mode):
    """There is nothing to cut, or it is somebody else's."""
    told = against(Engine(box(mode=mode)), lambda site: refused(injector, site, container="web"))
    assert told == (
        f"container web (776562776562) has no network of its own (network mode {mode}): there is nothing to cut"
    )


def test_one_that_is_cut_off_already_is_refused():
    """By whom ever: it is not ours to put back."""
    web = box()
    web.networks = {}
    told = against(Engine(web), lambda site: refused(injector, site, container="web"))
    assert told == "container web (776562776562) is not in any network (it is in: none)"


def test_what_is_so_already_counts_only_after_a_look():
    """A second disconnect is 500, a second connect 403."""
    engine = Engine(web := box())

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        there = web.networks.pop("front")
        await injector.apply(site, receipt)  # answered by 500, and cut off it is
        web.networks["front"] = there
        engine.fails["disconnect"] = (500, "the network is busy")
        with pytest.raises(fake_engine.InjectionError, match="disconnect web from front: 500 the network is busy"):
            await injector.apply(site, receipt)
        del web.networks["front"]
        engine.fails["connect"] = (403, "Address already in use")
        with pytest.raises(fake_engine.InjectionError, match="connect web to front: 403 Address already in use"):
            await injector.withdraw(site, receipt)
        return await injector.gone(site, receipt)

    assert against(engine, work).holds is False


def test_one_that_somebody_connected_without_what_it_had_is_connected_anew():
    """There, but without aliases and with another address: not gone, and a withdrawal puts it right."""
    engine = Engine(web := box())

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        await injector.apply(site, receipt)
        web.networks["front"] = place("776562776562")
        found = [await injector.gone(site, receipt)]
        await injector.withdraw(site, receipt)
        return [*found, await injector.gone(site, receipt)]

    assert [probe.holds for probe in against(engine, work)] == [False, True]
    assert engine.asked == ["disconnect eeee", "disconnect eeee", "connect eeee"]


def test_a_published_port_that_does_not_come_back_is_not_gone():
    """Some engines lose it on a reconnect."""
    engine = Engine(web := box(ports={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "32768"}]}))

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        await injector.apply(site, receipt)
        await injector.withdraw(site, receipt)
        found = [await injector.gone(site, receipt)]
        web.ports = {"80/tcp": []}
        return [*found, await injector.gone(site, receipt)]

    found = against(engine, work)
    assert [(probe.holds, probe.evidence["web"]["ports"]) for probe in found] == [
        (True, {"80/tcp": ["any"]}),
        (False, {}),
    ]


def test_an_interface_that_stays_is_no_cut(monkeypatch):
    """Both the container and the network may say so: what the kernel shows in it decides."""
    seen = iter([["eth0"], ["eth0"], [], [], ["eth0"]])
    monkeypatch.setattr(looks, "interfaces", lambda *_: next(seen))

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        await injector.apply(site, receipt)
        probes = [await injector.effective(site, receipt), await injector.effective(site, receipt)]
        await injector.withdraw(site, receipt)
        return [*probes, await injector.gone(site, receipt), await injector.gone(site, receipt)]

    assert [probe.holds for probe in against(Engine(box()), work)] == [False, True, False, True]


def two():
    """Return a container in two networks, each with an address and aliases of its own."""
    web = box()
    web.networks["back"] = place("db", "store", "776562776562", ipv4="172.31.0.7", NetworkID=BACK)
    return web


def test_a_container_in_two_networks_gets_both_places_back():
    """Aliases and addresses are each network's own."""
    engine = Engine(web := two())
    before = {name: {**told, "DriverOpts": told["DriverOpts"] or {}} for name, told in web.networks.items()}
    found = against(engine, lambda site: story(injector, site, container="web"))
    assert [holds for holds, _ in found] == [True, False, True]
    assert web.networks == before


def test_a_network_that_was_removed_does_not_keep_the_container_out_of_the_other():
    """Nobody was left in it, and somebody pruned it: that place cannot be had again, and the fault is not gone."""
    engine = Engine(web := two())

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        await injector.apply(site, receipt)
        del engine.networks[BACK]
        with pytest.raises(fake_engine.InjectionError, match=r"connect web to back: 404 network f+2 not found"):
            await injector.withdraw(site, receipt)
        return list(web.networks), (await injector.gone(site, receipt)).holds

    assert against(engine, work) == (["front"], False)


def test_a_link_without_an_alias_is_given_back_as_it_was():
    """The engine keeps a link as it was asked for: a name alone is its own alias."""
    engine = Engine(web := box())
    web.networks["front"]["Links"] = ["cache", "db:database"]
    found = against(engine, lambda site: story(injector, site, container="web"))
    assert ([holds for holds, _ in found], web.networks["front"]["Links"]) == (
        [True, False, True],
        ["cache", "db:database"],
    )
