"""State facts of a subject that the fault brings with it: absent before, so not yet in effect; put back when undone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sim import log, restore, undo
from sim.observation import Observation
from tests.kernel.scripted import PROFILE, World, bent, play

FACTS = {
    **PROFILE["facts"],
    "frozen": {"kind": "state", "stage": "act", "from": "release", "subject": "injection", "values": [True, False]},
    "phase": {"kind": "state", "stage": "act", "from": "release", "subject": "injection", "values": ["open", "done"]},
}  # fmt: skip
FREEZE = {"name": "block", "effect": "frozen==true", "ready": "frozen==false", "reversal": "on_resolved"}


def profile(**changes: Any) -> dict[str, Any]:
    """Return the profile with an action that freezes what carries the injection's id, and no restore call for it."""
    return {"facts": FACTS, "hooks": {"hook": {**PROFILE["hooks"]["hook"], "actions": [{**FREEZE, **changes}]}}}


@dataclass
class Market:
    """The subject: it comes with the fault and, unless it is taken away with it, stays."""

    goes: bool = False
    thaws: bool = True
    there_before: Any = None

    def reads(self, world: World) -> tuple[Any, Any]:
        """Return what `frozen` and `phase` read now."""
        if world.on is None:
            return self.there_before, None
        if self.goes and world.off is not None:
            return None, None
        frozen = world.passed(world.since(world.fires, world.script.act, world.script.effect))
        thawed = self.thaws and world.passed(world.since(world.resolved, world.script.reverse))
        thawed = thawed or world.set_back.get("frozen") is False
        return frozen and not thawed, "open" if world.off is None else "done"

    def more(self, world: World, who: str) -> list[Observation]:
        """Return what the observer of states sees besides."""
        reads = self.reads(world)
        if who != "state":
            return []
        return [Observation("state", {"fact": n, "value": v}) for n, v in zip(("frozen", "phase"), reads, strict=True)]


@pytest.mark.parametrize("goes", [False, True], ids=["the subject stays", "the subject goes"])
def test_it_is_ready_while_absent_and_put_back_once_undone(tmp_path: Path, monkeypatch: Any, goes: bool) -> None:
    """Absent, frozen, thawed: passed, and nothing is said to differ, also of what no action changes."""
    market = Market(goes=goes)
    judgement, _ = play(tmp_path, monkeypatch, bent(more=market.more), profile=profile())
    assert (str(judgement.outcome), judgement.reasons) == ("passed", ())
    said = {
        str(e.data.get("check")): e.data["detail"] for e in log.read(tmp_path / "log.jsonl") if e.kind == "preflight"
    }
    assert said["ready"] == "block: frozen==false: the subject does not exist yet"
    assert undo.read(tmp_path / "undo.jsonl").unfinished is False


@pytest.mark.parametrize("ready", ["frozen==false && gate=='open'", "gate=='open' && frozen==false"])
def test_what_is_there_is_still_asked(tmp_path: Path, monkeypatch: Any, ready: str) -> None:
    """Each part of `ready` counts by itself: the absent one holds, and the gate is open."""
    judgement, _ = play(tmp_path, monkeypatch, bent(more=Market().more), profile=profile(ready=ready))
    assert str(judgement.outcome) == "passed"


def test_a_part_that_does_not_hold_refuses_beside_an_absent_one(tmp_path: Path, monkeypatch: Any) -> None:
    """The gate is not blocked before: refused, although the subject is absent."""
    bad = "frozen==false && gate=='blocked'"
    judgement, world = play(tmp_path, monkeypatch, bent(more=Market().more), profile=profile(ready=bad))
    assert (judgement.link, world.calls) == ("ready", [])
    assert judgement.reasons == (f"ready: block needs {bad}, which is false: 'open'",)


def test_one_that_is_there_and_frozen_refuses(tmp_path: Path, monkeypatch: Any) -> None:
    """The subject exists and the effect holds already."""
    judgement, world = play(tmp_path, monkeypatch, bent(more=Market(there_before=True).more), profile=profile())
    assert (judgement.link, world.calls) == ("ready", [])


def test_an_effect_that_stays_is_missed_and_not_put_back(tmp_path: Path, monkeypatch: Any) -> None:
    """Never undone: recover names it, and since nothing can set it back the run is unsafe."""
    judgement, _ = play(tmp_path, monkeypatch, bent(more=Market(thaws=False).more), profile=profile())
    recover = next(verdict for verdict in judgement.verdicts if verdict.clause == "recover")
    assert (recover.value, recover.reason) == ("missed", "still amiss: block is not reversed: frozen reads True")
    assert (str(judgement.outcome), judgement.reasons) == (
        "unsafe", ("not put back: frozen reads True, did not exist before",),
    )  # fmt: skip


RESTORE = {"fact": "frozen", "url": "http://scripted/{injection}", "json": {"frozen": "{prior}"}}


def test_what_another_hook_could_have_done_counts_too(tmp_path: Path, monkeypatch: Any) -> None:
    """The hook of this exercise never speaks of `frozen`; another one of the target does, and somebody froze it."""
    other = {**PROFILE["hooks"]["hook"], "faults": [], "alerts": ["Other"], "actions": [{**FREEZE, "name": "freeze"}]}
    changed = {"facts": FACTS, "hooks": {**PROFILE["hooks"], "other": other}}
    judgement, _ = play(tmp_path, monkeypatch, bent(more=Market(thaws=False).more), profile=changed)
    assert (str(judgement.outcome), judgement.reasons) == (
        "unsafe", ("not put back: frozen reads True, did not exist before",),
    )  # fmt: skip


def test_what_can_be_set_back_is(tmp_path: Path, monkeypatch: Any) -> None:
    """Never undone, and the profile says how: failed at recover, set back to where no action is in effect."""
    calls: list[str] = []
    real = restore._calls

    def told(done: Any) -> Any:
        calls.extend(call["url"] for call in real(done))
        return real(done)

    monkeypatch.setattr(restore, "_calls", told)
    script = bent(more=Market(thaws=False).more)
    judgement, world = play(
        tmp_path, monkeypatch, script, profile={**profile(), "restore": [*PROFILE["restore"], RESTORE]}
    )
    assert (str(judgement.outcome), judgement.link) == ("failed", "recover")
    assert world.set_back["frozen"] is False
    lines = [json.loads(line) for line in (tmp_path / "undo.jsonl").read_text().splitlines()]
    made = next(line for line in lines if line["record"] == "restore" and line["fact"] == "frozen")
    fault = next(event.data["fault"] for event in log.read(tmp_path / "log.jsonl") if event.kind == "fault.prepared")
    assert (made["prior"], made["injections"]) == (False, [fault])
    assert undo.read(tmp_path / "undo.jsonl").unfinished is False
    assert calls == [f"http://scripted/{fault}"]


def test_what_is_gone_with_the_fault_is_back(tmp_path: Path, monkeypatch: Any) -> None:
    """The subject was taken away: nothing is called."""
    script = bent(more=Market(goes=True, thaws=False).more)
    judgement, world = play(
        tmp_path, monkeypatch, script, profile={**profile(), "restore": [*PROFILE["restore"], RESTORE]}
    )
    assert (str(judgement.outcome), judgement.reasons, "frozen" in world.set_back) == ("passed", (), False)


def test_a_value_that_nobody_can_name_is_not_set_back(tmp_path: Path, monkeypatch: Any) -> None:
    """No action speaks of `phase`: where to set it back to is not known, so there is no record of it."""
    call = {"fact": "phase", "url": "http://scripted/{injection}", "json": {"phase": "{prior}"}}
    play(tmp_path, monkeypatch, bent(more=Market().more), profile={**profile(), "restore": [*PROFILE["restore"], call]})
    assert '"fact":"phase"' not in (tmp_path / "undo.jsonl").read_text().replace(" ", "")
