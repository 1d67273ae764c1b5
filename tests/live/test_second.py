"""A platform that shares no code with ours, exercised without a line of Python: by `sim init`, `doctor` and `run`."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.live.second import platform
from tests.live.second.platform import RULES, TOKEN, Platform
from tests.ports import free_port
from tests.test_your_platform import PAGE, blocks, commands


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Return the shop, running."""
    with platform.running(tmp_path_factory.mktemp("shop")) as running:
        yield running


@pytest.fixture(scope="module")
def project(shop: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty folder in which `sim init` has written what the shop needs."""
    folder = tmp_path_factory.mktemp("project")
    done = sim(
        folder, "init", "--name", "shop", "--environment", "shop-staging", "--token", "env:SHOP_TOKEN",
        "--prometheus", f"{shop.url}/prometheus", "--alertmanager", f"{shop.url}/alertmanager",
        "--webhook", f"{shop.url}/inbox", "--inject", "http.fault('checkout', 'error')",
        "--door", f"faults={shop.url}/shop", "--door-token", "env:SHOP_TOKEN",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def sim(folder: Path, *words: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """Call the command line, as a stranger does: in a folder of one's own."""
    return subprocess.run(
        [sys.executable, "-m", "sim.cli", *words],
        cwd=folder,
        env={**os.environ, "SHOP_TOKEN": token, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def run(folder: Path, **more: Any) -> tuple[int, dict[str, Any], str]:
    """Run the shop's exercise; return code, report and what was told on the way."""
    done = sim(folder, "run", "shop_errors_high", "--target", "shop", "--format", "json", **more)
    return done.returncode, json.loads(done.stdout), done.stderr


def verdicts(report: dict[str, Any]) -> dict[str, str]:
    """Return clause → verdict."""
    return {clause["clause"]: clause["value"] for clause in report["clauses"]}


def test_what_init_wrote_stands(project: Path) -> None:
    """`sim check` and `sim doctor` are content at once."""
    files = ("scenarios/targets/shop.yaml", "scenarios/shop.yaml")
    checked = sim(project, "check", "--target", "shop", *files)
    assert (checked.returncode, checked.stderr) == (0, "2 files, 1 exercise: no problems\n")
    doctor = sim(project, "doctor", "--target", "shop")
    assert (doctor.returncode, doctor.stderr) == (0, ""), doctor.stdout


def test_the_exercise_passes(shop: Platform, project: Path) -> None:
    """The shop's checkout is broken: its own alert fires, its own webhook is told, and all is well again."""
    code, report, err = run(project)
    assert (code, report["outcome"]) == (0, "passed"), err
    assert set(verdicts(report).values()) == {"met"}
    assert shop.listed_faults() == []


def test_a_wrong_token_is_one_clear_error(shop: Platform, project: Path) -> None:
    """The doctor names the secret once; a run is refused before anything is touched."""
    hits = shop.shop.hits
    doctor = sim(project, "doctor", "--target", "shop", token="of-another-shop")
    assert (doctor.returncode, doctor.stderr) == (4, (
        "scenarios/targets/shop.yaml:5:1: error: identity, observer prom, observer alertmanager, observer webhook, "
        "door faults, exercise shop_errors_high: refused; the secret behind env:SHOP_TOKEN is not accepted: set it to "
        "one that is\n"
    ))  # fmt: skip
    code, report, err = run(project, token="of-another-shop")
    assert (code, report["outcome"], shop.shop.hits) == (4, "inconclusive", hits)
    (reason,) = report["reasons"]
    assert (reason.startswith("environment: the target does not say what it is: GET "), reason[-60:]) == (
        True,
        '401 {"error": "no entry without a token"} (check auth: env:SHOP_TOKEN)'[-60:],
    )
    assert "of-another-shop" not in json.dumps(report) + err + doctor.stdout + doctor.stderr


def test_without_its_rule_the_exercise_fails_at_detect(shop: Platform, project: Path) -> None:
    """Somebody deleted the rule: the doctor sees it, the run fails and names the link; the shop is well afterwards."""
    shop.rules("groups: []\n")
    try:
        doctor = sim(project, "doctor", "--target", "shop")
        assert (doctor.returncode, "alert ShopErrorsHigh is not loaded" in doctor.stdout) == (4, True)
        code, report, err = run(project)
    finally:
        shop.rules(RULES)
    assert (code, report["outcome"], report["link"]) == (1, "failed", "detect"), err
    found = verdicts(report)
    assert (found["effect"], found["detect"], found["notify:webhook"]) == ("met", "missed", "missed")
    assert shop.listed_faults() == []


#: What the shop's operators have: the page's `shopctl`.
SHOPCTL = """\
#!{python}
import json, sys, urllib.error, urllib.request
word = sys.argv[1]
if word in ("break", "mend"):
    body = json.dumps({{"broken": word == "break"}}).encode()
    urllib.request.urlopen(urllib.request.Request("{shop}/switch", body, method="PUT"), timeout=3).close()
else:
    try:
        urllib.request.urlopen("{shop}/checkout", timeout=3).close()
        well = True
    except urllib.error.HTTPError as error:
        error.close()
        well = False
    sys.exit(0 if well == (word == "well") else 1)
"""


def test_the_page_can_be_followed(tmp_path: Path) -> None:
    """Every command of docs/your-platform.md, in its order, on a platform configured by its YAML: the run passes."""
    port, secret = free_port(), tmp_path / "token"
    secret.write_text(TOKEN)
    (entry,) = blocks(PAGE, "yaml")
    webhook = entry.replace("9095", str(port)).replace("/etc/alertmanager/shop-token", str(secret))
    webhook = json.dumps(yaml.safe_load(webhook))  # in one line it stands in a list
    with platform.running(tmp_path / "shop", webhook) as shop:
        bin_dir = tmp_path / "bin"
        bin_dir.mkdir()
        program = bin_dir / "shopctl"
        program.write_text(SHOPCTL.format(python=sys.executable, shop=f"http://127.0.0.1:{shop.ports['shop']}"))
        program.chmod(0o755)
        (bin_dir / "sim").symlink_to(Path(sys.executable).parent / "sim")
        env = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", "SHOP_TOKEN": TOKEN, "NO_COLOR": "1"}
        folder = tmp_path / "project"
        folder.mkdir()
        background: list[subprocess.Popen[bytes]] = []
        try:
            for line in commands(PAGE):
                line = line.replace("https://shop.example", shop.url).replace("9095", str(port))
                words = shlex.split(line.removesuffix("&"))
                if line.endswith("&"):
                    background.append(subprocess.Popen(words, cwd=folder, env=env, stdout=subprocess.DEVNULL))
                    _wait_for(port)
                    continue
                done = subprocess.run(
                    words, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
                )
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            # The run is over when the alert is; Alertmanager says so a moment later.
            shop.wait(lambda: len(_received(folder)) > 1, "the message that it is over")
        finally:
            for process in background:
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
        assert shop.shop.flag is False
    assert [(row["address"], row["payload"]["status"]) for row in _received(folder)] == [
        ("payments", "firing"),
        ("payments", "resolved"),
    ]


def _received(folder: Path) -> list[dict[str, Any]]:
    """Return what `sim inbox` has written down."""
    return [json.loads(line) for line in (folder / "inbox.jsonl").read_text().splitlines()]


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the recorder did not come up"
            time.sleep(0.1)
