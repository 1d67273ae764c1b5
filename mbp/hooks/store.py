"""The executor's memory, in SQLite: deliveries as they came, alerts, executions, and the audit of all that happened.

Every method is one transaction and runs on one thread. A state is never guessed: what was begun says so before the
first byte leaves for the target (`begin`), so a killed executor knows what it may have done.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mbp._service import wall_text
from mbp._store import transaction
from mbp.hooks import webhook
from mbp.hooks._http import connect
from mbp.hooks.audit import SCHEMA as AUDIT_SCHEMA
from mbp.hooks.audit import Audit
from mbp.hooks.table import Action, Table
from mbp.hooks.tickets import SCHEMA as TICKETS_SCHEMA
from mbp.hooks.tickets import TicketBook

MAX_ATTEMPTS = 5
STATES = ("pending", "running", "succeeded", "failed", "skipped", "dead_letter")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
    sha256 TEXT PRIMARY KEY, at TEXT NOT NULL, body BLOB NOT NULL, times INTEGER NOT NULL DEFAULT 1);
CREATE TABLE IF NOT EXISTS alerts (
    fingerprint TEXT NOT NULL, starts_us INTEGER NOT NULL, hook TEXT NOT NULL, active INTEGER NOT NULL,
    reversals INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (fingerprint, starts_us));
CREATE TABLE IF NOT EXISTS executions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, execution_id TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL UNIQUE,
    hook TEXT NOT NULL, action TEXT NOT NULL, place INTEGER NOT NULL, endpoint TEXT NOT NULL, subject TEXT NOT NULL,
    target TEXT NOT NULL, reversal TEXT NOT NULL, owner TEXT NOT NULL, alert TEXT NOT NULL, fingerprint TEXT NOT NULL,
    starts_us INTEGER NOT NULL, starts_at TEXT NOT NULL, generation INTEGER NOT NULL, group_key TEXT NOT NULL,
    delivery TEXT NOT NULL, state TEXT NOT NULL, sent INTEGER NOT NULL DEFAULT 0, attempt INTEGER NOT NULL DEFAULT 0,
    deliveries INTEGER NOT NULL DEFAULT 1, reverted INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL, started_at TEXT, ended_at TEXT);
CREATE INDEX IF NOT EXISTS executions_state ON executions (state, id);
CREATE INDEX IF NOT EXISTS executions_alert ON executions (fingerprint, starts_us, generation, place);
CREATE INDEX IF NOT EXISTS executions_target ON executions (action, target, state);
"""

Outcome = Literal["accepted", "duplicate", "resolved", "canary", "unknown", "disabled", "stale"]
Kind = Literal["do", "undo"]


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work that has been claimed: an action to do, or one to undo."""

    id: int
    kind: Kind
    key: str
    hook: str
    action: str
    target: str
    subject: str
    alert: str
    fingerprint: str
    sent: bool
    attempt: int


def execution_key(fingerprint: str, starts_us: int, action: str, reversals: int) -> str:
    """Return the idempotency key of an execution: the same alert again is the same, unless it resolved in between."""
    return hashlib.sha256(f"{fingerprint}\n{starts_us}\n{action}\n{reversals}".encode()).hexdigest()


class Store:
    """All of it. `wall` gives Unix seconds; `endpoints` are the names that calls can be made to."""

    def __init__(self, folder: Path, table: Table, endpoints: Collection[str], wall: Callable[[], float]) -> None:
        """Open or create the store in `folder`, and take back what a dead executor held. Raises `sqlite3.Error`."""
        self._db = connect(folder / "executor.sqlite", _SCHEMA + AUDIT_SCHEMA + TICKETS_SCHEMA)
        self._table, self._endpoints, self._wall = table, frozenset(endpoints), wall
        self.audit = Audit(self._db)
        self.tickets = TicketBook(self._db, table, endpoints, wall)
        # The lease on a running execution is its process' life: the data folder's lock proves that the holder is dead.
        with transaction(self._db):
            self._db.execute("UPDATE executions SET state = 'pending' WHERE state = 'running'")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def check(self) -> None:
        """Raise `sqlite3.Error` unless the store can be written to."""
        with transaction(self._db):
            pass

    # -- what comes in

    def accept(self, delivery: webhook.Webhook, body: bytes) -> Counter[Outcome]:
        """Record a delivery and all that follows from it, and return how many alerts had which outcome."""
        digest = hashlib.sha256(body).hexdigest()
        with transaction(self._db):
            self._db.execute(
                "INSERT INTO deliveries (sha256, at, body) VALUES (?, ?, ?) "
                "ON CONFLICT (sha256) DO UPDATE SET times = times + 1",
                (digest, self._now(), body),
            )
            return Counter(self._one(alert, delivery.group_key, digest) for alert in delivery.alerts)

    def _one(self, alert: webhook.Alert, group_key: str, digest: str) -> Outcome:
        name = alert.labels.alertname
        if name == webhook.CANARY:
            return "canary"
        hook = self._table.hook_of(name)
        if hook is None:
            return "unknown"
        starts_us = webhook.microseconds(alert.starts_at)
        if alert.status == "resolved":
            # What was begun is put back also when the hook has been switched off since.
            self._end_alerts(alert.fingerprint, starts_us)
            return "resolved"
        if not self._table.hooks[hook].enabled:
            return "disabled"
        newer = "SELECT 1 FROM alerts WHERE fingerprint = ? AND starts_us > ?"
        if self._db.execute(newer, (alert.fingerprint, starts_us)).fetchone():
            return "stale"  # a late delivery of an alert that has since ended and begun anew
        self._end_alerts(alert.fingerprint, starts_us - 1)  # its resolved message never reached us
        self._db.execute(
            "INSERT INTO alerts (fingerprint, starts_us, hook, active) VALUES (?, ?, ?, 1) "
            "ON CONFLICT (fingerprint, starts_us) DO UPDATE SET active = 1",
            (alert.fingerprint, starts_us, hook),
        )
        self.tickets.want(hook, alert, starts_us)
        return self._executions_of(alert, hook, starts_us, group_key, digest)

    def _executions_of(self, alert: webhook.Alert, hook: str, starts_us: int, group_key: str, digest: str) -> Outcome:
        generation = self._db.execute(
            "SELECT reversals FROM alerts WHERE fingerprint = ? AND starts_us = ?", (alert.fingerprint, starts_us)
        ).fetchone()[0]
        outcome: Outcome = "duplicate"
        common = {
            "kind": "do", "hook": hook, "owner": self._table.hooks[hook].owner, "alert": alert.labels.alertname,
            "fingerprint": alert.fingerprint, "starts_us": starts_us, "starts_at": alert.starts_at,
            "generation": generation, "group_key": group_key, "delivery": digest, "created_at": self._now(),
        }  # fmt: skip
        for place, action in enumerate(self._table.hooks[hook].actions):
            key = execution_key(alert.fingerprint, starts_us, action.name, generation)
            known = self._db.execute("SELECT * FROM executions WHERE key = ?", (key,)).fetchone()
            if known is not None:
                self._db.execute("UPDATE executions SET deliveries = deliveries + 1 WHERE id = ?", (known["id"],))
                self.audit.append("duplicate", known, f"delivery {known['deliveries'] + 1}", self._now())
                continue
            outcome = "accepted"
            subject = (alert.labels.get(action.subject) or "") if action.subject else ""
            row = self._insert({
                **common, "execution_id": key[:16], "key": key, "action": action.name, "place": place,
                "endpoint": action.endpoint, "subject": subject, "reversal": action.reversal, "state": "pending",
                "target": f"{action.endpoint}/{subject}" if subject else action.endpoint,
            })  # fmt: skip
            self.audit.append("accepted", row, f"key {key}", self._now())
            cannot = self._cannot(action, subject)
            if cannot is not None and self._row(row["id"])["state"] == "pending":
                self._end(row, "dead_letter", cannot)
        self._follow_up(alert.fingerprint, starts_us, generation)
        return outcome

    def _cannot(self, action: Action, subject: str) -> str | None:
        if self._table.operation_of(action) is None:
            return f"{action.name}: the platform has no endpoint for it yet ({action.endpoint})"
        if action.endpoint not in self._endpoints:
            return f"{action.name}: the executor was started without the address of {action.endpoint}"
        if action.subject and not subject:
            return f"{action.name}: the alert has no label {action.subject} that says what to do it to"
        return None

    def _follow_up(self, fingerprint: str, starts_us: int, generation: int) -> None:
        """End as failed what stands behind an action that did not succeed."""
        rows = self._db.execute(
            "SELECT * FROM executions WHERE kind = 'do' AND fingerprint = ? AND starts_us = ? AND generation = ? "
            "ORDER BY place",
            (fingerprint, starts_us, generation),
        ).fetchall()
        broken = None
        for row in rows:
            if broken is not None and row["state"] == "pending":
                self._end(row, "failed", f"not started: {broken['action']} before it ended as {broken['state']}")
            elif broken is None and row["state"] in ("failed", "dead_letter"):
                broken = row

    def _end_alerts(self, fingerprint: str, until_us: int) -> None:
        """Take the alerts of this fingerprint that began until then as over; put back what nothing holds any more."""
        ended = self._db.execute(
            "SELECT starts_us FROM alerts WHERE fingerprint = ? AND starts_us <= ? AND active = 1",
            (fingerprint, until_us),
        ).fetchall()
        for (starts_us,) in ended:
            self.tickets.over(fingerprint, starts_us)
            self._db.execute(
                "UPDATE alerts SET active = 0, reversals = reversals + 1 WHERE fingerprint = ? AND starts_us = ?",
                (fingerprint, starts_us),
            )
            mine = self._db.execute(
                "SELECT * FROM executions WHERE kind = 'do' AND fingerprint = ? AND starts_us = ?",
                (fingerprint, starts_us),
            ).fetchall()
            for row in mine:
                if row["state"] == "pending" and not row["sent"]:
                    self._end(row, "skipped", "the alert resolved before the action began")
            for action, target in {(row["action"], row["target"]) for row in mine if row["reversal"] == "on_resolved"}:
                self._put_back(action, target)

    def _held(self, action: str, target: str) -> bool:
        """Say whether an alert that is firing asked for this action on this target: it stays then."""
        return (
            self._db.execute(
                "SELECT 1 FROM executions AS e JOIN alerts AS a USING (fingerprint, starts_us) WHERE e.kind = 'do' "
                "AND e.action = ? AND e.target = ? AND a.active = 1 AND e.generation = a.reversals LIMIT 1",
                (action, target),
            ).fetchone()
            is not None
        )

    def _put_back(self, action: str, target: str) -> None:
        """Queue the undoing of what we did here, unless it is held, queued already, or there is nothing."""
        if self._held(action, target):
            return
        rows = self._db.execute(
            "SELECT * FROM executions WHERE action = ? AND target = ? AND (sent = 1 OR kind = 'undo') "
            "AND reverted = 0 AND reversal = 'on_resolved' ORDER BY id DESC",
            (action, target),
        ).fetchall()
        if any(row["state"] in ("pending", "running") for row in rows):
            return  # ending, it comes here again; or it is queued already
        done = [row for row in rows if row["kind"] == "do" and row["state"] in ("succeeded", "dead_letter")]
        if not done:
            return
        count = self._db.execute(
            "SELECT count(*) FROM executions WHERE kind = 'undo' AND execution_id = ?", (done[0]["execution_id"],)
        ).fetchone()[0]
        new = {name: done[0][name] for name in done[0].keys()}  # noqa: SIM118 - a Row iterates over its values
        for name in ("id", "sent", "attempt", "deliveries", "reverted", "error", "started_at", "ended_at"):
            del new[name]
        key = hashlib.sha256(f"{done[0]['key']}\nrevert\n{count}".encode()).hexdigest()
        self._insert({**new, "kind": "undo", "key": key, "state": "pending", "created_at": self._now()})

    # -- what the workers do

    def claim(self, resting: Collection[int]) -> Job | None:
        """Take the oldest piece of work that may begin, None when there is none.

        It may when the action before it succeeded (or was in effect already) and nothing runs that does or undoes the
        same action on the same target. `resting` are the ids that wait for their next attempt.
        """
        with transaction(self._db):
            rows = self._db.execute(
                "SELECT * FROM executions AS e WHERE state = 'pending' "
                "AND NOT EXISTS (SELECT 1 FROM executions AS r WHERE r.state = 'running' AND r.action = e.action "
                "AND r.target = e.target) "
                "AND (kind = 'undo' OR place = 0 OR EXISTS (SELECT 1 FROM executions AS p WHERE p.kind = 'do' AND "
                "p.fingerprint = e.fingerprint AND p.starts_us = e.starts_us AND p.generation = e.generation AND "
                "p.place = e.place - 1 AND p.state IN ('succeeded', 'skipped'))) ORDER BY id"
            )
            row = next((each for each in rows if each["id"] not in resting), None)
            rows.close()
            if row is None:
                return None
            self._db.execute(
                "UPDATE executions SET state = 'running', attempt = attempt + 1 WHERE id = ?", (row["id"],)
            )
            names = ("id", "kind", "key", "hook", "action", "target", "subject", "alert", "fingerprint")
            return Job(**{name: row[name] for name in names}, sent=bool(row["sent"]), attempt=row["attempt"] + 1)

    def begin(self, job: Job, in_effect: bool | None) -> bool:
        """Record that the call to the target is about to be made; False when it is not to be made (any more).

        `in_effect` is what the target itself said just now, None when this was begun before and only goes on.
        """
        with transaction(self._db):
            row = self._row(job.id)
            if job.kind == "undo":
                if self._held(job.action, job.target):
                    self._set(job.id, state="skipped", ended_at=self._now(), error="an alert holds the action again")
                    return False
                self._set(job.id, sent=1, started_at=row["started_at"] or self._now())
                return True
            if not row["sent"]:
                if not self._active(row):
                    self._end(row, "skipped", "the alert resolved before the action began")
                    return False
                if in_effect:
                    self._end(row, "skipped", "in effect already, as the target says")
                    return False
                self._set(job.id, sent=1, started_at=self._now())
                self.audit.append("started", row, "", self._now())
            return True

    def succeed(self, job: Job, detail: str) -> None:
        """Record that the target shows the effect, or shows it gone when the job undid it."""
        with transaction(self._db):
            row = self._row(job.id)
            if job.kind == "do":
                self._end(row, "succeeded", detail)
                if row["reversal"] == "on_resolved":
                    self._put_back(job.action, job.target)  # its alert may have resolved meanwhile
                return
            self._set(job.id, state="succeeded", ended_at=self._now())
            undone = self._db.execute(
                "SELECT * FROM executions WHERE kind = 'do' AND action = ? AND target = ? AND sent = 1 "
                "AND reverted = 0 AND state IN ('succeeded', 'dead_letter') ORDER BY id",
                (job.action, job.target),
            ).fetchall()
            for each in undone:
                self._set(each["id"], reverted=1)
                self.audit.append("reverted", each, detail, self._now())

    def give_up(self, job: Job, why: str) -> None:
        """Record that the target refused for good."""
        with transaction(self._db):
            self._stop(self._row(job.id), "failed", why)

    def again(self, job: Job, why: str) -> bool:
        """Record a failed attempt and return True if another one is due, False when it was the last."""
        with transaction(self._db):
            row = self._row(job.id)
            if row["attempt"] >= MAX_ATTEMPTS:
                self._stop(row, "dead_letter", f"given up after {row['attempt']} attempts; the last: {why}")
                return False
            if job.kind == "do" and not row["sent"] and not self._active(row):
                self._end(row, "skipped", "the alert resolved before the action began")
                return False
            self._set(job.id, state="pending", error=why[:2000])
            if job.kind == "do":  # an undoing's retries are not the execution's own
                self.audit.append("retry", row, f"attempt {row['attempt']}: {why}", self._now())
            return True

    def _stop(self, row: sqlite3.Row, state: Literal["failed", "dead_letter"], why: str) -> None:
        if row["kind"] == "undo":
            self._set(row["id"], state=state, ended_at=self._now(), error=why[:2000])
            self.audit.append("dead_letter", row, f"not put back: {why}", self._now())
            return
        self._end(row, state, why)
        self._follow_up(row["fingerprint"], row["starts_us"], row["generation"])
        if row["sent"] and row["reversal"] == "on_resolved":
            self._put_back(row["action"], row["target"])  # it may have had an effect all the same

    # -- what can be read

    def counts(self) -> dict[str, int]:
        """Return how many executions there are by state, every state included."""
        found = self._db.execute("SELECT state, count(*) FROM executions WHERE kind = 'do' GROUP BY state")
        return {**dict.fromkeys(STATES, 0), **{row[0]: row[1] for row in found}}

    def open_jobs(self) -> int:
        """Return how many things are still to be done or undone."""
        found = self._db.execute("SELECT count(*) FROM executions WHERE state IN ('pending', 'running')").fetchone()
        return int(found[0])

    def executions(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Return executions, oldest first, without the undoings."""
        rows = self._db.execute(
            "SELECT * FROM executions WHERE kind = 'do' AND id > ? AND (? IS NULL OR state = ?) ORDER BY id LIMIT ?",
            (after, state, state, limit),
        )
        hidden = ("kind", "starts_us", "sent")
        shown = [{name: row[name] for name in row.keys() if name not in hidden} for row in rows]  # noqa: SIM118
        return [
            {**row, "seq": row.pop("id"), "at": row["created_at"], "reverted": bool(row["reverted"])} for row in shown
        ]

    # -- inside a transaction

    def _now(self) -> str:
        return wall_text(self._wall())

    def _row(self, number: int) -> sqlite3.Row:
        row: sqlite3.Row = self._db.execute("SELECT * FROM executions WHERE id = ?", (number,)).fetchone()
        return row

    def _active(self, row: sqlite3.Row) -> bool:
        found = self._db.execute(
            "SELECT active, reversals FROM alerts WHERE fingerprint = ? AND starts_us = ?",
            (row["fingerprint"], row["starts_us"]),
        ).fetchone()
        return bool(found and found["active"] and found["reversals"] == row["generation"])

    def _insert(self, values: dict[str, Any]) -> sqlite3.Row:
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        cursor = self._db.execute(f"INSERT INTO executions ({names}) VALUES ({marks})", tuple(values.values()))  # noqa: S608 - our own column names
        return self._row(int(cursor.lastrowid or 0))

    def _set(self, number: int, **values: Any) -> None:
        names = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE executions SET {names} WHERE id = ?", (*values.values(), number))  # noqa: S608 - our own column names

    def _end(self, row: sqlite3.Row, state: Literal["succeeded", "failed", "skipped", "dead_letter"], why: str) -> None:
        """End an execution, not an undoing, and say so in the audit."""
        error = "" if state == "succeeded" else why[:2000]
        self._set(row["id"], state=state, ended_at=self._now(), error=error)
        self.audit.append(state, row, why, self._now())
