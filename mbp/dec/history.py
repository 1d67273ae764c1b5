"""The price history of a market, the one answer of `mbp.v1` that comes from PostgreSQL: what the relay wrote there."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path, Query

from mbp._wire import Problem, Wire
from mbp.dec.database import Database

MarketPath = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,79}$")]
Limit = Annotated[int, Query(ge=1, le=200, description="how many points at most, the newest first")]

_ERRORS: dict[int | str, dict[str, Any]] = {
    422: {"model": Problem, "description": "the market or the limit is not as the schema says"},
    503: {"model": Problem, "description": "the database cannot be asked, or did not answer in time"},
}
_SQL = """
SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), price_yes::text, source FROM mbp_quotes
WHERE market = %s ORDER BY id DESC LIMIT %s
"""


class PricePoint(Wire):
    """The price of YES as it was at a time, and what told it."""

    at: str
    price_yes: str
    source: str


class History(Wire):
    """The newest prices of a market, newest first; empty where none was written yet."""

    market: str
    points: list[PricePoint]


def add_history(app: FastAPI, database: Database) -> None:
    """Add the route."""

    @app.get("/v1/markets/{market}/history", response_model=History, responses=_ERRORS)
    async def history(market: MarketPath, limit: Limit = 50) -> History:
        """Show the newest prices of a market."""
        rows = await database.ask(_SQL, (market, limit))
        return History(
            market=market,
            points=[PricePoint(at=at, price_yes=price, source=source) for at, price, source in rows],
        )
