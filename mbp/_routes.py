"""The web half of :mod:`mbp._store`: what requests for changes have in common, health, the audit route, refusals."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import StringConstraints

from mbp._asgi import Health
from mbp._service import problem
from mbp._store import AuditedStore

Key = Annotated[str | None, Header(alias="Idempotency-Key", pattern=r"^[!-~]{1,200}$")]
Reason = Annotated[str, StringConstraints(max_length=2000)]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]
# Where a page of rows begins (after this number), and how long it is.
After = Annotated[int, Query(ge=0, lt=2**63)]
Limit = Annotated[int, Query(ge=1, le=1000)]


def health_of(probe: Callable[[], None]) -> Health:
    """Return the health of a service that can do its work while its store takes writes (``probe`` does not raise)."""

    async def health() -> str | None:
        try:
            probe()
        except sqlite3.Error as error:
            return f"the store takes no writes: {error}"
        return None

    return health


def add_audit(app: FastAPI, path: str, store: AuditedStore) -> None:
    """Serve the store's audit at ``path``, and answer 503 ``store_unavailable`` when a change cannot be stored."""

    @app.get(path)
    async def audit(after: After = 0, limit: Limit = 100) -> JSONResponse:
        return JSONResponse(store.audit(after, limit))

    @app.exception_handler(sqlite3.Error)
    async def on_store(_: Request, error: sqlite3.Error) -> JSONResponse:
        return JSONResponse(problem("store_unavailable", f"nothing was changed: {error}"), 503)
