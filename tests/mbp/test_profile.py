"""The profile of a running release: what py-spy is asked, and what is answered when it cannot look."""

from __future__ import annotations

import stat
import sys

import pytest

from mbp.dec import profile as profiling
from mbp.dec.app import build
from mbp.dec.engine_client import EngineClient
from tests.mbp.engines import ask, refusal


def stand_in(folder, monkeypatch, body):
    """Put a program in py-spy's place; `args` are its arguments, `out` is where it is to write."""
    path = folder / "py-spy"
    head = f"#!{sys.executable}\nimport sys\nargs = sys.argv[1:]\nout = args[args.index('--output') + 1]\n"
    path.write_text(head + body, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(profiling, "find_py_spy", lambda: str(path))


@pytest.fixture
def app():
    """A release without an engine: a profile needs none."""
    return build("candidate", EngineClient("http://127.0.0.1:1"))


def test_the_stacks_are_the_answer(app, tmp_path, monkeypatch):
    """py-spy is asked to look at this process, for so long, without stopping it."""
    stand_in(tmp_path, monkeypatch, "open(out, 'w').write(' '.join(args[:args.index('--output')]))")
    answer = ask(app, "POST", "/profile?seconds=1")
    import os

    asked = f"record --pid {os.getpid()} --duration 1 --rate 100 --format raw --nonblocking"
    assert (answer.status_code, answer.text) == (200, asked)


def test_a_look_that_is_refused_is_said(app, tmp_path, monkeypatch):
    """Yama, or whatever: 503 with its words, and nothing left behind."""
    stand_in(tmp_path, monkeypatch, "print('Permission Denied'); sys.exit(1)")
    answer = ask(app, "POST", "/profile?seconds=1")
    assert (*refusal(answer), answer.json()["detail"]) == (
        503,
        "profile_refused",
        "py-spy ended with 1: Permission Denied",
    )


def test_without_py_spy_there_is_no_profile(app, monkeypatch):
    """Said as that; and a time out of bounds is refused."""
    monkeypatch.setattr(profiling, "find_py_spy", lambda: None)
    assert refusal(ask(app, "POST", "/profile")) == (501, "no_profiler")
    assert refusal(ask(app, "POST", "/profile?seconds=60")) == (422, "invalid")
