"""`docker.pause` against an engine in memory."""

from __future__ import annotations

import json

import pytest

from injectors.docker.pause import injector
from tests.injectors import fake_engine
from tests.injectors.fake_engine import Box, Engine, against, refused, story


def fake_target():
    """Yield what the contract test uses."""
    return fake_engine.fake(Engine(Box("web")), {"container": "web"})


def real_target():
    """Yield the same of a container at a real engine."""
    return fake_engine.real({})


def test_there_and_back():
    """Paused and frozen; after two withdrawals it runs, and no second unpause was sent."""
    engine = Engine(Box("web"))
    assert against(engine, lambda site: story(injector, site, container="web")) == [
        (True, {"web": {"status": "paused", "processes": ["10 D init", "11 D app"],
                        "by": "every process is in state D"}}),
        (False, {"web": {"status": "paused"}}),
        (True, {"web": {"status": "running", "processes": ["10 S init", "11 S app"]}}),
    ]  # fmt: skip
    assert engine.asked == ["pause 7765", "unpause 7765"]


def test_prepare_changes_nothing_and_says_whom_it_will_hit():
    """By id and name; the receipt is enough for another process."""
    engine = Engine(Box("web", health="healthy"))

    async def work(site):
        return await injector.prepare(site, injector.params(container="web"))

    prepared = against(engine, work)
    assert engine.asked == []
    assert prepared.targets == ("container web (776562776562)",)
    assert json.loads(json.dumps(prepared.receipt)) == {
        "fault": "r1-1",
        "containers": [
            {
                "engine": "ENGINE:ONE",
                "id": "776562" * 10 + "7765",
                "name": "web",
                "started_at": "life 1",
                "health": "healthy",
            }
        ],
    }
    assert prepared.prior == [{"name": "web", "status": "running", "health": "healthy", "started_at": "life 1"}]


@pytest.mark.parametrize(
    ("act", "before", "status"), [("apply", "paused", 409), ("withdraw", "running", 500), ("withdraw", "exited", 500)]
)
def test_what_is_so_already_counts_only_after_a_look(act, before, status):
    """A second pause is 409, a second unpause 500: done if a look says so, an error if not."""
    engine = Engine(box := Box("web"))

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        if act == "withdraw":
            await injector.apply(site, receipt)
        word = {"apply": "pause", "withdraw": "unpause"}[act]
        engine.fails[word] = (status, "no")

        async def looked():  # what the engine says it is by the time of the second look
            box.status = before

        inspect = injector.apply if act == "apply" else injector.withdraw
        with pytest.raises(fake_engine.InjectionError, match=f"{word} web: {status} no"):
            await inspect(site, receipt)
        await looked()
        await inspect(site, receipt)

    against(engine, work)


def test_an_answer_that_does_not_come_is_an_error_and_is_not_asked_for_again(monkeypatch):
    """The apply reaches the engine once, whatever becomes of its answer."""
    monkeypatch.setattr("injectors._docker.engine.REQUEST_S", 0.1)
    engine = Engine(Box("web"))

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        engine.deaf.add("pause")
        with pytest.raises(fake_engine.InjectionError, match=r"pause web: .*timed out"):
            await injector.apply(site, receipt)

    against(engine, work)
    assert engine.asked == ["pause 7765"]


def test_paused_is_not_frozen():
    """The engine calls it paused, and a process runs on: not proven, whatever the status."""

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        await injector.apply(site, receipt)
        probes = []
        for states in (["D", "R"], ["S", "S"], ["D", "D"]):
            box.states = states
            probes.append(await injector.effective(site, receipt))
        return probes

    box = Box("web")
    assert [(probe.holds, probe.evidence["web"]["by"]) for probe in against(Engine(box), work)] == [
        (False, "a process ran between two looks"),
        (True, "no process ran between two looks"),
        (True, "every process is in state D"),
    ]


def test_unpaused_is_not_thawed():
    """The engine calls it running while every process is frozen: not gone."""

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        await injector.apply(site, receipt)
        box.status = "running"
        return await injector.gone(site, receipt)

    box = Box("web")
    probe = against(Engine(box), work)
    assert (probe.holds, dict(probe.evidence)) == (
        False, {"web": {"status": "running", "processes": ["10 D init", "11 D app"]}}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"status": "paused"}, "container web (776562776562) is already paused, and not by us"),
        ({"status": "exited"}, "container web (776562776562) is exited: only one that runs can be hit"),
        ({"status": "restarting"}, "container web (776562776562) is restarting: only one that runs can be hit"),
        (
            {"labels": {}},
            "container web (776562776562) has no label sim.environment: label what may be hit, or say unlabelled=true",
        ),
    ],
)
def test_prepare_refuses(change, why):
    """What is foreign, what is down, and what nobody labelled for exercises."""
    box = Box("web")
    for name, value in change.items():
        setattr(box, name, value)
    engine = Engine(box)
    assert against(engine, lambda site: refused(injector, site, container="web")) == why
    assert engine.asked == []


def test_two_by_label_are_hit_and_healed_together():
    """All that run and carry both labels; the one that is down is not among them."""
    labels = {"sim.environment": "sim-test", "tier": "back"}
    engine = Engine(
        Box("b", labels=labels), Box("a", labels=labels), Box("down", labels=labels, status="exited"), Box("web")
    )
    told = against(engine, lambda site: story(injector, site, container="tier=back,sim.environment=sim-test"))
    assert [(holds, sorted(evidence)) for holds, evidence in told] == [(h, ["a", "b"]) for h in (True, False, True)]
    assert sorted(engine.asked) == ["pause 6161", "pause 6262", "unpause 6161", "unpause 6262"]


def test_one_that_cannot_be_healed_keeps_no_other_in_its_fault():
    """All are tried; what went wrong is told; the probe of the whole says not gone."""
    labels = {"sim.environment": "sim-test", "tier": "back"}
    engine = Engine(Box("a", labels=labels), Box("b", labels=labels))

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="tier=back"))).receipt
        await injector.apply(site, receipt)
        first = next(iter(engine.boxes.values()))
        do_unpause = engine.do_unpause
        engine.do_unpause = lambda box, request: None if box is first else do_unpause(box, request)
        await injector.withdraw(site, receipt)
        return await injector.gone(site, receipt)

    probe = against(engine, work)
    assert not probe.holds
    assert {name: told["status"] for name, told in probe.evidence.items()} == {"a": "paused", "b": "running"}


def test_a_container_removed_or_made_anew_under_the_fault_is_no_longer_a_victim():
    """Gone holds for the old one and says so; its heir of the same name is not touched; withdraw has nothing to do."""
    engine = Engine(box := Box("web"))

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        await injector.apply(site, receipt)
        del engine.boxes[box.id]
        probes = [await injector.effective(site, receipt), await injector.gone(site, receipt)]
        heir = Box("web", id="f" * 64, status="paused")
        engine.boxes[heir.id] = heir
        await injector.withdraw(site, receipt)
        return [*probes, await injector.gone(site, receipt)], heir

    probes, heir = against(engine, work)
    assert [(probe.holds, dict(probe.evidence)) for probe in probes] == [
        (False, {"web": {"removed": True, "recreated_as": None}}),
        (True, {"web": {"removed": True, "recreated_as": None}}),
        (True, {"web": {"removed": True, "recreated_as": "f" * 12}}),
    ]
    assert (heir.status, engine.asked) == ("paused", ["pause 7765"])


def test_one_that_ended_while_it_was_paused_is_not_paused():
    """The fault is gone, and the evidence says that the container is down: starting it is not this fault's to do."""

    async def work(site):
        receipt = (await injector.prepare(site, injector.params(container="web"))).receipt
        await injector.apply(site, receipt)
        box.status = "exited"
        await injector.withdraw(site, receipt)
        return await injector.gone(site, receipt)

    box = Box("web")
    probe = against(Engine(box), work)
    assert (probe.holds, dict(probe.evidence)) == (True, {"web": {"status": "exited"}})


def test_an_engine_that_lists_no_processes_is_refused():
    """Neither the effect nor its end could be proven there: it is said before anything is paused."""
    engine = Engine(Box("web"))
    engine.fails["top"] = (500, "ps: command not found")
    told = against(engine, lambda site: refused(injector, site, container="web"))
    assert told == "top of container web (776562776562): 500 ps: command not found"
    assert engine.asked == []
