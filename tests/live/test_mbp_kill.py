"""The real processes under `kill -9`: what was answered is there, what was leased is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from tests.ports import free_port

pytestmark = pytest.mark.live
TOKEN = "a-token-of-the-tests"


def call(url, body=None, method=None, **headers):
    """Return (status, JSON) of one request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def healthy(port):
    """Whether a service answers that it is well."""
    try:
        return call(f"http://127.0.0.1:{port}/healthz")[0] == 200
    except OSError:
        return False


@contextmanager
def service(module, port, *options, **environment):
    """Run a service until the block ends; wait until it is healthy."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--port", str(port), *options], env={**os.environ, **environment}
    )
    try:
        late = time.monotonic() + 10
        while not healthy(port):
            assert process.poll() is None, f"{module} ended with {process.returncode}"
            assert time.monotonic() < late, f"{module} does not answer"
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait(10)


def test_a_killed_engine_loses_no_swap_and_keeps_no_fault(tmp_path):
    """Killed in the middle of a stream of swaps: each 201 is in the audit, the fault is gone, its market closed."""
    token, port = tmp_path / "token", free_port()
    token.write_text(TOKEN)
    base, bearer = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {TOKEN}"}
    options = ("mbp.engine", port, "--data", str(tmp_path / "data"))
    environment = {"SIM_FAULTS": "1", "MBP_FAULT_TOKEN_FILE": str(token)}
    fault = {
        "point": "engine.swap",
        "kind": "mutate",
        "params": {"market": "sim-1", "delta_k_ratio": "1.5e-9"},
        "ttl_s": 60,
        "run": "r",
    }
    answered = []
    with service(*options, **environment) as engine:
        assert call(f"{base}/faults/f1", fault, "PUT", **bearer)[0] == 200
        for turn in range(300):
            if turn == 250:
                engine.send_signal(signal.SIGKILL)
            try:
                status, row = call(
                    f"{base}/v1/markets/sim-1/swaps", {"side": ("yes", "no")[turn % 2], "action": "buy", "amount": "1"}
                )
            except (urllib.error.URLError, ConnectionError):
                break
            assert status == 201
            answered.append(row)
    assert len(answered) >= 250
    with service(*options, **environment):
        rows = call(f"{base}/v1/audit/swaps?limit=1000")[1]["rows"]
        assert rows[: len(answered)] == answered
        assert call(f"{base}/faults", **bearer) == (200, [])
        assert call(f"{base}/v1/markets/sim-1")[1]["status"] == "closed"


def test_a_killed_engine_loses_no_event_freeze_or_flag_and_releases_what_was_held(tmp_path):
    """Killed right after each answer: what was answered is there, each swap has one event, the late market resolved."""
    token, port = tmp_path / "token", free_port()
    token.write_text(TOKEN)
    base, bearer = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {TOKEN}"}
    options = ("mbp.engine", port, "--data", str(tmp_path / "data"))
    environment = {"SIM_FAULTS": "1", "MBP_FAULT_TOKEN_FILE": str(token)}
    fault = {
        "point": "events.delay",
        "kind": "hold",
        "params": {"event": "resolution_finished", "hours": 25},
        "ttl_s": 60,
        "run": "r",
    }
    why = {"reason": "drill"}
    with service(*options, **environment) as engine:
        call(f"{base}/v1/markets", {"id": "m1", "question": "?", "reserve": "1000"})
        for number in range(20):
            body = {"side": ("yes", "no")[number % 2], "action": "buy", "amount": "1"}
            assert call(f"{base}/v1/markets/m1/swaps", body)[0] == 201
        assert call(f"{base}/v1/markets/m1/resolution", why)[0] == 200
        assert call(f"{base}/faults/f1", fault, "PUT", **bearer)[0] == 200
        assert call(f"{base}/v1/flags/mbp.create_market", {"on": False, **why}, "PUT")[0] == 200
        frozen = call(f"{base}/v1/markets/m1/frozen", {"frozen": True, **why}, "PUT")
        engine.send_signal(signal.SIGKILL)
        engine.wait(10)
    with service(*options, **environment):
        assert call(f"{base}/v1/markets/m1") == frozen
        assert call(f"{base}/v1/markets", {"question": "?", "reserve": "1000"})[1]["error"] == "flag_off"
        rows = call(f"{base}/v1/events?limit=1000")[1]["rows"]
        assert [row["data"]["swap"] for row in rows if row["type"] == "trade_executed"] == list(range(1, 21))
        assert [(row["seq"], row["type"], row["subject"]) for row in rows[21:]] == [
            (22, "resolution_started", "m1"),
            (23, "market_created", "sim-f1"),
            (24, "resolution_started", "sim-f1"),
            (25, "resolution_finished", "sim-f1"),
        ]
        changes = call(f"{base}/v1/audit/markets")[1]["rows"]
        assert [row["event"] for row in changes] == ["resolution_started", "freeze", "resolution_finished"]


def test_a_killed_release_controller_loses_no_change(tmp_path):
    """Killed right after each answer: gate, status and audit are there in the next life."""
    port = free_port()
    base, nowhere = f"http://127.0.0.1:{port}", "http://127.0.0.1:1"
    options = ("mbp.release", port, "--data", str(tmp_path), "--stable", nowhere, "--candidate", nowhere)
    with service(*options) as release:
        state = call(f"{base}/release/gate", {"state": "blocked", "reason": "r"}, "PUT")[1]
        release.send_signal(signal.SIGKILL)
        release.wait(10)
    with service(*options) as release:
        assert call(f"{base}/release")[1] == state
        state = call(f"{base}/release/rollback", {"reason": "p95"}, "POST")[1]
        assert call(f"{base}/v1/markets")[0] == 502
        release.send_signal(signal.SIGKILL)
        release.wait(10)
    with service(*options) as release:
        assert call(f"{base}/release")[1] == state
        assert [row["event"] for row in call(f"{base}/release/audit")[1]["rows"]] == ["gate", "rollback"]
        release.send_signal(signal.SIGTERM)
        assert release.wait(5) == 0
