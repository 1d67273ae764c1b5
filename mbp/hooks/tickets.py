"""The tickets of hooks that have the channel `tickets`: one a (hook, fingerprint, startsAt), closed when it resolves.

What is wanted is recorded in the delivery's own transaction; a worker then brings the ticket system to it. Each step
can be done twice without harm (an idempotency key, and a state that is set to what it is already), so a killed
executor goes on where it was: at least once in, effectively once out.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from mbp._asgi import ApiError
from mbp._service import wall_text
from mbp._store import transaction
from mbp.hooks import webhook
from mbp.hooks._http import Desk
from mbp.hooks.endpoint import Endpoints, TargetError, TargetRefused
from mbp.hooks.table import Table

ENDPOINT = "sinks"
STATES = ("pending", "open", "closed", "dead_letter")
_LONGEST_REST_S = 5.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS tickets (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, hook TEXT NOT NULL, fingerprint TEXT NOT NULL,
    starts_us INTEGER NOT NULL, body TEXT NOT NULL, wanted TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'none',
    number INTEGER, dead INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '', at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS tickets_alert ON tickets (fingerprint, starts_us);
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TicketJob:
    """One ticket that is not as it should be; without `number` it is not known to be there yet."""

    id: int
    key: str
    body: dict[str, Any]
    wanted: Literal["open", "closed"]
    number: int | None


class TicketBook:
    """What is wanted of each ticket and how it stands; on the store's thread, in its connection."""

    def __init__(self, db: sqlite3.Connection, table: Table, endpoints: Collection[str],
                 wall: Callable[[], float]) -> None:  # fmt: skip
        """Use the table in ``db``; what was given up in an earlier life is tried again."""
        self._db, self._table, self._wall = db, table, wall
        self._can = ENDPOINT in endpoints
        with transaction(db):
            db.execute("UPDATE tickets SET dead = 0 WHERE dead = 1")

    # -- inside the store's transactions

    def want(self, hook: str, alert: webhook.Alert, starts_us: int) -> None:
        """Record that the hook's owner is to have an open ticket about this alert, if the hook has tickets at all."""
        assignee = self._table.owners[self._table.hooks[hook].owner].tickets
        if "tickets" not in self._table.hooks[hook].channels or assignee is None:
            return
        key = hashlib.sha256(f"{hook}\n{alert.fingerprint}\n{starts_us}\nticket".encode()).hexdigest()
        body = {
            "title": f"{hook}: {alert.labels.alertname} is firing",
            "assignee": assignee,
            "hook": hook,
            "owner": self._table.hooks[hook].owner,
            "alertname": alert.labels.alertname,
            "fingerprint": alert.fingerprint,
            "starts_at": alert.starts_at,
        }
        self._db.execute(
            "INSERT INTO tickets (key, hook, fingerprint, starts_us, body, wanted, at) "
            "VALUES (?, ?, ?, ?, ?, 'open', ?) ON CONFLICT (key) DO UPDATE SET wanted = 'open'",
            (key, hook, alert.fingerprint, starts_us, json.dumps(body), wall_text(self._wall())),
        )

    def over(self, fingerprint: str, starts_us: int) -> None:
        """Record that the ticket about this alert is to be closed; one not yet open is opened first: it is a record."""
        self._db.execute(
            "UPDATE tickets SET wanted = 'closed' WHERE fingerprint = ? AND starts_us = ?", (fingerprint, starts_us)
        )

    # -- what the worker does

    def next(self) -> TicketJob | None:
        """Return the oldest ticket that is not as it should be, None when there is none."""
        row = self._db.execute(
            "SELECT id, key, body, wanted, number FROM tickets WHERE dead = 0 AND state <> wanted ORDER BY id LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        return TicketJob(row["id"], row["key"], json.loads(row["body"]), row["wanted"], row["number"])

    @property
    def reachable(self) -> bool:
        """Say whether the executor was given the address of the ticket system."""
        return self._can

    def stands(self, job: TicketJob, number: int, state: str) -> None:
        """Record how the ticket system says that the ticket stands."""
        with transaction(self._db):
            self._db.execute(
                "UPDATE tickets SET number = ?, state = ?, error = '', at = ? WHERE id = ?",
                (number, state, wall_text(self._wall()), job.id),
            )

    def failed(self, job: TicketJob, why: str, *, dead: bool) -> None:
        """Record a step that could not be done; ``dead``: it is not tried again in this life."""
        with transaction(self._db):
            self._db.execute("UPDATE tickets SET error = ?, dead = ? WHERE id = ?", (why[:2000], dead, job.id))

    # -- what can be read

    def rows(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Return tickets, oldest first."""
        rows = self._db.execute("SELECT * FROM tickets WHERE id > ? ORDER BY id LIMIT ?", (after, limit)).fetchall()
        shown = ("hook", "fingerprint", "wanted", "state", "number", "error", "at")
        return [
            {"seq": row["id"], **{name: row[name] for name in shown}, "dead": bool(row["dead"])} | _said(row["body"])
            for row in rows
        ]

    def counts(self) -> dict[str, int]:
        """Return how many tickets there are by state; `pending` is not yet as it should be."""
        found = self._db.execute(
            "SELECT CASE WHEN dead THEN 'dead_letter' WHEN state = wanted THEN state ELSE 'pending' END, count(*) "
            "FROM tickets GROUP BY 1"
        )
        return {**dict.fromkeys(STATES, 0), **{row[0]: row[1] for row in found}}


def _said(body: str) -> dict[str, Any]:
    said = json.loads(body)
    return {name: said[name] for name in ("assignee", "alertname", "starts_at")}


class TicketWorker:
    """Brings the ticket system to what is wanted, one ticket after the other; `run` it, `wake` it after a delivery."""

    def __init__(self, book: TicketBook, desk: Desk, endpoints: Endpoints, rest: Callable[[int], float],
                 changed: Callable[[dict[str, int]], None]) -> None:  # fmt: skip
        """``rest`` maps the number of failures in a row to seconds; ``changed`` is told the counts by state."""
        self._book, self._desk, self._endpoints, self._rest, self._changed = book, desk, endpoints, rest, changed
        self._something = asyncio.Event()

    def wake(self) -> None:
        """Say that there may be something to do."""
        self._something.set()

    async def run(self) -> None:
        """Work until cancelled. A ticket system that does not answer is asked until it does."""
        self.wake()
        failures = 0
        while True:
            await self._something.wait()
            self._something.clear()
            try:
                failures = failures + 1 if await self._all() else 0
            except ApiError as error:
                log.error("tickets: %s", error)
                failures += 1
            if failures:
                asyncio.get_running_loop().call_later(min(self._rest(failures), _LONGEST_REST_S), self.wake)

    async def _all(self) -> bool:
        """Do all that there is; say whether something is to be tried again."""
        try:
            while (job := await self._desk.do(self._book.next)) is not None:
                if await self._one(job):
                    return True
            return False
        finally:
            self._changed(await self._desk.do(self._book.counts))

    async def _one(self, job: TicketJob) -> bool:
        try:
            number, state = await self._step(job)
        except (TargetError, TargetRefused) as error:
            why, dead = str(error), isinstance(error, TargetRefused)
            log.warning("ticket of %s: %s", job.body["hook"], why)
            await self._desk.do(lambda: self._book.failed(job, why, dead=dead))
            return not dead
        await self._desk.do(lambda: self._book.stands(job, number, state))
        return False

    async def _step(self, job: TicketJob) -> tuple[int, str]:
        if not self._book.reachable:
            raise TargetRefused(f"the executor was started without the address of {ENDPOINT}")
        if job.number is None:
            found = await self._endpoints.ask(ENDPOINT, "POST", "/tickets", job.body, job.key)
        else:
            found = await self._endpoints.ask(
                ENDPOINT, "PATCH", f"/tickets/{job.number}", {"state": job.wanted}, f"{job.key}-{job.wanted}"
            )
        number, state = (found.get("id"), found.get("state")) if isinstance(found, dict) else (None, None)
        if not isinstance(number, int) or state not in ("open", "closed"):
            raise TargetError(f"{ENDPOINT}: the answer is not a ticket: {found!r:.200}")
        return number, state
