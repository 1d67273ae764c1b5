"""`invariant_breach` on the real stack: passes as shipped; with one link broken it says which, and why it is broken."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sim import log
from tests.conftest import tool
from tests.live.chains import Bench, Result

#: How many stacks stand side by side: each is nine small processes that mostly wait.
SIDE_BY_SIDE = 3


def _whole(bench: Bench) -> None:
    """Nothing is broken."""


def _hook_off(bench: Bench) -> None:
    bench.table(lambda hook: hook.update(enabled=False))


def _rule_deleted(bench: Bench) -> None:
    def change(rules: dict[str, Any]) -> None:
        for group in rules["groups"]:
            group["rules"] = [rule for rule in group["rules"] if rule.get("alert") != "AmmInvariantBreach"]
        rules["groups"] = [group for group in rules["groups"] if group["rules"]]

    bench.ops("a110.rules.yaml", change)


def _route_elsewhere(bench: Bench) -> None:
    def change(config: dict[str, Any]) -> None:
        for route in config["route"]["routes"]:
            if route["receiver"] == "DEC/PM":
                route["receiver"] = "SRE"

    bench.ops("alertmanager.yml", change)


def _pretended(bench: Bench) -> None:
    bench.env("executor", MBP_EXECUTOR_PRETEND="block_release")


def _wrong_action(bench: Bench) -> None:
    bench.table(lambda hook: hook.update(actions=[_rollback()]))


def _uninvited(bench: Bench) -> None:
    bench.table(lambda hook: hook["actions"].append(_rollback()))


def _rollback() -> dict[str, Any]:
    return {
        "name": "rollback",
        "endpoint": "release",
        "effect": "release.status=='reverted'",
        "ready": "release.status=='candidate'",
        "reversal": "restore",
    }


def _deaf_engine(bench: Bench) -> None:
    bench.env("engine", MBP_ENGINE_DEAF_FAULTS="1")


def _already_firing(bench: Bench) -> None:
    """A bias of somebody else's is at work before the run and stays: the alert never goes quiet."""
    fault = {
        "point": "engine.swap", "kind": "mutate", "params": {"market": "foreign", "delta_k_ratio": "1.5e-9"},
        "rate": 1.0, "match": {}, "seed": 1, "ttl_s": 60, "run": "foreign",
    }  # fmt: skip

    def keep(bench: Bench) -> None:
        for number in range(400):
            if bench.done.is_set():
                return
            if number % 20 == 0:
                bench.ask("engine", "PUT", "/faults/foreign", fault, token=True)
            side = ("yes", "no")[number % 2]
            with contextlib.suppress(OSError):
                bench.ask(
                    "release", "POST", "/v1/swaps", {"market": "foreign", "side": side, "action": "buy", "amount": "1"}
                )
            bench.done.wait(0.5)

    def fires(bench: Bench) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            alerts = bench.ask("prom", "GET", "/api/v1/alerts")["data"]["alerts"]
            if any(alert["labels"]["alertname"] == "AmmInvariantBreach" for alert in alerts):
                return
            time.sleep(0.2)
        raise AssertionError("the foreign bias never fired the alert")

    def before(bench: Bench) -> None:
        import threading

        threading.Thread(target=keep, args=(bench,), daemon=True).start()
        fires(bench)

    bench.before = before


def _prometheus_stopped(bench: Bench) -> None:
    """Prometheus stands still from the moment the fault is applied, and goes on when the run is over."""

    def stop(bench: Bench) -> None:
        pid = bench.pid("prometheus")
        if bench.wait_for("fault.t0"):
            os.kill(pid, signal.SIGSTOP)
            bench.done.wait(300)
            os.kill(pid, signal.SIGCONT)

    bench.during = stop
    bench.exercise["within"] = {"recover": "10s"}


Row = tuple[Callable[[Bench], None], int, str, str | None, str]

CASES: dict[str, Row] = {
    "whole": (_whole, 0, "passed", None, ""),
    "hook_off": (_hook_off, 1, "failed", "act", "act: block_release was not done"),
    "rule_deleted": (_rule_deleted, 1, "failed", "detect", "detect: "),
    "route_elsewhere": (_route_elsewhere, 1, "failed", "notify", "told instead: SRE"),
    "recorded_not_done": (_pretended, 1, "failed", "act", "act: effect: block_release is recorded as succeeded"),
    "wrong_action": (_wrong_action, 1, "failed", "act", "done instead: rollback"),
    "uninvited_action": (_uninvited, 1, "failed", "only", "uninvited action: rollback"),
    "already_firing": (_already_firing, 4, "inconclusive", "already firing", "AmmInvariantBreach is firing"),
    "fault_ignored": (_deaf_engine, 4, "inconclusive", "effect", "beyond_limit 0"),
    "prometheus_stopped": (_prometheus_stopped, 4, "inconclusive", "detect", "prom was blind"),
}


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Result]]]:
    """Start every case that was asked for, some side by side; a test waits for its own."""
    tool("prometheus")
    tool("alertmanager")
    wanted = {item.callspec.params["case"] for item in request.session.items if "results" in item.fixturenames}  # type: ignore[attr-defined]
    folder = tmp_path_factory.mktemp("chains")
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield {case: pool.submit(_play, folder / case, case) for case in CASES if case in wanted}


def _play(folder: Path, case: str) -> Result:
    bench = Bench(folder, case.replace("_", "-"))
    CASES[case][0](bench)
    return bench.run()


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("case", CASES)
def test_a_broken_link_is_named(results: dict[str, Future[Result]], case: str) -> None:
    """The outcome, the exit code, the link and the reason are those of the broken link; nothing is left behind."""
    _, code, outcome, link, reason = CASES[case]
    result = results[case].result()
    told = result.report.get("outcome"), result.code, result.report.get("link")
    assert told == (outcome, code, link), result.stderr[-4000:] + result.stdout[-4000:]
    assert reason in "; ".join(result.report["reasons"])
    if case == "whole":
        _detected_between_floor_and_worst(result)


def _detected_between_floor_and_worst(result: Result) -> None:
    """The measured detection lies between the computed floor and the computed worst plus the observer's lateness."""
    assert result.folder is not None
    events = list(log.read(result.folder / "log.jsonl"))
    stages: Any = next(event.data["stages"] for event in events if event.kind == "timing")
    late: Any = max(
        event.data["lateness_max_s"]
        for event in events
        if event.kind == "observer.closed"  # type: ignore[type-var]
    )
    t0 = next(event.seen_at for event in events if event.kind == "fault.t0")
    fired = next(
        event.seen_at
        for event in events
        if event.kind == "alert" and event.source == "prom" and event.data["state"] == "firing" and event.seen_at > t0
    )
    assert stages["detect"]["floor_s"] <= fired - t0 <= stages["detect"]["worst_s"] + late
