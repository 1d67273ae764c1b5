"""The healthy past: what it says, how it is written, and that it is pushed once."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from typing import ClassVar

import cramjam
import pytest

from mbp._edges import DEC_SECONDS, INP_MS, le_text
from mbp.past.__main__ import main
from mbp.past.push import PushFailed, Sender, push
from mbp.past.remote_write import HEADERS, varint, write_requests
from mbp.past.shape import healthy

UNTIL = 1_700_000_000


# A reader of the wire format of its own: it shares no code with the writer.


def fields(data):
    """Yield (number, value) of a protobuf message: ints for varints, floats for doubles, bytes for the rest."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = number()
        kind = tag & 7
        if kind == 0:
            value = number()
        elif kind == 1:
            (value,) = struct.unpack("<d", data[at : at + 8])
            at += 8
        else:
            assert kind == 2, kind
            size = number()
            value = data[at : at + size]
            assert len(value) == size
            at += size
        yield tag >> 3, value


def decode(messages):
    """Return {labels: [(ms, value)]} of write requests, checking the order of labels."""
    found = {}
    for message in messages:
        for number, series in fields(message):
            assert number == 1
            labels, samples = [], []
            for part, content in fields(series):
                inner = dict(fields(content))
                if part == 1:
                    labels.append((inner[1].decode(), inner[2].decode()))
                else:
                    samples.append((inner[2], inner[1]))
            assert labels == sorted(labels)
            found.setdefault(tuple(labels), []).extend(samples)
    return found


@pytest.fixture(scope="module")
def past():
    """The past as a receiver reads it."""
    return decode(write_requests(healthy(UNTIL), 5_000))


def pick(past, name, **labels):
    """Return the series of a name that carry these labels, by all their labels."""
    return {
        key: samples
        for key, samples in past.items()
        if dict(key)["__name__"] == name and labels.items() <= dict(key).items()
    }


def increase(past, name, **labels):
    """Return the sum of the increases over the whole past."""
    return sum(samples[-1][1] - samples[0][1] for samples in pick(past, name, **labels).values())


def test_what_is_decoded_is_what_was_shaped(past):
    """Every series and every sample survives the wire, in order, through several requests."""
    assert past == {one.labels: list(one.samples) for one in healthy(UNTIL)}


def test_every_series_ends_at_the_push_and_has_its_window(past):
    """24 h in steps of 60 s for the page, 4 h in steps of 15 s for the API, both to the very end."""
    spans = {
        (
            dict(key)["__name__"].split("_")[0],
            samples[0][0],
            samples[1][0] - samples[0][0],
            len(samples),
            samples[-1][0],
        )
        for key, samples in past.items()
    }
    assert spans == {
        ("web", (UNTIL - 86_400) * 1000, 60_000, 1_441, UNTIL * 1000),
        ("dec", (UNTIL - 14_400) * 1000, 15_000, 961, UNTIL * 1000),
    }


def test_every_counter_begins_at_0_and_never_falls(past):
    """Counters, buckets and sums are monotone, and whole but for the sum of seconds."""
    for key, samples in past.items():
        values = [value for _, value in samples]
        assert values[0] == 0
        assert values == sorted(values), key
        times = [at for at, _ in samples]
        assert times == sorted(set(times))
        if not dict(key)["__name__"].endswith("seconds_sum"):
            assert all(value == int(value) for value in values)


def test_buckets_are_nested_at_every_moment(past):
    """A wider bucket never holds less than a narrower one; +Inf holds the count."""
    for family, edges in (("dec_request_seconds", DEC_SECONDS), ("web_vitals_inp_ms", INP_MS)):
        (counted,) = pick(past, f"{family}_count").values()
        columns = []
        for edge in (*edges, float("inf")):
            (samples,) = pick(past, f"{family}_bucket", le=le_text(edge)).values()
            columns.append([value for _, value in samples])
        assert columns[-1] == [value for _, value in counted]
        assert all(list(row) == sorted(row) for row in zip(*columns, strict=True))


def test_the_api_was_healthy(past):
    """120 requests a second for 4 h, burn far under 1, p95 far under 0.8 s."""
    total = increase(past, "dec_requests_total")
    assert total == 120 * 14_400
    count = increase(past, "dec_request_seconds_count")
    bad = increase(past, "dec_requests_total", **{"class": "5xx"}) + count
    bad -= increase(past, "dec_request_seconds_bucket", le="0.8")
    assert 0 < bad / total / 0.01 < 0.05
    assert increase(past, "dec_request_seconds_bucket", le="0.5") / count > 0.95
    assert total - count == increase(past, "dec_requests_total", **{"class": "5xx"})
    mean = increase(past, "dec_request_seconds_sum") / count
    assert 0.2 < mean < 0.3
    (key,) = pick(past, "dec_request_seconds_count")
    assert key == (
        ("__name__", "dec_request_seconds_count"),
        ("instance", "seeded"),
        ("job", "dec"),
        ("release", "candidate"),
        ("route", "/v1/swaps"),
    )


def test_the_page_was_healthy(past):
    """Forty views in 24 h, the 75th percentile at most 200 ms, all good ones at most 160, on the spelled edges."""
    views = increase(past, "web_vitals_inp_ms_count")
    assert views == 40
    assert increase(past, "web_vitals_inp_ms_bucket", le="160.0") == 40
    assert increase(past, "web_vitals_inp_ms_bucket", le="120.0") == 0
    (sums,) = pick(past, "web_vitals_inp_ms_sum").values()
    assert 128 <= sums[-1][1] / views <= 160
    (key,) = pick(past, "web_vitals_inp_ms_bucket", le="200.0")
    assert key == (
        ("__name__", "web_vitals_inp_ms_bucket"),
        ("env", "local"),
        ("instance", "seeded"),
        ("le", "200.0"),
        ("page", "/"),
    )


def test_the_edges_are_where_the_verdicts_fall():
    """Strictly rising; on the 8 ms grid and at most 24 ms apart from 80 to 320; 200, 500 and 0.8 are edges."""
    assert list(INP_MS) == sorted(set(INP_MS))
    assert list(DEC_SECONDS) == sorted(set(DEC_SECONDS))
    inner = [edge for edge in INP_MS if 80 <= edge <= 320]
    assert all(edge % 8 == 0 for edge in inner)
    assert max(later - edge for edge, later in pairwise(inner)) <= 24
    assert {200.0, 500.0} <= set(INP_MS)
    assert 0.8 in DEC_SECONDS
    assert [le_text(edge) for edge in (200.0, 0.8, 1.0, float("inf"))] == ["200.0", "0.8", "1.0", "+Inf"]


def test_the_same_end_gives_the_same_bytes():
    """Deterministic: the digest in OUT can be checked by anyone who knows the end."""
    one, two = (b"".join(write_requests(healthy(UNTIL), 5_000)) for _ in range(2))
    assert one == two
    assert one != b"".join(write_requests(healthy(UNTIL + 1), 5_000))


@pytest.mark.parametrize(("number", "encoded"), [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02")])
def test_varints(number, encoded):
    """The published examples of the format."""
    assert varint(number).hex() == encoded


def test_a_negative_varint_is_refused():
    """Better an error than ten bytes that nobody meant."""
    with pytest.raises(ValueError, match="negative"):
        varint(-1)


def receive(inbox, statuses=()):
    """Return a send that keeps what it is given and answers the given statuses, then 204."""
    left = iter(statuses)

    def send(body):
        inbox.append(bytes(cramjam.snappy.decompress_raw(body)))
        return next(left, 204)

    return send


def test_a_push_says_what_it_pushed(tmp_path):
    """OUT holds digest, times, counts and windows; the receiver has exactly that; the marker is gone."""
    inbox, out = [], tmp_path / "past.json"
    result = push("http://x/", out, wall=lambda: UNTIL + 0.5, send=receive(inbox))
    assert json.loads(out.read_text()) == result
    assert result == {
        "sha256": hashlib.sha256(b"".join(inbox)).hexdigest(),
        "pushed_at": "2023-11-14T22:13:20.500000Z",
        "from": "2023-11-13T22:13:20.000000Z",
        "until": "2023-11-14T22:13:20.000000Z",
        "series": len(decode(inbox)),
        "samples": sum(len(samples) for samples in decode(inbox).values()),
        "windows": {
            "dec_request_seconds": {"window_s": 14_400, "step_s": 15, "rps": 120},
            "dec_requests_total": {"window_s": 14_400, "step_s": 15, "rps": 120},
            "web_vitals_inp_ms": {"window_s": 86_400, "step_s": 60, "views": 40},
        },
    }
    assert [path.name for path in tmp_path.iterdir()] == ["past.json"]
    assert max(map(len, inbox)) < 1_000_000


def test_a_push_that_was_cut_short_is_taken_up_with_its_own_end(tmp_path):
    """The second attempt sends the very same bytes, so that no series is seeded twice with two pasts."""
    out, first, second = tmp_path / "past.json", [], []
    with pytest.raises(PushFailed, match="answered 500 to request 3"):
        push("http://x/", out, wall=lambda: UNTIL, send=receive(first, (204, 204, 500)))
    assert not out.exists()
    result = push("http://x/", out, wall=lambda: UNTIL + 60, send=receive(second))
    assert second[:3] == first
    assert (result["until"], result["pushed_at"]) == ("2023-11-14T22:13:20.000000Z", "2023-11-14T22:14:20.000000Z")


@pytest.mark.parametrize("text", ['{"until_s": 1699999000}', '{"until_s": 1700009000}', "{", "{}", "[1]"])
def test_a_marker_that_cannot_be_taken_up_stops_it(tmp_path, text):
    """Too old, in the future or damaged: nothing is sent, and the text says what to do."""
    out, inbox = tmp_path / "past.json", []
    (tmp_path / "past.json.pending").write_text(text)
    with pytest.raises(PushFailed, match="bring it up anew"):
        push("http://x/", out, wall=lambda: UNTIL, send=receive(inbox))
    assert (inbox, out.exists()) == ([], False)


class Prometheus(BaseHTTPRequestHandler):
    """A receiver of remote write that checks the headers and answers a script."""

    statuses: ClassVar[list[int]] = []
    got: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert {name: self.headers[name] for name in HEADERS} == HEADERS
        self.got.append((self.path, body))
        status = self.statuses.pop(0) if self.statuses else 204
        said = b"" if status == 204 else b"out of bounds\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def prometheus():
    """A receiver on loopback: its URL and its class, to script and to read."""
    Prometheus.statuses, Prometheus.got = [], []
    with HTTPServer(("127.0.0.1", 0), Prometheus) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api/v1/write", Prometheus
        finally:
            server.shutdown()
            thread.join()


def test_the_command_pushes_once(tmp_path, prometheus, capsys):
    """The first run pushes and says so; the second finds OUT, pushes nothing and ends with 0."""
    url, seen = prometheus
    argv = ["--remote-write", url, "--out", str(tmp_path / "run" / "past.json")]
    assert main(argv) == 0
    assert "samples of" in capsys.readouterr().out
    sent = len(seen.got)
    assert sent > 10
    assert {path for path, _ in seen.got} == {"/api/v1/write"}
    assert main(argv) == 0
    assert "already there" in capsys.readouterr().out
    assert len(seen.got) == sent


def test_a_refusal_is_told_with_the_receivers_words(tmp_path, prometheus, capsys):
    """A 400 is not tried again: exit 1, the receiver's text, and no OUT."""
    url, seen = prometheus
    seen.statuses = [400]
    out = tmp_path / "past.json"
    assert main(["--remote-write", url, "--out", str(out)]) == 1
    assert "refused the past (400): out of bounds" in capsys.readouterr().err
    assert (len(seen.got), out.exists()) == (1, False)


def test_a_receiver_that_is_starting_is_waited_for(prometheus):
    """A 503 is tried again with growing pauses, and the same bytes."""
    url, seen = prometheus
    seen.statuses = [503, 503]
    slept = []
    sender = Sender(url, clock=lambda: 0.0, sleep=slept.append)
    assert sender.send(b"body") == 204
    assert (slept, [body for _, body in seen.got]) == ([0.1, 0.2], [b"body"] * 3)


def test_patience_ends():
    """Nobody listening: tried for so long and no longer, then told."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    sender = Sender("http://127.0.0.1:1/api/v1/write", patience_s=5, clock=lambda: now[0], sleep=sleep)
    with pytest.raises(PushFailed, match="no luck for 5 s: ConnectionRefusedError"):
        sender.send(b"")
    assert 2 < now[0] <= 5


@pytest.mark.parametrize("url", ["https://x/", "x", "", "ftp://x"])
def test_a_wrong_url_is_refused(url):
    """Only plain http is spoken."""
    with pytest.raises(PushFailed, match="is not a URL"):
        Sender(url)
