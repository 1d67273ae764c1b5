"""Traffic that goes with a fault: there before it and after it, journalled, and never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sim import company, log, recover, undo
from sim.clock import run_virtual
from sim.company import Companion, alive, ended
from sim.injection import Injection
from sim.injector import Company, Injector, Site
from sim.observation import Observation
from sim.plan import Fault
from sim.secret import Secrets
from sim.undo import FILE, Journal
from tests.kernel.scripted import Names, Script, World, bent, names, play

MODULE = "traffic_of_the_test"


class Process:
    """A process in virtual time: says its lines, each after some seconds, and ends when its input does."""

    def __init__(self, script: list[tuple[float, dict[str, str]]], ends_s: float | None = None) -> None:
        self.script, self.pid, self.told = list(script), os.getpid(), b""
        self.returncode: int | None = None
        self.stdin, self.stdout = self, self
        self._ended = asyncio.Event()
        if ends_s is not None:
            asyncio.get_running_loop().call_later(ends_s, self._end, 1)

    def _end(self, code: int) -> None:
        self.returncode = code if self.returncode is None else self.returncode
        self._ended.set()

    def write(self, data: bytes) -> None:
        """Take the orders."""
        self.told += data

    def close(self) -> None:
        """End of the input: it ends, too."""
        self._end(0)

    async def wait(self) -> int:
        """Wait for its end."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    async def readline(self) -> bytes:
        """Say the next line."""
        if self.script:
            wait_s, said = self.script.pop(0)
            await asyncio.sleep(wait_s)
            return json.dumps(said).encode() + b"\n"
        await self._ended.wait()
        return b""


def with_company(world: World, injector: Injector) -> Injector:
    """The scripted fault, with traffic that goes with it."""
    return replace(injector, accompany=lambda site, _: Company(MODULE, {"door": site.doors["door"].url}, ready_s=60.0))


def played(
    tmp_path: Path, monkeypatch: Any, started: Callable[[], Process], **more: Any
) -> tuple[Any, World, list[Process]]:
    """Run the scripted exercise with company in virtual time; return judgement, world, and what was started."""
    made: list[Process] = []

    async def start(*_: Any, **__: Any) -> Process:
        made.append(started())
        return made[-1]

    monkeypatch.setattr(company.asyncio, "create_subprocess_exec", start)
    judgement, world = play(tmp_path, monkeypatch, Script(odd=with_company), **more)
    return judgement, world, made


def told(tmp_path: Path) -> list[str]:
    """Return phases, marks of the fault and notes of the company, in order."""
    found = []
    for event in log.read(tmp_path / "log.jsonl"):
        if event.kind == "phase":
            found.append(str(event.data["name"]))
        elif event.kind in ("fault.t0", "fault.gone", "note") and "canary" not in str(event.data):
            found.append(str(event.data.get("text", event.kind)))
    return found


def records(tmp_path: Path) -> list[str]:
    """Return the names of the journal's records."""
    return [json.loads(line)["record"] for line in (tmp_path / FILE).read_bytes().splitlines()]


READY = [(1.0, {"note": "hello"}), (29.0, {"ready": "20 views"})]


def test_it_is_there_before_the_fault_and_until_all_is_well(tmp_path: Path, monkeypatch: Any) -> None:
    """Started, ready, then the baseline; ended only when recovery and restoring are over; told where to go."""
    judgement, world, (process,) = played(tmp_path, monkeypatch, lambda: Process(READY))
    assert str(judgement.outcome) == "passed"
    assert told(tmp_path) == [
        "look", "preflight", "accompany", "company of break: hello", "company of break: 20 views", "baseline", "inject",
        "fault.t0", "observe", "withdraw", "fault.gone", "recover", "restore", "close",
    ]  # fmt: skip
    assert process.told == b'{"door":"http://scripted"}\n'
    assert records(tmp_path) == [
        "open", "company", "restore", "restore", "intent", "applied", "withdrawn", "restored", "restored",
        "company_ended", "closed",
    ]  # fmt: skip
    assert undo.read(tmp_path / FILE).unfinished is False
    assert world.calls[0] == "prepare"


@pytest.mark.parametrize(
    ("process", "why"),
    [
        (lambda: Process([(1.0, {"note": "slow"})]), "not ready within 60 s"),
        (lambda: Process([], ends_s=2.0), "it ended by itself (exit 1); see company.log in the run folder"),
    ],
    ids=["never ready", "ends at once"],
)
def test_without_it_nothing_is_injected(tmp_path: Path, monkeypatch: Any, process: Any, why: str) -> None:
    """Inconclusive before t0; it is ended all the same, and nothing stays open."""
    judgement, world, (started,) = played(tmp_path, monkeypatch, process)
    assert (str(judgement.outcome), judgement.link, world.calls) == ("inconclusive", "company", [])
    assert why in " ".join(judgement.reasons)
    assert started.returncode is not None
    assert records(tmp_path) == ["open", "company", "company_ended", "closed"]


def test_a_company_that_leaves_too_early_ends_the_run(tmp_path: Path, monkeypatch: Any) -> None:
    """What is not seen then is nobody's fault: withdrawn at once, inconclusive, never failed."""
    judgement, world, _ = played(tmp_path, monkeypatch, lambda: Process(READY, ends_s=33.0))
    assert str(judgement.outcome) == "inconclusive"
    assert "ended by itself" in " ".join(judgement.reasons)
    assert "withdraw" in world.calls
    assert undo.read(tmp_path / FILE).unfinished is False


def test_a_company_that_cannot_be_started_refuses(tmp_path: Path, monkeypatch: Any) -> None:
    """No process, no run."""

    def cannot() -> Process:
        raise OSError("no more processes")

    judgement, world, _ = played(tmp_path, monkeypatch, cannot)
    assert (str(judgement.outcome), judgement.link, world.calls) == ("inconclusive", "company", [])


def test_a_signal_while_it_gets_ready_ends_both(tmp_path: Path, monkeypatch: Any) -> None:
    """The runner is stopped before the baseline: nothing was injected, the company is gone."""
    judgement, world, (process,) = played(tmp_path, monkeypatch, lambda: Process(READY), stop_at=10.0)
    assert (judgement.exit_code, world.calls, process.returncode) == (130, [], 0)
    assert records(tmp_path) == ["open", "company", "company_ended", "closed"]


@pytest.mark.parametrize("after", [5.0, 0.0], ids=["stays", "comes back by itself"])
def test_a_gauge_that_the_action_did_not_cure_is_not_waited_for(tmp_path: Path, monkeypatch: Any, after: float) -> None:
    """It is missed whatever it reads once the fault is gone: the run ends when all else is well, not with `recover`."""

    def burn(world: World, name: str) -> list[Observation]:
        gone = name == "prom" and world.off is not None
        return [Observation("gauge", {"fact": "burn", "value": after})] if gone else []

    judgement, _ = play(tmp_path, monkeypatch, bent(fire=None, burn=(0.0, 5.0), more=burn), expect="burn < 1")
    values = {verdict.clause: verdict.value for verdict in judgement.verdicts}
    assert (str(judgement.outcome), values["expect.1"], values["recover"]) == ("failed", "missed", "met")
    marks = dict(judgement.marks)
    assert marks["closed"] - marks["gone"] < 5


# -- real processes ----------------------------------------------------------------------------------------------

OBEDIENT = """
    import sys
    sys.stdin.readline()
    print('{"ready": "yes"}', flush=True)
    sys.stdin.read()
"""
STUBBORN = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.readline()
    print('{"ready": "yes"}', flush=True)
    while True:
        time.sleep(1)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: Any) -> Iterator[Callable[[str], str]]:
    """Return a function that makes a module of some source, to be run by a child."""

    def make(source: str) -> str:
        (tmp_path / f"{MODULE}.py").write_text(textwrap.dedent(source))
        return MODULE

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return make


def lived(folder: Path, module: str) -> tuple[bool, int, dict[str, Any]]:
    """Start a company, wait until it is ready, end it; return whether that worked, its pid and the journal's record."""

    class Quiet:
        def append(self, *_: Any) -> None:
            pass

    async def main() -> tuple[bool, int, dict[str, Any]]:
        journal = Journal(folder)
        journal.write("open", run="r")
        site = Site("r1-0", "r1", {}, Secrets({}))
        fault = Fault(injector="toy", text="toy()", params={}, lease="none", doors=())
        one = Companion(Injection(fault, None, site), Company(module, {}), Quiet())  # type: ignore[arg-type]
        await one.start(folder, journal)
        record: dict[str, Any] = dict(undo.read(folder / FILE).companies["r1-0"])
        while not one.ready and not one.trouble:
            await asyncio.sleep(0.01)
        gone = await one.end(journal)
        journal.close()
        return gone, int(record["pid"]), record

    return asyncio.run(main())


@pytest.mark.parametrize("source", [OBEDIENT, STUBBORN], ids=["obedient", "stubborn"])
def test_a_real_process_ends_with_its_input_or_is_ended(
    tmp_path: Path, monkeypatch: Any, module: Any, source: str
) -> None:
    """One that heeds its lease ends by itself; one that does not is killed."""
    monkeypatch.setattr(company, "ENDS_S", 8.0 if source is OBEDIENT else 0.2)
    gone, pid, _ = lived(tmp_path, module(source))
    assert (gone, psutil.pid_exists(pid)) == (True, False)
    assert undo.read(tmp_path / FILE).companies == {}


@pytest.fixture
def left_behind() -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """A process that nobody holds by its input any more, and does not heed SIGTERM."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(1)
    yield process, psutil.Process(process.pid).create_time()
    process.kill()
    process.wait()
    process.stdout.close()


def test_recovery_ends_what_was_left_behind(tmp_path: Path, monkeypatch: Any, left_behind: Any) -> None:
    """From the journal alone, in another process; the run counts as unfinished until then, and no fact is set back."""
    monkeypatch.setattr(company, "TERM_S", 0.1)
    process, started = left_behind
    journal = Journal(tmp_path)
    journal.write("open", run="r")
    journal.write("company", company="r1-0", injector="toy", pid=process.pid, started=started)
    journal.write("restore", fact="gate")
    journal.close()
    assert undo.read(tmp_path / FILE).unfinished is True
    known = Names({}, names(World(Script())).kinds)
    left = run_virtual(recover.recover(tmp_path, known, Secrets({}), lambda *_: None))
    assert (left.reasons, alive(process.pid, started)) == ((), None)
    assert records(tmp_path)[-2:] == ["company_ended", "closed"]
    assert undo.read(tmp_path / FILE).unfinished is False


def test_another_process_with_the_same_pid_is_left_alone(left_behind: Any) -> None:
    """Pid and start time together name a process."""
    process, started = left_behind
    assert ended({"pid": process.pid, "started": started - 5}) == ""
    assert process.poll() is None


def test_a_record_that_cannot_be_used_is_told() -> None:
    """It is a reason to keep the journal open."""
    assert "cannot be used" in ended({"pid": "x"})


@pytest.mark.parametrize("here", [False, True])
def test_what_is_on_this_machine_does_not_end_with_the_stack(tmp_path: Path, left_behind: Any, here: bool) -> None:
    """The target is gone with its faults; traffic and a fault that was here are ended all the same, nothing else is."""
    process, started = left_behind
    world = World(Script())
    journal = Journal(tmp_path)
    journal.write("open", run="r")
    journal.write("company", company="r1-0", injector="break", pid=process.pid, started=started)
    whole = names(world)
    known = Names({"break": replace(whole.injectors["break"], here=here)}, whole.kinds)
    doors = {"door": {"url": "http://scripted"}}
    intent = {"fault": "r1-1", "injector": "break", "receipt": {}, "prior": None, "doors": doors, "run": "r"}
    journal.write("intent", **intent, ttl_s=1.0, lease="none")
    journal.write("intent", **{**intent, "fault": "r1-2", "injector": "unknown"}, ttl_s=1.0, lease="none")
    journal.close()
    found = undo.read(tmp_path / FILE)
    left = run_virtual(recover.finish_here(found, known, Secrets({}), lambda *_: None, "recover"))
    assert (left.reasons, alive(process.pid, started)) == ((), None)
    assert ("withdraw" in world.calls, undo.read(tmp_path / FILE).unfinished) == (here, False)


@pytest.mark.parametrize(
    ("of_stack", "here", "injector", "withdrawn", "reasons"),
    [
        (True, False, "break", False, ()),
        (False, False, "break", True, ()),
        (False, False, "unknown", False, ("r1-1: unknown injector 'unknown'",)),
        (True, True, "break", True, ()),
        (True, True, "unknown", False, ("r1-1: unknown injector 'unknown'",)),
        (True, False, "unknown", False, ()),
    ],
)
def test_what_is_beyond_the_stack_does_not_end_with_it(
    tmp_path: Path, of_stack: bool, here: bool, injector: str, withdrawn: bool, reasons: tuple[str, ...]
) -> None:
    """A fault behind a door that the stack did not open (another database), or on this machine (a container), is
    withdrawn all the same; where its injector is not installed, the journal stays open.
    """
    world = World(Script())
    journal = Journal(tmp_path)
    journal.write("open", run="r")
    doors = {"door": {"url": "http://scripted"}}
    intent = {"fault": "r1-1", "injector": injector, "receipt": {}, "prior": None, "doors": doors, "run": "r"}
    journal.write("intent", **intent, ttl_s=1.0, lease="none", of_stack=of_stack, here=here)
    journal.close()
    found = undo.read(tmp_path / FILE)
    left = run_virtual(recover.finish_here(found, names(world), Secrets({}), lambda *_: None, "recover"))
    assert left.reasons == reasons
    assert ("withdraw" in world.calls, undo.read(tmp_path / FILE).unfinished) == (withdrawn, bool(reasons))


ODD = [(-1, None), (0, None), (10**30, None), (None, float("nan"))]


@pytest.mark.parametrize(("pid", "started"), ODD)
def test_a_record_that_names_no_process_ends_none(left_behind: Any, pid: int | None, started: float | None) -> None:
    """A number that no process can have, or a start that is no number and so compares with everything."""
    process, since = left_behind
    assert ended({"pid": process.pid if pid is None else pid, "started": since if started is None else started}) == ""
    assert process.poll() is None


def test_what_is_in_effect_by_the_time_of_the_fault_refuses(tmp_path: Path, monkeypatch: Any) -> None:
    """It took the company a while to get ready, and meanwhile somebody did what the action would do."""

    def more(world: World, who: str) -> list[Observation]:
        blocked = who == "state" and world.now() - world.t_open > 20.0
        return [Observation("state", {"fact": "gate", "value": "blocked"})] if blocked else []

    async def start(*_: Any, **__: Any) -> Process:
        return Process(READY)

    monkeypatch.setattr(company.asyncio, "create_subprocess_exec", start)
    judgement, world = play(tmp_path, monkeypatch, Script(odd=with_company, more=more))
    assert (str(judgement.outcome), judgement.link, world.calls) == ("inconclusive", "ready", [])
