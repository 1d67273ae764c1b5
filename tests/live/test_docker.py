"""The faults of containers against a real engine: there and back, what the engine forgets, and what it only claims."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sim.catalogue import catalogue
from sim.injector import Injector, Probe, Site
from sim.secret import Secrets
from sim.target import Door
from tests.live import containers
from tests.live.containers import Room, until

#: Work beside the web server: it wants more processor time than a limit gives it, and not the whole machine.
BUSY = ["sh", "-c", "httpd -h /www -p 80; while :; do for i in $(seq 20000); do :; done; usleep 20000; done"]


@pytest.fixture(scope="module")
def building() -> Iterator[Room]:
    """Give one room for the whole module."""
    with containers.room() as made:
        yield made


@pytest.fixture
def shared(building: Room) -> Iterator[Room]:
    """Give the room, empty: each test starts what it hits."""
    yield building
    building.empty()


def site(room: Room) -> Site:
    """Return the place of an injection: a door that shows this room alone."""
    return Site("r1-1", "r1", {"docker": Door(url=room.door)}, Secrets({}))


def injector(name: str) -> Injector:
    """Return an injector by name."""
    return catalogue().injector(name)


def proven(kind: Injector, where: Site, receipt: Any) -> Probe:
    """Return the first look that proves the effect, within what a run gives it."""
    probe: Probe = until(lambda: (found := asyncio.run(kind.effective(where, receipt))).holds and found, "effect")
    return probe


def applied(room: Room, name: str, **given: Any) -> tuple[Injector, Site, Any]:
    """Prepare and apply; return what undoing needs, its receipt as another process reads it."""
    kind, where = injector(name), site(room)
    prepared = asyncio.run(kind.prepare(where, kind.params.model_validate(given)))
    receipt = json.loads(json.dumps(prepared.receipt))
    asyncio.run(kind.apply(where, receipt))
    return kind, where, receipt


def undone(kind: Injector, where: Site, receipt: Any) -> Probe:
    """Withdraw twice; return what the read-back says then."""
    for _ in range(2):
        asyncio.run(kind.withdraw(where, receipt))
    return asyncio.run(kind.gone(where, receipt))


#: kind of fault → (command, more of the container, whether its page is served under the fault).
KINDS: dict[str, tuple[list[str], dict[str, Any], bool | None]] = {
    "docker.pause": (containers.SERVE, {}, False),
    "docker.kill": (containers.SERVE, {}, False),
    "docker.restart": (containers.SERVE, {}, None),
    "docker.cut": (containers.SERVE, {}, False),
    "docker.cpu": (BUSY, {}, None),
    "docker.signal": (containers.SERVE, {}, False),
}


@pytest.mark.parametrize("name", KINDS)
def test_there_and_back(shared: Room, name: str) -> None:
    """Proven by its own probe and by a page that is not served; afterwards all is as it was, and the page is served."""
    command, host, served = KINDS[name]
    last = 10 + list(KINDS).index(name)
    box = shared.start(name.partition(".")[2], command, last=last, alias="web", host=host)
    until(lambda: shared.answers(last), "page")
    before = shared.tell(box)
    kind, where, receipt = applied(shared, name, container=box)
    probe = proven(kind, where, receipt)
    if served is not None:
        assert shared.answers(last) is served, probe.evidence
        gone = asyncio.run(kind.gone(where, receipt))
        assert not gone.holds, gone.evidence
    back = undone(kind, where, receipt)
    assert back.holds, back.evidence
    until(lambda: shared.answers(last), "page after the fault")
    assert shared.tell(box) == before


def test_a_cut_gives_back_the_name_by_which_others_find_it(shared: Room) -> None:
    """The alias resolves before, not under the cut, and again after it; the fixed address is the same."""
    box = shared.start("named", last=30, alias="shop")
    peer = shared.start("peer", ["sleep", "600"])

    def found() -> bool:
        code, told = shared.run(peer, "nslookup", "shop")
        return code == 0 and f"Address: {shared.net}.30\n" in told

    until(found, "address by its alias")
    kind, where, receipt = applied(shared, "docker.cut", container=box, network=shared.network)
    assert proven(kind, where, receipt).evidence[box]["interfaces"] in ([], None)  # type: ignore[index,call-overload]
    assert not found()
    back = undone(kind, where, receipt)
    assert back.holds, back.evidence
    assert back.evidence[box]["addresses"] == {shared.network: f"{shared.net}.30"}  # type: ignore[index,call-overload]
    assert found()
    assert shared.run(peer, "wget", "-q", "-O", "-", f"http://{shared.net}.30/") == (0, "well\n")


def test_a_signal_to_an_init_is_not_proven(shared: Room) -> None:
    """The init stops, the engine calls it running, the page is served on: no effect; and it is taken back."""
    box = shared.start("init", last=31, host={"init": True})
    until(lambda: shared.answers(31), "page")
    kind, where, receipt = applied(shared, "docker.signal", container=box)
    until(lambda: shared.tell(box)["stopped"], "stopped init")
    probe = asyncio.run(kind.effective(where, receipt))
    told = probe.evidence[box]
    assert not probe.holds
    assert (told["status"], len(told["stopped"]), len(told["running_on"])) == ("running", 1, 1)  # type: ignore[index,call-overload,arg-type]
    assert shared.answers(31)
    assert undone(kind, where, receipt).holds
    assert shared.tell(box)["stopped"] == []


@pytest.mark.parametrize("name", ["docker.pause", "docker.cut", "docker.kill"])
def test_a_container_removed_under_the_fault_is_gone_and_its_heir_is_spared(shared: Room, name: str) -> None:
    """Another one of the same name is nobody's victim: it stays as somebody made it, and no error comes of it."""
    short, last = f"heir-{name.partition('.')[2]}", 32 + list(KINDS).index(name)
    box = shared.start(short, last=last)
    kind, where, receipt = applied(shared, name, container=box)
    proven(kind, where, receipt)
    shared.api.remove_container(box, force=True)
    assert undone(kind, where, receipt).evidence == {box: {"removed": True, "recreated_as": None}}
    shared.start(short, last=last)
    shared.api.pause(box)
    before = shared.tell(box)
    back = undone(kind, where, receipt)
    assert (back.holds, back.evidence) == (True, {box: {"removed": True, "recreated_as": before["id"][:12]}})
    assert shared.tell(box) == before
    assert before["status"] == "paused"


@pytest.mark.parametrize("name", ["docker.pause", "docker.cut", "docker.cpu"])
def test_the_same_fault_twice_is_refused_before_and_no_error_after(shared: Room, name: str) -> None:
    """Prepare refuses what is there already, also by us; an apply that comes in twice is one fault."""
    last = 40 + list(KINDS).index(name)
    box = shared.start(f"twice-{name.partition('.')[2]}", BUSY, last=last, alias="web")
    until(lambda: shared.answers(last), "page")
    before = shared.tell(box)
    kind, where, receipt = applied(shared, name, container=box)
    asyncio.run(kind.apply(where, receipt))
    proven(kind, where, receipt)
    with pytest.raises(Exception, match=r"already|not in any network") as refused:
        asyncio.run(kind.prepare(where, kind.params.model_validate({"container": box})))
    assert type(refused.value).__name__ == "InjectionError"
    assert undone(kind, where, receipt).holds
    assert shared.tell(box) == before


def test_a_killed_one_is_gone_when_it_is_healthy_again(shared: Room) -> None:
    """Its health check has the last word; a container that was unhealthy before is not waited for."""
    check = {"test": ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"], "interval": 3 * 10**9}
    box = shared.start("healthy", last=50, healthcheck=check)
    until(lambda: shared.tell(box)["health"] == "healthy", "healthy container")
    kind, where, receipt = applied(shared, "docker.kill", container=box)
    proven(kind, where, receipt)
    shared.api.start(box)
    early = asyncio.run(kind.gone(where, receipt))
    back = undone(kind, where, receipt)
    assert (early.evidence[box]["health"], early.holds) == ("starting", False)  # type: ignore[index,call-overload]
    assert (back.evidence[box]["health"], back.holds) == ("healthy", True)  # type: ignore[index,call-overload]


def test_a_restart_policy_that_revives_it_is_its_recovery(shared: Room) -> None:
    """A main process that dies of a milder signal is started again by the engine; the probe sees two lives."""
    dying = ["sh", "-c", "trap 'exit 3' HUP; httpd -h /www -p 80; while :; do sleep 1; done"]
    box = shared.start("revived", dying, last=51, host={"restart_policy": {"Name": "always"}})
    until(lambda: shared.answers(51), "page")
    shared.run(box, "sh", "-c", "kill -HUP 1")  # not by the engine, which would take it for a wish to stop
    until(lambda: shared.api.inspect_container(box)["RestartCount"] == 1 and shared.answers(51), "revived container")
    kind, where, receipt = applied(shared, "docker.kill", container=box)
    proven(kind, where, receipt)
    assert undone(kind, where, receipt).holds
    until(lambda: shared.answers(51), "page")


def test_a_limit_in_nano_cpus_is_lowered_and_put_back(shared: Room) -> None:
    """A container that was started with --cpus takes no quota: its limit is changed in its own words."""
    box = shared.start("nano", BUSY, last=52, host={"nano_cpus": 500_000_000})
    before = shared.tell(box)
    kind, where, receipt = applied(shared, "docker.cpu", container=box, cpus=0.05)
    assert proven(kind, where, receipt).evidence[box]["cpus"] == 0.05  # type: ignore[index,call-overload]
    assert shared.tell(box)["cpus"] == [50_000_000, 0]
    assert undone(kind, where, receipt).holds
    assert shared.tell(box) == before


def test_a_published_port_comes_back_after_a_cut(shared: Room) -> None:
    """It is compared, as it is lost on some engines; where it stays lost the fault is not gone."""
    ports = {"80/tcp": ("127.0.0.1", None)}
    box = shared.start("published", last=53, ports=[80], host={"port_bindings": {80: ports["80/tcp"]}})
    kind, where, receipt = applied(shared, "docker.cut", container=box)
    proven(kind, where, receipt)
    back = undone(kind, where, receipt)
    assert back.evidence[box]["ports"] == {"80/tcp": ["any"]}  # type: ignore[index,call-overload]
    assert back.holds


def test_nothing_outside_the_door_s_labels_is_seen(shared: Room) -> None:
    """A container of somebody else is no target, by name or by label, however it is labelled itself."""
    with containers.room() as other:
        theirs = other.start("theirs")
        kind = injector("docker.pause")
        for text in (theirs, "sim.environment=sim-test,sim.test=" + other.token):
            with pytest.raises(Exception, match="no container"):
                asyncio.run(kind.prepare(site(shared), kind.params.model_validate({"container": text})))
        assert other.tell(theirs)["status"] == "running"
