"""What all faults of a link share: when they are refused, their lease, and the ladder that takes them away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys

import pytest
from aiohttp import web

from injectors import _toxiproxy_look as looking
from injectors import _toxiproxy_server as server
from injectors import _toxiproxy_stop as stop
from injectors.net.cut import injector as cut
from injectors.net.latency import injector as latency
from sim.injector import InjectionError, Site
from sim.secret import Secrets
from sim.stack.procs import TAG
from sim.target import Door
from tests.injectors import fake_door
from tests.injectors.fake_toxiproxy import Toxiproxy, against, site

GIVEN = {"link": "db", "latency": "40ms"}


def prepared(url, injector=latency, **more):
    """Prepare a fault of the link ``db`` (or another)."""
    given = GIVEN if injector is latency else {"link": "db"}
    return injector.prepare(site(url), injector.params.model_validate({**given, **more}))


async def refused(url, work):
    """Return why something was refused, with URL for the server's address."""
    with pytest.raises(InjectionError) as caught:
        await work
    return str(caught.value).replace(url, "URL")


# -- prepare ---------------------------------------------------------------------------------------------------------


def test_prepare_refuses_what_it_cannot_do_cleanly():
    """No such link, a cut one, somebody's toxic, an upstream that is not there: each named, with the cure."""

    async def work(toxiproxy, url):
        link = toxiproxy.links["db"]
        said = [await refused(url, prepared(url, link="bd"))]
        link.toxics.append({"name": "theirs", "type": "latency"})
        said.append(await refused(url, prepared(url)))
        link.toxics.clear()
        upstream, link.upstream = link.upstream, "127.0.0.1:1"
        said.append(await refused(url, prepared(url)))
        link.upstream = upstream
        await link.disable()
        said.append(await refused(url, prepared(url)))
        return said, toxiproxy.asked

    assert against(Toxiproxy(), work) == (
        [
            "URL: no link is called 'bd' (there are: db)",
            "URL: link db has a toxic already: {'name': 'theirs', 'type': 'latency'}",
            "URL: link db carries no connection: closed at once; is its upstream there?",
            "URL: link db is disabled already; the fault must be the only one there",
        ],
        [],
    )


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("2.6.0", "URL: Toxiproxy 2.6.0 is too old: 2.7 or newer is needed"),
        (7, "URL/version: no Toxiproxy answers there, but {'version': 7}"),
        ("git", None),
        ("2.7.0", None),
    ],
)
def test_prepare_asks_what_answers_there(version, said):
    """One that is too old, or none at all, is refused; a version that counts nothing is taken as new."""

    async def work(toxiproxy, url):
        return await refused(url, prepared(url)) if said else (await prepared(url)).receipt["server"]

    assert against(Toxiproxy(version=version), work) == (said or f"Toxiproxy {version}")


def test_a_link_that_is_not_reached_from_here_needs_a_server_that_counts():
    """A real server there could show no effect: refused; `sim proxy` counts whom the toxic touched."""

    async def work(toxiproxy, url):
        link = toxiproxy.links["db"]
        link.server.close()
        if not toxiproxy.sim:
            said = await refused(url, prepared(url))
            return said.replace(link.listen, "LISTEN")
        receipt = (await prepared(url)).receipt
        await latency.apply(site(url), receipt)
        blind = await latency.effective(site(url), receipt)
        link.impacted["r1-1"] = 3
        seen = await latency.effective(site(url), receipt)
        await latency.withdraw(site(url), receipt)
        gone = await latency.gone(site(url), receipt)
        return receipt["at"], blind.holds, seen.holds, seen.evidence["impacted"], gone.holds

    assert against(Toxiproxy(), work) == (
        "URL: link db cannot be reached from here at LISTEN (refused), and this server counts nothing while connections"
        " are open: no effect could be proven (publish the link's port on loopback)"
    )
    assert against(Toxiproxy(sim=True), work) == (None, False, True, 3, True)


def test_a_link_that_listens_everywhere_is_where_its_server_is():
    """As Compose has it: the host of the door, and the port of the link."""
    assert server.reached_at(site("http://10.0.0.7:8474"), "[::]:5433") == ("10.0.0.7", 5433)
    assert server.reached_at(site("http://10.0.0.7:8474"), "0.0.0.0:5433") == ("10.0.0.7", 5433)
    assert server.reached_at(site("http://10.0.0.7:8474"), "127.0.0.1:5433") == ("127.0.0.1", 5433)
    with pytest.raises(InjectionError, match="which is no address"):
        server.reached_at(site("http://10.0.0.7:8474"), "nowhere")


# -- apply and renew -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sim", "lease"), [(False, {}), (True, {"ttl_s": 6.0})])
def test_a_lease_is_asked_for_where_it_is_held(sim, lease):
    """At `sim proxy` with the toxic and with each renewal; a real server is never asked again."""

    async def work(toxiproxy, url):
        receipt = (await prepared(url)).receipt
        await latency.apply(site(url), receipt)
        await latency.renew(site(url), receipt)
        return [each.partition(" {")[0] for each in toxiproxy.asked], json.loads(toxiproxy.asked[0].split(" ", 2)[2])

    calls, body = against(Toxiproxy(sim), work)
    assert calls == ["POST toxics"] + ["PATCH toxic"] * sim
    assert body == {
        "name": "r1-1", "type": "latency", "stream": "downstream", "toxicity": 1.0,
        "attributes": {"latency": 40, "jitter": 0}, **lease,
    }  # fmt: skip


def test_a_door_with_a_token_is_never_given_to_a_client_that_knows_none():
    """The same request, sent by ourselves."""

    async def work(toxiproxy, url):
        there = Site("r1-1", "r1", {"proxy": Door(url=url, auth="env:T")}, Secrets({"T": fake_door.TOKEN}))
        receipt = (await prepared(url, cut)).receipt
        await cut.apply(there, receipt)
        await cut.renew(there, receipt)
        return toxiproxy.asked

    assert against(Toxiproxy(), work) == ['PATCH link {"enabled": false}']


def test_a_renewal_that_comes_too_late_is_told():
    """The toxic has run out: it is not put there again."""

    async def work(toxiproxy, url):
        receipt = (await prepared(url)).receipt
        await latency.apply(site(url), receipt)
        toxiproxy.links["db"].toxics.clear()
        return await refused(url, latency.renew(site(url), receipt)), toxiproxy.state()

    said, state = against(Toxiproxy(sim=True), work)
    assert (said, state) == (
        'PATCH URL/proxies/db/toxics/r1-1: 404 {"error":"toxic not found","status":404}',
        [],
    )


def test_a_renewal_never_cuts_a_link_again():
    """The lease of a cut has run out, or somebody has enabled the link: asked for the lease alone, it stays whole."""

    async def work(toxiproxy, url):
        receipt = (await prepared(url, cut)).receipt
        await cut.apply(site(url), receipt)
        await cut.renew(site(url), receipt)
        await toxiproxy.links["db"].enable()
        return await refused(url, cut.renew(site(url), receipt)), toxiproxy.state(), toxiproxy.asked

    said, state, asked = against(Toxiproxy(sim=True), work)
    assert (said.partition(" {")[0], state) == ("PATCH URL/proxies/db: 400", [])
    assert asked == ['PATCH link {"enabled": false, "ttl_s": 6.0}', *['PATCH link {"ttl_s": 6.0}'] * 2]


def test_a_refused_apply_says_why():
    """Through the client too, whose own errors are many: a link that went away meanwhile."""

    async def work(toxiproxy, url):
        receipt = (await prepared(url)).receipt
        await toxiproxy.links.pop("db").disable()
        return await refused(url, latency.apply(site(url), receipt))

    assert against(Toxiproxy(), work) == "URL: link db: InjectionError: it is not there any more"


def test_a_reaper_is_told_where_the_profile_opens_its_door():
    """Armed before the fault comes in, renewed with it, let go after it was withdrawn; never where there is no door."""
    beats = []

    async def heartbeat(request):
        beats.append((request.method, request.match_info["id"], await request.text()))
        return web.json_response({}, status=200 if request.method == "PUT" else 204)

    async def work(toxiproxy, url):
        async with fake_door.serving([web.route("*", "/heartbeat/{id}", heartbeat)]) as there:
            doors = {"proxy": Door(url=url), "reaper": Door(url=there)}
            watched = Site("r1-1", "r1", doors, Secrets({}), ttl_s=6.0)
            receipt = (await prepared(url)).receipt
            before = list(beats)
            await latency.apply(watched, receipt)
            await latency.renew(watched, receipt)
            await latency.withdraw(watched, receipt)
        gone = await refused(there, latency.apply(watched, receipt))
        return before, gone.partition(":")[0], toxiproxy.state()

    assert against(Toxiproxy(), work) == ([], "PUT URL/heartbeat/r1-1", [])
    assert beats == [("PUT", "r1-1", '{"ttl_s": 6.0}')] * 2 + [("DELETE", "r1-1", "")]
    assert latency.doors_if == ("reaper",)


# -- the ladder ------------------------------------------------------------------------------------------------------


def withdrawn(stuck, loosened=None, before=None, owner=None, injector=latency):
    """Apply a fault, let the named calls get stuck, withdraw; return what was asked and said, and the end of it."""

    async def work(toxiproxy, url):
        receipt = json.loads(json.dumps((await prepared(url, injector)).receipt))
        await injector.apply(site(url), receipt)
        toxiproxy.asked.clear()
        toxiproxy.stuck, toxiproxy.loosened = set(stuck), loosened or {}
        if before:
            await before(toxiproxy)
        try:
            if owner is not None:
                receipt["owned"] = True
            await injector.withdraw(site(url), receipt)
            said = None
        except InjectionError as error:
            said = str(error).replace(url, "URL")
        toxiproxy.stuck = set()
        gone = await injector.gone(site(url), receipt)
        did = [
            str(each).replace(url, "URL").replace(receipt["links"][0]["listen"], "LISTEN")
            for each in gone.evidence["did"]
        ]
        return [each.partition(" {")[0] for each in toxiproxy.asked], did, said, gone.holds

    return against(Toxiproxy(), work)


HUNG = "DELETE URL/proxies/db/toxics/r1-1: no answer within 0.3 s"
NO_LIST = "GET URL/proxies: no answer within 0.3 s"


def test_the_first_rung_is_to_remove_the_toxic():
    """Nothing else is touched."""
    assert withdrawn([]) == (["DELETE toxic"], ["toxic removed"], None, True)


def test_a_removal_that_hangs_cuts_the_connections_that_it_waits_for():
    """The link is disabled, the toxic removed, the link enabled: in that order."""
    asked, did, said, gone = withdrawn(["DELETE toxic"], {"PATCH link": ["DELETE toxic"]})
    assert asked == ["DELETE toxic", "PATCH link", "DELETE toxic", "PATCH link"]
    assert did == [HUNG, "link disabled", "toxic removed", "link enabled"]
    assert (said, gone) == (None, True)


def test_a_server_that_lists_nothing_any_more_has_its_link_made_anew():
    """Disabling did not help: deleted, and created as the receipt knows it."""
    stuck = ["DELETE toxic", "GET /proxies"]
    asked, did, said, gone = withdrawn(stuck, {"POST /proxies": ["GET /proxies"]})
    assert asked == ["PATCH link", "DELETE link", "POST /proxies"]
    assert did == [
        NO_LIST,
        "the server lists no proxies within 0.3 s, though it tells its version: it is stuck",
        "link disabled",
        NO_LIST,
        "link deleted",
        "link created anew",
    ]
    assert (said, gone) == (None, True)


def test_a_stranger_s_server_is_not_killed_but_reported():
    """The last rung is for a process of our own stack; elsewhere a human is told what to do."""
    stuck = ["DELETE toxic", "GET /proxies", "PATCH link", "DELETE link"]
    _, did, said, gone = withdrawn(stuck)
    last = "DELETE URL/proxies/db: no answer within 0.3 s"
    assert said == (f"URL: link db: its server is stuck and is no process of a stack of ours: restart it ({last})")
    assert (did[-1], gone) == (last, False)


@pytest.mark.parametrize(
    ("stuck", "tried"),
    [
        (["GET /proxies", "PATCH link", "DELETE link"], ["PATCH link", "DELETE link"]),
        (["GET /proxies", "GET /version"], []),  # it stands still: no rung before the last is worth a try
    ],
)
def test_our_own_server_is_killed_and_given_back_what_it_forgot(stuck, tried, monkeypatch):
    """The supervisor starts it again; the links that it does not know any more are created as before."""
    signalled = []

    class Owner:
        pid = 4711

        def signal(self, number):
            signalled.append(number)
            server_of_the_test.stuck.clear()
            del server_of_the_test.links["db"]

    server_of_the_test = None

    async def before(toxiproxy):
        nonlocal server_of_the_test
        server_of_the_test = toxiproxy
        await toxiproxy.links["db"].disable()

    monkeypatch.setattr(stop, "owned", lambda url: Owner())
    asked, did, said, gone = withdrawn(stuck, before=before, owner=True)
    assert (asked, said) == ([*tried, "POST /proxies"], None)
    assert did[-3:] == [
        "server killed (process 4711), for its supervisor to start it again",
        "server answers again",
        "link db created as before",
    ]
    assert (said, gone, signalled) == (None, True, [9])


LISTENS = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print(server.getsockname()[1], flush=True)
    server.accept()
"""


@pytest.mark.parametrize("of_stack", [True, False])
def test_only_a_process_of_a_stack_of_ours_is_its_own(of_stack):
    """Who listens behind the door, if our supervisor started it; nobody else's process, and no other machine's."""
    tag = {TAG: "somewhere"} if of_stack else {}
    environment = {name: value for name, value in os.environ.items() if name != TAG} | tag
    command = [sys.executable, "-c", LISTENS, "127.0.0.1", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as listens:
        assert listens.stdout is not None
        port = int(listens.stdout.readline())
        found, elsewhere = stop.owned(f"http://127.0.0.1:{port}"), stop.owned(f"http://proxy.example:{port}")
        listens.kill()
    assert (found.pid if found else None, elsewhere) == (listens.pid if of_stack else None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only 127.0.0.1 is there")
@pytest.mark.parametrize(("at", "door", "it"), [("127.0.0.2", "127.0.0.1", False), ("0.0.0.0", "127.0.0.1", True),
                                                ("127.0.0.2", "localhost", True)])  # fmt: skip
def test_who_listens_at_another_address_is_not_killed(at, door, it):
    """Two stacks may have one port at two addresses: what is killed is what answers behind the door."""
    command, environment = [sys.executable, "-c", LISTENS, at, "0"], {**os.environ, TAG: "somewhere"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as listens:
        found = stop.owned(f"http://{door}:{int(listens.stdout.readline())}")
        listens.kill()
    assert (found is not None) == it


def test_a_server_that_is_not_there_is_not_called_stuck():
    """Nothing can be withdrawn at a server that is gone; the next attempt may find it again."""

    async def work(toxiproxy, url):
        return (await prepared(url)).receipt

    receipt = against(Toxiproxy(), work)
    said = asyncio.run(refused("http://127.0.0.1:1", latency.withdraw(site("http://127.0.0.1:1"), receipt)))
    assert said == "URL: link db: its server does not answer, so nothing can be withdrawn there"


def test_a_link_that_somebody_deleted_is_there_again_afterwards():
    """Prior state is put back, whoever changed it."""

    async def before(toxiproxy):
        await toxiproxy.links.pop("db").disable()

    asked, did, said, gone = withdrawn([], before=before)
    assert (asked, did, said, gone) == (["POST /proxies"], ["link db created as before"], None, True)


@pytest.mark.parametrize(("refusals", "called", "well"), [(2, 3, True), (3, 3, False)])
@pytest.mark.parametrize("call", ["POST /proxies", "PATCH link"])
def test_a_link_whose_port_is_somebody_s_for_a_moment_is_put_back_all_the_same(call, refusals, called, well):
    """Created or enabled by the third try, each refusal told; after that it is the next attempt's, and it says why."""

    async def before(toxiproxy):
        await toxiproxy.links["db"].disable()
        if call == "POST /proxies":
            del toxiproxy.links["db"]
        else:
            toxiproxy.links["db"].toxics.clear()
        toxiproxy.refusals = {call: refusals}

    asked, did, said, gone = withdrawn([], before=before)
    where = "URL/proxies" if call == "POST /proxies" else "URL/proxies/db"
    why = f'{call.split()[0]} {where}: 500 {{"error":"address already in use","status":500}}'
    done = "link db created as before" if call == "POST /proxies" else "link enabled"
    assert (asked, did, said, gone) == (
        [call] * called, [why, why, *[done] * well], None if well else why, well,
    )  # fmt: skip


def test_no_try_is_begun_that_would_end_after_the_attempt():
    """Refused, and less is left than one more change may take: it is the next attempt's."""

    async def before(toxiproxy):
        await toxiproxy.links.pop("db").disable()
        toxiproxy.refusals = {"POST /proxies": 1}
        stop.ALL_S = stop.CHANGE_S  # `quick` puts it back

    asked, did, said, gone = withdrawn([], before=before)
    assert (asked, did, gone) == (["POST /proxies"], [], False)
    assert "address already in use" in said


def test_no_link_is_created_after_the_attempt():
    """Others were created until then: the rest is the next attempt's."""

    async def before(toxiproxy):
        await toxiproxy.links.pop("db").disable()
        stop.ALL_S = -1.0  # `quick` puts it back

    asked, did, said, gone = withdrawn([], before=before)
    assert (asked, did, said, gone) == (
        [], [], "URL: link db: nothing helped; no time is left in this attempt", False,
    )  # fmt: skip


def test_a_server_that_does_not_answer_is_not_asked_thrice():
    """The rungs above have the time instead."""

    async def before(toxiproxy):
        await toxiproxy.links["db"].disable()
        toxiproxy.links["db"].toxics.clear()

    asked, did, said, gone = withdrawn(["PATCH link"], before=before)
    assert (asked, did, said, gone) == (["PATCH link"], [], "PATCH URL/proxies/db: no answer within 0.3 s", False)


def test_a_link_that_is_made_anew_is_made_by_a_later_try():
    """Its port was somebody's for a moment: no reason to kill its server."""

    async def before(toxiproxy):
        toxiproxy.refusals = {"POST /proxies": 2}

    asked, did, said, gone = withdrawn(
        ["DELETE toxic", "GET /proxies"], {"POST /proxies": ["GET /proxies"]}, before=before
    )
    refused = 'POST URL/proxies: 500 {"error":"address already in use","status":500}'
    assert asked == ["PATCH link", "DELETE link", *["POST /proxies"] * 3]
    assert (did[-4:], said, gone) == (["link deleted", refused, refused, "link created anew"], None, True)


def test_a_link_that_somebody_moved_is_looked_at_where_it_is_now():
    """The fault is gone, and so is the old address: one has nothing to do with the other."""

    async def work(toxiproxy, url):
        receipt = json.loads(json.dumps((await prepared(url, speaks="http")).receipt))
        await latency.apply(site(url), receipt)
        link = toxiproxy.links["db"]
        await link.disable()
        link.listen = "127.0.0.1:0"
        await link.enable()
        await latency.withdraw(site(url), receipt)
        probe = await latency.gone(site(url), receipt)
        return probe.holds, probe.evidence["moved"] == f"{link.listen} to {link.upstream}"

    assert against(Toxiproxy(), work) == (True, True)


def test_another_fault_on_the_link_is_left_to_itself():
    """Its toxic stays, and what it does to a connection is not taken for ours."""

    async def work(toxiproxy, url):
        receipt = (await prepared(url)).receipt
        await latency.apply(site(url), receipt)
        toxiproxy.links["db"].toxics.append({"name": "r1-2", "type": "reset_peer", "stream": "downstream"})
        await latency.withdraw(site(url), receipt)
        probe = await latency.gone(site(url), receipt)
        return probe.holds, probe.evidence["looked"], toxiproxy.state()

    assert against(Toxiproxy(), work) == (True, "not taken: another fault is on the link", ["db/r1-2"])


def held(injector, meanwhile=None, stuck=()):
    """Apply a fault, let something happen to it, withdraw it twice; return whether it held, and by what evidence."""

    async def work(toxiproxy, url):
        receipt = (await prepared(url, injector)).receipt
        await injector.apply(site(url), receipt)
        if meanwhile:
            await meanwhile(toxiproxy.links["db"])
        toxiproxy.stuck = set(stuck)
        for _ in range(2):
            with contextlib.suppress(InjectionError):
                await injector.withdraw(site(url), receipt)
            toxiproxy.stuck = set()
        probe = await injector.held(site(url), receipt)
        stop.forget(site(url))
        assert not (await injector.held(site(url), receipt)).holds
        return probe.holds, probe.evidence

    return against(Toxiproxy(), work)


async def cleared(link):
    """Do what a reset, a restart or a lease that ran out does."""
    link.toxics.clear()


async def weakened(link):
    """Leave the toxic there for nobody."""
    link.toxics[0]["toxicity"] = 0


async def enabled(link):
    """Undo a cut."""
    await link.enable()


def test_a_fault_held_if_it_stood_until_it_was_withdrawn():
    """As asked for, before the withdrawal changed anything; a second attempt says nothing of the time before."""
    assert held(latency) == (True, {"stands": True, "enabled": True, "toxics": ["r1-1"]})
    assert held(cut) == (True, {"stands": True, "enabled": False, "toxics": []})


@pytest.mark.parametrize(
    ("injector", "meanwhile", "evidence"),
    [
        (latency, cleared, {"stands": False, "enabled": True, "toxics": []}),
        (latency, weakened, {"stands": False, "enabled": True, "toxics": ["r1-1"]}),
        (cut, enabled, {"stands": False, "enabled": True, "toxics": []}),
    ],
)
def test_a_fault_that_went_before_it_was_withdrawn_did_not_hold(injector, meanwhile, evidence):
    """A server that was started again, somebody's reset, a lease that ran out: what was seen meanwhile counts not."""
    assert held(injector, meanwhile) == (False, evidence)


def test_a_server_that_is_stuck_does_not_say_that_the_fault_held():
    """What it lists once it is free again comes after the withdrawal began."""
    stuck = ["GET /proxies", "PATCH link", "DELETE link"]
    holds, evidence = held(latency, stuck=stuck)
    assert (holds, evidence["reason"]) == (False, "its server was stuck, and did not say how it stood")


def test_gone_is_more_than_not_listed():
    """A link that lists no toxic and still answers late, or not at all, is not as it was before."""

    async def work(toxiproxy, url):
        receipt = (await prepared(url, speaks="http")).receipt
        link = toxiproxy.links["db"]
        link.listed, link.toxics = (
            link.toxics,
            [{"name": "hidden", "type": "latency", "stream": "downstream", "attributes": {"latency": 80}}],
        )
        shown = link.shown
        link.shown = lambda: shown() | {"toxics": []}
        return await latency.gone(site(url), receipt)

    probe = against(Toxiproxy(), work)
    assert (probe.holds, probe.evidence["toxic_listed"], probe.evidence["enabled"]) == (False, False, True)


# -- looks -----------------------------------------------------------------------------------------------------------

BEFORE = {"end": "closed", "connect_ms": 0.1, "first_byte_ms": 2.0, "ended_ms": 3.0, "bytes": 500}
SILENT = {"end": "open", "connect_ms": 0.1, "first_byte_ms": None, "ended_ms": None, "bytes": 0, "waited_ms": 900.0}


@pytest.mark.parametrize(
    ("expect", "seen", "shown"),
    [
        ({"what": "late", "ms": 100}, BEFORE | {"first_byte_ms": 92.0}, True),
        ({"what": "late", "ms": 100}, BEFORE | {"first_byte_ms": 91.9}, False),
        ({"what": "late", "ms": 500}, SILENT, True),
        ({"what": "late", "ms": 2000}, SILENT, False),
        ({"what": "late", "ms": 100}, BEFORE | {"end": "refused", "first_byte_ms": None}, False),
        ({"what": "refused"}, BEFORE, False),
        ({"what": "refused"}, BEFORE | {"end": "refused"}, True),
        ({"what": "reset"}, BEFORE, False),
        ({"what": "reset"}, BEFORE | {"bytes": 0}, True),
        ({"what": "reset"}, BEFORE | {"end": "reset"}, True),
        ({"what": "silence"}, SILENT, True),
        ({"what": "silence"}, BEFORE, False),
        ({"what": "silence"}, SILENT | {"end": "refused"}, False),
        ({"what": "slow", "kb_s": 5}, BEFORE | {"ended_ms": 93.0}, True),
        ({"what": "slow", "kb_s": 500}, BEFORE | {"ended_ms": 93.0}, None),
        ({"what": "late_close", "ms": 100}, BEFORE | {"ended_ms": 93.0}, True),
        ({"what": "short", "bytes": 100}, BEFORE | {"bytes": 100}, True),
        ({"what": "short", "bytes": 100}, BEFORE, False),
        ({"what": "short", "bytes": 1000}, BEFORE, None),
        ({}, BEFORE, None),
    ],
)
def test_what_a_look_shows(expect, seen, shown):
    """Against the look from before the fault; where no look can show it nothing is claimed."""
    assert looking.bites(expect, seen, BEFORE) is shown


@pytest.mark.parametrize("what", ["late", "silence", "slow", "late_close", "short", "reset"])
def test_a_link_that_answers_nothing_shows_little(what):
    """Without an answer from before the fault none of these can be seen."""
    assert looking.bites({"what": what, "ms": 9, "kb_s": 9, "bytes": 9}, SILENT, SILENT) is None
