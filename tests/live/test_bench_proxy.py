"""The bench of the links runs, and its table says what was measured; no figure of a test run is worth anything."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from bench import proxy
from tests.live import toxiproxies

pytestmark = pytest.mark.live


def test_each_way_gives_each_figure() -> None:
    """Every row has one value a round and way; a server that is never rid of a toxic is given up."""
    toxiproxies.binary()
    seen = proxy.measure(proxy.SMALL, rounds=1)
    for key, row in proxy.ROWS.items():
        counts = {way: len(values) for way, values in seen[key].items()}
        assert counts == {"direct": int(row.direct), "sim proxy": 1, "Toxiproxy 2.12": 1}, key
        assert all(value >= 0 for values in seen[key].values() for value in values)
    assert min(seen["late_p50"]["sim proxy"] + seen["late_p50"]["Toxiproxy 2.12"]) >= 99
    assert len(proxy.table(seen).splitlines()) == 2 + len(proxy.ROWS)


def test_no_byte_too_many_is_sent_up() -> None:
    """What the service leaves unread when it closes makes a reset, which overtakes the byte that it answered."""
    taken: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                got = 0
                while got < 9 + 300_000:
                    got += len(client.recv(1 << 20))
                client.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    got += len(client.recv(1 << 20))
                taken.append(got)
                client.sendall(b"!")

        worker = threading.Thread(target=serve)
        worker.start()
        proxy.carried(listener.getsockname(), 300_000, b"u")
        worker.join(10)
    assert taken == [9 + 300_000]


def test_the_table_says_where_a_goal_is_missed() -> None:
    """More is better for some, less for others; a ratio above 1 is worse than Toxiproxy, whichever it is."""
    seen: proxy.Seen = {key: {"direct": [1.0], "sim proxy": [1.0], "Toxiproxy 2.12": [1.0]} for key in proxy.ROWS}
    seen["down"] |= {"sim proxy": [500.0, 480.0], "Toxiproxy 2.12": [1000.0, 240.0]}
    seen["rtt_p50"] |= {"sim proxy": [2.0], "Toxiproxy 2.12": [4.0]}
    seen["removed"] |= {"sim proxy": [51.0], "Toxiproxy 2.12": [5003.0]}
    lines = {line.split(" | ")[0]: line for line in proxy.table(seen).splitlines()}
    assert lines["| one connection, downstream"].endswith(
        "| 490.0 MB/s | 620.0 MB/s | 1.25 (0.50 to 2.00) | ≤ 1: NOT KEPT |"
    )
    assert lines["| round trip of 64 bytes, p50"].endswith("| 2.0 ms | 4.0 ms | 0.50 (0.50 to 0.50) | ≤ 1: kept |")
    removed = lines["| latency removed while a reader stands still"]
    assert removed.endswith("| 51.0 ms | > 5000 ms | 0.01 (0.01 to 0.01) | ≤ 50 ms: NOT KEPT |")
