"""The page for a platform of one's own: its commands are there, both languages say the same, its contract is read."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from pathlib import Path

import click
import pytest
import yaml

from sim.cli import cli
from sim.doctor import State

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "your-platform.md").read_text(encoding="utf-8")
OTHER = (ROOT / "docs" / "your-platform.pt.md").read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[str]:
    """Return the blocks of one kind."""
    return re.findall(rf"```{kind}\n(.*?)```", page, re.S)


def commands(page: str) -> list[str]:
    """Return the commands, in order."""
    return [line for block in blocks(page, "sh") for line in block.splitlines()]


def test_both_languages_say_the_same() -> None:
    """The same commands and data, and as many headings and rows; only the transcript stands in one alone."""
    for kind in ("sh", "yaml", "json"):
        assert blocks(PAGE, kind) == blocks(OTHER, kind)
    for shape in (r"^#+ ", r"^\|", r"^- "):
        assert len(re.findall(shape, PAGE, re.M)) == len(re.findall(shape, OTHER, re.M))


@pytest.mark.parametrize("command", commands(PAGE) + re.findall(r"`(sim [^`…]+)`", PAGE))
def test_every_command_is_there(command: str) -> None:
    """The verb exists and takes these options."""
    words = shlex.split(command.removesuffix("&"))
    assert words[0] == "sim"
    verb = cli.get_command(click.Context(cli), words[1])
    assert verb is not None, command
    verb.make_parser(click.Context(verb)).parse_args(words[2:])


def test_the_doctors_words_are_all_explained() -> None:
    """Each state but `ok` has a row, and no row is of another."""
    section = PAGE[PAGE.index("## 3.") : PAGE.index("## 4.")]
    words = re.findall(r"^\| `([a-z ]+)` \|", section, re.M)
    assert sorted(words) == sorted(set(State.__args__) - {"ok"})


def test_links_lead_somewhere() -> None:
    """Every page that both name is there."""
    for page in (PAGE, OTHER):
        for link in re.findall(r"\]\(([^)#]+)\)", page):
            assert (ROOT / "docs" / link).exists(), link


def test_the_contract_on_the_page_is_what_the_observer_reads() -> None:
    """The page's own answer, served: one message, to the owner's address, of the alert that it names."""
    sys.path.insert(0, str(ROOT / "tests" / "expectations"))
    try:
        from fake_http import serve
    finally:
        sys.path.pop(0)
    from expectations.observers.inbox import Config, observer
    from sim.observation import Opening
    from sim.secret import Secrets

    (answer,) = (json.loads(block) for block in blocks(PAGE, "json"))
    pages = iter([{"rows": [], "next": 0}, {"rows": [], "next": 0}, answer, {"rows": [], "next": 1}])

    async def look() -> list[dict[str, object]]:
        from aiohttp import web

        async def received(_: web.Request) -> web.Response:
            return web.json_response(next(pages))

        async with (
            serve({"GET /received": received}) as fake,
            observer.open(Opening("w", Config(url=fake.url, channel="webhook"), {}, Secrets({}))) as eye,
        ):
            assert await eye.poll() == []
            return [dict(seen.data) for seen in await eye.poll()]

    (message,) = asyncio.run(look())
    assert [message[key] for key in ("channel", "address", "status")] == ["webhook", "payments", "firing"]
    assert [alert["name"] for alert in message["alerts"]] == ["ShopErrorsHigh"]  # type: ignore[attr-defined]


def test_the_receiver_on_the_page_is_one_of_alertmanagers() -> None:
    """An entry of webhook_configs: address and credentials, by file."""
    (entry,) = (yaml.safe_load(block) for block in blocks(PAGE, "yaml"))
    assert (sorted(entry), list(entry["http_config"]["authorization"])) == (
        ["http_config", "url"],
        ["credentials_file"],
    )
