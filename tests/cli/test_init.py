"""`sim init` against a live platform, offline, and on a terminal: what it writes, to the letter, and that it serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from click.testing import CliRunner, Result

from expectations._commands import init
from expectations._platform import _candidates
from expectations._setup import Rule
from sim.cli import cli
from sim.expression.tokens import tokenize
from tests.cli.fake_platform import ALERTMANAGER, RULE, TOKEN, Platform, platform, series


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """Return a healthy platform; the project is an empty folder, the token is set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_TOKEN", TOKEN)
    with platform() as served:
        yield served


def sim(*words: str, typed: str | None = None) -> Result:
    """Call the command line."""
    return CliRunner().invoke(cli, list(words), prog_name="sim", input=typed)


def flags(url: str, **more: str | None) -> list[str]:
    """Return flags that suffice on the healthy platform; a None in `more` takes one away."""
    given: dict[str, str | None] = {
        "name": "shop", "environment": "shop-staging", "prometheus": url, "alertmanager": url, "webhook": url,
        "token": "env:SHOP_TOKEN", "inject": "http.fault('checkout', 'error')", "door": f"faults={url}",
        "door_token": "env:SHOP_TOKEN", **more,
    }  # fmt: skip
    return [word for flag, value in given.items() if value for word in (f"--{flag.replace('_', '-')}", value)]


PROFILE = """\
# What may be broken and what is read of shop; docs/your-platform.md explains each part.
target: shop
# The live platform must report exactly this before anything is broken.
environment: shop-staging
identity:
  url: 'URL/api/v1/query?query=count%20by%20%28environment%29%20%28up%29'
  environment: data.result.*.metric.environment
  auth: env:SHOP_TOKEN

# The ways in by which a fault reaches the platform.
doors:
  faults: {url: URL, auth: env:SHOP_TOKEN}

observers:
  prom: {kind: prometheus, url: URL, auth: env:SHOP_TOKEN, every: 500ms}
  alertmanager: {kind: alertmanager, url: URL, auth: env:SHOP_TOKEN, every: 500ms}
  webhook: {kind: inbox, url: URL, auth: env:SHOP_TOKEN, every: 500ms, channel: webhook}

facts:
  alert: {kind: event, stage: detect, from: prom}
  alert.to: {kind: event, stage: notify, from: webhook}
  reading: {kind: gauge, from: prom, query: 'max(shop_error_ratio)', worse: up}

# Who looks after what, and the address at which each is told.
owners:
  PAYMENTS: {webhook: payments}

hooks:
  shop_errors_high:
    alerts: [ShopErrorsHigh]
    owner: PAYMENTS
    channels: [webhook]
    # Times from the fault on; recover counts from when it is gone.
    within: {effect: 30s, detect: 25s, act: 30s, notify: 30s, recover: 5m}

# What normal is. A run begins only when it holds, and ends well only when it holds again.
steady_state: reading <= 0.05
chain: {kind: prometheus}
"""

EXERCISE = """\
exercises:
  shop_errors_high:
    title: ShopErrorsHigh fires, and PAYMENTS is told
    hook: shop_errors_high
    inject: http.fault('checkout', 'error')
    expect: alert.to=='PAYMENTS'
"""

SAID = """\
wrote sim.toml
wrote scenarios/targets/shop.yaml
wrote scenarios/shop.yaml

Let Alertmanager tell the webhook too: a receiver with webhook_configs, url URL/webhook/payments

Now:
  sim check --target shop scenarios/targets/shop.yaml scenarios/shop.yaml
  sim doctor --target shop
  sim run shop_errors_high --target shop
"""


def written() -> tuple[str, str]:
    """Return the profile and the exercise that stand in the project."""
    return Path("scenarios/targets/shop.yaml").read_text(), Path("scenarios/shop.yaml").read_text()


def test_it_writes_what_the_live_platform_says(fake: Platform) -> None:
    """Alert, owner, address, budgets and what is normal are read off; every request only reads."""
    done = sim("init", *flags(fake.url))
    assert (done.exit_code, done.stdout, done.stderr) == (0, SAID.replace("URL", fake.url), "")
    assert written() == (PROFILE.replace("URL", fake.url), EXERCISE)
    assert {asked.split()[0] for asked in fake.asked} == {"GET"}
    files = ("scenarios/targets/shop.yaml", "scenarios/shop.yaml")
    for words in (("--target", "shop", *files), ()):  # sim.toml names it as the project's own
        checked = sim("check", *words)
        assert (checked.exit_code, checked.stdout, checked.stderr) == (0, "", "2 files, 1 exercise: no problems\n")


@pytest.mark.parametrize(("alert", "owner", "receiver"), [
    ("ShopErrorsHigh", "O'Brien & Söhne", "shop/payments/page us"),
    ('Shop "errors": it\'s # high', 'the "A" team\\1', "a: b"),
    ("Überlast \u8b66\u5831", "two\nlines\ttab", "- x"),
    ("\u8b66\u5831", "{yes}", "null"),
    ("on", "1e3", "~"),
])  # fmt: skip
def test_any_name_is_written_so_that_it_is_read_again(fake: Platform, alert: str, owner: str, receiver: str) -> None:
    """Labels and receivers may be any text; the files say them as they are, and `sim check` is content."""
    rule = {**RULE, "name": alert, "labels": {"team": owner}}
    fake.answers["/api/v1/rules"] = {"groups": [{"interval": 5, "rules": [rule]}]}
    route = {"receiver": receiver, "group_wait": "1s", "group_interval": "5s"}
    config = {"route": route, "receivers": [{"name": receiver}]}
    fake.answers["/api/v2/status"] = {"config": {"original": yaml.safe_dump(config)}}
    done = sim("init", *flags(fake.url, alert=alert))
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"url {fake.url}/webhook/{quote(receiver, safe='')}\n" in done.stdout
    profile, exercises = (yaml.safe_load(text) for text in written())
    (hook,) = profile["hooks"].values()
    assert (hook["alerts"], hook["owner"], profile["owners"]) == ([alert], owner, {owner: {"webhook": receiver}})
    (exercise,) = exercises["exercises"].values()
    assert evaluated(exercise["expect"]) == owner
    assert sim("check", "--target", "shop").exit_code == 0


def test_normal_of_an_alert_with_quotes_in_its_name_is_a_query() -> None:
    """PromQL reads the name back as it is."""
    *_, last = _candidates(Rule('Shop "errors" \\ high', "up == 0", 0.0, 1.0, {}))
    named = '{alertname="Shop \\"errors\\" \\\\ high",alertstate="firing"}'
    assert last.query == f"count(timestamp(ALERTS{named}) > time() - 8) or vector(0)"


def evaluated(text: str) -> object:
    """Return the text that an expression compares with."""
    return next(token.value for token in tokenize(text) if token.kind == "string")


def test_nothing_is_overwritten_unless_forced(fake: Platform) -> None:
    """A file of the name stands: refused, and left as it is; --force overwrites."""
    assert sim("init", *flags(fake.url)).exit_code == 0
    Path("scenarios/shop.yaml").write_text("mine")
    Path("scenarios/targets/shop.yaml").unlink()
    again = sim("init", *flags(fake.url))
    told = "error: scenarios/shop.yaml is there already; --force overwrites, --name takes another name\n"
    assert (again.exit_code, again.stdout, again.stderr) == (2, "", told)
    assert Path("scenarios/shop.yaml").read_text() == "mine"
    assert not Path("scenarios/targets/shop.yaml").exists()
    assert sim("init", "--force", *flags(fake.url)).exit_code == 0
    assert written() == (PROFILE.replace("URL", fake.url), EXERCISE)


def test_on_a_terminal_it_asks(fake: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question answered, defaults from the platform taken: the same files as by flags."""
    monkeypatch.setattr(init, "_at_terminal", lambda: True)
    fault = "http.fault('checkout', 'error')"
    answers = ["shop", fake.url, fake.url, fake.url, "env:SHOP_TOKEN", "", "", "", "", fault, fake.url]
    done = sim("init", "--door-token", "env:SHOP_TOKEN", typed="".join(f"{line}\n" for line in answers))
    assert (done.exit_code, done.stdout.endswith(SAID.replace("URL", fake.url))) == (0, True)
    assert written() == (PROFILE.replace("URL", fake.url), EXERCISE)


def test_commands_instead_of_a_call(fake: Platform) -> None:
    """The four go into the profile as argument lists, under the exercise's name."""
    steps = {"start": "shopctl break --hard 'the till'", "verify": "true", "stop": "true", "gone": "true"}
    done = sim("init", *flags(fake.url, inject=None, door=None, door_token=None, **steps))
    assert (done.exit_code, done.stderr) == (0, "")
    profile, exercise = written()
    doors = """\
doors:
  exec:
    commands:
      shop_errors_high:
        start: [shopctl, break, '--hard', 'the till']
        verify: ['true']
        stop: ['true']
        gone: ['true']
"""
    assert (doors in profile, "    inject: exec.run('shop_errors_high')\n" in exercise) == (True, True)


def test_a_slow_rule_gets_the_time_it_needs(fake: Platform) -> None:
    """`for: 10m`: the budgets follow, and the fault must be held long enough; a window is the ramp."""
    fake.answers["/api/v1/rules"]["groups"][0]["rules"] = [
        {**RULE, "duration": 600, "query": "rate(shop_errors_total[2m]) > 3"}
    ]
    fake.answers["queries"]["max(rate(shop_errors_total[2m]))"] = series(0)
    done = sim("init", *flags(fake.url))
    told = "note: the chain may need 955 s, a fault is held for 300 s: give it duration='955s'\n"
    assert (done.exit_code, done.stderr) == (0, told)
    profile = written()[0]
    assert [line.strip() for line in profile.splitlines() if "ramp" in line or "within:" in line] == [
        "ramp: {least: 0s, most: 2m}",
        "within: {effect: 30s, detect: 15m20s, act: 15m25s, notify: 15m25s, recover: 30m50s}",
    ]
    assert sim("check", "--target", "shop", "scenarios/shop.yaml").exit_code == 0


@pytest.mark.parametrize(("more", "told"), [
    ({"token": "correct-horse"}, "--token: a secret is given only by reference: env:NAME or file:PATH, never as it is"),
    ({"door_token": "x"}, "--door-token: a secret is given only by reference: env:NAME or file:PATH, never as it is"),
    ({"name": "My Shop"}, "--name: 'My Shop' is no name: use a-z, 0-9, dots and dashes, a letter or digit first"),
    ({"webhook": "shop:9095"}, "--webhook: 'shop:9095' is not a URL: write http://host:port"),
    ({"prometheus": "http://me:pw@shop"},
     "--prometheus: the URL of shop carries a user or password: use auth with env:NAME or file:PATH"),
    ({"alert": "ShopErorsHigh"},
     "--alert: Prometheus has no rule for 'ShopErorsHigh'\n  did you mean 'ShopErrorsHigh'?"),
    ({"environment": "shop-production"},
     "--environment: the scrape targets in Prometheus do not all say 'shop-production' (environment is shop-staging)\n"
     "  label them alike (labels: {environment: …} in scrape_configs), or give --identity URL"),
    ({"door": None}, "not on a terminal, so nothing is asked; give\n"
     "  --door faults=URL (where the door 'faults' of this fault is: http://…)"),
    ({"inject": None}, "not on a terminal, so nothing is asked; give\n"
     "  --start (the command that breaks it, or give --inject CALL)\n"
     "  --verify (a command that ends with 0 while it is broken)\n"
     "  --stop (a command that mends it, however often it is called)\n"
     "  --gone (a command that ends with 0 when it is mended)"),
    ({"start": "x"}, "give --inject, or --start, --verify, --stop and --gone, not both"),
    ({"inject": None, "start": "sh 'x", "verify": "a", "stop": "a", "gone": "a"},
     "--start: \"sh 'x\" is no command: No closing quotation"),
])  # fmt: skip
def test_bad_input_is_one_error_and_writes_nothing(fake: Platform, more: dict[str, str | None], told: str) -> None:
    """Code 2, the place, the cure; a secret is not repeated."""
    done = sim("init", *flags(fake.url, **more))
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {told}\n")
    assert list(Path().iterdir()) == []


def test_two_environments_are_nobodys_identity(fake: Platform) -> None:
    """Targets of two environments in one Prometheus: not guessed."""
    fake.answers["queries"]["count by (environment) (up)"] += series(2, environment="production")
    done = sim("init", *flags(fake.url))
    assert (done.exit_code, done.stderr.splitlines()[0]) == (
        2,
        "error: --environment: the scrape targets in Prometheus do not all say 'shop-staging' "
        "(environment is production, shop-staging)",
    )


def test_what_is_wrong_with_the_fault_is_told_with_its_place(fake: Platform) -> None:
    """Nothing is written that `sim check` would refuse: code 3, line and caret."""
    done = sim("init", *flags(fake.url, inject="http.falt('checkout')"))
    assert (done.exit_code, done.stderr) == (3, """\
scenarios/shop.yaml:5:13: error: shop_errors_high.inject: unknown injector 'http.falt'
    5 |     inject: http.falt('checkout')
      |             ^^^^^^^^^
      = did you mean 'http.fault'?
""")  # fmt: skip
    assert list(Path().iterdir()) == []


def test_a_refused_token_is_told_and_the_rest_is_a_guess(fake: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all flags the files are written all the same: for a job that runs where the platform cannot be reached."""
    monkeypatch.setenv("SHOP_TOKEN", "wrong")
    done = sim("init", *flags(fake.url, alert="ShopErrorsHigh", owner="PAYMENTS"))
    refused = '401 {"error": "who are you"} (check auth: env:SHOP_TOKEN)'
    assert (done.exit_code, done.stderr) == (0, (
        f"note: not looked at: GET {fake.url}/api/v1/rules: {refused}\n"
        f"note: not looked at: GET {fake.url}/api/v2/status: {refused}\n"
        "note: how long the chain takes is not known; the budgets in within: are a guess\n"
        "note: normal is a guess: steady_state is targets_up >= 1\n"
    ))  # fmt: skip
    assert "wrong" not in "".join(written())
    assert sim("check", "--target", "shop", "scenarios/shop.yaml").exit_code == 0


def test_a_part_of_a_platform(fake: Platform) -> None:
    """No Alertmanager, no webhook: what is left can be exercised, and what is not judged is said."""
    done = sim("init", "sub", *flags(fake.url, alertmanager=None, webhook=None, alert="ShopErrorsHigh"))
    assert (done.exit_code, done.stderr) == (0, "note: no --webhook: it is not judged whether anybody is told\n")
    assert done.stdout.splitlines()[-4:] == [
        "  cd sub",
        "  sim check --target shop scenarios/targets/shop.yaml scenarios/shop.yaml",
        "  sim doctor --target shop",
        "  sim run shop_errors_high --target shop",
    ]
    assert "    expect: alert=='ShopErrorsHigh'\n" in Path("sub/scenarios/shop.yaml").read_text()
    assert (Path("sub/sim.toml").exists(), "channels: []" in Path("sub/scenarios/targets/shop.yaml").read_text()) == (
        True,
        True,
    )


def test_an_identity_and_rules_of_ones_own(fake: Platform) -> None:
    """Where the platform says what it is, and the files that declare its rules: as the profile names them."""
    Path("rules.yml").write_text("groups: []\n")
    more = {"identity": f"{fake.url}/about", "identity_at": "app.stage", "rules": "rules.yml"}
    assert sim("init", *flags(fake.url, **more)).exit_code == 0
    profile = written()[0]
    identity = f"identity:\n  url: {fake.url}/about\n  environment: app.stage\n  auth: env:SHOP_TOKEN\n"
    assert (identity in profile, "chain: {kind: prometheus, rules: [../../rules.yml]}" in profile) == (True, True)


def test_the_receiver_is_the_address_and_the_root_catches_the_rest(fake: Platform) -> None:
    """No route for the alert: the root's receiver is told."""
    text = ALERTMANAGER.replace("PAYMENTS", "OTHERS")
    fake.answers["/api/v2/status"] = {"config": {"original": text}}
    assert sim("init", *flags(fake.url)).exit_code == 0
    assert "  PAYMENTS: {webhook: nobody}\n" in written()[0]


@pytest.mark.parametrize(("expr", "query", "condition"), [
    ("shop_error_ratio > 0.05", "max(shop_error_ratio)", "reading <= 0.05"),
    ("sum(rate(a[1m])) / sum(rate(b[1m])) >= 1e-3", "max(sum(rate(a[1m])) / sum(rate(b[1m])))", "reading < 1e-3"),
    ("min by (job) (up) < 1", "min(min by (job) (up))", "reading >= 1"),
    ('rate(x{path=">5"}[1m]) > 3', 'max(rate(x{path=">5"}[1m]))', "reading <= 3"),
    ("(a > 1 and b) > 2", "max((a > 1 and b))", "reading <= 2"),
    ("a > 1 and b > 2", "min(up)", "targets_up >= 1"),
    ("absent(up)", "min(up)", "targets_up >= 1"),
    ("a > b", "min(up)", "targets_up >= 1"),
])  # fmt: skip
def test_normal_is_what_the_rule_holds_against_its_limit(expr: str, query: str, condition: str) -> None:
    """Only where the whole expression is one comparison with a number; never inside brackets or texts."""
    first = _candidates(Rule("A", expr, 0.0, 5.0, {}))[0]
    assert (first.query, first.condition) == (query, condition)


def test_normal_must_hold_now(fake: Platform) -> None:
    """A reading beyond its limit is no normal; with targets down it is the alert itself that must be quiet."""
    fake.answers["queries"]["max(shop_error_ratio)"] = series(0.5)
    assert sim("init", *flags(fake.url)).exit_code == 0
    assert "steady_state: targets_up >= 1\n" in written()[0]
    fake.answers["queries"]["min(up)"] = series(0)
    firing = 'timestamp(ALERTS{alertname="ShopErrorsHigh",alertstate="firing"})'
    quiet = f"count({firing} > time() - 20) or vector(0)"
    fake.answers["queries"][quiet] = series(0)
    assert sim("init", "--force", *flags(fake.url)).exit_code == 0
    assert f"query: '{quiet}', worse: up}}\n" in written()[0]
    assert written()[0].splitlines()[-2] == "steady_state: firing <= 0"
