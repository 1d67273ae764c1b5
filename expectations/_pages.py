"""Reading a log over HTTP page by page, without losing or repeating a row."""

from __future__ import annotations

from collections.abc import Mapping

from expectations._http import number, rows, table
from sim.event import JSON
from sim.observation import CannotLook
from sim.wire import Client

LIMIT = 500
#: Rows of one look are bounded by LIMIT x PAGES; what is left is read at the next look.
PAGES = 40


class Cursor:
    """A place in a log whose rows carry a rising `seq`, read as ``GET path?after=SEQ&limit=N`` → ``{rows, next}``."""

    def __init__(self, client: Client, path: str, params: Mapping[str, str] | None = None) -> None:
        self._client, self._path, self._params = client, path, dict(params or {})
        self.after: int | None = None

    async def to_end(self) -> None:
        """Go behind the last row there is now. Raises `CannotLook`."""
        tail = await self._page({"tail": "1"})
        after = number(tail, "next", self._path)
        # A server that does not know `tail` answers with its first rows, and `next` behind them: walk on from there.
        for _ in range(PAGES * 100):
            page = await self._page({"after": str(after), "limit": str(LIMIT)})
            if not rows(page.get("rows"), self._path):
                self.after = after
                return
            after = self._beyond(after, page)
        raise CannotLook(f"{self._path}: no end after {PAGES * 100 * LIMIT} rows")

    async def read(self) -> tuple[list[Mapping[str, JSON]], int]:
        """Return the rows since the last look, and where they end; set `after` to that once they are dealt with.

        Raises `CannotLook`, also when the log has become shorter: its past is gone then, and with it what we missed.
        """
        after = self.after or 0
        found: list[Mapping[str, JSON]] = []
        for _ in range(PAGES):
            page = await self._page({"after": str(after), "limit": str(LIMIT)})
            new = rows(page.get("rows"), self._path)
            if not new:
                self._beyond(after, page, empty=True)
                break
            for row in new:
                if number(row, "seq", self._path) > after:
                    found.append(row)
            after = self._beyond(after, page)
        return found, after

    async def _page(self, params: Mapping[str, str]) -> Mapping[str, JSON]:
        answer = await self._client.ask("GET", self._path, params={**self._params, **params})
        return table(answer.json, self._path)

    def _beyond(self, after: int, page: Mapping[str, JSON], empty: bool = False) -> int:
        following = number(page, "next", self._path)
        if following < after or (following == after and not empty):
            raise CannotLook(
                f"{self._path}: asked for what comes after {after}, was told that {following} is next: "
                "was its store replaced? What happened before that is lost"
            )
        return following
