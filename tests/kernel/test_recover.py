"""`sim recover` finishes, from the journal alone, whatever a killed run left; and does nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from sim import machine, recover, restore, undo
from sim.catalogue import UnknownName
from sim.cli import run as run_verb
from sim.cli.recover import command
from sim.clock import run_virtual
from sim.injector import InjectionError, Probe
from sim.observation import CannotLook
from sim.recover import Left
from sim.secret import Secrets
from sim.target import Fact, ObserverSpec, Restore
from sim.undo import FILE, JournalError
from tests.kernel.scripted import Names, Script, World, bent, names, play


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Return the journal's lines of a run with two faults that passed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        judgement, _ = play(folder, patched, inject=["break()", "crack()"])
    assert str(judgement.outcome) == "passed"
    return (folder / FILE).read_bytes().splitlines(keepends=True)


RECORDS = [
    "open", "restore", "restore", "intent", "intent", "applied", "applied", "withdrawn", "withdrawn", "restored",
    "restored", "closed",
]  # fmt: skip


def test_what_a_whole_run_leaves_in_its_journal(whole: list[bytes]) -> None:
    """One record a step; the other tests cut it behind each of them."""
    assert [json.loads(line)["record"] for line in whole] == RECORDS


def finish(
    folder: Path, monkeypatch: Any, world: World, known: Names | None = None, secrets: Secrets | None = None
) -> tuple[Left, list[str]]:
    """Recover the run in `folder` against `world`; return what is left and what was said."""
    said: list[str] = []

    async def send(call: Any, _: Secrets) -> None:
        world.calls.append(f"restore {call['json']}")
        if world.script.restore_works:
            world.set_back.update(call["json"])

    monkeypatch.setattr(restore, "send", send)

    def say(kind: str, data: Any) -> None:
        said.append(f"{kind} {data}")

    async def story() -> Left:
        world.on = -1000.0  # long since: what actions changed is there
        world.off = None if world.off is None else world.now()
        return await recover.recover(folder, known or names(world), secrets or Secrets({}), say)

    return run_virtual(story()), said


def killed(whole: list[bytes], folder: Path, count: int, script: Script | None = None) -> World:
    """Lay down the journal of a runner killed behind its `count`-th record, and return the target as it is then."""
    (folder / FILE).write_bytes(b"".join(whole[:count]))
    done = RECORDS[:count]
    world = World(script or bent(lane_after="slow"))
    world.cracked = done.count("intent") == 2 and done.count("withdrawn") < 1
    world.off = 1.0 if "intent" not in done or done.count("withdrawn") == 2 else None
    return world


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn tail"])
@pytest.mark.parametrize("count", range(len(RECORDS) + 1))
def test_a_run_killed_behind_any_record_is_finished(
    tmp_path: Path, monkeypatch: Any, whole: list[bytes], count: int, torn: bool
) -> None:
    """Every fault gone, every state as before, the journal closed; a second recover touches nothing."""
    world = killed(whole, tmp_path, count)
    if torn and count < len(whole):
        with (tmp_path / FILE).open("ab") as file:
            file.write(whole[count][: len(whole[count]) // 2])
    was_open = undo.read(tmp_path / FILE)
    left, _ = finish(tmp_path, monkeypatch, world)
    assert left == Left(tmp_path, ())
    assert undo.read(tmp_path / FILE).unfinished is False
    if was_open.faults:
        assert (world.off is not None, world.cracked) == (True, False)
    assert set(world.set_back) == (set(was_open.restores) if was_open.intended else set())
    before, calls = (tmp_path / FILE).read_bytes(), list(world.calls)
    assert finish(tmp_path, monkeypatch, world) == (Left(tmp_path, ()), [])
    assert ((tmp_path / FILE).read_bytes(), world.calls) == (before, calls)


def test_faults_are_withdrawn_in_reverse_and_then_put_back(
    tmp_path: Path, monkeypatch: Any, whole: list[bytes]
) -> None:
    """As the runner itself would have done."""
    world = killed(whole, tmp_path, 7)
    finish(tmp_path, monkeypatch, world)
    assert world.calls == ["withdraw crack", "withdraw", "restore {'gate': 'open'}", "restore {'lane': 'fast'}"]


def test_an_unknown_injector_leaves_its_fault_open_and_finishes_the_rest(
    tmp_path: Path, monkeypatch: Any, whole: list[bytes]
) -> None:
    """The package that brought it is gone: the reason is told, and all else is withdrawn and put back."""
    world = killed(whole, tmp_path, 7)
    known = names(world)
    left, _ = finish(tmp_path, monkeypatch, world, Names({"crack": known.injectors["crack"]}, known.kinds))
    assert left.reasons == (f"{json.loads(whole[3])['fault']}: unknown injector 'break'",)
    assert (world.cracked, set(world.set_back)) == (False, {"gate", "lane"})
    found = undo.read(tmp_path / FILE)
    assert (found.unfinished, len(found.faults), found.restores) == (True, 1, {})


def test_an_unknown_observer_leaves_its_state_open_and_finishes_the_rest(
    tmp_path: Path, monkeypatch: Any, whole: list[bytes]
) -> None:
    """What cannot be read back is not put back: told, after every fault was withdrawn."""
    world = killed(whole, tmp_path, 7)

    class Blindfolded(Names):
        def observer(self, name: str) -> Any:
            raise UnknownName(f"unknown observer {name!r}", None)

    left, _ = finish(tmp_path, monkeypatch, world, Blindfolded(names(world).injectors, {}))
    assert left.reasons == ("gate: unknown observer 'state'", "lane: unknown observer 'state'")
    assert (world.off is not None, world.cracked) == (True, False)
    assert list(undo.read(tmp_path / FILE).restores) == ["gate", "lane"]


@pytest.mark.parametrize("of_stack", [True, False])
@pytest.mark.parametrize("intended", [True, False])
def test_a_state_that_is_beyond_the_stack_is_put_back_though_the_stack_is_down(
    tmp_path: Path, monkeypatch: Any, whole: list[bytes], of_stack: bool, intended: bool
) -> None:
    """A controller that the stack did not bring holds what an action set there; what was in the stack went with it."""
    world = killed(whole, tmp_path, 4 if intended else 3)
    lines = [altered(line, of_stack=of_stack) if b'"restore"' in line else line for line in whole]
    (tmp_path / FILE).write_bytes(b"".join(lines[: 4 if intended else 3]))
    book = undo.read(tmp_path / FILE)
    here = recover.finish_here
    monkeypatch.setattr(recover, "recover", lambda _, known, secrets, say: here(book, known, secrets, say, "recover"))
    left, _ = finish(tmp_path, monkeypatch, world)
    assert (left.reasons, undo.read(tmp_path / FILE).unfinished) == ((), False)
    assert set(world.set_back) == ({"gate", "lane"} if intended and not of_stack else set())


def test_a_restore_call_says_whether_it_goes_to_the_stack(whole: list[bytes]) -> None:
    """It is written down before the stack's address is filled in, as nobody can tell afterwards."""
    assert [json.loads(line)["of_stack"] for line in whole[1:3]] == [False, False]
    fact = Fact.model_validate({"kind": "state", "stage": "act", "from": "prom", "values": ["open", "blocked"]})
    for url, of_stack in [("${stack.dec}/gate", True), ("http://127.0.0.1:1/gate", False)]:
        call, specs = Restore(fact="gate", url=url), {"prom": ObserverSpec(kind="prometheus", url="http://p")}
        assert restore.record(call, "open", specs, fact, {"dec": "http://d"})["of_stack"] is of_stack


def altered(line: bytes, **changes: Any) -> bytes:
    """Return a record with some fields changed, or left out where the change is null."""
    record = {**json.loads(line), **changes}
    return json.dumps({key: value for key, value in record.items() if value is not None}).encode() + b"\n"


TAMPERED = [{"receipt": None}, {"doors": [1]}, {"ttl_s": "soon"}, {"lease": "forever"}, {"doors": {"door": {"x": 1}}}]


@pytest.mark.parametrize("changes", TAMPERED, ids=[str(each) for each in TAMPERED])
def test_a_tampered_intent_does_not_keep_the_other_fault(
    tmp_path: Path, monkeypatch: Any, whole: list[bytes], changes: dict[str, Any]
) -> None:
    """A record that cannot be used is told and stays open; the others are withdrawn and put back."""
    world = killed([*whole[:4], altered(whole[4], **changes), *whole[5:]], tmp_path, 7)
    left, _ = finish(tmp_path, monkeypatch, world)
    assert len(left.reasons) == 1
    assert "its record in the journal cannot be used" in left.reasons[0]
    assert (world.off is not None, world.cracked) == (True, True)


TROUBLES = [
    ("the observer is blind", CannotLook("connection refused"), "gate: connection refused"),
    ("the observer hangs", None, "gate: release does not answer within 5 s"),
    ("the observer falls over", KeyError("x"), "gate: KeyError: 'x'"),
]


@pytest.mark.parametrize(("error", "why"), [row[1:] for row in TROUBLES], ids=[row[0] for row in TROUBLES])
def test_a_state_that_cannot_be_read_back_is_told_and_the_next_is_tried(
    tmp_path: Path, monkeypatch: Any, whole: list[bytes], error: Exception | None, why: str
) -> None:
    """Each restore by itself, bounded in time."""
    import asyncio

    real = restore._read

    async def read(done: Any, *rest: Any) -> Any:
        if done["fact"] != "gate":
            return await real(done, *rest)
        if error is not None:
            raise error
        await asyncio.sleep(4.9)
        raise CannotLook("release does not answer within 5 s")

    monkeypatch.setattr(restore, "_read", read)
    world = killed(whole, tmp_path, 7)
    left, _ = finish(tmp_path, monkeypatch, world)
    assert left.reasons == (why,)
    assert (world.set_back, list(undo.read(tmp_path / FILE).restores)) == ({"lane": "fast"}, ["gate"])


@pytest.mark.parametrize(("slow_s", "left"), [(15.0, ()), (40.0, ("gate: still busy", "lane: still busy"))])
def test_a_target_that_is_slow_after_the_fault_is_waited_for(
    tmp_path: Path, monkeypatch: Any, whole: list[bytes], slow_s: float, left: tuple[str, ...]
) -> None:
    """What was overloaded answers late: no reason to call it unsafe. One patience for all facts, and it ends."""
    import asyncio

    real, began = restore._read, []

    async def read(done: Any, *rest: Any) -> Any:
        now = asyncio.get_running_loop().time()
        began.append(now)
        if now - began[0] < slow_s:
            raise CannotLook("still busy")
        return await real(done, *rest)

    monkeypatch.setattr(restore, "_read", read)
    world = killed(whole, tmp_path, 7)
    found, _ = finish(tmp_path, monkeypatch, world)
    assert found.reasons == left
    assert slow_s <= 20.0 or began[-1] - began[0] < restore.PATIENCE_S + 2.0


def test_an_observer_that_hangs_is_given_up(tmp_path: Path, monkeypatch: Any, whole: list[bytes]) -> None:
    """A read-back that never answers ends as not put back, never as a crash or as a wait without end."""
    import asyncio

    world = killed(whole, tmp_path, 7)
    kinds = dict(names(world).kinds)
    opened = kinds["state"].open

    def slow(given: Any) -> Any:
        context = opened(given)

        class Slow:
            async def __aenter__(self) -> Any:
                await asyncio.sleep(1e6)
                return await context.__aenter__()

            async def __aexit__(self, *rest: Any) -> None:
                await context.__aexit__(*rest)

        return Slow()

    kinds["state"] = replace(kinds["state"], open=slow)
    left, _ = finish(tmp_path, monkeypatch, world, Names(names(world).injectors, kinds))
    assert left.reasons == (
        "gate: release does not answer within 5 s",
        "lane: release does not answer within 5 s",
    )


def test_one_failed_look_is_not_yet_a_state_that_cannot_be_read(
    tmp_path: Path, monkeypatch: Any, whole: list[bytes]
) -> None:
    """A single refused connection is looked at again."""
    failed: list[str] = []

    def trouble(world: World, name: str) -> None:
        if not failed:
            failed.append(name)
            raise CannotLook("connection reset")

    world = killed(whole, tmp_path, 7, bent(lane_after="slow", trouble=trouble))
    left, _ = finish(tmp_path, monkeypatch, world)
    assert (left.reasons, failed) == ((), ["state"])


def test_what_is_stuck_is_told_without_its_secret(tmp_path: Path, monkeypatch: Any, whole: list[bytes]) -> None:
    """The fault stays: still open, and the reason shows no value of a secret."""
    secrets = Secrets({"T": "hunter2hunter2"})
    secrets.resolve("env:T")

    def odd(world: World, injector: Any) -> Any:
        async def withdraw(site: Any, receipt: Any) -> None:
            raise InjectionError("401 for hunter2hunter2")

        async def gone(site: Any, receipt: Any) -> Probe:
            return Probe(False, {})

        return replace(injector, withdraw=withdraw, gone=gone)

    world = killed(whole, tmp_path, 7, bent(odd=odd))
    left, _ = finish(tmp_path, monkeypatch, world, secrets=secrets)
    assert left.reasons == (f"{json.loads(whole[3])['fault']} is not proven gone",)
    assert undo.read(tmp_path / FILE).unfinished is True


def test_a_restore_that_changes_nothing_is_told(tmp_path: Path, monkeypatch: Any, whole: list[bytes]) -> None:
    """The controller took the call and the state reads on as it did: still open."""
    world = killed(whole, tmp_path, 7, bent(lane_after="slow", restore_works=False, reverse=None))
    left, _ = finish(tmp_path, monkeypatch, world)
    assert left.reasons == ("gate reads 'blocked', was 'open'", "lane reads 'slow', was 'fast'")


# -- whose it is -------------------------------------------------------------------------------------------------


def mine() -> dict[str, Any]:
    """Return the owner's record of this process."""
    return {"owner": {"pid": os.getpid(), "started": psutil.Process().create_time()}}


def test_the_owner_is_a_process_and_its_start() -> None:
    """The same pid of another time is another process; what is no owner is nobody."""
    me = mine()
    assert recover.owner_alive(me) is True
    later = {"owner": {**me["owner"], "started": me["owner"]["started"] + 5.0}}
    strange: list[dict[str, Any]] = [
        later, {}, {"owner": None}, {"owner": "x"}, {"owner": {"pid": None}}, {"owner": {"pid": -1, "started": 0}},
    ]  # fmt: skip
    assert [recover.owner_alive(each) for each in strange] == [False] * len(strange)


def test_a_dead_runner_that_nobody_buried_is_dead() -> None:
    """A zombie has its pid and its start time still; it withdraws nothing any more."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        header = {"owner": {"pid": child.pid, "started": psutil.Process(child.pid).create_time()}}
        assert recover.owner_alive(header) is True
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert recover.owner_alive(header) is False
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait()


def runs_below(tmp_path: Path, **journals: list[bytes]) -> Path:
    """Lay down run folders."""
    for name, lines in journals.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "plan.json").write_text("{}")
        if lines:
            (tmp_path / "runs" / name / FILE).write_bytes(b"".join(lines))
    (tmp_path / "sim.toml").write_text("")
    return tmp_path / "runs"


def test_unfinished_runs_are_found_and_a_broken_journal_is_not_passed_over(tmp_path: Path, whole: list[bytes]) -> None:
    """Oldest first; one that cannot be understood is an error: the state of its target is unknown."""
    runs = runs_below(tmp_path, a=whole, b=whole[:5], c=whole[:4], d=[], e=whole[:3])
    assert [found.path.parent.name for found in recover.unfinished(runs)] == ["b", "c"]
    assert recover.unfinished(tmp_path / "none") == []
    (runs / "d" / FILE).write_bytes(b"nonsense\n")
    with pytest.raises(JournalError, match="not a journal record"):
        recover.unfinished(runs)


# -- the verb ----------------------------------------------------------------------------------------------------


def verb(tmp_path: Path, monkeypatch: Any, *args: str) -> tuple[int, str]:
    """Run `sim recover` in a project at `tmp_path`; return its code and all it said."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command, list(args))
    return done.exit_code, done.output


def test_nothing_is_open(tmp_path: Path, monkeypatch: Any, whole: list[bytes]) -> None:
    """No run, a finished one, and one that never injected: 0 each time."""
    runs_below(tmp_path, done=whole, refused=[])
    assert verb(tmp_path, monkeypatch) == (0, "nothing is open\n")
    assert verb(tmp_path, monkeypatch, "--all") == (0, "nothing is open\n")
    assert verb(tmp_path, monkeypatch, "done") == (0, "done: nothing is open\n")
    assert verb(tmp_path, monkeypatch, "refused") == (0, "nothing is open\n")


def test_a_dry_run_says_what_is_open_and_touches_nothing(tmp_path: Path, monkeypatch: Any, whole: list[bytes]) -> None:
    """6, each fault and each state, and the journal as it was."""
    runs = runs_below(tmp_path, cut=whole[:6])
    before = (runs / "cut" / FILE).read_bytes()
    code, out = verb(tmp_path, monkeypatch, "--dry-run")
    assert (code, out.count("would withdraw"), out.count("would put back")) == (6, 2, 2)
    assert (runs / "cut" / FILE).read_bytes() == before


def test_what_cannot_be_withdrawn_here_is_still_open(tmp_path: Path, monkeypatch: Any, whole: list[bytes]) -> None:
    """The installed catalogue knows no injector `break`: 6, with the reason and the folder."""
    dead = altered(whole[0], owner={"pid": 2**22 - 1, "started": 1.0})
    runs_below(tmp_path, cut=[dead, *whole[3:5]])
    code, out = verb(tmp_path, monkeypatch, "cut")
    assert (code, "unknown injector 'break'" in out, "cut: still open" in out) == (6, True, True)


def test_a_run_whose_runner_is_at_work_is_left_alone(tmp_path: Path, monkeypatch: Any, whole: list[bytes]) -> None:
    """6, naming the process; nothing is withdrawn under its hands."""
    runs = runs_below(tmp_path, live=[altered(whole[0], **mine()), *whole[1:5]])
    before = (runs / "live" / FILE).read_bytes()
    code, out = verb(tmp_path, monkeypatch)
    assert (code, f"live: its runner (pid {os.getpid()}) is still at work" in out) == (6, True)
    assert (runs / "live" / FILE).read_bytes() == before


def test_a_journal_that_cannot_be_read_is_six(tmp_path: Path, monkeypatch: Any, whole: list[bytes]) -> None:
    """A foreign version: the state is unknown, which is not nothing."""
    runs_below(tmp_path, odd=[altered(whole[0], v=9)])
    code, out = verb(tmp_path, monkeypatch, "odd")
    assert (code, "journal version 9; this sim reads version 1" in out) == (6, True)


@pytest.mark.parametrize("args", [["nowhere"], ["done", "--all"]], ids=["no such run", "a run and all"])
def test_usage(tmp_path: Path, monkeypatch: Any, whole: list[bytes], args: list[str]) -> None:
    """What makes no sense is 2."""
    runs_below(tmp_path, done=whole)
    assert verb(tmp_path, monkeypatch, *args)[0] == 2


@pytest.mark.parametrize("ended", [False, True])
def test_recover_first_waits_for_nobody_and_meets_nobody(
    tmp_path: Path, whole: list[bytes], capsys: Any, ended: bool
) -> None:
    """The watchdog of the run that was cut short may be at work still: two must not meet on one target."""
    world = killed(whole, tmp_path, 7)
    found: Any = SimpleNamespace(catalogue=names(world))
    journal = undo.read(tmp_path / FILE)
    hold = machine.hold(str(journal.header["target"]), str(journal.header["instance"]), "theirs")
    try:
        assert run_verb._recovered(found, journal, ended) == 6
    finally:
        hold.release()
    assert (world.calls, "is at work on this target; wait for it" in capsys.readouterr().err) == ([], True)
    assert undo.read(tmp_path / FILE).unfinished is True
