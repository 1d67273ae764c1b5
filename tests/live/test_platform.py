"""The running platform as a whole: one trace through all of it, a span for every request, and bad input to everyone."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.conftest import tool
from tests.live.chains import Bench

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADER = f"00-{TRACE}-00f067aa0ba902b7-01"
SWAP = {"market": "resident", "side": "yes", "action": "buy", "amount": "1"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A stack that stays up for these tests."""
    tool("prometheus")
    made = Bench(tmp_path_factory.mktemp("platform"), "platform")
    with made.kept():
        yield made


def spans(bench: Bench) -> list[dict[str, Any]]:
    """Return every span on the disk, each with the service that wrote it."""
    found = []
    for path in sorted(Path(bench.state.exports["dir"], "data/traces").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            (resource,) = json.loads(line)["resourceSpans"]
            found += [{**span, "file": path.stem} for span in resource["scopeSpans"][0]["spans"]]
    return found


def metrics(bench: Bench, export: str) -> dict[str, float]:
    """Return the samples of a service."""
    with urllib.request.urlopen(bench.state.exports[export] + "/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


@pytest.mark.timeout(300)
def test_a_views_trace_reaches_the_audit_row_and_the_warehouse(bench: Bench) -> None:
    """Page, entry, decision API, engine, relay, warehouse: each span under the one that asked, each row with the id."""
    request = urllib.request.Request(bench.state.exports["fe"] + "/api/v1/swaps", json.dumps(SWAP).encode())
    for name, value in {"Content-Type": "application/json", "traceparent": HEADER}.items():
        request.add_header(name, value)
    with urllib.request.urlopen(request, timeout=10) as answer:
        made = json.loads(answer.read())
    assert made["trace_id"] == TRACE
    deadline = time.monotonic() + 5  # a span is written when its work is done: the answer may be there a moment before
    while len(own := _of_the_request(bench)) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    shown = sorted((span["file"], span["name"], _parent(own, span)) for span in own.values())
    assert shown == [
        ("dec-candidate", "decision.request", "release.request"),
        ("engine", "amm.swap", "decision.request"),
        ("engine", "audit.write", "amm.swap"),
        ("fe", "fe.request", None),
        ("release", "release.request", "fe.request"),
    ]
    after = made["seq"] - 1
    audited = bench.ask("engine", "GET", f"/v1/audit/swaps?after={after}&limit=1")["rows"]
    assert audited == [made]
    assert _event(bench) == ("trade_executed", "resident")
    assert _warehouse(bench) == [("mbp_quotes", "resident"), ("mbp_trades", "resident")]
    deadline = time.monotonic() + 5  # and the row, too
    while len(data := _of_the_data(bench)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert data == [("cdc", "data.apply"), ("relay", "int.relay")]


def _of_the_request(bench: Bench) -> dict[str, dict[str, Any]]:
    return {span["spanId"]: span for span in spans(bench) if span["traceId"] == TRACE and span["file"] in FILES}


def _of_the_data(bench: Bench) -> list[tuple[str, str]]:
    own = ((span["file"], span["name"]) for span in spans(bench) if span["traceId"] == TRACE)
    return sorted(each for each in own if each[0] not in FILES)


def _warehouse(bench: Bench, within_s: float = 30.0) -> list[tuple[str, str]]:
    """Return the warehouse's rows of the trace, as soon as there are two."""
    db = psycopg2.connect(bench.state.exports["postgres"])
    db.autocommit = True
    query = " UNION ALL ".join(
        f"SELECT '{table}', market FROM wh.{table} WHERE trace_id = '{TRACE}'" for table in ("mbp_quotes", "mbp_trades")
    )
    try:
        deadline = time.monotonic() + within_s
        while True:
            with db.cursor() as cursor:
                cursor.execute(query)
                rows = sorted(cursor.fetchall())
            if len(rows) == 2 or time.monotonic() > deadline:
                return rows
            time.sleep(0.1)
    finally:
        db.close()


FILES = ("fe", "release", "dec-stable", "dec-candidate", "engine")


def _parent(own: dict[str, dict[str, Any]], span: dict[str, Any]) -> str | None:
    found = own.get(span.get("parentSpanId", ""))
    return None if found is None else str(found["name"])


def _event(bench: Bench) -> tuple[str, str] | None:
    after = 0
    while True:
        page = bench.ask("engine", "GET", f"/v1/events?after={after}&limit=500")
        for row in page["rows"]:
            if row["trace_id"] == TRACE:
                return row["type"], row["subject"]
        if not page["rows"]:
            return None
        after = page["next"]


@pytest.mark.timeout(300)
def test_every_counted_request_has_its_span_on_the_disk(bench: Bench) -> None:
    """Of both releases, under the resident traffic: as many root spans as counted requests, and none dropped."""
    deadline = time.monotonic() + 60
    while sum(_counted(metrics(bench, "dec_candidate"))) < 60 and time.monotonic() < deadline:
        bench.ask("release", "POST", "/v1/quotes", {"market": "resident", "side": "no", "amount": "1"})
    for export, file in (("dec_candidate", "dec-candidate"), ("dec_stable", "dec-stable")):
        before = len([span for span in spans(bench) if (span["file"], span["name"]) == (file, "decision.request")])
        seen = metrics(bench, export)
        after = len([span for span in spans(bench) if (span["file"], span["name"]) == (file, "decision.request")])
        (counted,) = _counted(seen)
        assert seen.get('trace_spans_total{name="decision.request",service="dec"}', 0.0) == counted
        assert before <= counted <= after
        assert seen['trace_spans_dropped_total{service="dec"}'] == 0.0


COUNTERS = ("dec_requests_total{", "dec_shadow_requests_total{")


def _counted(seen: dict[str, float]) -> tuple[float]:
    return (sum(value for name, value in seen.items() if name.startswith(COUNTERS)),)


HOSTILE: list[tuple[str, str, bytes]] = [
    ("GET", "/no/such/route", b""),
    ("GET", "/%00%ff/../..", b""),
    ("GET", "/" + "x" * 5000, b""),
    ("DELETE", "/healthz", b""),
    ("POST", "/metrics", b"{"),
    ("PUT", "/identity", b'{"instance": "other"}'),
    ("POST", "/", b"x" * 70_000),
    ("POST", "/beacon", b"{"),
    ("POST", "/beacon", b"[]"),
    ("POST", "/beacon", b"\xff\xfe"),
    ("POST", "/beacon", b"x" * 70_000),
    ("POST", "/v1/swaps", b"{"),
    ("POST", "/v1/alerts", b"{"),
    ("PUT", "/faults/x", b"{"),
    ("PUT", "/faults/x", b"x" * 70_000),
]


@pytest.mark.timeout(300)
def test_bad_input_to_every_service_is_refused_and_none_is_lost(bench: Bench) -> None:
    """Over the wire, to every process that serves HTTP: a 4xx in the one shape, and all are there and well after it."""
    urls = {name: url for name, url in bench.state.exports.items() if url.startswith("http")}
    del urls[
        "proxy"
    ]  # no service of the platform: it answers as Toxiproxy does, and tests/live/conformance holds it to that
    ours = {name: url for name, url in urls.items() if name not in ("prom", "alertmanager")}
    assert len(ours) >= 10
    pids = {name: bench.pid(name) for name in bench.state.processes}
    for url in ours.values():
        _garbage(url)
    told = {
        f"{name} {method} {path[:30]} {body[:8]!r}": _asked(url, method, path, body)
        for name, url in ours.items()
        for method, path, body in HOSTILE
    }
    assert {asked: answer for asked, answer in told.items() if answer != "refused"} == {}
    assert {name: bench.pid(name) for name in bench.state.processes} == pids
    assert {name: bench.ask(name, "GET", "/healthz")["status"] for name in ours} == dict.fromkeys(ours, "ok")


def _asked(url: str, method: str, path: str, body: bytes) -> str:
    """Return `refused`, or what else came."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    except (BrokenPipeError, ConnectionResetError):
        return "refused"  # a large body is not waited for
    finally:
        connection.close()
    try:
        shape = {name for name, value in json.loads(text).items() if isinstance(value, str) and value}
    except ValueError:
        shape = set()
    well = 400 <= answer.status < 500 and {"error", "detail"} <= shape
    return "refused" if well else f"{answer.status} {text[:100]!r}"


def _garbage(url: str) -> None:
    """Send what is no HTTP, half a request, and a request with two lengths; whatever is answered, nobody minds."""
    host, _, port = url.removeprefix("http://").partition(":")
    for text in (
        b"\x16\x03\x01\x00" * 50,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as stream:
            stream.sendall(text)
            stream.shutdown(socket.SHUT_WR)
