"""The page for the night: every command, option and code that it names is there, and every message leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from sim import machine, watchdog
from sim.around import TTL_S
from sim.cli import cli
from sim.judge import Outcome

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "when-it-goes-wrong.md").read_text(encoding="utf-8")

#: Messages that the page quotes → the file that says them.
SAID = {
    "UNSAFE": "sim/cli/run.py",
    "was cut short; first: ": "sim/cli/run.py",
    "run sim recover there": "sim/recover.py",
    "not a journal record": "sim/undo.py",
    "journal version": "sim/undo.py",
    "the machine's clock was set": "sim/guard.py",
    "the runner stood still": "sim/guard.py",
    "is at work on this target": "sim/machine.py",
    "this machine is halted": "sim/preflight.py",
    "is still at work": "sim/cli/recover.py",
    "whoever halted must release": "sim/machine.py",
    "watchdog.log": "sim/watchdog.py",
}


def commands() -> list[str]:
    """Return every command that the page names, in a block or in a sentence."""
    blocks = [line for block in re.findall(r"```\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
    inline = re.findall(r"`(sim [^`…]+)`", re.sub(r"```\n.*?```", "", PAGE, flags=re.S))
    return sorted({each.strip() for each in blocks + inline})


def test_there_are_commands() -> None:
    """The page is read, and says something."""
    assert {"sim recover", "sim halt", "sim halt --release"} <= set(commands())


@pytest.mark.parametrize("command", commands())
def test_every_command_is_there(command: str) -> None:
    """The verb exists and takes these options and so many arguments."""
    program, verb, *words = shlex.split(command)
    assert program == "sim"
    with click.Context(cli) as context:
        found = cli.get_command(context, verb)
    assert found is not None, f"there is no verb {verb}"
    with found.make_context(verb, words, resilient_parsing=False):
        pass


def test_every_exit_code_is_one_that_a_run_can_have() -> None:
    """What the page promises is what outcomes and interruptions end with."""
    said = {int(code) for code in re.findall(r"[Ee]xit (\d+)", PAGE)}
    words = dict(re.findall(r"\*(aborted|inconclusive|unsafe)\*,? \(?exit (\d+)", PAGE))
    assert said == {0, 4, 6}
    assert words == {"aborted": "4", "inconclusive": "4", "unsafe": "6"}
    assert {word: str(Outcome(word).exit_code) for word in words} == words


@pytest.mark.parametrize(("text", "file"), SAID.items())
def test_every_message_is_one_that_is_said(text: str, file: str) -> None:
    """Whoever searches the page for what they see finds it."""
    assert text in PAGE
    assert text in (ROOT / file).read_text(encoding="utf-8")


def test_every_line_of_the_table_leads_to_a_section() -> None:
    """Each link has its heading, and no section is without one."""
    links = re.findall(r"\]\(#([a-z-]+)\)", PAGE)
    headings = [line[3:].lower().replace(" ", "-") for line in PAGE.splitlines() if line.startswith("## ")]
    assert links == headings


def test_the_figures_are_those_of_the_code() -> None:
    """The lease, the grace, and where the lever is."""
    assert f"itself {TTL_S:g} s after the runner last renewed it" in PAGE
    assert f"watchdog {watchdog.GRACE_S:g} s after the hold time" in PAGE
    assert f"`{machine.VARIABLE}`" in PAGE and f"`{machine.LEVER}`" in PAGE
