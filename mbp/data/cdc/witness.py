"""The third witness: what PostgreSQL itself says of its replication client, asked once a second on its own thread."""

from __future__ import annotations

import logging
from threading import Event

import psycopg2
from psycopg2.extensions import connection as Connection

from mbp.data import schema
from mbp.data.cdc.state import State

EVERY_S = 1.0
_QUERY = """
SELECT s.active, extract(epoch FROM r.replay_lag)::float8,
    (pg_current_wal_lsn() - coalesce(s.confirmed_flush_lsn, s.restart_lsn))::float8
FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE s.slot_name = %s
"""

log = logging.getLogger("mbp.data.cdc")


def watch(url: str, state: State, stop: Event) -> None:
    """Ask until stopped; while PostgreSQL cannot be asked nothing is claimed about it."""
    db: Connection | None = None
    while not stop.is_set():
        try:
            if db is None:
                db = schema.connect(url)
                db.autocommit = True
            _ask(db, state)
        except psycopg2.Error as error:
            log.warning("PostgreSQL cannot be asked about its client: %s", str(error).strip())
            state.unsampled()
            if db is not None:
                db.close()
                db = None
        stop.wait(EVERY_S)
    if db is not None:
        db.close()


def _ask(db: Connection, state: State) -> None:
    with db.cursor() as cursor:
        cursor.execute(_QUERY, (schema.SLOT,))
        row = cursor.fetchone()
    if row is None:
        state.unsampled()
    else:
        state.sampled(row[0], row[1], row[2] or 0.0)
