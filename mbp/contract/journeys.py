"""The journeys of a consumer of `mbp.v1`: what it asks, and what it expects that a schema cannot say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mbp.contract.document import Answer, Contract, Violation, shown

MARKET = "contract-probe"
RESERVE = "100000"  # as deep as the resident market: the probe's own is no thin market for a watcher to find
AMOUNT = "1"
UNKNOWN = "contract-probe-unknown"  # an id that nothing opens

_DECIMAL = re.compile(r"[0-9]+(\.[0-9]{1,9})?")
#: Refusals of form: a good request met with one is a violation. Any other (frozen, closed, degraded ...) says something
#: of the market or of the service, not of the contract: such an answer is no sample of the journey.
FORM_CODES = frozenset({"invalid", "malformed", "not_found", "method_not_allowed"})

FORM_STATUSES = frozenset({400, 413})  # whatever code is with them: the market has no part in these


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: path as sent, JSON body and headers."""

    method: str
    path: str
    body: dict[str, str] | None = None
    headers: dict[str, str] = field(default_factory=dict)


Meaning = Callable[[Ask, dict[str, Any]], Iterator[Violation]]


@dataclass(frozen=True, slots=True)
class Journey:
    """One step of a consumer: what it asks at its n-th turn, the status that it needs, and what the body must mean."""

    name: str
    operation: str  # the path as the contract spells it
    status: int
    ask: Callable[[int], Ask]
    meaning: Meaning


@dataclass(frozen=True, slots=True)
class Judged:
    """What an answer is: ``kept`` and ``violated`` are samples; ``refused``, ``throttled`` and ``failed`` are none."""

    outcome: str
    violations: tuple[Violation, ...] = ()
    code: str | None = None  # of an error answer


def judge(contract: Contract, journey: Journey, asked: Ask, answer: Answer) -> Judged:
    """Hold one answer against the contract and against what this journey expects beyond it."""
    if answer.status == 429:
        return Judged("throttled")
    if answer.status >= 500:
        return Judged("failed")
    body, found = contract.check(asked.method, journey.operation, answer)
    if answer.release is None:
        found.append(Violation("X-MBP-Release", "the name of a release", "absent"))
    code = str(body["error"]) if answer.status >= 400 and isinstance(body, dict) and "error" in body else None
    if found:
        return Judged("violated", tuple(found), code)
    if answer.status != journey.status:
        if code is not None and code not in FORM_CODES and answer.status not in FORM_STATUSES:
            return Judged("refused", (), code)
        wrong = Violation("status", str(journey.status), f"{answer.status} {code or ''}".strip())
        return Judged("violated", (wrong,), code)
    found = list(journey.meaning(asked, body))
    return Judged("violated" if found else "kept", tuple(found), code)


def _decimals(body: dict[str, Any], *names: str) -> Iterator[Violation]:
    for name in names:
        if not _DECIMAL.fullmatch(body[name]):
            yield Violation(f"$.{name}", "a decimal with at most 9 decimals", shown(body[name]))


def _same(body: dict[str, Any], expected: dict[str, str]) -> Iterator[Violation]:
    for name, value in expected.items():
        if body[name] != value:
            yield Violation(f"$.{name}", shown(value), shown(body[name]))


def _probability(body: dict[str, Any], name: str) -> Iterator[Violation]:
    wrong = list(_decimals(body, name))
    if not wrong and not 0 < float(body[name]) < 1:
        wrong = [Violation(f"$.{name}", "more than 0 and less than 1", shown(body[name]))]
    yield from wrong


def _quote(_: Ask, body: dict[str, Any]) -> Iterator[Violation]:
    yield from _decimals(body, "amount_out", "fee")
    yield from _probability(body, "price_after")


def _swap(asked: Ask, body: dict[str, Any]) -> Iterator[Violation]:
    sent = asked.body or {}
    yield from _decimals(body, "amount_in", "amount_out", "fee")
    yield from _same(body, {name: sent[name] for name in ("market", "side", "action")})
    yield from _same(body, {"request_id": asked.headers["X-Request-Id"]})
    if _DECIMAL.fullmatch(body["amount_in"]) and float(body["amount_in"]) != float(sent["amount"]):
        yield Violation("$.amount_in", sent["amount"], shown(body["amount_in"]))


def _market(_: Ask, body: dict[str, Any]) -> Iterator[Violation]:
    yield from _same(body, {"id": MARKET})
    yield from _decimals(body, "reserve_yes", "reserve_no", "liquidity", "collateral", "fees")
    yield from _probability(body, "price_yes")


def _list(_: Ask, body: dict[str, Any]) -> Iterator[Violation]:
    if not body["markets"]:
        yield Violation("$.markets", "at least the market that was opened", "[]")


def _error(code: str) -> Meaning:
    def meaning(_: Ask, body: dict[str, Any]) -> Iterator[Violation]:
        yield from _same(body, {"error": code})
        if not body["detail"]:
            yield Violation("$.detail", "a text", '""')

    return meaning


def _swap_ask(turn: int) -> Ask:
    # Yes and no in turn and by the same amount, so that the pool stays where it is.
    body = {"market": MARKET, "side": "no" if turn % 2 else "yes", "action": "buy", "amount": AMOUNT}
    return Ask("POST", "/v1/swaps", body, {"X-Request-Id": f"contract-{turn}"})


OPEN = Journey(
    "open",
    "/v1/markets",
    201,
    lambda _: Ask("POST", "/v1/markets", {"id": MARKET, "question": "Is the contract kept?", "reserve": RESERVE}),
    _market,
)

JOURNEYS: tuple[Journey, ...] = (
    Journey(
        "quote",
        "/v1/quotes",
        200,
        lambda _: Ask("POST", "/v1/quotes", {"market": MARKET, "side": "yes", "amount": AMOUNT}),
        _quote,
    ),
    Journey("market", "/v1/markets/{market}", 200, lambda _: Ask("GET", f"/v1/markets/{MARKET}"), _market),
    Journey("swap", "/v1/swaps", 201, _swap_ask, _swap),
    Journey("list", "/v1/markets", 200, lambda _: Ask("GET", "/v1/markets"), _list),
    Journey(
        "unknown",
        "/v1/markets/{market}",
        404,
        lambda _: Ask("GET", f"/v1/markets/{UNKNOWN}"),
        _error("market_not_found"),
    ),
    Journey(
        "refused",
        "/v1/quotes",
        422,
        lambda _: Ask("POST", "/v1/quotes", {"market": MARKET, "side": "yes", "amount": "much"}),
        _error("invalid"),
    ),
)


def dump(body: dict[str, str] | None) -> bytes | None:
    """Return a body as it is sent."""
    return None if body is None else json.dumps(body).encode()
