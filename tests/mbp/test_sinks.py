"""The sinks: what was received is there as it came in, bad input is refused and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import smtplib
import sqlite3
from collections.abc import Awaitable, Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest

from mbp.sinks import mail
from mbp.sinks.app import Sinks, build

PAGER = {
    "routing_key": "dec-pm", "event_action": "trigger", "dedup_key": "k1",
    "payload": {"summary": "it broke", "source": "Alertmanager", "severity": "critical"},
}  # fmt: skip
TICKET = {"title": "CDC lag", "assignee": "data", "fingerprint": "00a1", "starts_at": "2026-01-02T03:04:05Z"}


def play(folder: Path, story: Callable[[httpx.AsyncClient, Sinks], Awaitable[None]]) -> None:
    """Run a story on the sinks in `folder`."""

    async def go() -> None:
        sinks = Sinks(folder, lambda: 1.7e9)
        transport = httpx.ASGITransport(build(sinks))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://sinks") as http:
                await story(http, sinks)
        finally:
            sinks.close()

    asyncio.run(go())


def test_everything_received_is_listed_as_it_came_in_and_survives_a_restart(tmp_path: Path) -> None:
    """Whole rows, in order, over three channels; the cursor, the channel filter and the end of the log work."""
    slack = {"channel": "#dec-pm", "attachments": [{"title": "[FIRING]", "fields": [{"title": "é", "value": 1.5}]}]}

    async def story(http: httpx.AsyncClient, _: Sinks) -> None:
        answer = await http.post("/slack", json=slack)
        assert (answer.status_code, answer.text) == (200, "ok")
        answer = await http.post("/v2/enqueue", json=PAGER)
        assert (answer.status_code, answer.json()) == (
            202, {"status": "success", "message": "Event processed", "dedup_key": "k1"},
        )  # fmt: skip
        answer = await http.post("/tickets", json=TICKET, headers={"Idempotency-Key": "t1"})
        assert answer.status_code == 201

    async def later(http: httpx.AsyncClient, _: Sinks) -> None:
        at = "2023-11-14T22:13:20.000000Z"
        rows = [
            {"seq": 1, "at": at, "channel": "slack", "address": "#dec-pm", "payload": slack},
            {"seq": 2, "at": at, "channel": "oncall", "address": "dec-pm", "payload": PAGER},
            {"seq": 3, "at": at, "channel": "tickets", "address": "data",
             "payload": {**TICKET, "id": 1, "state": "open", "created_at": at, "changed_at": at}},
        ]  # fmt: skip
        assert (await http.get("/received")).json() == {"rows": rows, "next": 3}
        assert (await http.get("/received?after=1&limit=1")).json() == {"rows": rows[1:2], "next": 2}
        assert (await http.get("/received?channel=slack")).json() == {"rows": rows[:1], "next": 3}
        assert (await http.get("/received?tail=1")).json() == {"rows": [], "next": 3}
        assert (await http.get("/received?after=3")).json() == {"rows": [], "next": 3}
        assert 'sinks_received_total{channel="oncall"} 1.0' in (await http.get("/metrics")).text

    play(tmp_path, story)
    play(tmp_path, later)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/slack", "{", 400, "not JSON"),
        ("/slack", {"text": "x"}, 400, "channel: missing"),
        ("/slack", {"channel": "#a"}, 400, "text, attachments"),
        ("/slack", {"channel": "#a\n", "text": "x"}, 400, "channel: contains"),
        ("/slack", {"channel": "#a", "text": "x" * 70_000}, 413, "65536"),
        ("/v2/enqueue", {**PAGER, "routing_key": ""}, 400, "routing_key"),
        ("/v2/enqueue", {**PAGER, "event_action": "shout"}, 400, "event_action: 'shout'"),
        ("/v2/enqueue", {**PAGER, "payload": {**PAGER["payload"], "severity": "dire"}}, 400, "payload.severity"),  # type: ignore[dict-item]
        ("/v2/enqueue", {**PAGER, "payload": None}, 400, "payload: missing"),
        ("/v2/enqueue", {**PAGER, "dedup_key": "k" * 256}, 400, "dedup_key: longer than 255"),
        ("/v2/enqueue", {"routing_key": "a", "event_action": "resolve"}, 400, "dedup_key: missing"),
        ("/tickets", TICKET, 400, "Idempotency-Key"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(
    tmp_path: Path, path: str, body: dict[str, Any] | str, status: int, said: str
) -> None:
    """With the platform's error shape, naming the field."""

    async def story(http: httpx.AsyncClient, _: Sinks) -> None:
        content = body if isinstance(body, str) else json.dumps(body)
        answer = await http.post(path, content=content)
        assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text
        assert (await http.get("/received")).json() == {"rows": [], "next": 0}

    play(tmp_path, story)


def test_pagerduty_refuses_in_its_own_shape_and_makes_a_key_where_none_came(tmp_path: Path) -> None:
    """A client of the real service finds the keys it knows."""

    async def story(http: httpx.AsyncClient, _: Sinks) -> None:
        answer = (await http.post("/v2/enqueue", content=b"{}")).json()
        assert (answer["status"], answer["errors"]) == ("invalid event", ["routing_key: missing"])
        without = {name: value for name, value in PAGER.items() if name != "dedup_key"}
        keys = {(await http.post("/v2/enqueue", json=without)).json()["dedup_key"] for _ in range(2)}
        assert len(keys) == 2

    play(tmp_path, story)


def test_a_ticket_is_opened_once_per_key_closed_and_read(tmp_path: Path) -> None:
    """The same key is the same ticket, with another body a 422; closing twice is one change."""

    async def story(http: httpx.AsyncClient, _: Sinks) -> None:
        key = {"Idempotency-Key": "cdc_lag/00a1/1"}
        first = await http.post("/tickets", json=TICKET, headers=key)
        again = await http.post("/tickets", json=TICKET, headers=key)
        assert (first.status_code, again.status_code, first.json()) == (201, 200, again.json())
        other = await http.post("/tickets", json={**TICKET, "title": "x"}, headers=key)
        assert (other.status_code, other.json()["error"]) == (422, "key_reused")
        own = await http.post("/tickets", json={**TICKET, "state": "closed"}, headers=key)
        assert (own.status_code, own.json()["detail"]) == (400, "state: is set by the ticket system")
        for _ in range(2):
            closed = await http.patch("/tickets/1", json={"state": "closed"})
            assert (closed.status_code, closed.json()["state"]) == (200, "closed")
        assert (await http.patch("/tickets/1", json={"state": "gone"})).status_code == 400
        assert (await http.patch("/tickets/9", json={"state": "open"})).status_code == 404
        assert (await http.get("/tickets/1")).json() == closed.json()
        assert (await http.get("/tickets?state=open")).json() == {"rows": []}
        rows = (await http.get("/received?channel=tickets")).json()["rows"]
        assert [(row["address"], row["payload"]["state"]) for row in rows] == [("data", "open"), ("data", "closed")]

    play(tmp_path, story)


def test_a_store_that_fails_refuses_and_says_so(tmp_path: Path) -> None:
    """503, not a lost message behind a 2xx; /healthz says it too."""

    async def story(http: httpx.AsyncClient, sinks: Sinks) -> None:
        def broken(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        sinks.store.keep = broken  # type: ignore[method-assign,assignment]
        sinks.store.check = broken  # type: ignore[method-assign]
        answer = await http.post("/slack", json={"channel": "#a", "text": "x"})
        assert (answer.status_code, answer.json()["error"]) == (503, "store_unavailable")
        assert (await http.get("/healthz")).status_code == 503

    play(tmp_path, story)


def converse(folder: Path, talk: Callable[[smtplib.SMTP], None]) -> list[dict[str, Any]]:
    """Let `talk` speak to the SMTP side, and return what was received."""

    async def go() -> list[dict[str, Any]]:
        sinks = Sinks(folder, lambda: 1.7e9)
        server = await mail.listen(0, sinks.keep)
        port = server.sockets[0].getsockname()[1]

        def speak() -> None:
            with smtplib.SMTP("127.0.0.1", port, timeout=5) as smtp:
                talk(smtp)

        try:
            await asyncio.to_thread(speak)
            rows, _ = await sinks.desk.do(lambda: sinks.store.received(0, None, 10))
            return rows
        finally:
            server.close()
            await server.wait_closed()
            sinks.close()

    return asyncio.run(go())


def test_a_mail_is_one_row_per_recipient_with_its_headers(tmp_path: Path) -> None:
    """The correlation header arrives whole, encoded words are decoded, and a recipient named twice counts once."""
    message = EmailMessage()
    message["Subject"] = "[FIRING] Ação"
    message["X-MBP-Alerts"] = "00000000000000a1 2026-01-02T03:04:05.678Z firing AmmInvariantBreach; " * 6
    message["From"], message["To"] = "am@mbp.test", "DEC-PM@mbp.test"
    message.set_content("olá\n")

    def talk(smtp: smtplib.SMTP) -> None:
        smtp.send_message(message, to_addrs=["DEC-PM@mbp.test", "data@mbp.test", "data@mbp.test"])

    rows = converse(tmp_path, talk)
    assert [(row["channel"], row["address"]) for row in rows] == [
        ("email", "dec-pm@mbp.test"), ("email", "data@mbp.test"),
    ]  # fmt: skip
    payload = rows[0]["payload"]
    assert (payload["from"], payload["text"].strip()) == ("am@mbp.test", "olá")
    assert payload["headers"]["Subject"] == "[FIRING] Ação"
    assert (
        payload["headers"]["X-MBP-Alerts"].split("; ")[:6]
        == ["00000000000000a1 2026-01-02T03:04:05.678Z firing AmmInvariantBreach"] * 6
    )


def test_mail_that_is_too_large_or_has_no_address_is_refused(tmp_path: Path) -> None:
    """Refused with SMTP's own codes, and nothing is kept."""

    def talk(smtp: smtplib.SMTP) -> None:
        smtp.ehlo("test")
        assert smtp.esmtp_features["size"] == str(mail.MAIL_LIMIT)
        smtp.docmd("MAIL FROM:<a@b.test>")
        smtp.docmd("RCPT TO:<c@d.test>")
        code, _ = smtp.data(b"x" * 900 + b"\r\n" + (b"y" * 900 + b"\r\n") * 300)
        assert code == 552
        smtp.rset()
        smtp.docmd("MAIL FROM:<a@b.test>")
        assert smtp.docmd("RCPT TO:<nobody>")[0] == 553

    assert converse(tmp_path, talk) == []


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe\x00", b"Subject: =?utf-8?b?!!!?=\n\n\xff", b"To: <<>>;,@\n\nx",
                                 b"Content-Type: text/plain; charset=nonsense\n\nx"])  # fmt: skip
def test_any_bytes_are_readable_as_a_mail(raw: bytes) -> None:
    """A malformed message is shown as well as it can be, and can be stored as JSON."""
    shown = mail.readable(raw, "a", ["b"])
    assert set(shown) == {"from", "to", "headers", "text"}
    assert json.loads(json.dumps(shown).encode()) == shown


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/slack", {"channel": "#a", "text": "\ud800"}),
        ("/slack", {"channel": "#a", "text": "x", "attachments": [{"\udfff": 1}]}),
        ("/v2/enqueue", {**PAGER, "payload": {**PAGER["payload"], "summary": "\ud800"}}),
        ("/tickets", {**TICKET, "more": {"deep": ["\ud800"]}}),
    ],
)
def test_half_a_character_is_refused_so_that_what_was_received_can_always_be_shown(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    """JSON may hold half a character, an answer in UTF-8 may not: one such message would hide all the others."""

    async def story(http: httpx.AsyncClient, _: Sinks) -> None:
        assert (await http.post("/slack", json={"channel": "#a", "text": "before"})).status_code == 200
        answer = await http.post(path, content=json.dumps(body), headers={"Idempotency-Key": "t1"})
        assert (answer.status_code, "half a character" in answer.json()["detail"]) == (400, True)
        shown = (await http.get("/received")).json()
        assert [row["payload"]["text"] for row in shown["rows"]] == ["before"]
        assert (await http.get("/tickets")).json() == {"rows": []}

    play(tmp_path, story)


def test_what_is_nested_deeper_than_can_be_shown_is_refused(tmp_path: Path) -> None:
    """However deep a body is: it is refused, or it is shown."""

    async def story(http: httpx.AsyncClient, _: Sinks) -> None:
        taken = 0
        for depth in (10, 60, *range(100, 1000, 20)):
            text = '{"channel": "#a", "text": ' + "[" * depth + "1" + "]" * depth + "}"
            answer = await http.post("/slack", content=text)
            assert answer.status_code in (200, 400)
            taken += answer.status_code == 200
            shown = await http.get("/received")
            assert (shown.status_code, len(shown.json()["rows"])) == (200, taken), depth
        assert 2 <= taken < 10

    play(tmp_path, story)


def test_a_sender_that_is_no_text_hides_no_mail() -> None:
    """What an SMTP client says in MAIL FROM is bytes; those that are no UTF-8 are shown as such."""
    assert mail.readable(b"Subject: x\r\n\r\nhi", "\udcff@b", ["\udcff@c"])["from"] == "?@b"
    json.dumps(mail.readable(b"\r\nhi", "\udcff@b", ["\udcff@c"]), ensure_ascii=False).encode()
