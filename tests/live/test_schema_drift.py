"""Registry and pipeline as processes: what a kill leaves, and that a deploy is tried and refused while drift holds."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import tool
from tests.live.chains import Bench
from tests.live.test_mbp_kill import call, service
from tests.ports import free_port

pytestmark = pytest.mark.live
BASE = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}


def schema(**keywords: Any) -> dict[str, str]:
    """Return the body of a registration."""
    return {"schema": json.dumps({**BASE, **keywords}), "schemaType": "JSON"}


def test_a_killed_registry_loses_nothing_that_it_answered(tmp_path: Path) -> None:
    """Killed amid registrations: each id answered is there, levels and drift too; the platform's subjects once."""
    port = free_port()
    base, options = f"http://127.0.0.1:{port}", ("--data", str(tmp_path))
    answered: dict[int, str] = {}
    with service("mbp.registry", port, *options) as registry:
        call(f"{base}/config/s", {"compatibility": "NONE"}, "PUT")
        for turn in range(60):
            if turn == 50:
                registry.send_signal(signal.SIGKILL)
            try:
                body = schema(properties={"a": {"maxLength": 100 - turn}})
                status, found = call(f"{base}/subjects/s/versions", body)
            except OSError:
                break
            assert status == 200
            answered[found["id"]] = body["schema"]
    with service("mbp.registry", port, *options):
        for number, text in answered.items():
            assert call(f"{base}/schemas/ids/{number}")[1]["schema"] == text
        assert len(answered) >= 50
        assert call(f"{base}/config/s") == (200, {"compatibilityLevel": "NONE"})
        assert call(f"{base}/drift/s")[1]["drift"] is True
        assert call(f"{base}/subjects/mbp.quotes.v1-value/versions") == (200, [1, 2])


@pytest.mark.timeout(400)
def test_a_deploy_is_tried_and_refused_while_drift_holds(tmp_path: Path) -> None:
    """Before: it goes out, to the release controller too. Halted: refused. The fault is gone: it goes out again."""
    tool("prometheus")
    tool("alertmanager")
    bench = Bench(tmp_path / "deploys", "deploys", ("schema_drift",))
    told: dict[str, tuple[int, dict[str, Any]]] = {}

    def deploy(name: str) -> None:
        told[name] = call(bench.state.exports["pipeline"] + "/pipeline/deploys", {"version": name})

    def during() -> None:
        while not bench.done.wait(0.05):
            if bench.ask("pipeline", "GET", "/pipeline")["status"] == "halted":
                deploy("during")
                return

    with bench.kept():
        # A rule that was not evaluated yet is no good news: the first refusals may be of that.
        for _ in range(40):
            deploy("before")
            if told["before"][1].get("error") != "watchers_blind":
                break
            bench.done.wait(0.5)
        helper = threading.Thread(target=during)
        helper.start()
        try:
            result = bench.once("schema_drift")
        finally:
            bench.done.set()
            helper.join(30)
        deploy("after")
        audit = bench.ask("pipeline", "GET", "/pipeline/audit")["rows"]
        released = bench.ask("release", "GET", "/release/audit")["rows"]
    assert (result.code, result.report["outcome"]) == (0, "passed"), result.stdout[-4000:]
    assert {name: (status, body.get("error")) for name, (status, body) in told.items()} == {
        "before": (201, None), "during": (409, "pipeline_halted"), "after": (201, None),
    }  # fmt: skip
    first = next(number for number, row in enumerate(audit) if row["event"] == "deploy")
    events = ["deploy", "pipeline", "deploy_refused", "pipeline", "deploy"]
    assert [row["event"] for row in audit[first:]] == events
    deployed = [row["after"] for row in released if row["event"] == "deploy"]
    assert deployed == [{"version": "before"}, {"version": "after"}]
