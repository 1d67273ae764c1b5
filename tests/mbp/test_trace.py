"""Tracing: every counted request has its span, every span its parent, and no span is lost on the way to the file."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mbp._spans import SpanFile
from mbp._trace import Traced, Tracing, child, current_trace_id, outgoing, traceparent
from mbp.dec.app import build as build_dec
from mbp.engine.app import build as build_engine
from mbp.follow import main
from mbp.release.app import build as build_release
from mbp.release.controller import Controller
from mbp.release.profiles import Profiles
from mbp.release.proxy import Passed
from mbp.release.store import Store as ReleaseStore
from tests.mbp.engines import ask, running
from tests.mbp.test_dec import FREE, InProcess

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = f"00-{TRACE}-{PARENT}-01"


class Traces:
    """The spans of the services of a test, as they ended."""

    def __init__(self):
        self.exporters = {}

    def of(self, service):
        exporter = self.exporters[service] = InMemorySpanExporter()
        return Tracing(service, exporter)

    def spans(self, service):
        return self.exporters[service].get_finished_spans()

    def all(self):
        return [span for exporter in self.exporters.values() for span in exporter.get_finished_spans()]

    def tree(self):
        """Return each span as (name, names of its ancestors, nearest first), sorted."""
        by_id = {span.context.span_id: span for span in self.all()}

        def above(span):
            while span.parent is not None and span.parent.span_id in by_id:
                span = by_id[span.parent.span_id]
                yield span.name

        return sorted((span.name, tuple(above(span))) for span in self.all())

    def clear(self):
        for exporter in self.exporters.values():
            exporter.clear()


class Platform:
    """An engine, a decision API before it and a release controller before that, all traced."""

    def __init__(self, engine, folder):
        self.traces = Traces()
        self.engine = build_engine(engine.exchange, engine.store, None, self.traces.of("engine"))
        self.client = InProcess(self.engine)
        self.client.ask = self._ask_engine
        self.dec = build_dec("candidate", self.client, limits=FREE, tracing=self.traces.of("dec"))
        self.store = ReleaseStore(folder / "release.sqlite3", 0.0)
        controller = Controller(self.store, lambda: 0.0)
        self.release = build_release(controller, self, Profiles(folder / "profiles"), tracing=self.traces.of("release"))
        ask(self.dec, "POST", "/v1/markets", json={"id": "m1", "question": "Will it?", "reserve": "1000"})
        self.traces.clear()

    async def _ask_engine(self, method, path, body=None, headers=None):
        return await InProcess.ask(self.client, method, path, body, {**outgoing(), **(headers or {})})

    async def open(self):
        """Need nothing."""

    async def close(self):
        """Keep nothing."""

    async def send(self, release, method, target, headers, body):
        transport = httpx.ASGITransport(app=self.dec)
        async with httpx.AsyncClient(transport=transport, base_url="http://dec") as client:
            answer = await client.request(method, target, headers=headers, content=body)
        return Passed(answer.status_code, dict(answer.headers), answer.content)

    def audit(self):
        return ask(self.engine, "GET", "/v1/audit/swaps").json()["rows"]


@pytest.fixture
def platform(tmp_path):
    """A platform with one market."""
    with running(tmp_path) as engine:
        made = Platform(engine, tmp_path)
        try:
            yield made
        finally:
            made.store.close()


SWAP = {"market": "m1", "side": "yes", "action": "buy", "amount": "1"}
QUOTE = {"market": "m1", "side": "yes", "amount": "1"}

# -- one trace through the services ------------------------------------------------------------------------------------


def test_one_id_is_followed_from_the_entry_to_the_audit_row(platform):
    """Every span is in the caller's trace, each under the one that asked for it, and so are audit row and event."""
    made = ask(platform.release, "POST", "/v1/swaps", json=SWAP, headers={"traceparent": HEADER})
    assert made.status_code == 201
    assert platform.traces.tree() == [
        ("amm.swap", ("decision.request", "release.request")),
        ("audit.write", ("amm.swap", "decision.request", "release.request")),
        ("decision.request", ("release.request",)),
        ("release.request", ()),
    ]
    assert {f"{span.context.trace_id:032x}" for span in platform.traces.all()} == {TRACE}
    (first,) = platform.traces.spans("release")
    assert f"{first.parent.span_id:016x}" == PARENT
    assert [row["trace_id"] for row in platform.audit()] == [TRACE] == [made.json()["trace_id"]]
    events = ask(platform.engine, "GET", "/v1/events?after=0&limit=10").json()["rows"]
    assert [row["trace_id"] for row in events if row["type"] == "trade_executed"] == [TRACE]


def test_a_swap_made_once_keeps_the_trace_that_made_it(platform):
    """Asked for again under its key it is the same row; the second request has its own span all the same."""
    headers = {"Idempotency-Key": "k1"}
    first = ask(platform.dec, "POST", "/v1/swaps", json=SWAP, headers={**headers, "traceparent": HEADER})
    again = ask(platform.dec, "POST", "/v1/swaps", json=SWAP, headers=headers)
    assert (first.json(), len(platform.audit())) == (again.json(), 1)
    assert Counter(span.name for span in platform.traces.all())["decision.request"] == 2


@pytest.mark.parametrize(
    "header",
    [None, "", "nonsense", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01"],
)
def test_without_a_usable_header_a_new_trace_begins(platform, header):
    """It is a trace all the same, with a valid id, and the audit row is in it."""
    ask(platform.dec, "POST", "/v1/swaps", json=SWAP, headers={} if header is None else {"traceparent": header})
    (root,) = platform.traces.spans("dec")
    (row,) = platform.audit()
    assert root.parent is None
    assert row["trace_id"] == f"{root.context.trace_id:032x}" != TRACE
    assert {span.context.trace_id for span in platform.traces.spans("engine") if span.name != "engine.request"} == {
        root.context.trace_id
    }


def test_a_request_that_asks_not_to_be_sampled_is_traced_all_the_same(platform):
    """The evidence must not hang on what a client says."""
    ask(platform.dec, "POST", "/v1/quotes", json=QUOTE, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert platform.traces.tree() == [("amm.quote", ("decision.request",)), ("decision.request", ())]


def test_a_resolution_by_rule_has_its_span(platform):
    """The rule's decision is a part of the request that asked for it."""
    for step in ("resolution", "resolution/finish"):
        answer = ask(platform.engine, "POST", f"/v1/markets/m1/{step}", json={"reason": "test"})
        assert answer.status_code == 200, answer.text
    named = [(name, above) for name, above in platform.traces.tree() if name == "resolution.rule"]
    assert named == [("resolution.rule", ("engine.request",))]


# -- 100 % of counted requests -----------------------------------------------------------------------------------------


def requests(seed, count):
    """Return so many requests of every kind, good and bad, with the engine's span that each must have (or None)."""
    kinds = [
        ("POST", "/v1/quotes", {"json": QUOTE}, "amm.quote"),
        ("POST", "/v1/swaps", {"json": SWAP}, "amm.swap"),
        ("POST", "/v1/swaps", {"json": {**SWAP, "market": "none"}}, "amm.swap"),
        ("POST", "/v1/swaps", {"json": {**SWAP, "amount": "9999999999"}}, "amm.swap"),
        ("POST", "/v1/swaps", {"content": b"{"}, None),
        ("POST", "/v1/quotes", {"json": {**QUOTE, "amount": "much"}}, None),
        ("POST", "/v1/quotes", {"content": b"x" * 70_000}, None),
        ("GET", "/v1/markets", {}, "engine.request"),
        ("GET", "/v1/markets/m1", {}, "engine.request"),
        ("POST", "/v1/markets/m1/liquidity", {"json": {"amount": "1"}}, "engine.request"),
        ("GET", "/v1/nothing", {}, None),
        ("DELETE", "/v1/quotes", {}, None),
    ]
    dice = random.Random(seed)
    chosen = kinds + [dice.choice(kinds) for _ in range(count - len(kinds))]
    # No two quotes alike: one that was computed a moment ago is answered without the engine.
    return [
        (method, path, {"json": {**QUOTE, "amount": f"1.{at:03}"}}, span) if span == "amm.quote" else each
        for at, each in enumerate(chosen)
        for method, path, _, span in [each]
    ]


def test_every_counted_request_has_its_root_span_and_its_engine_child(platform):
    """300 requests of all kinds, twenty at a time: as many roots as counted requests, each child under its own root."""
    asked = requests(7, 300)

    async def story():
        transport = httpx.ASGITransport(app=platform.dec, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://dec") as client:
            for at in range(0, len(asked), 20):
                part = asked[at : at + 20]
                await asyncio.gather(*(client.request(m, path, **more) for m, path, more, _ in part))

    asyncio.run(story())
    roots, children = platform.traces.spans("dec"), platform.traces.spans("engine")
    assert Counter(span.name for span in roots) == {"decision.request": 300}
    assert all(span.parent is None for span in roots)
    assert len({span.context.trace_id for span in roots}) == 300
    own = [span for span in children if span.name != "audit.write"]
    assert Counter(span.name for span in own) == Counter(name for *_, name in asked if name is not None)
    parents = {span.context.span_id: span for span in roots}
    assert sorted(span.parent.span_id for span in own) == sorted({span.parent.span_id for span in own})
    assert all(parents[span.parent.span_id].context.trace_id == span.context.trace_id for span in own)
    swaps = [span for span in own if span.name == "amm.swap" and span.attributes["http.response.status_code"] == 201]
    audits = {span.parent.span_id for span in children if span.name == "audit.write"}
    assert {span.context.span_id for span in swaps} <= audits
    metrics = ask(platform.dec, "GET", "/metrics").text.splitlines()
    counted = sum(float(line.rpartition(" ")[2]) for line in metrics if line.startswith("dec_requests_total{"))
    assert 'trace_spans_total{name="decision.request",service="dec"} 301.0' in metrics  # one was the market's opening
    assert counted == 301
    assert 'trace_spans_dropped_total{service="dec"} 0.0' in metrics


def test_what_is_not_counted_has_no_span(platform):
    """Health, metrics and identity are asked every second by machines."""
    for path in ("/healthz", "/metrics", "/identity", "/faults"):
        ask(platform.dec, "GET", path)
        ask(platform.release, "GET", path)
    assert platform.traces.all() == []


# -- the middleware ----------------------------------------------------------------------------------------------------


def through(tracing, app, headers=(), method="GET", path="/v1/x"):
    """Send one request through the middleware; return the headers that the app saw, and what was sent."""
    seen, sent = [], []

    async def inner(scope, receive, send):
        seen.extend(scope["headers"])
        await app(send)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(Traced(inner, tracing, lambda _, path: "named" if path.startswith("/v1/") else None)(scope, None, send))
    return seen, sent


async def _ok(send):
    with child("part", {"n": 1}):
        await send({"type": "http.response.start", "status": 204, "headers": []})


async def _bad(send):
    await send({"type": "http.response.start", "status": 503, "headers": []})


async def _crash(_):
    raise RuntimeError("no")


def test_what_is_inside_sees_the_spans_own_header():
    """It replaces the one that came, so that passing it on puts the next span under this one; other headers stay."""
    exporter = InMemorySpanExporter()
    seen, _ = through(Tracing("s", exporter), _ok, [(b"traceparent", HEADER.encode()), (b"a", b"b")])
    part, named = exporter.get_finished_spans()
    own = f"00-{TRACE}-{named.context.span_id:016x}-01".encode()
    assert seen == [(b"a", b"b"), (b"traceparent", own)]
    assert (part.name, part.parent.span_id, dict(part.attributes)) == ("part", named.context.span_id, {"n": 1})
    assert dict(named.attributes) == {
        "http.request.method": "GET",
        "url.path": "/v1/x",
        "http.response.status_code": 204,
    }
    assert (named.status.status_code.name, named.kind.name, named.resource.attributes["service.name"]) == (
        "UNSET",
        "SERVER",
        "s",
    )


@pytest.mark.parametrize(("app", "status"), [(_bad, 503), (_crash, 500)])
def test_a_failed_request_is_an_error_of_its_span(app, status):
    """5xx, and a crash, which is a 500 to the client."""
    exporter = InMemorySpanExporter()
    if app is _crash:
        with pytest.raises(RuntimeError):
            through(Tracing("s", exporter), app)
    else:
        through(Tracing("s", exporter), app)
    (span,) = exporter.get_finished_spans()
    assert (span.status.status_code.name, span.attributes["http.response.status_code"]) == ("ERROR", status)


def test_work_on_a_record_joins_the_trace_that_the_record_names():
    """By the id alone, so without a parent there; a record that names none begins a trace of its own."""
    exporter = InMemorySpanExporter()
    tracing = Tracing("relay", exporter)
    for trace_id in (TRACE, None, TRACE):
        tracing.record("int.relay", trace_id, 1.5, {"mbp.seq": 7})
    spans = exporter.get_finished_spans()
    ids = [f"{span.context.trace_id:032x}" for span in spans]
    assert ids == [TRACE, ids[1], TRACE]
    assert ids[1] != TRACE
    first = spans[0]
    assert (first.parent, first.start_time, dict(first.attributes)) == (None, 1_500_000_000, {"mbp.seq": 7})
    with tracing.span("x") as span:
        assert span.get_span_context().trace_id != int(TRACE, 16)


def test_outside_a_request_nothing_is_traced():
    """No header goes out, no span is made, and the code that asks for one does not notice."""
    with child("part") as span:
        span.set_attribute("a", 1)
        assert (traceparent(), current_trace_id(), outgoing()) == (None, None, {})
    exporter = InMemorySpanExporter()
    seen, _ = through(Tracing("s", exporter), _ok, path="/metrics")
    assert (seen, exporter.get_finished_spans()) == ([], ())


# -- the file ----------------------------------------------------------------------------------------------------------


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_span_is_written_as_otlp_json_when_it_ends(tmp_path):
    """One line a span, whole and at once: ids in hex, numbers of 64 bits as text, the service as resource."""
    file = SpanFile(tmp_path / "traces", "dec-candidate", {"service.name": "dec", "service.instance.id": "candidate"})
    tracing = Tracing("dec", file)
    with tracing.span("decision.request", parent=HEADER, attributes={"n": 1, "x": 0.5, "b": True, "s": "é"}) as span:
        with child("part"):
            pass
        assert len(lines(file.path)) == 1
    part, whole = (
        line["resourceSpans"][0]["scopeSpans"][0]["spans"][0] for line in lines(tmp_path / "traces/dec-candidate.jsonl")
    )
    assert lines(file.path)[1] == {
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [
                        {"key": "service.name", "value": {"stringValue": "dec"}},
                        {"key": "service.instance.id", "value": {"stringValue": "candidate"}},
                    ]
                },
                "scopeSpans": [
                    {
                        "scope": {"name": "mbp"},
                        "spans": [
                            {
                                "traceId": TRACE,
                                "spanId": f"{span.get_span_context().span_id:016x}",
                                "parentSpanId": PARENT,
                                "name": "decision.request",
                                "kind": 1,
                                "startTimeUnixNano": whole["startTimeUnixNano"],
                                "endTimeUnixNano": whole["endTimeUnixNano"],
                                "attributes": [
                                    {"key": "n", "value": {"intValue": "1"}},
                                    {"key": "x", "value": {"doubleValue": 0.5}},
                                    {"key": "b", "value": {"boolValue": True}},
                                    {"key": "s", "value": {"stringValue": "é"}},
                                ],
                                "status": {"code": 0},
                            }
                        ],
                    }
                ],
            }
        ]
    }
    assert (part["traceId"], part["parentSpanId"]) == (TRACE, whole["spanId"])
    assert int(whole["startTimeUnixNano"]) <= int(part["startTimeUnixNano"]) <= int(whole["endTimeUnixNano"])
    assert (file.path.stat().st_mode & 0o777, (tmp_path / "traces").stat().st_mode & 0o777) == (0o600, 0o700)


def test_two_files_are_kept_and_every_line_is_whole(tmp_path):
    """A full file is set aside over the one before it; a file that is there is gone on with."""
    tracing = Tracing("s", SpanFile(tmp_path, "s", {}, limit=2000))
    for number in range(20):
        with tracing.span(f"n{number:02}"):
            pass
    tracing = Tracing("s", SpanFile(tmp_path, "s", {}, limit=2000))
    with tracing.span("last"):
        pass
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["s.1.jsonl", "s.jsonl"]
    assert all((tmp_path / name).stat().st_size <= 2000 for name in files)
    names = [
        line["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"]
        for name in files
        for line in lines(tmp_path / name)
    ]
    assert names == [*(f"n{number:02}" for number in range(21 - len(names), 20)), "last"]


def test_a_span_that_cannot_be_written_is_counted_and_stops_nothing(tmp_path, monkeypatch):
    """A full disk: the request goes on, the counter says how many are missing, and the next whole line is whole."""
    file = SpanFile(tmp_path, "s", {})
    tracing, real = Tracing("s", file), os.write

    def write(limit):
        return lambda number, data: real(number, data[:limit])

    def full(*_):
        raise OSError(28, "No space left on device")

    for fake in (write(5), full, real):
        monkeypatch.setattr("mbp._spans.os.write", fake)
        with tracing.span("x"):
            pass
    spans, dropped = tracing.collect()
    assert [sample.value for sample in (*spans.samples, *dropped.samples)] == [3, 2]
    torn, whole = file.path.read_text().splitlines()
    assert (torn, json.loads(whole)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"]) == ('{"res', "x")


def test_a_file_that_was_closed_in_a_failed_turn_is_opened_again(tmp_path, monkeypatch):
    """When the full file cannot be set aside, spans are dropped and counted until it can."""
    file = SpanFile(tmp_path, "s", {}, limit=300)
    tracing = Tracing("s", file)
    with tracing.span("one"):
        pass
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
        with tracing.span("two"):
            pass
    assert file.dropped == 1
    with tracing.span("three"):
        pass
    assert file.dropped == 1
    assert "three" in file.path.read_text()


def test_a_process_writes_where_the_environment_says(tmp_path, monkeypatch):
    """A file a process; nowhere when no folder is named; a folder that cannot be is told."""
    monkeypatch.delenv("MBP_TRACES_DIR", raising=False)
    with Tracing.of_process("engine").span("x"):
        pass
    monkeypatch.setenv("MBP_TRACES_DIR", str(tmp_path / "t"))
    for service, part in (("engine", None), ("dec", "stable"), ("dec", "candidate")):
        with Tracing.of_process(service, part).span("x"):
            pass
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == [
        "dec-candidate.jsonl",
        "dec-stable.jsonl",
        "engine.jsonl",
    ]
    (tmp_path / "file").touch()
    monkeypatch.setenv("MBP_TRACES_DIR", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        Tracing.of_process("engine")


# -- following a trace -------------------------------------------------------------------------------------------------


def test_a_trace_is_shown_as_a_tree_over_the_files_of_all_services(tmp_path, capsys):
    """Each span under the one that asked for it, whoever wrote it; torn lines and other traces are passed over."""
    release = Tracing("release", SpanFile(tmp_path, "release", {"service.name": "release"}))
    who = {"service.name": "dec", "service.instance.id": "candidate"}
    dec = Tracing("dec", SpanFile(tmp_path, "dec-candidate", who))
    with release.span("release.request", parent=HEADER), dec.span("decision.request", parent=traceparent()) as span:
        span.set_attribute("http.response.status_code", 201)
    dec.record("data.apply", TRACE, 4e9)
    with release.span("other"):
        pass
    with (tmp_path / "release.jsonl").open("a") as file:
        file.write(f'{{"torn": "{TRACE}"\n{{"resourceSpans": "{TRACE}"}}\n')
    assert main(["--traces", str(tmp_path), TRACE]) == 0
    shown = [line.split()[4:] for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        ["release", "release.request"],
        ["dec-candidate", "decision.request", "status_code=201"],
        ["dec-candidate", "data.apply"],
    ]
    assert main(["--traces", str(tmp_path)]) == 0
    assert [line.split()[1::2] for line in capsys.readouterr().out.splitlines()] == [
        ["3", "2", "release.request"],
        ["1", "1", "other"],
    ]
    assert main(["--traces", str(tmp_path), "f" * 32]) == 1
    assert main(["--traces", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.count("follow: no span") == 2
