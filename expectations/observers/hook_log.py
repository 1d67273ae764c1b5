"""Reads the audit of a hook executor: who was made to do what, on account of which alert, and how it went."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from expectations._http import HttpConfig, looker, number, rows, table, text
from expectations._pages import Cursor
from expectations._stamp import epoch
from sim.event import JSON
from sim.observation import Observation, ObserverKind, Opening
from sim.wire import Client

_AUDIT, _EXECUTIONS = "/v1/audit", "/v1/executions"
#: Words of the audit that say how an execution goes. `duplicate` is a second delivery of an accepted alert: no change.
_STATES = frozenset({"accepted", "started", "retry", "succeeded", "failed", "skipped", "dead_letter", "reverted"})
#: The executions' words for one under way, in the audit's terms.
_UNFINISHED = {"pending": "accepted", "running": "started"}


class Config(HttpConfig):
    """No keys of its own."""

    kind: Literal["hook_log"] = "hook_log"


class HookLog:
    """The observer. See `sim.observation.Observer`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._audit = Cursor(client, _AUDIT)

    async def poll(self) -> Sequence[Observation]:
        """Look once; the first look says what is not finished. Raises `CannotLook`, and then has forgotten nothing."""
        if self._audit.after is None:
            # First the end of the audit, then the executions: what falls between the two is told twice, not lost.
            end = Cursor(self._client, _AUDIT)
            await end.to_end()
            unfinished = await self._unfinished()
            self._audit.after = end.after
            return unfinished
        read, after = await self._audit.read()
        seen = [_execution(row) for row in read if text(row, "event", _AUDIT) in _STATES]
        self._audit.after = after
        return seen

    async def _unfinished(self) -> list[Observation]:
        found: dict[str, Observation] = {}
        for state in _UNFINISHED:
            answer = table((await self._client.ask("GET", _EXECUTIONS, params={"state": state})).json, _EXECUTIONS)
            for row in rows(answer.get("rows", answer.get("executions")), _EXECUTIONS):
                if row.get("state") in _UNFINISHED:
                    key = row.get("execution_id", row.get("id"))
                    data = {**row, "execution_id": key, "event": _UNFINISHED[str(row["state"])], "seq": None}
                    found[str(key)] = _execution(data)
        return list(found.values())


def _execution(row: Mapping[str, JSON]) -> Observation:
    where = _AUDIT
    detail = row.get("detail")
    return Observation(
        "execution",
        {
            "id": text(row, "execution_id", where),
            "hook": row.get("hook"),
            "action": text(row, "action", where),
            "target": row.get("target"),
            "state": text(row, "event", where),
            "fingerprint": row.get("fingerprint"),
            "starts_at": epoch(row.get("starts_at")),
            "alert": row.get("alert"),
            "audit_seq": None if row.get("seq") is None else number(row, "seq", where),
            "detail": detail,
        },
        epoch(row.get("at")),
    )


@asynccontextmanager
async def _open(opening: Opening) -> AsyncIterator[HookLog]:
    config = opening.config
    if not isinstance(config, Config):
        raise TypeError(f"observer {opening.name}: not a hook_log configuration")
    async with looker(config, opening.secrets) as client:
        yield HookLog(client)


observer = ObserverKind(
    summary="the audit of a hook executor",
    config=Config,
    open=_open,
    yields=frozenset({"execution"}),
    cursor=True,
)
