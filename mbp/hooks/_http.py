"""What the executor and the sinks share: strict JSON bodies, answers to queries, and one thread that owns the store."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mbp._asgi import ApiError

log = logging.getLogger(__name__)
PAGE_LIMIT = 1000  # rows of one answer

T = TypeVar("T")


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. Raises `ApiError` 400 with what is wrong and where."""
    try:
        value = json.loads(body, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ApiError(400, "malformed", "the body is nested too deeply") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ApiError(400, "malformed", f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ApiError(400, "malformed", f"the body is a JSON {type(value).__name__}; an object is expected")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _whole(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"{text[:40]}… is too large a number")
    return int(text)


def text_field(value: dict[str, Any], name: str, limit: int, *, where: str = "") -> str:
    """Return the text at `name`, 1 to `limit` characters. Raises `ApiError` 400 that names the field."""
    found = value.get(name)
    if not isinstance(found, str) or not found:
        raise ApiError(400, "invalid", f"{where}{name}: {'missing' if found is None else 'must be text, not empty'}")
    if len(found) > limit:
        raise ApiError(400, "invalid", f"{where}{name}: longer than {limit} characters")
    if not found.isprintable():
        raise ApiError(400, "invalid", f"{where}{name}: contains characters that cannot be printed")
    return found


def connect(path: Path, schema: str) -> sqlite3.Connection:
    """Open the SQLite file at `path` so that a commit survives a power cut, and create what `schema` says."""
    # Used by one thread only, but opened by another: the store's thread starts after it.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2.0)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(schema)
    return connection


class Desk:
    """One thread through which all work on a store goes, in the order asked for."""

    def __init__(self, name: str) -> None:
        """Start the thread with the first piece of work."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def do(self, work: Callable[[], T]) -> T:
        """Run `work` on the thread. Raises `ApiError` 503 when the store fails: whoever asked may try again."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except sqlite3.Error as error:
            log.error("store: %s", error)
            raise ApiError(503, "store_unavailable", f"the store failed ({error}); nothing was recorded") from error

    def close(self, work: Callable[[], None]) -> None:
        """Run `work` last, and end the thread."""
        self._pool.submit(work).result(timeout=5)
        self._pool.shutdown()
