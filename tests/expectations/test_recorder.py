"""The recorder behind `sim inbox`: what it takes and shows, who may, and that the `inbox` observer reads it."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner

from expectations import _recorder
from expectations._recorder import Lost, Messages, application
from expectations.observers.inbox import Config, observer
from sim.cli import cli
from sim.observation import CannotLook, Opening
from sim.secret import Secrets
from sim.target import Auth

FIRING = json.loads((Path(__file__).parents[1] / "fixtures/notifications/webhook_firing.json").read_text())


@asynccontextmanager
async def serving(messages: Messages, token: str | None = None) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve the recorder; yields its address and what it says."""
    said: list[str] = []
    runner = web.AppRunner(application(messages, token, said.append), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", said
    finally:
        await runner.cleanup()


async def _ask(method: str, url: str, token: str | None = None, **more: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers, **more) as answer:
        return answer.status, await answer.json()


def test_what_was_told_is_read_by_the_observer() -> None:
    """First the end, then what is new of its channel, at its address, with the alerts of Alertmanager's own webhook."""

    async def story() -> list[Any]:
        messages = Messages(None, lambda: 1000.5)
        secrets = Secrets({"T": "open-sesame"})
        async with serving(messages, "open-sesame") as (url, said):
            await _ask("POST", f"{url}/webhook/early", "open-sesame", json=FIRING)
            given = Opening("w", Config(url=url, channel="webhook", auth=Auth(bearer="env:T")), {}, secrets)
            async with observer.open(given) as eye:
                before = await eye.poll()
                await _ask("POST", f"{url}/webhook/payments", "open-sesame", json=FIRING)
                await _ask("POST", f"{url}/pager/payments", "open-sesame", json=FIRING)
                after = await eye.poll()
            return [before, after, said]

    before, after, said = asyncio.run(story())
    (seen,) = after
    fields = ("id", "channel", "address", "status")
    assert (before, said) == ([], ["1 webhook early", "2 webhook payments", "3 pager payments"])
    assert [seen.data[field] for field in fields] == ["2", "webhook", "payments", "firing"]
    assert [alert["fingerprint"] for alert in seen.data["alerts"]] == [each["fingerprint"] for each in FIRING["alerts"]]
    assert seen.occurred_at == 1000.5


def test_who_may_write_and_read() -> None:
    """With a token both need it, and nothing is kept of who has none; /healthz says only that it is up."""

    async def story() -> list[Any]:
        messages = Messages(None)
        async with serving(messages, "open-sesame") as (url, _):
            return [
                await _ask("POST", f"{url}/webhook/a", json={}),
                await _ask("POST", f"{url}/webhook/a", "wrong", json={}),
                await _ask("GET", f"{url}/received"),
                await _ask("GET", f"{url}/healthz"),
                messages.tail(9, None),
            ]

    refused = (401, {"error": "a bearer token is needed"})
    assert asyncio.run(story()) == [refused, refused, refused, (200, {"ok": True}), ([], 0)]


def test_what_is_no_message() -> None:
    """No JSON, no channel, no number: told, and not kept."""

    async def story() -> list[Any]:
        async with serving(Messages(None)) as (url, _):
            return [
                await _ask("POST", f"{url}/webhook/a", data=b"{"),
                await _ask("POST", f"{url}/WEB/a", json={}),
                await _ask("GET", f"{url}/received?after=x"),
                await _ask("GET", f"{url}/received"),
            ]

    no_json, no_channel, no_number, kept = asyncio.run(story())
    assert (no_json[0], no_json[1]["error"].startswith("not JSON")) == (400, True)
    assert no_channel == (400, {"error": "not a channel: 'WEB'"})
    assert no_number == (400, {"error": "after, limit and tail are whole numbers"})
    assert kept == (200, {"rows": [], "next": 0})


def test_pages_pass_over_what_is_of_another_channel() -> None:
    """`next` goes behind what was looked at, so that a page without rows is an end, and nothing is read twice."""
    messages = Messages(None, lambda: 0.0)
    for number in range(1, 7):
        messages.take("ab"[number % 2], "x", number)
    seqs = lambda page: ([row["seq"] for row in page[0]], page[1])  # noqa: E731
    assert [seqs(messages.page(after, 2, "a")) for after in (0, 4, 6, 9)] == [([2, 4], 5), ([6], 6), ([], 6), ([], 9)]
    assert [seqs(messages.tail(count, "b")) for count in (0, 1, 9)] == [([], 6), ([5], 6), ([1, 3, 5], 6)]


def test_what_is_not_held_any_more_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that comes too late is told, and so is blind; it never passes over what it missed."""
    monkeypatch.setattr(_recorder, "HELD", 2)

    async def story() -> str:
        messages = Messages(None)
        async with serving(messages) as (url, _), observer.open(Opening("w", Config(url=url), {}, Secrets({}))) as eye:
            await eye.poll()
            for number in range(3):
                messages.take("webhook", "x", number)
            with pytest.raises(CannotLook) as caught:
                await eye.poll()
            return str(caught.value).partition(": ")[2]

    assert asyncio.run(story()) == '410 {"error": "messages up to 1 are not held any more"}'
    with pytest.raises(Lost):
        full = Messages(None)
        for number in range(3):
            full.take("a", "x", number)
        full.page(0, 5, None)


def test_a_file_keeps_them(tmp_path: Path) -> None:
    """Numbers go on after a restart; a file of something else is refused with its line."""
    file = tmp_path / "inbox.jsonl"
    first = Messages(file, lambda: 1.0)
    first.take("webhook", "x", {"a": 1})
    first.close()
    second = Messages(file, lambda: 2.0)
    assert second.take("webhook", "y", None) == 2
    second.close()
    assert file.stat().st_mode & 0o777 == 0o600
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["seq"], row["at"], row["address"], row["payload"]) for row in rows] == [
        (1, 1.0, "x", {"a": 1}),
        (2, 2.0, "y", None),
    ]
    file.write_text('{"seq": 1}\nhello\n')
    with pytest.raises(ValueError, match=r"inbox\.jsonl:2: not a recorded message"):
        Messages(file)


def test_a_line_that_a_crash_has_torn_goes(tmp_path: Path) -> None:
    """It was never acknowledged, so it is sent again: it neither keeps the recorder down nor counts."""
    file = tmp_path / "inbox.jsonl"
    whole = b'{"seq": 1, "at": 1.0, "channel": "webhook", "address": "x", "payload": {}}\n'
    file.write_bytes(whole + b'{"seq": 2, "at": 2.0, "chan')
    messages = Messages(file, lambda: 3.0)
    assert file.read_bytes() == whole
    assert messages.take("webhook", "\ud800", None) == 2
    messages.close()
    again = Messages(file)
    assert [row["seq"] for row in again.page(0, 5, None)[0]] == [1, 2]
    again.close()


def test_a_message_is_in_the_file_whole_or_not_at_all(tmp_path: Path) -> None:
    """A full disk is an error to the sender, who sends again: no half line, no number twice, also after a restart."""
    file = tmp_path / "inbox.jsonl"
    messages = Messages(file, lambda: 1.0)
    messages.take("webhook", "x", {"n": 1})
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 20, kept[1]))
    try:
        with pytest.raises(OSError, match=r"No space|File too large"):
            messages.take("webhook", "x", {"n": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, before)
    assert messages.take("webhook", "x", {"n": 3}) == 2
    messages.close()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["seq"], row["payload"]) for row in rows] == [(1, {"n": 1}), (2, {"n": 3})]


def test_two_recorders_do_not_share_a_file(tmp_path: Path) -> None:
    """Each would count for itself, and numbers would come twice."""
    first = Messages(tmp_path / "inbox.jsonl")
    with pytest.raises(ValueError, match="another recorder writes there"):
        Messages(tmp_path / "inbox.jsonl")
    first.close()
    Messages(tmp_path / "inbox.jsonl").close()


@pytest.mark.parametrize(("words", "told"), [
    (["--listen", "0.0.0.0:9095"],
     "error: --listen 0.0.0.0:9095 is open to others: give --token env:NAME or file:PATH\n"),
    (["--token", "sesame"], "error: --token: a secret is given only by reference: env:NAME or file:PATH\n"),
    (["--token", "env:NOT_SET_HERE"],
     "error: --token: environment variable NOT_SET_HERE is not set (wanted by 'env:NOT_SET_HERE')\n"),
])  # fmt: skip
def test_it_does_not_listen_to_the_world_unguarded(words: list[str], told: str) -> None:
    """Code 2 before anything is opened."""
    done = CliRunner().invoke(cli, ["inbox", *words], prog_name="sim")
    assert (done.exit_code, done.stderr) == (2, told)
