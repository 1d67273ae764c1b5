"""What a door of the profile may be: an address, or commands of this machine."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from sim.target import Door

COMMANDS = {"cut": {"start": ["a"], "verify": ["b"], "stop": ["c"], "gone": ["d", "e f"], "env": {"KEY": "env:KEY"}}}


@pytest.mark.parametrize(
    "url",
    [
        "http://h:1",
        "postgresql://127.0.0.1:5432/mbp",
        "postgresql://user@127.0.0.1:5432/mbp",
        "unix:///var/run/docker.sock",
        "tcp://127.0.0.1:2375",
        "file:///run/x.pid",
        "${stack.postgres}",
    ],
)
def test_an_address_opens_a_door(url: str) -> None:
    """It comes back from the journal as it was written."""
    door = Door(url=url)
    assert (door.url, door.commands) == (url, {})
    assert Door.model_validate(door.model_dump(mode="json", exclude_none=True)) == door


def test_commands_open_a_door() -> None:
    """They come back from the journal as they were written."""
    door = Door.model_validate({"commands": COMMANDS})
    assert door.url == ""
    assert door.commands["cut"].gone == ("d", "e f")
    assert door.commands["cut"].env == {"KEY": "env:KEY"}
    assert Door.model_validate(door.model_dump(mode="json", exclude_none=True)) == door


@pytest.mark.parametrize(
    ("door", "told"),
    [
        ({}, "a door has a url, or commands"),
        ({"url": "http://h:1", "commands": COMMANDS}, "a door has a url, or commands"),
        ({"url": "ftp://h"}, "not an address"),
        ({"url": "unix://"}, "not an address"),
        ({"url": "postgresql://u:p@h/d"}, "no user or password"),
        ({"url": "tcp://u@h:1"}, "no user or password"),
        ({"url": "unix:///a b"}, "has a space in it"),
        ({"url": "file:///${tool:x}"}, "only ${stack.NAME} is filled in here"),
        ({"commands": {"cut": {**COMMANDS["cut"], "stop": []}}}, "at least 1 item"),
        ({"commands": {"cut": {"start": ["a"]}}}, "Field required"),
        (
            {"commands": {"cut": {**COMMANDS["cut"], "env": {"KEY": "hunter2"}}}},
            "only by reference: env:NAME or file:PATH",
        ),
        ({"commands": {"cut": {**COMMANDS["cut"], "env": {"A=B": "env:X"}}}}, "should match pattern"),
    ],
)
def test_a_bad_door_is_refused(door: Any, told: str) -> None:
    """With the one reason that helps."""
    with pytest.raises(ValidationError, match=re.escape(told)):
        Door.model_validate(door)
