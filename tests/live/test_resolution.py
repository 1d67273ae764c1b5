"""A resolution that does not come, on the real stack: the freeze really refuses trades, only there, and is undone."""

from __future__ import annotations

import json
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import tool
from tests.live.chains import Bench

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

FAULT = {
    "point": "events.delay",
    "kind": "hold",
    "params": {"event": "resolution_finished", "hours": 25},
    "ttl_s": 60,
    "run": "by-hand",
}
MARKET = "sim-by-hand-1"


def _swap(bench: Bench, market: str) -> str:
    """Ask for a swap through the public door; return the code of the refusal, `done` when there was none."""
    body = {"market": market, "side": "yes", "action": "buy", "amount": "1"}
    try:
        bench.ask("release", "POST", "/v1/swaps", body)
    except urllib.error.HTTPError as refused:
        with refused:
            return f"{refused.code} {json.loads(refused.read())['error']}"
    return "done"


def _becomes(look: Callable[[], Any], wanted: Any, within_s: float = 60) -> None:
    """Wait until it reads so; fail with what it read last."""
    deadline = time.monotonic() + within_s
    while (found := look()) != wanted:
        assert time.monotonic() < deadline, f"still {found!r}, not {wanted!r}"
        time.sleep(0.05)


def test_a_freeze_refuses_trades_in_that_market_and_is_undone(tmp_path: Path) -> None:
    """From the late event to the refused trade, and back, by nobody's hand; the resident market trades on."""
    tool("prometheus")
    bench = Bench(tmp_path, "resolution", ("resolution_sla",))
    with bench.kept():

        def market() -> tuple[str, bool]:
            shown = bench.ask("engine", "GET", f"/v1/markets/{MARKET}")
            return shown["status"], shown["frozen"]

        bench.ask("engine", "PUT", "/faults/by-hand-1", FAULT, token=True)
        assert _swap(bench, MARKET) in ("done", "409 market_frozen")  # it trades until the freeze
        _becomes(market, ("resolving", True))
        assert (_swap(bench, MARKET), _swap(bench, "resident")) == ("409 market_frozen", "done")
        bench.ask("engine", "DELETE", "/faults/by-hand-1", token=True)
        _becomes(market, ("resolved", False))
        assert (_swap(bench, MARKET), _swap(bench, "resident")) == ("409 market_resolved", "done")
        rows = bench.ask("engine", "GET", f"/v1/audit/markets?market={MARKET}")["rows"]
        assert [row["event"] for row in rows] == ["freeze", "resolution_finished", "unfreeze"]
        told = [bench.once("resolution_sla") for _ in range(2)]
        assert [(each.code, each.report.get("outcome"), each.report.get("reasons")) for each in told] == [
            (0, "passed", [])
        ] * 2
        assert bench.ask("engine", "GET", "/faults", token=True) == []
