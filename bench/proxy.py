"""What a link costs and how exact its faults are: direct, through `sim proxy`, and through the real Toxiproxy 2.12.

``python -m bench proxy``. The service behind the link and both servers are processes of their own, the load is the same
Python threads for all, and each round measures the three one after the other, who is first alternating; a ratio is of
one round's pair, 1 is as good as Toxiproxy and less is better. Seconds depend on the machine and on what else it does.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
TOXIPROXY = ROOT / ".sim" / "toxiproxy" / "bin" / "toxiproxy-server"
WAYS = ("direct", "sim proxy", "Toxiproxy 2.12")
ROUNDS = 5
#: A removal that takes longer than this is said to take longer, and not waited for.
GIVEN_UP_S = 5.0

Address = tuple[str, int]
Ask = Callable[..., int]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each; `small` shows that it works and measures nothing."""

    pings: int = 500
    megabytes: int = 200
    connections: int = 1500
    threads: int = 16
    late: int = 40
    narrow_kb: int = 4000


SMALL = Size(pings=5, megabytes=1, connections=8, threads=4, late=3, narrow_kb=200)


@dataclass(frozen=True, slots=True)
class Row:
    """One measure: its unit, whether more is better, and the goal for `sim proxy` where it is not "as Toxiproxy"."""

    name: str
    unit: str
    better: Literal["less", "more"] = "less"
    most: float | None = None
    direct: bool = True


ROWS = {
    "rtt_p50": Row("round trip of 64 bytes, p50", "ms"),
    "rtt_p99": Row("round trip of 64 bytes, p99", "ms"),
    "down": Row("one connection, downstream", "MB/s", "more"),
    "up": Row("one connection, upstream", "MB/s", "more"),
    "accept": Row("new connections, one byte each, 16 at a time", "1/s", "more"),
    "late_p50": Row("100 ms of latency, round trip p50", "ms", direct=False),
    "late_p99": Row("100 ms of latency, round trip p99", "ms", direct=False),
    "narrow": Row("5000 KB/s, off by", "%", direct=False),
    "removed": Row("latency removed while a reader stands still", "ms", most=50.0, direct=False),
}


# -- the parts -------------------------------------------------------------------------------------------------------


@contextmanager
def process(*argv: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program while the block runs."""
    with subprocess.Popen(argv, cwd=ROOT, text=True, **options) as made:
        try:
            yield made
        finally:
            made.kill()


def asking(port: int) -> Ask:
    """Return a call that asks a server's API and returns the status; 0 where no answer came in time."""

    def ask(method: str, path: str, body: Any = None, timeout_s: float = 10.0) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        with contextlib.closing(connection):
            try:
                connection.request(method, path, None if body is None else json.dumps(body))
                answer = connection.getresponse()
                answer.read()
            except TimeoutError:
                return 0
            return answer.status

    return ask


@contextmanager
def serving(way: str, upstream: Address) -> Iterator[tuple[Address, Ask]]:
    """Serve one link to `upstream`; give its address, and what asks the server."""
    port, listen = _free_port(), _free_port()
    if way == "sim proxy":
        argv = [sys.executable, "-m", "injectors._proxy", "--listen", f"127.0.0.1:{port}"]
    else:
        argv = [str(TOXIPROXY), "-host", "127.0.0.1", "-port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {**os.environ, "LOG_LEVEL": "error"}}
    with process(*argv, **quiet):
        ask = asking(port)
        _wait_for(ask, way)
        form = {"name": "link", "listen": f"127.0.0.1:{listen}", "upstream": f"{upstream[0]}:{upstream[1]}"}
        if ask("POST", "/proxies", form) != 201:
            raise RuntimeError(f"{way} does not take a link")
        yield ("127.0.0.1", listen), ask


def _wait_for(ask: Ask, way: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError):
            if ask("GET", "/version") == 200:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{way} did not start within 20 s")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def toxic(ask: Ask, kind: str, **attributes: int) -> Iterator[None]:
    """Have a toxic on the link while the block runs."""
    if ask("POST", "/proxies/link/toxics", {"name": "t", "type": kind, "attributes": attributes}) != 200:
        raise RuntimeError(f"no toxic {kind} was taken")
    try:
        yield
    finally:
        if ask("DELETE", "/proxies/link/toxics/t") != 204:
            raise RuntimeError(f"the toxic {kind} was not removed")


# -- the measures ----------------------------------------------------------------------------------------------------


def opened(at: Address, what: bytes) -> socket.socket:
    """Open a connection and say what is wanted of the service."""
    link = socket.create_connection(at, 30)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(what)
    return link


def round_trips(at: Address, count: int) -> list[float]:
    """Return the times of so many round trips of 64 bytes on one connection, ms; the first is not counted."""
    times = []
    with opened(at, b"e") as link:
        for _ in range(count + 1):
            began = time.perf_counter()
            link.sendall(bytes(64))
            _exactly(link, 64)
            times.append((time.perf_counter() - began) * 1000)
    return sorted(times[1:])


def _exactly(link: socket.socket, count: int) -> None:
    while count > 0:
        got = len(link.recv(count))
        if not got:
            raise RuntimeError("the link was closed amid an answer")
        count -= got


def carried(at: Address, count: int, what: bytes) -> float:
    """Return how long so many bytes took on one connection, seconds: ``d`` down, ``u`` up."""
    room = bytearray(256 * 1024)
    began = time.perf_counter()
    with opened(at, what + count.to_bytes(8, "big")) as link:
        if what == b"u":
            for sent in range(0, count, len(room)):
                link.sendall(room[: count - sent])  # one byte too many and the service's close would be a reset
            _exactly(link, 1)
        else:
            while count > 0 and (got := link.recv_into(room)):
                count -= got
    return time.perf_counter() - began


def accepted(at: Address, count: int, threads: int) -> float:
    """Return how many connections a second are opened, answered one byte, and closed; `threads` at a time."""
    failures: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(count // threads):
                with opened(at, b"e!") as link:
                    _exactly(link, 1)
        except (OSError, RuntimeError) as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter()
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    if failures:
        raise failures[0]
    return count // threads * threads / (time.perf_counter() - began)


def removal(way: str, upstream: Address) -> float:
    """Return how long the removal of a latency takes while a client does not read, ms; its server is ended after it."""
    with ExitStack() as closing:
        at, ask = closing.enter_context(serving(way, upstream))
        ask("POST", "/proxies/link/toxics", {"name": "t", "type": "latency", "attributes": {"latency": 10}})
        closing.enter_context(opened(at, b"b"))
        time.sleep(1.5)  # until every buffer on the way is full
        began = time.perf_counter()
        ask("DELETE", "/proxies/link/toxics/t", timeout_s=GIVEN_UP_S)
        return (time.perf_counter() - began) * 1000


def plain(at: Address, size: Size) -> dict[str, float]:
    """Return what a link without a fault gives."""
    count = size.megabytes * 1_000_000
    times = round_trips(at, size.pings)
    return {
        "rtt_p50": percentile(times, 50),
        "rtt_p99": percentile(times, 99),
        "down": size.megabytes / carried(at, count, b"d"),
        "up": size.megabytes / carried(at, count, b"u"),
        "accept": accepted(at, size.connections, size.threads),
    }


def faulty(at: Address, ask: Ask, size: Size) -> dict[str, float]:
    """Return how exact the faults of a link are."""
    with toxic(ask, "latency", latency=100):
        late = round_trips(at, size.late)
    with toxic(ask, "bandwidth", rate=5000):
        took_s = carried(at, size.narrow_kb * 1000, b"d")
    due_s = size.narrow_kb / 5000
    return {
        "late_p50": percentile(late, 50),
        "late_p99": percentile(late, 99),
        "narrow": abs(took_s - due_s) / due_s * 100,
    }


def percentile(ordered: list[float], share: int) -> float:
    """Return a percentile of ordered values, by the nearest rank."""
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * share // 100) - 1))]


Seen = dict[str, dict[str, list[float]]]


def measure(size: Size = Size(), rounds: int = ROUNDS) -> Seen:
    """Return all measures, by row and way, one value a round."""
    seen: Seen = {key: {way: [] for way in WAYS} for key in ROWS}

    def note(way: str, found: dict[str, float]) -> None:
        for key, value in found.items():
            seen[key][way].append(value)

    with ExitStack() as closing:
        peer = closing.enter_context(process(sys.executable, "-m", "bench.proxy_peer", stdout=subprocess.PIPE))
        assert peer.stdout is not None
        upstream = ("127.0.0.1", int(peer.stdout.readline()))
        servers = {way: closing.enter_context(serving(way, upstream)) for way in WAYS[1:]}
        for way in WAYS:
            plain(servers[way][0] if way in servers else upstream, SMALL)  # what is slow once is not measured
        for number in range(rounds):
            for way in WAYS if number % 2 else WAYS[::-1]:
                at, ask = servers.get(way, (upstream, None))
                note(way, plain(at, size))
                if ask is not None:
                    note(way, faulty(at, ask, size))
                    note(way, {"removed": removal(way, upstream)})
    return seen


# -- the table -------------------------------------------------------------------------------------------------------


def table(seen: Seen) -> str:
    """Return the medians as a Markdown table, with the ratio of each pair of one round."""
    lines = [
        "| a link | direct | `sim proxy` | Toxiproxy 2.12 | ratio (median; least to most) | goal |",
        "|---|---|---|---|---|---|",
    ]
    for key, row in ROWS.items():
        ours, theirs = seen[key][WAYS[1]], seen[key][WAYS[2]]
        pairs = list(zip(ours, theirs, strict=True))
        ratios = sorted(_ratio(row, mine, other) for mine, other in pairs)
        shown = [f"{_spell(seen[key][way], key)} {row.unit}" if seen[key][way] else "-" for way in WAYS]
        spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {row.name} | {' | '.join(shown)} | {spread} | {_goal(row, ours, median(ratios))} |")
    return "\n".join(lines)


def _ratio(row: Row, mine: float, other: float) -> float:
    mine, other = max(mine, 1e-9), max(other, 1e-9)
    return mine / other if row.better == "less" else other / mine


def _spell(values: list[float], key: str) -> str:
    value = median(values)
    if key == "removed" and value >= GIVEN_UP_S * 1000:
        return f"> {GIVEN_UP_S * 1000:.0f}"
    return f"{value:.3f}" if value < 1 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _goal(row: Row, ours: list[float], ratio: float) -> str:
    if row.most is not None:
        return f"≤ {row.most:g} {row.unit}: {'kept' if median(ours) <= row.most else 'NOT KEPT'}"
    return f"≤ 1: {'kept' if ratio <= 1 else 'NOT KEPT'}"
