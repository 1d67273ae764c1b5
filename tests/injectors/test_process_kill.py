"""`process.kill` against real processes, and a supervisor that restarts them when somebody looks twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from injectors import _processes
from injectors.process import kill
from injectors.process.kill import injector
from sim.injector import InjectionError
from sim.stack.procs import Proc
from tests.injectors import process_target


@asynccontextmanager
async def fake_target():
    """Yield what the contract test uses: doors, arguments, and whether the process runs."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        async with process_target.fake(Path(folder), monkeypatch, {"process": "worker"}) as given:
            yield given


@asynccontextmanager
async def apart_target():
    """Yield the same for an injector in another process."""
    with tempfile.TemporaryDirectory() as folder:
        async with process_target.supervised(Path(folder), {"process": "worker"}) as given:
            yield given


@pytest.fixture
def made():
    with process_target.tree() as tree:
        yield tree


@pytest.fixture
def path(made, tmp_path):
    """The state file of a stack in which the tree is a ready process."""
    process_target.state_file(tmp_path / "state.json", worker=("ready", made.main))
    return tmp_path / "state.json"


def params(**more):
    return injector.params.model_validate({"process": "worker", **more})


def prepared(site, **more):
    return asyncio.run(injector.prepare(site, params(**more)))


def shown(probe):
    return probe.holds, dict(probe.evidence)


def test_it_is_gone_when_it_runs_again_as_another_and_is_ready(made, path, monkeypatch):
    """Killed: not gone. Starting: not gone. Ready: gone. Its own children are nobody's business here."""
    monkeypatch.setattr(kill, "BACK_S", 0.0)
    site = process_target.site(path)
    before = prepared(site, signal="SIGTERM")
    receipt = json.loads(json.dumps(before.receipt))
    assert before.targets == (f"worker (pid {made.main.pid})",)
    assert (receipt["signal"], receipt["ports"], before.prior["state"]) == ("SIGTERM", 0, "ready")
    asyncio.run(injector.apply(site, receipt))
    made.process.wait()
    assert made.process.returncode == -signal.SIGTERM
    assert shown(asyncio.run(injector.effective(site, receipt))) == (
        True, {"process": "worker", "pid": made.main.pid, "state": "ended"},
    )  # fmt: skip
    seen = [asyncio.run(injector.gone(site, receipt))]
    with process_target.tree() as again:
        for state in ("starting", "ready"):
            process_target.state_file(path, worker=(state, again.main))
            asyncio.run(injector.withdraw(site, receipt))
            seen.append(asyncio.run(injector.gone(site, receipt)))
        assert again.main.alive(), "only the one that was meant is killed"
    own = {"process": "worker", "killed": made.main.pid, "ended": True}
    assert [shown(each) for each in seen] == [
        (False, own | {"pid": None, "state": "not running again"}),
        (False, own | {"pid": again.main.pid, "state": "starting", "ports": 0}),
        (True, own | {"pid": again.main.pid, "state": "ready", "ports": 0}),
    ]


def test_without_a_supervisor_s_word_it_is_ready_when_it_listens_as_before(made, tmp_path):
    """A pid file says that it runs; the ports say that it serves."""
    (tmp_path / "worker.pid").write_text(str(os.getpid()))
    before = kill._ports(Proc.of(os.getpid()))
    with socket.create_server(("127.0.0.1", 0)):
        assert kill._ports(Proc.of(os.getpid())) == before + 1
    (tmp_path / "worker.pid").write_text(str(made.main.pid))
    site = process_target.site(tmp_path)
    receipt = prepared(site).receipt | {"processes": [{"pid": 999999999, "started": 1.0}]}
    found = [asyncio.run(injector.gone(site, receipt | {"ports": ports})) for ports in (0, 1, None)]
    assert [each.holds for each in found] == [True, False, True]


def test_one_that_was_never_hit_runs_as_before(made, path):
    """And is gone from the beginning; nothing is waited for."""
    site = process_target.site(path)
    receipt = prepared(site).receipt
    asyncio.run(injector.withdraw(site, receipt))
    assert shown(asyncio.run(injector.gone(site, receipt)))[0]
    assert shown(asyncio.run(injector.effective(site, receipt)))[0] is False


def test_a_pid_that_is_somebody_else_s_by_now_is_not_hit(made, path):
    """Between the look and the signal the process was replaced: nothing is sent."""
    site = process_target.site(path)
    receipt = prepared(site).receipt
    receipt["processes"][0]["started"] += 1
    with pytest.raises(InjectionError, match=rf"worker: pid {made.main.pid} has ended meanwhile"):
        asyncio.run(injector.apply(site, receipt))
    assert made.main.alive()
    assert not asyncio.run(injector.gone(site, receipt | {"ports": 99})).holds


def test_one_that_outlives_the_signal_is_told(made, path, monkeypatch):
    """A stopped process hears SIGTERM only when it goes on: nothing has happened, and that is said."""
    monkeypatch.setattr(kill, "END_S", 0.0)
    site = process_target.site(path)
    receipt = prepared(site, signal="SIGTERM").receipt
    os.kill(made.main.pid, signal.SIGSTOP)
    assert asyncio.run(_processes.until(made.main.stopped, 5))
    with pytest.raises(InjectionError, match=r"did not end within 0 s of SIGTERM"):
        asyncio.run(injector.apply(site, receipt))


def test_prepare_refuses_one_that_is_not_ready(made, path):
    """Not running, or only just starting: killing it would prove nothing."""
    site, said = process_target.site(path), []
    for state, proc in (("starting", made.main), ("dead", None)):
        process_target.state_file(path, worker=(state, proc))
        with pytest.raises(InjectionError) as caught:
            prepared(site)
        said.append(str(caught.value).replace(str(path), "STATE"))
    assert said == [
        "STATE: worker is starting, not ready",
        "STATE: worker does not run, so it cannot be killed",
    ]
