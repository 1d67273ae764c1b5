"""`sim doctor --target`: every part by a real call, one error a cause, and the code says whether a run could begin."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from injectors.http import fault
from sim.cli import cli
from sim.doctor import _knock
from sim.injector import Company
from sim.observation import CannotLook
from sim.secret import Secrets
from sim.target import Door
from tests.cli.fake_platform import RULE, TOKEN, Platform, platform, series

PROFILE = """\
target: shop
environment: shop-staging
identity: {url: 'URL/about', environment: app.stage, instance: 'app.parts.*.id', auth: env:SHOP_TOKEN}
doors:
  faults: {url: URL, auth: env:SHOP_TOKEN}
  spare: {url: 'http://127.0.0.1:1'}
observers:
  prom: {kind: prometheus, url: URL, auth: env:SHOP_TOKEN}
  am: {kind: alertmanager, url: URL, auth: env:SHOP_TOKEN}
  webhook: {kind: inbox, url: URL, channel: webhook, auth: env:SHOP_TOKEN}
  extra: {kind: http_state, url: 'http://127.0.0.1:1/'}
facts:
  alert: {kind: event, stage: detect, from: prom}
  alert.to: {kind: event, stage: notify, from: webhook}
  errors: {kind: gauge, from: prom, query: max(shop_error_ratio), worse: up}
owners:
  PAYMENTS: {webhook: payments}
hooks:
  errors_high:
    alerts: [ShopErrorsHigh]
    owner: PAYMENTS
    channels: [webhook]
    within: {detect: 25s, notify: 30s}
steady_state: errors <= 0.05
chain: {kind: prometheus}
"""

EXERCISE = """\
exercises:
  first:
    hook: errors_high
    inject: http.fault('checkout', 'error')
    expect: alert.to=='PAYMENTS'
"""

#: What is printed when all is well; the parts that nothing needs are not reached, and do not count.
WELL = """\
shop (shop-staging): shop.yaml
  identity          ok           shop-staging, instance a+b
  observer prom     ok           1 alerting rule; 2 active targets; 1 Alertmanager
  observer am       ok           2 receivers: nobody, payments
  observer webhook  ok           answers
  observer extra    unreachable  GET http://127.0.0.1:1: DEAD (no exercise needs it)
  door faults       ok           answers
  door spare        unreachable  GET http://127.0.0.1:1: DEAD (no exercise needs it)
  fact errors       ok           0.01
  hook errors_high  ok           ShopErrorsHigh; detect 5s to 15s; act 6s to 20s; notify 6s to 20s; ROUTED
  exercise first    ok           http.fault would hit checkout at URL
"""

PLAIN = {
    "DEAD": "Cannot connect to host 127.0.0.1:1 [Connect call failed ('127.0.0.1', 1)]",
    "ROUTED": "owner PAYMENTS is routed to payments",
}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """Return a healthy platform, with a profile and an exercise of it in the project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_TOKEN", TOKEN)
    with platform() as served:
        served.answers["/about"] = {"app": {"stage": "shop-staging", "parts": [{"id": "a"}, {"id": "b"}, {}]}}
        Path("sim.toml").touch()
        Path("scenarios").mkdir()
        Path("shop.yaml").write_text(PROFILE.replace("URL", served.url))
        Path("scenarios/first.yaml").write_text(EXERCISE)
        yield served


def doctor(*words: str) -> Result:
    """Examine the shop."""
    return CliRunner().invoke(cli, ["doctor", "--target", "shop.yaml", *words], prog_name="sim")


def test_all_is_well(fake: Platform) -> None:
    """A table, nothing on stderr, code 0; nothing was sent but questions."""
    done = doctor()
    wanted = WELL.replace("URL", fake.url)
    for word, text in PLAIN.items():
        wanted = wanted.replace(word, text)
    assert (done.exit_code, done.stdout, done.stderr) == (0, wanted, "")
    assert {asked.split()[0] for asked in fake.asked} == {"GET"}


def test_a_wrong_token_is_one_error(fake: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that bears it is refused, the cause is told once, by the name of the secret and never its value."""
    monkeypatch.setenv("SHOP_TOKEN", "wrong-horse")
    done = doctor()
    assert (done.exit_code, done.stderr) == (4, (
        "shop.yaml:3:1: error: identity, observer prom, observer am, observer webhook, door faults, exercise first: "
        "refused; the secret behind env:SHOP_TOKEN is not accepted: set it to one that is\n"
    ))  # fmt: skip
    assert "wrong-horse" not in done.output
    states = [line[20:32].strip() for line in done.stdout.splitlines()[1:]]
    assert states == [*["refused"] * 4, "unreachable", "refused", "unreachable", "unknown", "refused"]


def _without_token(fake: Platform) -> None:
    Path("shop.yaml").write_text(Path("shop.yaml").read_text().replace(", auth: env:SHOP_TOKEN", ""))


def _answer(path: str, answer: Any) -> Callable[[Platform], None]:
    return lambda fake: fake.answers.update({path: answer})


def _query(query: str, result: Any) -> Callable[[Platform], None]:
    return lambda fake: fake.answers["queries"].update({query: result})


def _profile(before: str, after: str) -> Callable[[Platform], None]:
    def change(fake: Platform) -> None:
        text = Path("shop.yaml").read_text().replace("URL", fake.url)
        assert before in text
        Path("shop.yaml").write_text(text.replace(before, after))

    return change


_FIRING = {"labels": {"alertname": "Other"}, "annotations": {}, "state": "firing", "activeAt": "2023-11-14T22:13:20Z"}
_ELSEWHERE = "something else answers here: is this its address, path and all?"
_SILENCE = {
    "id": "s1", "status": {"state": "active"}, "endsAt": "2033-01-01T00:00:00Z",
    "matchers": [{"name": "alertname", "value": "ShopErrorsHigh", "isRegex": False, "isEqual": True}],
}  # fmt: skip


@pytest.mark.parametrize(("change", "what", "detail", "error"), [
    (_answer("/about", {"app": {"stage": "production"}}), "identity",
     "wrong        the live target reports 'production'; this profile is for 'shop-staging'",
     "2:1: error: identity: wrong; point the profile at the platform that is meant"),
    (_answer("/about", {"stage": "shop-staging"}), "identity",
     "wrong        GET URL/about did not answer with an identity: JSON with app.stage and app.parts.*.id",
     f"3:1: error: identity: wrong; {_ELSEWHERE}"),
    (_answer("/api/v1/rules", {"groups": []}), "observer prom",
     "empty        no alerting rule is loaded",
     "8:3: error: observer prom: empty; name the rule files in rule_files: of its configuration"),
    (_answer("/api/v1/targets", {"activeTargets": [{"health": "down"}]}), "observer prom",
     "empty        no active target (1 more down)",
     "8:3: error: observer prom: empty; see /targets of its web page: is anything scraped, and up?"),
    (_answer("/api/v1/alertmanagers", {"activeAlertmanagers": []}), "observer prom",
     "empty        no Alertmanager",
     "8:3: error: observer prom: empty; name one in alerting: of its configuration"),
    (_answer("/api/v1/alerts", (500, {"error": "oops"})), "observer prom",
     'wrong        GET URL/api/v1/alerts: 500 {"error": "oops"}',
     "8:3: error: observer prom: wrong; it is there and does not serve: see what it says, and its log"),
    (_answer("/api/v2/alerts", {"not": "a list"}), "observer am",
     "wrong        /api/v2/alerts: expected a list, got dict",
     f"9:3: error: observer am: wrong; {_ELSEWHERE}"),
    (_answer("/received", (404, {})), "observer webhook",
     "wrong        GET URL/received: 404 {}",
     f"10:3: error: observer webhook: wrong; {_ELSEWHERE}"),
    (_query("max(shop_error_ratio)", []), "fact errors",
     "empty        no data: the query yields no series",
     "15:3: error: fact errors: empty; correct its query, or wait until the platform has traffic"),
    (_query("max(shop_error_ratio)", series(0.5)), "exercise first",
     "not now      its steady state, errors <= 0.05, is false: 0.5",
     "1:1: error: exercise first: not now; wait until it is over, or mend it"),
    (_answer("/api/v1/alerts", {"alerts": [_FIRING]}), "exercise first",
     "not now      Other is firing",
     "1:1: error: exercise first: not now; wait until it is over, or mend it"),
    (_answer("/api/v2/silences", [_SILENCE]), "exercise first",
     "not now      ShopErrorsHigh is silenced (silence s1)",
     "1:1: error: exercise first: not now; wait until it is over, or mend it"),
    (_answer("/api/v1/rules", {"groups": [{"interval": 5, "rules": [{**RULE, "name": "ShopErrorsHigh2"}]}]}),
     "hook errors_high", "empty        alert ShopErrorsHigh is not loaded",
     "19:3: error: hook errors_high: empty; load it, or correct the hook's alerts"),
    (_profile("detect: 25s", "detect: 4s"), "hook errors_high",
     "wrong        first: detect within 4s, and live it takes 5s at least",
     "19:3: error: hook errors_high: wrong; give it more time in within:"),
    (_answer("/faults", (404, {})), "exercise first",
     "wrong        GET URL/faults: 404, the fault endpoint is off: start it with SIM_FAULTS=1",
     "1:1: error: exercise first: wrong; a run would not begin: mend what it says"),
    (_answer("/faults", [{"id": "theirs", "point": "checkout"}]), "exercise first", None,
     "1:1: error: exercise first: wrong; a run would not begin: mend what it says"),
])  # fmt: skip
def test_what_does_not_serve_is_told_with_its_place_and_cure(
    fake: Platform, change: Callable[[Platform], None], what: str, detail: str | None, error: str | None
) -> None:
    """Code 4; the row says what was seen, the error where the profile names it and what to do."""
    change(fake)
    done = doctor()
    rows = {line[2:18].strip(): line[20:] for line in done.stdout.splitlines()[1:]}
    assert done.exit_code == 4
    if detail is not None:
        assert rows[what] == detail.replace("URL", fake.url)
    assert len([line for line in done.stderr.splitlines() if f"error: {what}" in line]) == 1
    if error is not None:
        assert f"shop.yaml:{error}\n" in done.stderr


def test_without_auth_the_cure_is_to_give_it(fake: Platform) -> None:
    """Refused, and nothing was shown: the profile names no secret."""
    _without_token(fake)
    assert doctor().stderr.splitlines()[0].endswith("exercise first: refused; give it auth: env:NAME or file:PATH")


def test_traffic_that_the_exercise_brings_is_not_missed_before(fake: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gauge without a value is no illness where company comes before the fault; one beyond its limit is."""
    query = "max(shop_error_ratio)"
    fake.answers["queries"][query] = []
    assert doctor().exit_code == 4
    bringing = replace(fault.injector, accompany=lambda site, params: Company("nobody", {}))
    monkeypatch.setattr(fault, "injector", bringing)
    done = doctor()
    assert (done.exit_code, done.stderr) == (0, "")
    assert "  fact errors       ok           no value yet: its exercise brings the traffic\n" in done.stdout
    fake.answers["queries"][query] = series(0.5)
    assert doctor().exit_code == 4


def test_a_secret_that_is_not_there_is_our_side(fake: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, not refused: nobody was asked."""
    monkeypatch.delenv("SHOP_TOKEN")
    done = doctor()
    assert (done.exit_code, fake.asked, done.stderr.splitlines()) == (4, [], [
        "shop.yaml:3:1: error: identity, observer prom, observer am, observer webhook, door faults, exercise first: "
        "missing; set it, or correct auth: env:SHOP_TOKEN"
    ])  # fmt: skip


@pytest.mark.parametrize(("token", "what"), [
    ("one\ntwo", "a line break"), ("tök€n", "a character that is not printable ASCII"),
    ("a\x00b", "a character that is not printable ASCII"),
])  # fmt: skip
def test_a_secret_that_is_no_token_is_our_side(
    fake: Platform, monkeypatch: pytest.MonkeyPatch, token: str, what: str
) -> None:
    """What no header can hold is one error that names the secret, and no platform that is down."""
    if "\0" in token:  # no variable can hold it
        Path("token").write_text(token)
        Path("shop.yaml").write_text(Path("shop.yaml").read_text().replace("env:SHOP_TOKEN", "file:token"))
    else:
        monkeypatch.setenv("SHOP_TOKEN", token)
    done = doctor()
    reference = "file:token" if "\0" in token else "env:SHOP_TOKEN"
    assert f"missing      the secret behind '{reference}' is no token: it holds {what}\n" in done.stdout
    (line,) = done.stderr.splitlines()
    assert (done.exit_code, line.partition("; ")[2]) == (4, f"set it, or correct auth: {reference}")
    assert token.splitlines()[0] not in done.output


def test_a_line_end_behind_a_secret_is_no_part_of_it(fake: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """`export SHOP_TOKEN=$'…\\n'`, or a variable that was filled from a file."""
    monkeypatch.setenv("SHOP_TOKEN", f"{TOKEN}\n")
    assert doctor().exit_code == 0


def test_nobody_at_home(fake: Platform) -> None:
    """Unreachable is another word than refused."""
    Path("shop.yaml").write_text(PROFILE.replace("URL", "http://127.0.0.1:1"))
    done = doctor()
    assert (done.exit_code, done.stderr) == (4, (
        "shop.yaml:3:1: error: identity, observer prom, observer am, observer webhook, door faults, exercise first: "
        "unreachable; is it running, and is this its address?\n"
    ))  # fmt: skip


def test_no_exercise_fits(fake: Platform) -> None:
    """Nothing can be judged then: 4, with the reason; all of the profile counts."""
    Path("scenarios/first.yaml").write_text(EXERCISE.replace("checkout", "checkout', 'x"))
    done = doctor()
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (
        4,
        "shop.yaml:1:1: error: exercises: missing; write one, or see why: sim check --target shop",
    )
    assert "no exercise needs it" not in done.stdout


def test_for_machines(fake: Platform) -> None:
    """The same as JSON: every check with its place; the code is the same."""
    fake.answers["/received"] = (404, {})
    done = doctor("--format", "json")
    report = json.loads(done.stdout)
    checks = {check["what"]: check for check in report.pop("checks")}
    assert (done.exit_code, done.stderr, report) == (
        4,
        "",
        {"ok": False, "target": "shop", "environment": "shop-staging", "exercises": ["first"]},
    )
    assert checks["observer webhook"] == {
        "what": "observer webhook", "state": "wrong", "ok": False, "needed": True, "place": "shop.yaml:10:3",
        "detail": f"GET {fake.url}/received: 404 {{}}", "cure": _ELSEWHERE,
    }  # fmt: skip
    assert {what: check["ok"] for what, check in checks.items() if check["needed"]} == {
        "identity": True, "observer prom": True, "observer am": True, "observer webhook": False, "door faults": True,
        "fact errors": True, "hook errors_high": True, "exercise first": True,
    }  # fmt: skip


def test_a_profile_that_is_wrong_is_code_3(fake: Platform) -> None:
    """Nothing is asked by a profile that cannot be read."""
    Path("shop.yaml").write_text("target: shop\nenvironment: x\nobserver: {}\n")
    assert (doctor().exit_code, fake.asked) == (3, [])


def test_a_target_whose_stack_is_down(fake: Platform) -> None:
    """One error that says how to bring it up; nothing else can be asked."""
    Path("shop.yaml").write_text("stack: compose/local.yaml\n" + Path("shop.yaml").read_text())
    done = doctor()
    assert (done.exit_code, done.stdout.splitlines()[1:], done.stderr) == (
        4,
        ["  stack  missing      the stack default is not up"],
        "shop.yaml:1:1: error: stack: missing; bring it up: sim up --target shop\n",
    )


def test_who_is_at_a_door(tmp_path: Path) -> None:
    """Each kind of address by what can be done with it; a program by its name, without running it."""

    def knock(**door: Any) -> str:
        return asyncio.run(_knock(Door.model_validate(door), Secrets({})))

    step = {"start": ["true"], "verify": ["true"], "stop": ["true"], "gone": ["true"]}
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "door"))
        unix.listen()
        port = tcp.getsockname()[1]
        told = [
            knock(url=f"tcp://127.0.0.1:{port}"),
            knock(url=f"postgresql://127.0.0.1:{port}/shop"),
            knock(url=f"unix://{tmp_path}/door"),
            knock(url=f"file://{tmp_path}"),
            knock(commands={"a": step, "b": step}),
        ]
    assert told == ["answers", "answers", "answers", "is there", "commands: a, b"]
    for door, error in (
        ({"url": "tcp://127.0.0.1:1"}, OSError),
        ({"url": f"unix://{tmp_path}/none"}, OSError),
        ({"url": f"file://{tmp_path}/none"}, OSError),
        ({"url": "http://127.0.0.1:1"}, CannotLook),
        ({"commands": {"a": {**step, "stop": ["no-such-program"]}}}, LookupError),
    ):
        with pytest.raises(error):
            knock(**door)
