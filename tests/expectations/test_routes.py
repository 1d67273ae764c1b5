"""The routing tree, against expectations and, where it is installed, against `amtool`."""

from __future__ import annotations

import subprocess

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from expectations._routes import Matcher, addresses, read_matchers, read_route
from tests.conftest import tool

TREE = r"""
route:
  receiver: default
  group_by: ['...']
  group_wait: 1s
  routes:
  - {receiver: executor, continue: true, group_wait: 0s, group_interval: 500ms}
  - receiver: dec
    matchers: [owner="DEC/PM"]
    routes:
    - {matchers: ['severity=~"page|high"', 'team!="x"'], receiver: dec-page, group_wait: 0s, continue: true}
    - {match: {severity: page}, receiver: dec-too, group_interval: 2m}
  - {match_re: {owner: "SRE|DEC"}, receiver: sre, matchers: ['{market!~"sim-.*", severity=page}']}
  - {matchers: ['quoted = "a, \"b\" {c}"'], receiver: odd}
receivers: [{name: default}, {name: executor}, {name: dec}, {name: dec-page}, {name: dec-too}, {name: sre}, {name: odd}]
"""
CASES = [
    ({"owner": "DEC/PM"}, ["executor", "dec"]),
    ({"owner": "DEC/PM", "severity": "page"}, ["executor", "dec-page", "dec-too"]),
    ({"owner": "DEC/PM", "severity": "high"}, ["executor", "dec-page"]),
    ({"owner": "DEC/PM", "severity": "page", "team": "x"}, ["executor", "dec-too"]),
    ({"owner": "DEC", "severity": "page"}, ["executor", "sre"]),
    ({"owner": "DEC", "severity": "page", "market": "sim-1"}, ["executor"]),
    ({"owner": "DECX", "severity": "page"}, ["executor"]),
    ({"quoted": 'a, "b" {c}'}, ["executor", "odd"]),
    ({}, ["executor"]),
]


def receivers(labels):
    return [route.receiver for route in read_route(yaml.safe_load(TREE)["route"]).match(labels)]


@pytest.mark.parametrize(("labels", "expected"), CASES)
def test_alerts_go_where_the_tree_sends_them(labels, expected):
    """Children before parents, first match unless `continue`, all conditions of a node, missing labels are empty."""
    assert receivers(labels) == expected


@pytest.mark.parametrize(("labels", "expected"), CASES)
def test_amtool_agrees(labels, expected, tmp_path):
    """The real router sends the same labels to the same receivers."""
    (tmp_path / "am.yml").write_text(TREE)
    given_ = [f"{name}={value}" if name != "quoted" else r'quoted="a, \"b\" {c}"' for name, value in labels.items()]
    argv = [str(tool("amtool")), "config", "routes", "test", f"--config.file={tmp_path / 'am.yml'}", *given_]
    out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert out.strip().split(",") == expected


def test_waits_and_receivers_are_inherited_and_have_alertmanagers_defaults():
    """A node has its own wait, else its parent's, else 30 s and 5 min."""
    root = read_route(yaml.safe_load(TREE)["route"])
    (first, second) = root.match({"owner": "DEC/PM", "severity": "page"})[1:]
    assert (first.group_wait_s, first.group_interval_s, first.group_by) == (0.0, 300.0, ("...",))
    assert (second.group_wait_s, second.group_interval_s) == (1.0, 120.0)
    bare = read_route({"receiver": "r", "routes": [{"matchers": ['a="b"']}]})
    assert [(r.receiver, r.group_wait_s, r.group_interval_s) for r in bare.match({"a": "b"})] == [("r", 30.0, 300.0)]


NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,10}", fullmatch=True)


@given(NAMES, st.sampled_from(["=", "!="]), st.text(alphabet=st.characters(exclude_categories=("C", "Z"))))
def test_any_quoted_value_reads_back(name, operator, value):
    """Quotes, commas, braces and backslashes in a value are its own."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    assert read_matchers(f'{{ {name} {operator} "{quoted}" , x=y}}') == (
        Matcher(name, operator, value),
        Matcher("x", "=", "y"),
    )


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({}, "names no receiver"),
        ({"receiver": "r", "routes": "x"}, "routes: expected a list"),
        ({"receiver": "r", "group_wait": "soon"}, "not a Prometheus duration: 'soon'"),
        ({"receiver": "r", "matchers": ["owner"]}, "not a matcher: 'owner'"),
        ({"receiver": "r", "matchers": ['owner=~"("']}, "not a regular expression"),
        ([], "not a route"),
    ],
)
def test_a_broken_tree_is_an_error_that_names_the_place(node, says):
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=says):
        read_route(node)


def test_addresses_are_those_shown():
    """Hidden keys are unknown, not an address."""
    receiver = {
        "name": "dec",
        "slack_configs": [{"channel": "#dec-pm"}],
        "email_configs": [{"to": "a@x, b@x"}],
        "pagerduty_configs": [{"routing_key": "<secret>"}, {"routing_key": "dec-pm"}],
    }
    assert addresses(receiver) == {"slack": {"#dec-pm"}, "email": {"a@x", "b@x"}, "oncall": {"dec-pm"}}
