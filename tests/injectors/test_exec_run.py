"""`exec.run` with a small shell script as the program that somebody plugs in, and `injectors/_programs.py`."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import yaml
from pydantic import ValidationError

from injectors import _programs
from injectors._programs import Ended, Room, run
from injectors.exec import run as module
from injectors.exec.run import injector
from sim.injector import InjectionError, Site
from sim.secret import Secrets
from sim.target import Commands, Door

#: A fault that is a file: `start`, `verify`, `stop` and `gone` of the file that is given.
SCRIPT = """#!/bin/sh
echo "$1 $2"
case "$1" in
  start) echo "$SIM_INJECTION $SIM_RUN" > "$2" ;;
  verify) test -e "$2" ;;
  stop) rm -f "$2" ;;
  gone) ! test -e "$2" ;;
esac
"""


def commands(folder, **changes):
    """Return a door with one set of commands, of a script in this folder."""
    script = folder / "flag.sh"
    script.write_text(SCRIPT)
    script.chmod(0o700)
    steps = {step: (str(script), step, f"{folder}/of-{{injection}}") for step in ("start", "verify", "stop", "gone")}
    return Door(commands={"flag": Commands.model_validate({**steps, **changes})})


@asynccontextmanager
async def fake_target():
    """Yield what the contract test uses: a door of commands, the name of a set, and the files that are the faults."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        yield (
            {"exec": commands(folder)},
            {"commands": "flag"},
            lambda: sorted(each.name for each in folder.glob("of-*")),
        )


def site(door, **environ):
    return Site("r1-0", "r1", {"exec": door} if door else {}, Secrets({"TOKEN": "open-sesame", **environ}), ttl_s=6.0)


def prepared(here):
    return asyncio.run(injector.prepare(here, injector.params(commands="flag")))


def refused(here, name="flag"):
    """Prepare, which must be refused, and return why."""
    with pytest.raises(InjectionError) as caught:
        asyncio.run(injector.prepare(here, injector.params(commands=name)))
    return str(caught.value)


def test_an_exercise_names_a_set_and_no_program():
    """The name comes first; a hold may follow; an argument list is none."""
    given = injector.params.model_validate({"commands": "flag", "duration": "90s"})
    assert (injector.positional, given.commands, injector.duration_s(given)) == (("commands",), "flag", 90.0)
    for wrong in (["rm", "-rf"], "", None):
        with pytest.raises(ValidationError):
            injector.params.model_validate({"commands": wrong})


def test_a_set_that_the_profile_has_not_is_found_when_the_files_are_read(tmp_path):
    """By the doors alone; a door that is not there at all is told by whoever reads the profile."""
    door = commands(tmp_path)
    found = [
        injector.unfit(injector.params(commands=name), doors)
        for name, doors in (("flag", {"exec": door}), ("flagg", {"exec": door}), ("flag", {}),
                            ("flag", {"exec": Door(url="http://127.0.0.1:1")}))
    ]  # fmt: skip
    assert found == [
        None,
        "the profile's doors.exec has no commands 'flagg'; did you mean 'flag'?",
        None,
        "the profile's doors.exec has no commands: add doors.exec.commands.NAME",
    ]


def test_prepare_changes_nothing_and_keeps_where_it_was(tmp_path, monkeypatch):
    """The receipt says which set, in which folder, found along which path; no argument list stands in it."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = prepared(site(commands(tmp_path)))
    assert json.loads(json.dumps(found.receipt)) == {
        "fault": "r1-0", "run": "r1", "commands": "flag", "cwd": os.getcwd(), "path": "/usr/bin:/bin",
    }  # fmt: skip
    assert found.targets == ("what the commands flag hit",)
    assert found.prior == {
        "gone": {"exit": 0, "said": f"gone {tmp_path}/of-r1-0"},
        "verify": {"exit": 1, "said": f"verify {tmp_path}/of-r1-0"},
    }
    assert list(tmp_path.glob("of-*")) == []


def test_prepare_refuses_what_would_prove_nothing(tmp_path):
    """A missing door, set, program or variable; a fault that is there; a verify that is content with anything."""
    nowhere = {"start": ["no-such-pumba", "x"], "gone": [f"{tmp_path}/none"]}
    door = commands(tmp_path)
    there = [
        refused(site(None)),
        refused(site(Door(url="http://127.0.0.1:1"))),
        refused(site(door), "flagg"),
        refused(site(door), "other"),
        refused(site(commands(tmp_path, **nowhere))),
        refused(site(commands(tmp_path, gone=["sh", "-c", "echo still there; exit 3"]))),
        refused(site(commands(tmp_path, verify=["true"]))),
        refused(site(commands(tmp_path, env={"KEY": "env:NO_KEY"}))),
    ]
    assert there == [
        "the profile's doors.exec has no commands: add doors.exec.commands.NAME",
        "the profile's doors.exec has no commands: add doors.exec.commands.NAME",
        "the profile's doors.exec has no commands 'flagg'; did you mean 'flag'?",
        "the profile's doors.exec has no commands 'other'; it has: flag",
        f"doors.exec.commands.flag: no such program: start: no-such-pumba, gone: {tmp_path}/none "
        "(install it, or fix PATH)",
        "gone of flag ended with 3 before anything was injected: still there",
        "verify of flag ended with 0 before anything was injected: it would prove nothing",
        "doors.exec.commands.flag.env: environment variable NO_KEY is not set (wanted by 'env:NO_KEY')",
    ]
    assert list(tmp_path.glob("of-*")) == []


def test_the_whole_life_undone_from_the_journal(tmp_path, monkeypatch):
    """Start, verify, stop twice, gone: undone elsewhere, in another folder, along another path, the same is run."""
    here = site(commands(tmp_path))
    receipt = prepared(here).receipt
    asyncio.run(injector.apply(here, receipt))
    flag = tmp_path / "of-r1-0"
    assert flag.read_text() == "r1-0 r1\n"
    assert asyncio.run(injector.effective(here, receipt)).evidence == {"verify": {"exit": 0, "said": f"verify {flag}"}}

    kept = json.loads(json.dumps(receipt))
    door = Door.model_validate(json.loads(json.dumps(here.doors["exec"].model_dump(mode="json", exclude_none=True))))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir("/")
    during = asyncio.run(injector.gone(site(door), kept))
    for _ in range(2):
        asyncio.run(injector.withdraw(site(door), kept))
    after = asyncio.run(injector.gone(site(door), kept))
    assert (during.holds, during.evidence) == (False, {"gone": {"exit": 1, "said": f"gone {flag}"}})
    assert (after.holds, after.evidence) == (
        True, {"gone": {"exit": 0, "said": f"gone {flag}"}, "verify": {"exit": 1, "said": f"verify {flag}"}},
    )  # fmt: skip
    assert not flag.exists()


RECEIPT = {"fault": "r1-0", "run": "r1", "commands": "flag", "cwd": "/", "path": "/usr/bin:/bin"}


def test_the_example_of_the_module_is_a_door():
    """What stands in its docstring, and so on its page, can be written into a profile as it is."""
    block = inspect.cleandoc(module.__doc__).partition("::\n\n")[2].partition("\n\nAn exercise")[0]
    door = Door.model_validate(yaml.safe_load(block)["doors"]["exec"])
    assert list(door.commands) == ["slow_queue"]
    assert door.commands["slow_queue"].env == {"QUEUE_TOKEN": "env:QUEUE_TOKEN"}


def test_no_effect_is_told_and_a_failed_command_is_an_error(tmp_path):
    """A verify that is not content is no effect; a start or stop that fails says with what."""
    here = site(commands(tmp_path, start=["sh", "-c", "echo half done; exit 5"], stop=["false"]))
    assert asyncio.run(injector.effective(here, RECEIPT)).holds is False
    told = []
    for step in (injector.apply, injector.withdraw):
        with pytest.raises(InjectionError) as caught:
            asyncio.run(step(here, RECEIPT))
        told.append(str(caught.value))
    assert told == ["start of flag ended with 5: half done", "stop of flag ended with 1"]


def test_gone_is_not_believed_while_verify_still_sees_the_fault(tmp_path):
    """Two looks that contradict each other prove nothing."""
    here = site(commands(tmp_path, gone=["true"]))
    asyncio.run(injector.apply(here, RECEIPT))
    assert asyncio.run(injector.gone(here, RECEIPT)).holds is False
    asyncio.run(injector.withdraw(here, RECEIPT))
    assert asyncio.run(injector.gone(here, RECEIPT)).holds is True


def test_arguments_and_environment_are_what_is_written_and_nothing_else(tmp_path, monkeypatch):
    """No shell, the two ids filled in, other braces left; a small environment; secrets by reference, and hidden."""
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("AWS_SECRET", "not for you")
    echo = ["echo", "$HOME; {injection}|{run} {{.ID}} *", "open-sesame"]
    here = site(commands(tmp_path, verify=echo, gone=["env"], env={"KEY": "env:TOKEN"}))
    verify = asyncio.run(injector.effective(here, RECEIPT)).evidence["verify"]
    assert verify == {"exit": 0, "said": "$HOME; r1-0|r1 {{.ID}} * [redacted]"}
    said = asyncio.run(injector.gone(here, RECEIPT)).evidence["gone"]["said"]
    assert sorted(said.split()) == [
        "HOME=/h", "KEY=[redacted]", "LANG=C", "PATH=/usr/bin:/bin", "SIM_INJECTION=r1-0", "SIM_RUN=r1",
    ]  # fmt: skip


# -- programs --------------------------------------------------------------------------------------------------------


def room(redact=str):
    return Room("/", {"PATH": "/usr/bin:/bin"}, redact)


def shell(script, limit_s=20.0, redact=str, **more):
    """Run a script of the shell to its end."""
    return asyncio.run(run(["sh", "-c", script], room(redact), limit_s, **more))


def test_how_it_ended_and_what_it_said():
    """The exit code, or 128 and the signal; no input; both outputs, on one line, the end of it, whatever the bytes."""
    assert [shell("exit 7"), shell("kill -9 $$"), shell("cat; echo a; echo b >&2")] == [
        Ended(7, ""), Ended(137, ""), Ended(0, "a b"),
    ]  # fmt: skip
    assert shell("printf '\\377x'; exit 1") == Ended(1, "\ufffdx")
    long = shell(
        "i=0; while [ $i -lt 200 ]; do echo 12345678 end; i=$((i+1)); done", redact=lambda s: s.replace("1", "_")
    )
    assert (len(long.said), long.said[-12:]) == (500, "_2345678 end")


def test_a_guarded_program_finds_what_any_other_does():
    """The same environment, input, signals and exit codes; what cannot be started says so."""
    assert shell("env; cat", leaves=True).said.split(" PWD=")[0] == shell("env; cat").said.split(" PWD=")[0]
    asked = "grep -E 'SigIgn|SigBlk' /proc/self/status"
    masks = [[int(word, 16) & 0x7FFFFFFF for word in shell(asked, leaves=leaves).said.split()[1::2]]  # the usual 31
             for leaves in (True, False)]  # fmt: skip
    assert masks[0] == masks[1]
    assert [shell(end, leaves=True).code for end in ("exit 7", "kill -9 $$", "kill -TERM $$")] == [7, 137, 143]
    assert asyncio.run(run(["no-such"], room(), 20.0, leaves=True)) == Ended(
        127, "no-such cannot be started: No such file or directory"
    )


def test_what_cannot_be_started_is_named():
    """A program, or the folder that it is to run in."""
    told = []
    for argv, cwd in ((["no-such"], "/"), (["sh"], "/no-such-folder")):
        with pytest.raises(InjectionError) as caught:
            asyncio.run(run(argv, Room(cwd, {"PATH": "/bin"}, str), 5))
        told.append(str(caught.value))
    assert told == [
        "no-such cannot be started in /: [Errno 2] No such file or directory: 'no-such'",
        "sh cannot be started in /no-such-folder: [Errno 2] No such file or directory: '/no-such-folder'",
    ]


def ended(pid):
    """Whether a process is gone, or dead and not yet collected; looks again for a while."""
    for _ in range(1000):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        asyncio.run(asyncio.sleep(0.01))
    return False


FAMILY = "sleep 60 & echo $! > {file}; echo on it; trap '' TERM; wait; wait"


def test_one_that_takes_too_long_is_ended_with_all_it_started(tmp_path, monkeypatch):
    """Asked first, then killed, and its children with it; what it said is told."""
    monkeypatch.setattr(_programs, "LET_GO_S", 0.05)
    file, told = tmp_path / "pid", ""
    for limit_s in (0.3, 1, 5, 20):  # on a busy machine it may not have come to say anything yet
        with pytest.raises(InjectionError) as caught:
            shell(FAMILY.format(file=file), limit_s=limit_s, leaves=True)
        told = str(caught.value)
        if told.endswith("on it"):
            break
    assert told == f"sh did not end within {limit_s:g} s, and was ended with all it had started: on it"
    assert ended(int(file.read_text()))


def test_one_that_says_too_much_is_ended(monkeypatch):
    """Nobody's disk is filled."""
    monkeypatch.setattr(_programs, "MAX_OUTPUT", 1000)
    with pytest.raises(InjectionError, match=r"^sh said more than 1000 bytes, and was ended .*: y y y"):
        shell("exec yes")


def test_a_call_that_is_cancelled_ends_its_program(tmp_path):
    """A runner that is interrupted leaves no start behind that may still do it."""
    file = tmp_path / "pid"

    async def interrupted():
        task = asyncio.ensure_future(run(["sh", "-c", FAMILY.format(file=file)], room(), 60.0, leaves=True))
        while not (file.exists() and file.read_text().strip()):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    assert ended(int(file.read_text()))


def test_only_what_start_leaves_behind_stays(tmp_path):
    """A fault may be a process in the background; what a look leaves behind is none."""
    file = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {file}"
    assert shell(script, leaves=True) == Ended(0, "")
    pid = int(file.read_text())
    assert psutil.Process(pid).is_running()
    os.kill(pid, signal.SIGKILL)
    assert shell(script) == Ended(0, "")
    assert ended(int(file.read_text()))
    assert dict(module.LIMITS_S) == {"start": 8, "verify": 4, "stop": 8, "gone": 4}


def test_who_was_given_the_pid_of_a_program_that_ended_is_not_killed(monkeypatch):
    """A look that left nothing behind: its group's number is free, and somebody else's the next moment."""
    grandchild = "import subprocess; print(subprocess.Popen(['cat'], start_new_session=True).pid, flush=True)"
    with subprocess.Popen([sys.executable, "-c", grandchild], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        stranger = int(parent.stdout.readline())
        parent.wait()

        class Gone:
            pid, returncode = stranger, 0

            async def wait(self):
                return 0

        async def started(*_):
            return Gone()

        monkeypatch.setattr(_programs, "_started", started)
        assert shell("true") == Ended(0, "")
        parent.stdin.write(b"there\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == b"there\n"


def test_signals_are_as_by_default_whoever_starts_it():
    """The watchdog ignores SIGTERM; what it starts must not, or the service that `stop` restarts could not be ended."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        said = shell("grep -E 'SigIgn|SigBlk' /proc/self/status").said
    finally:
        signal.signal(signal.SIGTERM, before)
    masks = {
        name: int(mask, 16) for name, mask in (each.split() for each in said.replace("Sig", "\nSig").split("\n")[1:])
    }
    terms = (1 << signal.SIGTERM - 1) | (1 << signal.SIGINT - 1) | (1 << signal.SIGHUP - 1)
    assert {name: mask & terms for name, mask in masks.items()} == {"SigBlk:": 0, "SigIgn:": 0}
