"""`make load`: N requests a second against the whole local stack for ten minutes, and what must hold under it.

Run as ``python -m tests.live.load``; LOAD_SECONDS (600) and LOAD_RPS (120) choose another dose. Exit 0 when everything
held, 1 when something did not (each is named), 4 when the generator did not hold the rate: then nothing was measured.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from injectors.apm import _load_child as child
from injectors.apm._load_samples import Told, merged, not_held, percentile, read
from injectors.apm.loadtest import mix
from tests.conftest import ROOT

LIMIT_S = 0.8
LEASE_S = 10.0
DRAIN_S = 15.0
STACK = "load"


@dataclass(frozen=True)
class Check:
    """One thing that must hold: what was asked for, what was found."""

    name: str
    wanted: str
    found: str
    ok: bool


def sim(*words: str, timeout_s: float = 300) -> str:
    """Call the command line; raises RuntimeError with what it said when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "sim.cli", *words],
        cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, timeout=timeout_s,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"sim {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def get(url: str) -> Any:
    """GET JSON."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def value(prom: str, query: str) -> float:
    """Return the one value of an instant query, 0 where there is no series: a counter that never was."""
    found = get(f"{prom}/api/v1/query?{urllib.parse.urlencode({'query': query})}")["data"]["result"]
    return math.fsum(float(each["value"][1]) for each in found)


def drive(url: str, rps: float, seconds: float, folder: Path, cap: int | None = None) -> Told:
    """Send `rps` a second to `url` for so long, keep the lease, and return what the generator told."""
    config: dict[str, Any] = {
        "id": f"load-{secrets.token_hex(3)}", "url": url, "rps": rps, "count": round(rps * seconds),
        "cap": cap or math.ceil(rps * 10), "mix": mix("mixed", "resident"), "headers": {}, "timeout_s": DRAIN_S,
        "drain_s": DRAIN_S, "ttl_s": LEASE_S,
    }  # fmt: skip
    child.start(folder, config, seconds + DRAIN_S, None)
    end = time.monotonic() + seconds + 3 * DRAIN_S
    while child.running(folder) and time.monotonic() < end:
        child.renew(folder)
        time.sleep(1.0)
    return merged([read(part, rps) for part in sorted(folder.glob("[0-9]*"))])


def checks(
    told: Told, asked: int, before: dict[str, float], after: dict[str, float], troubles: Iterable[str]
) -> list[Check]:
    """Return every check of a load of ``asked`` arrivals; ``before`` and ``after`` are the platform's own counts."""
    arrivals = told.arrivals
    answered = [sample for sample in arrivals if sample.status]
    failed = [sample for sample in arrivals if sample.status >= 500 or sample.status == 0]
    p95 = percentile([sample.seconds for sample in arrivals], 0.95)
    grown = {name: after[name] - before[name] for name in after}
    wrong = list(troubles)
    share = 100 * len(answered) / asked
    counted = f"{len(failed)} of the load, {grown['5xx']:g} counted by DEC"
    arrived = f"{share:.2f} % ({len(answered)} answered of {asked})"
    return [
        Check("p95", f"<= {LIMIT_S * 1000:g} ms", f"{p95 * 1000:.1f} ms (from due)", p95 <= LIMIT_S),
        Check("5xx", "0", counted, not failed and not grown["5xx"]),
        Check("arrivals", "100.00 %", arrived, len(answered) == told.asked == asked),
        Check("received", f">= {asked}", f"{grown['received']:g} counted at the entry", grown["received"] >= asked),
        Check("orchestration errors", "0", "; ".join(wrong) or "0", not wrong),
        Check("invariant errors", "0", f"{grown['invariant']:g}", not grown["invariant"]),
    ]


QUERIES = {
    "5xx": 'sum(dec_requests_total{class="5xx",instance!="seeded"})',
    "received": "sum(release_requests_total)",
    "invariant": "sum(amm_invariant_error_total)",
}


def troubles(exports: dict[str, str], since: int) -> list[str]:
    """Return what went wrong with the orchestration: processes, alerts and executions that nobody asked for."""
    found = []
    state = json.loads(sim("status", "--stack", STACK, "--format", "json"))
    text = json.dumps(state)
    if '"phase": "ready"' not in text:
        found.append(f"the stack is not ready: {text[:300]}")
    for alert in get(f"{exports['prom']}/api/v1/alerts")["data"]["alerts"]:
        if alert["state"] == "firing":
            found.append(f"{alert['labels']['alertname']} fires")
    for row in get(f"{exports['executor']}/v1/audit?after={since}&limit=1000")["rows"]:
        found.append(f"the executor {row['event']} {row['action']} ({row['detail']})")
    return found


def measured(rps: float, seconds: float, say: Callable[[str], None]) -> int:
    """Load the stack that is up, say what was found, and return the exit code."""
    state = json.loads((ROOT / ".sim" / "stacks" / STACK / "state.json").read_text(encoding="utf-8"))
    exports: dict[str, str] = state["exports"]
    before = {name: value(exports["prom"], query) for name, query in QUERIES.items()}
    since = int(get(f"{exports['executor']}/v1/audit?after=0&limit=1000")["next"])
    folder = Path(tempfile.gettempdir()) / f"sim-load-{secrets.token_hex(8)}"
    say(f"{rps:g} requests a second for {seconds:g} s ({round(rps * seconds)} arrivals) to {exports['release']}")
    try:
        told = drive(exports["release"], rps, seconds, folder)
        time.sleep(2.0)  # two scrapes: what was answered last is counted
        after = {name: value(exports["prom"], query) for name, query in QUERIES.items()}
        against = not_held(told, LIMIT_S)
        found = checks(told, round(rps * seconds), before, after, troubles(exports, since))
    finally:
        for process in child.running(folder):
            process.kill()
        child.clear(folder)
    for check in found:
        say(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.found} (wanted {check.wanted})")
    for reason in against:
        say(f"NOT HELD {reason}")
    if against:
        return 4
    return 0 if all(check.ok for check in found) else 1


def main() -> int:
    """Bring the stack up, load it, take it down."""
    seconds, rps = float(os.environ.get("LOAD_SECONDS", "600")), float(os.environ.get("LOAD_RPS", "120"))

    def say(line: str) -> None:
        print(line, flush=True)

    child.check_installed()
    sim("up", "--stack", STACK)
    try:
        return measured(rps, seconds, say)
    finally:
        sim("down", "--stack", STACK)


if __name__ == "__main__":
    raise SystemExit(main())
