"""What was broken on one machine is undone on that one: another does not know it, and must not call it gone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sim import recover, undo, whereabouts
from sim.clock import run_virtual
from sim.secret import Secrets
from sim.undo import FILE, Journal
from tests.kernel.scripted import Names, Script, World, names, play

HERE = whereabouts.here()
ANOTHER = {**HERE, "host": "elsewhere", "boot": "another"}
INSIDE = {**HERE, "host": "c0ffee", "pid": 1, "net": 2}
ANEW = {**HERE, "boot": "before the restart", "pid": 1, "net": 2}


def there(doors: dict[str, str], here: bool, at: Any) -> str:
    """Return where a fault behind these doors is, if it is not here."""
    bound = whereabouts.bound({name: {"url": url} for name, url in doors.items()}, here)
    return "" if bound is None else whereabouts.elsewhere(at, *bound)


DOORS = {
    "process": ({"processes": "file:///run/shop"}, True),
    "commands": ({}, True),
    "engine": ({"docker": "unix:///var/run/docker.sock"}, True),
    "loopback": ({"proxy": "http://127.0.0.1:8474"}, False),
    "far": ({"proxy": "http://proxy.shop:8474"}, False),
}


@pytest.mark.parametrize(
    ("at", "apart"),
    [
        (None, set()),
        (HERE, set()),
        (ANEW, set()),
        (ANOTHER, {"process", "commands", "engine", "loopback"}),
        (INSIDE, {"process", "commands", "loopback"}),
    ],
    ids=["never told", "here", "started anew", "another machine", "another container"],
)
def test_what_is_bound_to_a_machine(at: Any, apart: set[str]) -> None:
    """Pids and loopback addresses are a container's own, a socket is the machine's; the rest is reached from all."""
    assert {name for name, (doors, here) in DOORS.items() if there(doors, here, at)} == apart


def test_a_system_that_tells_nothing_of_itself_goes_by_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    """Then nobody can tell a restart, nor a container."""
    monkeypatch.setattr(whereabouts, "BOOT", tmp_path / "none")
    monkeypatch.setattr(whereabouts, "SPACES", tmp_path)
    bare = whereabouts.here()
    assert (bare["boot"], bare["pid"]) == ("", None)
    assert (whereabouts.elsewhere(bare, "pid"), whereabouts.elsewhere({**bare, "host": "x"})) == ("", "machine x")


@pytest.fixture
def left(tmp_path: Path) -> Any:
    """Return what lays down the journal of a run that was killed under its fault, on a machine."""

    def lay(at: Any, url: str = "http://127.0.0.1:1", **more: Any) -> undo.Open:
        journal = Journal(tmp_path)
        journal.write("open", run="r", machine=at, **more)
        doors: dict[str, Any] = {"door": {"url": url}}
        more = {"receipt": {}, "prior": None, "doors": doors, "run": "r", "ttl_s": 1.0, "lease": "none"}
        journal.write("intent", fault="r1-1", injector="break", of_stack=False, here=False, **more)
        journal.close()
        return undo.read(tmp_path / FILE)

    return lay


@pytest.mark.parametrize("stack_down", [False, True])
@pytest.mark.parametrize(
    ("at", "url", "open_"),
    [(HERE, "http://127.0.0.1:1", False), (ANOTHER, "http://127.0.0.1:1", True), (ANOTHER, "http://far", False)],
)
def test_recovery_elsewhere_leaves_it_open(left: Any, at: Any, url: str, open_: bool, stack_down: bool) -> None:
    """Nothing is sent to whoever has that address here, and the journal says still what is to be done."""
    found, world = left(at, url), World(Script())
    folder = found.path.parent
    more = (names(world), Secrets({}), lambda *_: None, "recover")
    work = recover.finish_here(found, *more) if stack_down else recover.recover(folder, *more)
    reasons = ("r1-1: it is of machine elsewhere: run sim recover there",) if open_ else ()
    assert run_virtual(work).reasons == reasons
    assert ("withdraw" in world.calls, undo.read(folder / FILE).unfinished) == (not open_, open_)


def test_a_fault_on_the_machine_is_bound_by_its_injector(left: Any) -> None:
    """A kind that says `here` is not undone elsewhere, whatever its door."""
    found, world = left(ANOTHER, "http://far"), World(Script())
    known = names(world)
    known = Names({"break": replace(known.injectors["break"], here=True)}, known.kinds)
    assert run_virtual(recover.recover(found.path.parent, known, Secrets({}), lambda *_: None)).reasons != ()
    assert "withdraw" not in world.calls


@pytest.mark.parametrize(("at", "open_"), [(HERE, False), (ANOTHER, True), (INSIDE, True)])
def test_the_traffic_of_a_run_is_known_to_have_ended_only_where_it_ran(tmp_path: Path, at: Any, open_: bool) -> None:
    """Its process is not to be seen elsewhere, and another of that number is none of it."""
    journal = Journal(tmp_path)
    journal.write("open", run="r", machine=at)
    journal.write("company", company="c-1", pid=2**22 + 1, started=1.0)
    journal.close()
    done = run_virtual(recover.recover(tmp_path, names(World(Script())), Secrets({}), lambda *_: None))
    assert (done.reasons != (), undo.read(tmp_path / FILE).unfinished) == (open_, open_)


@pytest.mark.parametrize(("at", "ended"), [(HERE, True), (ANOTHER, False), (INSIDE, False)])
def test_nobody_knows_elsewhere_that_a_stack_has_ended(left: Any, tmp_path: Path, at: Any, ended: bool) -> None:
    """Its folder may be shared; its processes are not to be seen."""
    assert recover.ended_with_its_stack(left(at, stack=str(tmp_path), instance="one")) is ended


def test_a_run_writes_down_where_it_is_and_puts_states_back_only_there(tmp_path: Path, monkeypatch: Any) -> None:
    """In the first record; a controller at a loopback address is another one elsewhere."""
    play(tmp_path, monkeypatch)
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert lines[0]["machine"] == HERE
    kept = [line for line in lines if line["record"] in ("open", "restore", "intent")]
    kept[0]["machine"] = ANOTHER
    for line in kept[1:]:
        if line["record"] == "restore":
            line["call"]["url"] = "http://localhost:1/gate"
    (tmp_path / FILE).write_text("".join(json.dumps(line) + "\n" for line in kept))
    world = World(Script())
    reasons = run_virtual(recover.recover(tmp_path, names(world), Secrets({}), lambda *_: None)).reasons
    facts = {line["fact"] for line in kept if line["record"] == "restore"}
    assert {f"{fact}: it is of machine elsewhere: run sim recover there" for fact in facts} <= set(reasons)
    assert world.set_back == {}
