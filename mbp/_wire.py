"""The shapes on the wire that more than one service speaks. Strict: an unknown key or a wrong type is refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("the character U+0000 may not stand in a text")
    return text


Amount = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{1,10}(\.[0-9]{1,9})?$"), Field(description="decimal, at most 9 decimals")
]
Stamp = Annotated[
    str,
    StringConstraints(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"
    ),
    Field(description="RFC 3339, with a time zone"),
]
MarketId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,79}$")]
#: Not every store behind us can hold U+0000; it is refused at the door, where somebody can be told.
Storable = AfterValidator(_without_nul)
Side = Literal["yes", "no"]
Action = Literal["buy", "sell"]


class Wire(BaseModel):
    """The base of every body: frozen, no unknown keys, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class MarketOpen(Wire):
    """A request to open a market; without ``id`` the engine names it, at ``closes_at`` its resolution starts."""

    id: MarketId | None = None
    question: Annotated[str, StringConstraints(min_length=1, max_length=500), Storable]
    reserve: Amount
    closes_at: Stamp | None = None


class LiquidityAdd(Wire):
    """A request to add money to a pool."""

    amount: Amount
    action: Literal["add"] = "add"


class LiquidityRemove(Wire):
    """A request to give pool shares back."""

    shares: Amount
    action: Literal["remove"]


class Market(Wire):
    """A market as it stands; ``k`` is the product of the reserves, exact.

    It is ``open``, ``resolving`` from resolution_started on, ``resolved`` to its ``outcome``, or ``closed`` without
    one. A ``frozen`` market is not traded, whatever its status.
    """

    id: str
    question: str
    status: Literal["open", "resolving", "resolved", "closed"]
    reserve_yes: str
    reserve_no: str
    price_yes: str
    k: str
    frozen: bool
    liquidity: str
    collateral: str
    fees: str
    swaps: int
    fault: str | None
    opened_at: str
    closes_at: str | None
    resolution_started_at: str | None
    resolved_at: str | None
    outcome: Side | None
    closed_at: str | None


class MarketList(Wire):
    """Markets, open ones first."""

    markets: list[Market]


class Quote(Wire):
    """What a swap would do now; ``price_after`` is that of YES."""

    amount_out: str
    fee: str
    price_after: str


class Swap(Wire):
    """One audited swap; ``delta_k_ratio`` is exact (``0`` or ``n/d``), ``fault`` the one that changed it."""

    seq: int
    at: str
    market: str
    side: Side
    action: Action
    amount_in: str
    amount_out: str
    fee: str
    k_before: str
    k_after: str
    delta_k_ratio: str
    delta_k_float: float
    breach: bool
    fault: str | None
    request_id: str
    trace_id: str | None


class SwapPage(Wire):
    """Audit rows in order; ``next`` is the ``after`` of the next page."""

    rows: list[Swap]
    next: int


class Funding(Wire):
    """What a change of liquidity did: money moved, pool shares, outcome shares handed out, the market after it."""

    action: Literal["add", "remove"]
    amount: str
    shares: str
    yes_out: str
    no_out: str
    market: Market


class Problem(Wire):
    """The one error body of the platform."""

    error: str
    detail: str
