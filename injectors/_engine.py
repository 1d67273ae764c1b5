"""What faults share that have the engine open a market of their own: the market, and the engine's rows of it."""

from __future__ import annotations

from urllib.parse import quote

from injectors._http import objects
from sim.event import JSON
from sim.injector import InjectionError
from sim.wire import Client

_PAGE, _PAGES = 500, 20


def market_path(market: str) -> str:
    """Return where the engine shows a market."""
    return f"/v1/markets/{quote(market, safe='')}"


async def found(engine: Client, market: str) -> dict[str, JSON] | None:
    """Return the market as the engine shows it, null where there is none. Raises `InjectionError`."""
    answer = await engine.ask("GET", market_path(market), accept=(200, 404))
    if answer.status == 404:
        return None
    if not isinstance(answer.json, dict):
        raise InjectionError(f"GET {engine.base_url}/v1/markets/{market}: expected an object, got {answer.json!r:.100}")
    return answer.json


async def status(engine: Client, market: str) -> JSON:
    """Return the market's status, ``absent`` where there is none. Raises `InjectionError`."""
    there = await found(engine, market)
    return "absent" if there is None else there.get("status")


async def refuse_existing(engine: Client, market: str) -> None:
    """Raise `InjectionError` where the market is there already, in whatever status."""
    if await found(engine, market) is not None:
        raise InjectionError(f"{engine.base_url}: market {market} is already there; it must be the fault's own")


async def rows(engine: Client, path: str, market: str) -> list[dict[str, JSON]]:
    """Return the rows at a numbered list that were asked for by market, oldest first. Raises `InjectionError`."""
    after, read = 0, []
    for _ in range(_PAGES):
        params = {"market": market, "after": str(after), "limit": str(_PAGE)}
        page = (await engine.ask("GET", path, params=params)).json
        listed = objects(page, "rows", f"GET {engine.base_url}{path}")
        read += listed
        following = page.get("next") if isinstance(page, dict) else None
        if not listed or not isinstance(following, int) or following <= after:
            break
        after = following
    return read
