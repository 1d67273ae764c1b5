"""What an event becomes in the hot tables. Pure: events in, statements with their rows out.

An event that is not as its schema says is put aside with the reason: it must not stop the ones behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mbp.events import EventInvalid, validate

Row = tuple[Any, ...]
_HEAD = "seq, event_id, type, at, recorded_at, trace_id, data"

#: Table → its columns. The market comes first: an event is about one.
COLUMNS = {
    "mbp_trades": f"{_HEAD}, market, side, action, amount_in, amount_out, fee, price_yes",
    "mbp_resolutions": f"{_HEAD}, market, outcome",
    "mbp_abuse_events": f"{_HEAD}, market, reason",
    "mbp_quotes": "market, at, price_yes, source, seq, trace_id",
}
MARKET_COLUMNS = f"market, {_HEAD}, question, status, price_yes, opened_at, resolved"
_STATUS = {
    "market_created": "open",
    "liquidity_added": "open",
    "resolution_started": "resolving",
    "resolution_finished": "resolved",
}


@dataclass(slots=True)
class Batch:
    """The rows of some events, by table, in the order of the feed; `markets` is one state a market, the last."""

    inserts: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in COLUMNS})
    markets: dict[str, Row] = field(default_factory=dict)
    rejected: list[tuple[int, str, str]] = field(default_factory=list)
    types: dict[str, int] = field(default_factory=dict)


def batch(events: Iterable[Mapping[str, Any]]) -> Batch:
    """Return what these events of the feed become."""
    made = Batch()
    for event in events:
        try:
            validate(event["type"], event["data"])
        except EventInvalid as error:
            made.rejected.append((event["seq"], json.dumps(_storable(dict(event))), str(error)))
            continue
        made.types[event["type"]] = made.types.get(event["type"], 0) + 1
        _add(made, event)
    return made


def _storable(value: Any) -> Any:
    """Return a value with what PostgreSQL's JSON cannot hold (U+0000, half a pair) spelled out."""
    if isinstance(value, dict):
        return {_storable(name): _storable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_storable(each) for each in value]
    if not isinstance(value, str):
        return value
    return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _add(made: Batch, event: Mapping[str, Any]) -> None:
    kind, data, market = event["type"], event["data"], event["data"]["market"]
    head = (
        event["seq"], event["id"], kind, event["at"], event["recorded_at"], event["trace_id"], json.dumps(data),
    )  # fmt: skip
    if kind == "trade_executed":
        numbers = (data["amount_in"], data["amount_out"], data["fee"], data["price_yes"])
        made.inserts["mbp_trades"].append((*head, market, data["side"], data["action"], *numbers))
        quote = (market, event["at"], data["price_yes"], "trade", event["seq"], event["trace_id"])
        made.inserts["mbp_quotes"].append(quote)
        return
    if kind == "flagged_abuse":
        made.inserts["mbp_abuse_events"].append((*head, market, data["reason"]))
        return
    if kind in ("resolution_started", "resolution_finished"):
        made.inserts["mbp_resolutions"].append((*head, market, data.get("outcome")))
    before = made.markets.get(market)
    opened = event["at"] if kind == "market_created" else None
    state = [data.get("question"), _STATUS[kind], data.get("price_yes"), opened, data.get("outcome")]
    if before is not None:  # two changes of one market in one batch: what the later does not say, the earlier does
        state = [new if new is not None else old for new, old in zip(state, before[8:], strict=True)]
    made.markets[market] = (market, *head, *state)
